"""Turn a raw data set into prompts: ``python -m jobs.prepare_data --format gsm8k --in FILE [FILE ...] --out DIR``.

Reads Parquet or JSON lines as they are published and writes ``train.parquet`` and ``evaluation.parquet`` in the columns
of ``data.pool_file``; with ``--evaluation-only`` all of it becomes ``evaluation.parquet``. Train with
``data.task=by_source``, or the verifier that the format's name stands for.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from gps_ray.tasks.prompt_files import write_prompts
from gps_ray.tasks.raw_files import FORMATS, read_raw, split_off
from jobs.cli import run_job


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Write a raw data set as prompts for data.pool_file.")
    parser.add_argument("--format", choices=sorted(FORMATS), required=True)
    parser.add_argument("--in", dest="files", type=Path, nargs="+", required=True, metavar="FILE")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--evaluation-share", type=float, default=0.05, help="of the prompts, above 0 and below 1")
    parser.add_argument("--evaluation-only", action="store_true", help="a test set: all prompts, in their order")
    args = parser.parse_args(argv)
    prompts, num_unanswered = read_raw(args.files, args.format)
    parts = {"evaluation": prompts}
    if not args.evaluation_only:
        parts["train"], parts["evaluation"] = split_off(prompts, args.evaluation_share)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        path = args.out / f"{name}.parquet"
        write_prompts(path, part, split=name)
        print(f"{path}: {len(part):,} prompts")
    if num_unanswered:
        print(f"{num_unanswered:,} rows without an answer were left out")
    return 0


if __name__ == "__main__":
    run_job(main)
