"""Replay selectors against recorded success rates: no language model needed.

``gps-ray replay --outcomes FILE --selectors gps,gps_fused,beta_mean --batch-fraction 0.05 --seeds 5 --out DIR``
with a Parquet FILE of prompt, successes (list of int over time), rollouts_per_point. ``--reveal random`` replaces the
selectors' picks by random ones, so that predictors are compared alone. ``--prior FILE`` (prompt, successes, rollouts)
pre-trains the text prior of gps_fused, without the prompts that overlap. ``--static FILE --labels 512,2048,8192``
learns from so many prompts of one table and predicts held-out ones.

Writes DIR/replay.json and DIR/replay.html.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gps_ray.config import SelectionConfig, load_config
from gps_ray.integrations.commands.console import name_list, number_list, print_table
from gps_ray.study.replay.run import ReplayRequest, run_replay
from gps_ray.study.replay.summary import COLUMNS, static_rows, table_rows


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Replay selectors against recorded success rates.")
    parser.add_argument("--outcomes", type=Path, metavar="FILE", help="prompt, successes (list), rollouts_per_point")
    parser.add_argument("--selectors", type=name_list, required=True, help="names, e.g. gps,gps_fused,beta_mean")
    parser.add_argument("--batch-fraction", type=float, default=0.05, help="share of the pool per point in time")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 to N - 1")
    parser.add_argument("--reveal", choices=("selected", "random"), default="selected")
    parser.add_argument("--prior", type=Path, metavar="FILE", help="prompt, successes, rollouts")
    parser.add_argument("--static", type=Path, metavar="FILE", help="prompt, successes, rollouts")
    parser.add_argument("--labels", type=number_list, default=(), help="with --static, e.g. 512,2048,8192")
    parser.add_argument("--test", type=Path, metavar="FILE", help="with --static: predict these prompts instead")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of selection, e.g. fused.num_features=128")
    return parser


def main(argv: Sequence[str]) -> int:
    args = _arguments().parse_intermixed_args(argv)
    request = ReplayRequest(
        outcomes=args.outcomes,
        selectors=args.selectors,
        batch_fraction=args.batch_fraction,
        num_seeds=args.seeds,
        out=args.out,
        selection=load_config(SelectionConfig, None, args.overrides),
        reveal=args.reveal,
        prior=args.prior,
        static=args.static,
        labels=args.labels,
        test=args.test,
    )
    summary = run_replay(request, lambda line: print(line, file=sys.stderr, flush=True))
    if args.outcomes is not None:
        print_table(f"replay: mean ± half of the 95 % interval over {args.seeds} seeds", COLUMNS, table_rows(summary))
    if args.static is not None:
        print_table("static: Spearman on held-out prompts", *static_rows(summary, args.labels))
    print(f"{args.out / 'replay.json'} written")
    return 0
