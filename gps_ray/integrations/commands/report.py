"""Report on runs: ``gps-ray report RUN_DIR [RUN_DIR ...] [--out FILE]``; several runs are compared.

``--config FILE key=value ...`` stands for the run folder of that config.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gps_ray.config import TrainConfig, load_config
from gps_ray.integrations.commands.console import config_arguments
from gps_ray.study.report import named_runs, print_comparison, read_comparison, write_comparison, write_report


def main(argv: Sequence[str]) -> int:
    parser = config_arguments("Write the HTML report of one run, or of several beside each other.")
    parser.usage = "gps-ray report [RUN_DIR ...] [--out FILE] [--baseline NAME] [--config FILE key=value ...]"
    parser.add_argument(
        "--out", type=Path, default=None, help="default: report.html in the run, comparison.html beside"
    )
    parser.add_argument(
        "--baseline", default=None, help="the run that sets the target; default: uniform, else the first"
    )
    args = parser.parse_args(argv)
    overrides = [argument for argument in args.overrides if "=" in argument]
    runs = [Path(argument) for argument in args.overrides if "=" not in argument]
    if not runs:
        runs = [load_config(TrainConfig, args.config, overrides).run.directory]
    default = runs[0] / "report.html" if len(runs) == 1 else runs[0].parent / "comparison.html"
    out = args.out if args.out is not None else default
    if args.dry_run:
        print(f"would read {', '.join(map(str, runs))} and write {out}")
    elif len(runs) == 1:
        print(f"report: {write_report(runs[0], out)}")
    else:
        # One run each, paired with the others whatever its seed: all under the same number.
        comparison = read_comparison({name: {0: path} for name, path in named_runs(runs).items()}, args.baseline)
        print_comparison(comparison.summary)
        print(f"report: {write_comparison(comparison, out)}")
    return 0
