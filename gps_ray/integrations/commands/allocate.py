"""Spend test-time samples where they pay: equal allocation, bins, expected gain and the oracle at the same totals.

``gps-ray allocate --static FILE --budgets 2,4,8 --seeds 5 --out DIR`` on recorded outcomes (Parquet: prompt,
successes, rollouts): a predictor learns from some prompts and allocates over others.
DIR/allocate.json holds what every allocator solves, DIR/allocate.html shows it. On the models of finished runs:
``python -m jobs.allocate --run``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from gps_ray.allocation.comparison import SUMMARY_COLUMNS, AllocationSettings, Comparison, summarise, summary_rows
from gps_ray.allocation.static import run_static
from gps_ray.base.json_files import write_json
from gps_ray.config import SelectionConfig, load_config
from gps_ray.integrations.commands.console import number_list, print_table
from gps_ray.predictor.recorded import read_recorded
from gps_ray.study.allocation_page import write_allocation_page

# (run folder, settings, file for what was sampled) -> the comparison; needs a cluster, so the job brings it.
OnRun = Callable[[Path, AllocationSettings, Path], Comparison]


def _arguments(on_run: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Allocate samples per prompt at a fixed total, and compare.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--static", type=Path, metavar="FILE", help="Parquet: prompt, successes, rollouts")
    if on_run:
        source.add_argument(
            "--run", type=Path, nargs="+", metavar="RUN_DIR", help="finished runs, for instance one per seed"
        )
    parser.add_argument("--budgets", type=number_list, default=(2, 4, 8), help="mean samples per prompt, e.g. 2,4,8")
    parser.add_argument("--minimum", type=int, default=0, help="samples that every prompt gets")
    parser.add_argument("--maximum", type=int, default=64, help="samples that a prompt may get")
    parser.add_argument("--seeds", type=int, default=5, help="with --static: seeds 0 to N - 1")
    parser.add_argument("--labels", type=int, default=None, help="with --static: prompts to learn from; default: all")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="with --static: of selection, e.g. selector=gps"
    )
    return parser


def main(argv: Sequence[str], on_run: OnRun | None = None) -> int:
    args = _arguments(on_run is not None).parse_args(argv)
    settings = AllocationSettings(budgets=args.budgets, minimum=args.minimum, maximum=args.maximum)
    if args.static is not None or on_run is None:
        selection = load_config(SelectionConfig, None, args.overrides)
        recorded = read_recorded(args.static)
        comparisons = [run_static(recorded, selection, settings, seed, args.labels) for seed in range(args.seeds)]
    else:
        comparisons = [
            on_run(run, settings, args.out / f"sampled_{number}.parquet") for number, run in enumerate(args.run)
        ]
    summary = summarise(comparisons)
    num, what = len(comparisons), "seeds" if args.static is not None else "runs"
    title = f"allocation: mean [95 % interval] over {num} {what}" if num > 1 else f"allocation: one {what[:-1]}"
    print_table(title, SUMMARY_COLUMNS, summary_rows(summary))
    write_json(args.out / "allocate.json", summary)
    source = args.static.name if args.static is not None else ", ".join(run.name for run in args.run)
    print(f"page: {write_allocation_page(summary, source, args.out / 'allocate.html')}")
    return 0
