"""``gps-ray explain [KEY_OR_SECTION]``: what a key of the config is for (``rollout.vllm``)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from gps_ray.config.reference import explain


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("gps-ray explain", description="What a config key or section is for.")
    parser.add_argument("name", nargs="?", default="", help="for instance rollout.vllm; default: all sections")
    print(explain(parser.parse_args(argv).name))
    return 0
