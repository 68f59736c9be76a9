"""Spend test-time compute where it pays: ``python -m jobs.allocate --static FILE --budgets 2,4,8 --seeds 5 --out DIR``.

FILE is a Parquet table of prompt, successes, rollouts. A predictor learns from some of the prompts; equal allocation,
bins, expected gain and the oracle spend the same total over the others; DIR/allocate.json holds what each solves.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from gps_ray.allocation.recorded import read_recorded
from gps_ray.allocation.static import StaticSettings, run_static, summarise, summary_rows
from gps_ray.cli import print_table, run_job, write_json
from gps_ray.config import SelectionConfig, load_config


def _budgets(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Allocate samples per prompt at a fixed total, on recorded outcomes.")
    parser.add_argument(
        "--static", type=Path, required=True, metavar="FILE", help="Parquet: prompt, successes, rollouts"
    )
    parser.add_argument("--budgets", type=_budgets, default=(2, 4, 8), help="mean samples per prompt, e.g. 2,4,8")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 to N - 1")
    parser.add_argument("--labels", type=int, default=None, help="prompts to learn from; default: all not held out")
    parser.add_argument("--minimum", type=int, default=0, help="samples every prompt gets")
    parser.add_argument("--maximum", type=int, default=64, help="samples a prompt may get")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the selection section, e.g. selector=gps")
    args = parser.parse_args(argv)
    settings = StaticSettings(budgets=args.budgets, num_labels=args.labels, minimum=args.minimum, maximum=args.maximum)
    selection = load_config(SelectionConfig, None, args.overrides)
    recorded = read_recorded(args.static)
    summary = summarise([run_static(recorded, selection, settings, seed) for seed in range(args.seeds)])
    columns = ("budget", "allocator", "pass rate (%)", "points over equal", "samples saved (%)")
    print_table(f"allocation, mean [95 % interval] over {args.seeds} seeds", columns, summary_rows(summary))
    write_json(args.out / "allocate.json", summary)
    return 0


if __name__ == "__main__":
    run_job(main)
