"""Compare selectors: ``python -m jobs.compare --config FILE --selectors uniform,gps --seeds 0,1,2,3,4 --out DIR``.

Every selector trains the same warm start under every seed. ``--variants FILE`` compares configs that differ in any
other way, for ablations. Runs go side by side as far as the cluster holds them; ``--serial`` makes one after the other,
for wall-clock figures. Interrupted, the same command goes on where it stopped. Writes DIR/compare.json, DIR/report.html
and a run folder DIR/NAME/seed_N per run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from actors.cluster import check_placement, cluster_for
from actors.comparing import run_comparison
from actors.training import prepare
from gps_ray.base.json_files import write_json
from gps_ray.config import TrainConfig, load_config
from gps_ray.loop.plan import describe
from gps_ray.run.progress import NamedLines
from gps_ray.study.arms import by_selector, by_variant
from gps_ray.study.report import as_json, baseline_of, print_comparison, read_comparison, write_comparison
from jobs.cli import config_arguments, name_list, number_list, run_job


def main(argv: Sequence[str]) -> int:
    parser = config_arguments("Train under several selectors and seeds, and compare them paired by seed.")
    compared = parser.add_mutually_exclusive_group(required=True)
    compared.add_argument("--selectors", type=name_list, metavar="A,B,...", help="e.g. uniform,ds,gps_fused")
    compared.add_argument(
        "--variants",
        type=Path,
        metavar="FILE",
        help="YAML, name: [section.key=value, ...]; e.g. configs/ablations.yaml",
    )
    parser.add_argument("--seeds", type=number_list, default=(0, 1, 2, 3, 4), metavar="0,1,...", help="default: 0 to 4")
    parser.add_argument("--baseline", default=None, help="default: uniform if it is among them, else the first")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--serial", action="store_true", help="one run after the other, for wall-clock figures")
    args = parser.parse_intermixed_args(argv)
    if args.variants is None:
        arms = by_selector(load_config(TrainConfig, args.config, args.overrides), args.selectors)
    else:
        arms = by_variant(args.config, args.variants, args.overrides)
    baseline = baseline_of(arms, args.baseline)
    config, data = prepare(next(iter(arms.values())))
    seeds = tuple(dict.fromkeys(args.seeds))  # each once: a run has one folder
    if args.dry_run:
        check_placement(config)
        print(describe(config, data))
        print(f"runs: {', '.join(arms)} x seeds {', '.join(map(str, seeds))}, in {args.out}")
        return 0
    with cluster_for(config) as dashboard:
        if dashboard:
            print(f"dashboard: {dashboard}", flush=True)
        folders = run_comparison(arms, seeds, args.out, _lines, serial=args.serial)
    comparison = read_comparison(folders, baseline, serial=args.serial)
    write_json(args.out / "compare.json", as_json(comparison.summary))
    print_comparison(comparison.summary)
    print(f"report: {write_comparison(comparison, args.out / 'report.html')}, {args.out / 'compare.json'}")
    return 0


def _lines(name: str, seed: int, config: TrainConfig) -> NamedLines:
    return NamedLines(f"{name}, seed {seed}", config.run.num_steps)


if __name__ == "__main__":
    run_job(main)
