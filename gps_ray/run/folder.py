"""The run folder: where each file of a run lies, and how it goes back to what a manifest says.

::

    config.yaml  prompts.parquet  metrics.jsonl  rollouts.jsonl  report.html
    outcomes/step_000012.parquet      every group of the step
    probes/step_000030.pool_probe.parquet
    checkpoints/step_000020.<attempt>/{learner/, selector/, manifest.json}
    final_model/                      Hugging Face folder, there once it is whole
    discarded/                        files that no manifest listed when the run was resumed
    driver.lease.000003               who drives the run, or did last
    tensorboard/ wandb/ mlruns/       of the trackers that the config names
    verifier_notes.jsonl              {"step": step, "note": what a verifier noted}; the first 20 of a step
    run_id                            tells the run apart from all others, of the same name too
    status.json                       what the run is doing right now, and how its workers are
    notes.jsonl                       {"step": steps done, "note": what the run went on with}; mostly not there
"""

from __future__ import annotations

import datetime
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from gps_ray.base.errors import CheckpointError, ConfigError, one_line
from gps_ray.base.types import IntArray, PosteriorMoments, Prompt, RolloutSample
from gps_ray.config import ConfigSection
from gps_ray.run.metrics import read_metrics

__all__ = ["JsonLines", "RunFolder", "check_can_be_written"]


MAX_VERIFIER_NOTES = 20


class JsonLines:
    """An append-only JSONL file that can be cut back to a byte offset. ``fence`` raises where this driver may no longer
    append."""

    def __init__(self, path: Path, fence: Callable[[], None] = lambda: None) -> None:
        self.path = path
        self._fence = fence

    def append(self, row: Mapping[str, Any]) -> None:
        self._fence()
        with self.path.open("a") as file:
            file.write(json.dumps(row, allow_nan=True) + "\n")

    @property
    def num_bytes(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def truncate(self, num_bytes: int) -> None:
        """Cut what was written after a manifest. A file shorter than the manifest says is not whole."""
        if self.num_bytes < num_bytes:
            raise CheckpointError(
                f"{self.path.name}: the manifest expects at least {num_bytes} bytes, found {self.num_bytes}; "
                "restore the file or start a new run with another run.directory"
            )
        if self.path.exists():
            os.truncate(self.path, num_bytes)


def check_can_be_written(directory: Path) -> None:
    """Raise ConfigError where no run folder can be made at ``directory``, or nothing be written in it. Leaves nothing
    behind."""
    if not directory.name or "\0" in str(directory):
        raise ConfigError(f"run.directory: expected a folder for this run alone, got {str(directory)!r}; name one")
    there = directory.absolute()
    try:
        while not there.exists():
            there = there.parent
        with tempfile.TemporaryDirectory(dir=there):
            pass
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"run.directory: {str(directory)!r:.300} cannot be written ({one_line(error)}); choose another"
        ) from error


class RunFolder:
    """Paths and plain files of one run. ``fence``: see ``JsonLines``."""

    def __init__(self, root: Path, fence: Callable[[], None] = lambda: None) -> None:
        self.root = root
        self.metrics = JsonLines(root / "metrics.jsonl", fence)
        self.samples = JsonLines(root / "rollouts.jsonl", fence)
        self.notes = root / "notes.jsonl"
        self.verifier_notes = JsonLines(root / "verifier_notes.jsonl", fence)
        self.status = root / "status.json"
        self.config = root / "config.yaml"
        self.first_prompt = root / "first_prompt.json"
        self.checkpoints = root / "checkpoints"
        self.outcomes = root / "outcomes"
        self.probes = root / "probes"
        self.final_model = root / "final_model"
        self._unfinished_model = root / "final_model.partial"

    def create(self, config: ConfigSection, splits: Mapping[str, Sequence[Prompt]]) -> None:
        """Lay out the folder; ``splits`` (pool, evaluation, ...) become prompts.parquet."""
        for directory in (self.root, self.checkpoints, self.outcomes, self.probes):
            # What is resumed from here is the owner's alone to write; a folder that was there may stay readable.
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            directory.chmod(directory.stat().st_mode & 0o7755)
        resolved = config.model_dump(mode="json")
        self.config.write_text(yaml.safe_dump(resolved, sort_keys=False))
        rows = [
            {"prompt_id": p.prompt_id, "text": p.text, "level": p.level, "split": split}
            for split, prompts in splits.items()
            for p in prompts
        ]
        pq.write_table(pa.Table.from_pylist(rows), self.root / "prompts.parquet")

    def run_id(self) -> str:
        """Made at the folder's first use; stays through resumes and moves of the folder."""
        path = self.root / "run_id"
        if not path.exists():
            partial = path.with_suffix(".partial")
            partial.write_text(secrets.token_hex(4) + "\n")
            partial.replace(path)
        return path.read_text().strip()

    def first_date(self) -> datetime.date | None:
        """The day that the run's config says (``run.date``); None where there is no run, or it says none."""
        if not self.config.exists():
            return None
        date = (yaml.safe_load(self.config.read_text()) or {}).get("run", {}).get("date")
        return None if date is None else datetime.date.fromisoformat(str(date))

    def unfinished_model(self) -> Path:
        """Where the policy is exported to: not there, whatever a kill left."""
        shutil.rmtree(self._unfinished_model, ignore_errors=True)
        return self._unfinished_model

    def finish_model(self) -> None:
        """The export is whole: it becomes the final model in one step, in place of one of fewer steps."""
        if self.final_model.exists():
            shutil.rmtree(self.final_model)
        self._unfinished_model.rename(self.final_model)

    def is_finished(self, num_steps: int) -> bool:
        """Has the run made all its steps and exported its policy?"""
        if not (self.final_model / "config.json").exists() or not self.metrics.path.exists():
            return False
        rows = read_metrics(self.metrics.path)
        return bool(rows) and rows[-1]["step"] >= num_steps

    def has_results(self) -> bool:
        """Is there anything of a step? What was measured before the first one is soon measured again."""
        steps = self.metrics.path.exists() and any(row["step"] > 0 for row in read_metrics(self.metrics.path))
        return steps or any(self.outcomes.glob("*.parquet")) or self.final_model.exists()

    def restart(self) -> None:
        """Back to an empty run, for one that was killed before its first checkpoint."""
        self.metrics.truncate(0)
        self.samples.truncate(0)
        self.note(0, [])
        self.drop_verifier_notes(0)
        self.discard_unlisted([])

    def note(self, num_steps_done: int, notes: Sequence[str]) -> None:
        """Write down what is to be known of all steps after ``num_steps_done``, which are made from now on. What was
        noted of an earlier attempt at them goes."""
        old = self.notes.read_text().splitlines() if self.notes.exists() else []
        kept = [line for line in old if json.loads(line)["step"] < num_steps_done]
        new = [json.dumps({"step": num_steps_done, "note": note}) for note in notes]
        if old or new:
            partial = self.notes.with_suffix(".partial")
            partial.write_text("".join(line + "\n" for line in [*kept, *new]))
            partial.replace(self.notes)

    def write_samples(self, step: int, samples: Sequence[RolloutSample]) -> None:
        for sample in samples:
            self.samples.append(
                {
                    "step": step,
                    "prompt_id": sample.prompt_id,
                    "prompt_text": sample.prompt_text,
                    "response_text": sample.response_text,
                    "reward": sample.reward,
                    "status": sample.status.name.lower(),
                }
            )

    def write_verifier_notes(self, step: int, notes: Sequence[Any]) -> None:
        """The first notes of a step (JSON values); how many there were is a metric."""
        for note in notes[:MAX_VERIFIER_NOTES]:
            self.verifier_notes.append({"step": step, "note": note})

    def drop_verifier_notes(self, num_steps_done: int) -> None:
        """Forget those of steps that are made anew, and a line that a kill cut off."""
        path = self.verifier_notes.path
        if path.exists():
            *lines, _unfinished = path.read_text().split("\n")
            kept = [line for line in lines if json.loads(line)["step"] <= num_steps_done]
            partial = path.with_suffix(".partial")
            partial.write_text("".join(line + "\n" for line in kept))
            partial.replace(path)

    def write_probe(
        self,
        step: int,
        probe: str,
        prompts: Sequence[Prompt],
        posterior: PosteriorMoments | None,
        num_right: IntArray,
        num_tried: IntArray,
    ) -> Path:
        """One probe measurement: predicted beside observed success, a row per prompt (NaN where nothing predicts)."""
        unknown = np.full(len(prompts), np.nan)
        table = pa.table(
            {
                "step": np.full(len(prompts), step),
                "probe": pa.array([probe] * len(prompts), pa.string()),
                "prompt_id": pa.array([p.prompt_id for p in prompts], pa.string()),
                "level": pa.array([p.level for p in prompts], pa.string()),
                "predicted_mean": unknown if posterior is None else posterior.mean,
                "predicted_std": unknown if posterior is None else posterior.std,
                "seen": np.zeros(len(prompts), bool) if posterior is None else posterior.seen,
                "num_right": num_right,
                "num_tried": num_tried,
            }
        )
        path = self.probes / f"step_{step:06d}.{probe}.parquet"
        pq.write_table(table, path)
        return path

    def discard_unlisted(self, listed: Sequence[str]) -> list[str]:
        """Move outcome and probe files that the manifest does not list to ``discarded/``; returns their names."""
        keep = set(listed)
        moved = []
        for directory in (self.outcomes, self.probes):
            for path in sorted(directory.glob("*")):
                name = path.relative_to(self.root).as_posix()
                if name not in keep:
                    target = self.root / "discarded" / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.move(path, target)
                    moved.append(name)
        return moved

    def data_files(self) -> list[str]:
        """Outcome and probe files, relative to the root, in order."""
        return sorted(p.relative_to(self.root).as_posix() for d in (self.outcomes, self.probes) for p in d.glob("*"))
