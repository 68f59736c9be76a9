"""Evaluate a model: ``python -m jobs.evaluate --config FILE model.path=runs/x/final_model [--out FOLDER]``.

``--against OTHER_MODEL`` measures a second model on the same prompts and says what it differs by. No pool is needed:
``evaluation.suites.NAME.file=...`` or ``data.evaluation_file=...`` with ``data.task`` is enough.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

import yaml

from actors.cluster import cluster_for
from actors.evaluating import evaluate_model, prepare_evaluation
from gps_ray.base.errors import ConfigError
from gps_ray.base.json_files import write_json
from gps_ray.config import TrainConfig, load_config
from gps_ray.loop.suites import Suite
from gps_ray.run.evaluation_cache import EvaluationCache
from gps_ray.study.evaluation import COLUMNS, as_json, difference_rows, differences, table_rows, write_page
from jobs.cli import config_arguments, print_table, run_job

DEFAULT_OUT = Path("runs/evaluation")


def main(argv: Sequence[str]) -> int:
    parser = config_arguments(
        "avg@n, pass@k and maj@k of a model on evaluation sets, with 95 % intervals over prompts."
    )
    parser.add_argument("--against", type=Path, default=None, help="a second model folder, compared prompt by prompt")
    parser.add_argument(
        "--out", type=Path, default=DEFAULT_OUT, help="folder of evaluation.json, evaluation.html and responses.jsonl"
    )
    args = parser.parse_intermixed_args(argv)
    if args.out.is_file() or args.out.suffix == ".json":
        raise ConfigError(f"--out: expected a folder, got {args.out}; evaluation.json is written in it")
    overrides = [args.overrides, [*args.overrides, f"model.path={args.against}"]] if args.against else [args.overrides]
    prepared = [prepare_evaluation(load_config(TrainConfig, args.config, own)) for own in overrides]
    configs, suites = [config for config, _ in prepared], prepared[0][1]
    if args.dry_run:
        print(_described(configs[0], suites))
        return 0
    cache = EvaluationCache(args.out / "responses.jsonl", datetime.date.today())
    with cluster_for(configs[0]):
        found = [evaluate_model(config, suites, cache) for config in configs]
    names = [str(config.model.path or config.rollout.engine) for config in configs]
    names = names if len(set(names)) == len(names) else [f"{name} ({i + 1})" for i, name in enumerate(names)]
    models = dict(zip(names, found, strict=True))
    paired = {s.name: differences(found[0][s.name], found[1][s.name]) for s in suites} if len(found) > 1 else {}
    for name, results in models.items():
        print_table(name, COLUMNS, table_rows(results))
    if paired:
        print_table("second model minus first, paired by prompt", COLUMNS, difference_rows(paired))
    differing = {suite: {name: e.as_json() for name, e in parts.items()} for suite, parts in paired.items()}
    figures = {"models": {name: as_json(results) for name, results in models.items()}, "differences": differing}
    write_json(args.out / "evaluation.json", figures)
    print(f"figures: {args.out / 'evaluation.json'}; page: {write_page(models, paired, args.out / 'evaluation.html')}")
    return 0


def _described(config: TrainConfig, suites: Sequence[Suite]) -> str:
    lines = ["# resolved config", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).rstrip(), "# suites"]
    lines += [
        f"{suite.name}: {len(suite.prompts)} prompts x {suite.rollouts_per_prompt} responses of at most "
        f"{suite.sampling.max_response_tokens} tokens, temperature {suite.sampling.temperature:g}, "
        f"verifier {suite.task}"
        for suite in suites
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    run_job(main)
