"""Learn a text prior for gps_fused from past outcomes, another model's included.

``python -m jobs.pretrain_predictor --outcomes FILE [RUN_DIR ...] --out DIR`` with Parquet files of prompt, successes,
rollouts, or folders of earlier runs. Then train with ``selection.fused.text_prior=DIR``. The features must be those of
that training: ``features.dimension=128`` here where it says ``selection.features.dimension=128`` there.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from gps_ray.config import SelectionConfig, load_config
from gps_ray.study.replay.past_outcomes import prior_from_past
from jobs.cli import run_job


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Learn a text prior for gps_fused from past outcomes.")
    parser.add_argument(
        "--outcomes", type=Path, nargs="+", required=True, metavar="PATH", help="Parquet files or run folders"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of selection, e.g. features.dimension=128")
    args = parser.parse_intermixed_args(argv)
    prior = prior_from_past(args.outcomes, load_config(SelectionConfig, None, args.overrides).features)
    prior.save(args.out)
    report = prior.report
    print(
        f"learnt from {report.num_rollouts:,} rollouts of {report.num_prompts:,} prompts; Spearman on a held-out fifth "
        f"of the prompts {report.heldout_spearman:.3f}"
    )
    print(f"{args.out} written; train with selection.fused.text_prior={args.out}")
    return 0


if __name__ == "__main__":
    run_job(main)
