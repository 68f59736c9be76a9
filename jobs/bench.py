"""Measure: ``python -m jobs.bench rollout [--out FILE.json] ...``; ``--help`` after the name lists what it takes."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path

from gps_ray.base.json_files import write_json
from jobs.cli import print_table, run_job

# Each module has add_arguments(parser) and run(args) -> dict, whose "rows" are the table.
BENCHMARKS = {
    "exchange": "actors.benchmarks.exchange",
    "gpu_update": "gps_ray.study.benchmarks.gpu_update",
    "lengths": "gps_ray.study.benchmarks.lengths",
    "learner_memory": "gps_ray.study.benchmarks.learner_memory",
    "long_tail": "gps_ray.study.benchmarks.long_tail",
    "memory_plan": "gps_ray.study.benchmarks.memory_plan",
    "one_process": "gps_ray.study.benchmarks.one_process",
    "records": "gps_ray.study.benchmarks.records",
    "rollout": "actors.benchmarks.rollout",
    "scaling": "actors.benchmarks.scaling",
    "selection": "gps_ray.study.benchmarks.selection",
    "start": "gps_ray.study.benchmarks.start",
    "step": "actors.benchmarks.step",
    "update": "gps_ray.study.benchmarks.update",
    "verifier": "gps_ray.study.benchmarks.verifier",
    "weights": "actors.benchmarks.weights",
}


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Measure one part of gps-ray on this machine.")
    names = parser.add_subparsers(dest="benchmark", required=True)
    # Only the chosen benchmark is imported: some need torch or Ray.
    chosen = argv[0] if argv and argv[0] in BENCHMARKS else None
    for name, module in BENCHMARKS.items():
        command = names.add_parser(name)
        command.add_argument("--out", type=Path, default=None, help="JSON file for the result")
        if name == chosen:
            importlib.import_module(module).add_arguments(command)
    args = parser.parse_args(argv)
    result = importlib.import_module(BENCHMARKS[args.benchmark]).run(args)
    rows = result["rows"]
    columns = [column for column in dict.fromkeys(key for row in rows for key in row) if not _is_list(rows, column)]
    print_table(args.benchmark, columns, [[_text(row.get(column)) for column in columns] for row in rows])
    if args.out is not None:
        write_json(args.out, result)
    return 0


def _is_list(rows: Sequence[dict[str, object]], column: str) -> bool:
    return any(isinstance(row.get(column), list) for row in rows)


def _text(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    run_job(main)
