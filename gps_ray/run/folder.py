"""The run folder: where each file of a run lies, and how it goes back to what a manifest says.

::

    config.yaml  identity.json  prompts.parquet  metrics.jsonl  rollouts.jsonl  report.html
    outcomes/from_step_00001000.arrows  every group of steps 1000 to 1999, an Arrow stream (run/segments.py)
    outcomes/segments.jsonl           the segments that are finished, with size and SHA-256
    probes/from_step_00001000.arrows  predicted beside observed success, a row per probe prompt
    checkpoints/step_000020.<attempt>/{learner/, selector/, manifest.json}
    warm_start/                       the model that the run began from, where it made it itself and has a run.mirror
    final_model/                      Hugging Face folder, there once it is whole
    discarded/                        outcomes and probes after the manifest that the run was resumed from
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
from pydantic import Field

from gps_ray.base.errors import CheckpointError, ConfigError, one_line
from gps_ray.base.json_files import parse_json
from gps_ray.base.storage import writing
from gps_ray.base.types import IntArray, PosteriorMoments, Prompt, RolloutSample
from gps_ray.config import ConfigSection
from gps_ray.config.yaml_text import read_yaml
from gps_ray.run.identity import Identity
from gps_ray.run.metrics import read_metrics
from gps_ray.run.segments import Position, Segments, append_whole, files_of
from gps_ray.run.stored import Count, Stored

__all__ = ["FolderPosition", "JsonLines", "RunFolder", "check_can_be_written"]


MAX_VERIFIER_NOTES = 20
# Folders that a resume reads from.
_READ = ("checkpoints", "outcomes", "probes", "warm_start")


class JsonLines:
    """An append-only JSONL file that can be cut back to a byte offset. ``fence`` raises where this driver may no longer
    append."""

    def __init__(self, path: Path, fence: Callable[[], None] = lambda: None) -> None:
        self.path = path
        self._fence = fence

    def append(self, row: Mapping[str, Any]) -> None:
        """All of the row or, where that fails with StorageError, nothing."""
        self._fence()
        with writing(self.path):
            append_whole(self.path, (json.dumps(row, allow_nan=True) + "\n").encode(), self.num_bytes)

    @property
    def num_bytes(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def roll_back(self, num_bytes: int) -> list[str]:
        """Cut what was written after a manifest. A file that is shorter than the manifest says keeps its whole lines;
        no run needs them to go on, so that is returned as a line and no error."""
        found = self.num_bytes
        if found < num_bytes:
            whole = 0 if not found else self.path.read_bytes().rfind(b"\n") + 1
            self.path.touch()
            os.truncate(self.path, whole)
            return [
                f"{self.path.name}: expected {num_bytes} bytes, found {found}: the run goes on with the lines that are "
                "there; reports lack the others"
            ]
        if found:
            os.truncate(self.path, num_bytes)
        return []


class FolderPosition(Stored):
    """How far the files of a run folder go, in bytes; ``tables`` are outcomes and probes."""

    metrics_num_bytes: Count = 0
    samples_num_bytes: Count = 0
    verifier_notes_num_bytes: Count = 0
    tables: dict[str, Position] = Field(default_factory=dict)


def check_can_be_written(directory: Path, key: str = "run.directory") -> None:
    """Raise ConfigError, naming the config's ``key``, where no folder can be made at ``directory``, or nothing be
    written in it. Leaves nothing behind."""
    if directory.name in ("", "..") or "\0" in str(directory):
        raise ConfigError(f"{key}: expected a folder of its own, got {str(directory)!r}; name one")
    there = directory.absolute()
    try:
        while not there.exists():
            there = there.parent
        with tempfile.TemporaryDirectory(dir=there):
            pass
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{key}: {str(directory)!r:.300} cannot be written ({one_line(error)}); choose another"
        ) from error


def _step_of(line: str) -> int | None:
    """The step of a line of notes; None for a damaged one."""
    try:
        row = parse_json(line)
    except ValueError:
        return None
    step = row.get("step") if isinstance(row, dict) else None
    return step if isinstance(step, int) else None


class RunFolder:
    """Paths and plain files of one run. ``fence`` raises where this driver may no longer write."""

    def __init__(self, root: Path, fence: Callable[[], None] = lambda: None) -> None:
        self.root = root
        self.fence = fence
        self.metrics = JsonLines(root / "metrics.jsonl", fence)
        self.samples = JsonLines(root / "rollouts.jsonl", fence)
        self.notes = root / "notes.jsonl"
        self.verifier_notes = JsonLines(root / "verifier_notes.jsonl", fence)
        self.status = root / "status.json"
        self.config = root / "config.yaml"
        self.identity = root / "identity.json"
        self.first_prompt = root / "first_prompt.json"
        self.checkpoints = root / "checkpoints"
        self.outcomes = root / "outcomes"
        self.probes = root / "probes"
        self._tables = {"outcomes": Segments(self.outcomes), "probes": Segments(self.probes)}
        self.final_model = root / "final_model"
        self.warm_start = root / "warm_start"
        self._unfinished_model = root / "final_model.partial"

    def record(self) -> tuple[dict[str, Any], Identity] | None:
        """Config and identity of the run that began here; None where none did. Raises CheckpointError where the record
        cannot be read."""
        if not self.config.exists():
            return None
        try:
            # Somebody else's may be anything: within limits.
            config = read_yaml("config.yaml", self.config)
            if not isinstance(config, dict) or not isinstance(config.get("run", {}), dict):
                raise ConfigError(f"{self.config.name}: expected sections")
            identity = Identity.model_validate_json(self.identity.read_text()) if self.identity.exists() else Identity()
        except (OSError, ValueError, ConfigError) as error:
            raise CheckpointError(
                f"run.directory: {self.root}: its own record cannot be read ({one_line(error)}); begin anew by "
                "--restart of jobs.train, which moves the folder aside"
            ) from error
        return config, identity

    def check_kinds(self) -> None:
        """Raise CheckpointError where something in the folder is no plain file but has the place of one, or is neither
        file nor folder: to read a pipe takes forever."""
        of_files = {
            *(lines.path for lines in (self.metrics, self.samples, self.verifier_notes)),
            self.notes,
            self.config,
        }
        of_files |= {self.identity, self.root / "run_id"}
        for path in (*self.root.glob("*"), *(p for name in _READ for p in (self.root / name).rglob("*"))):
            if path.is_file() or not path.exists():
                continue
            if path in of_files or path.parent in (self.outcomes, self.probes) or not path.is_dir():
                raise CheckpointError(
                    f"run.directory: {path}: expected a plain file; take it away, or begin anew by --restart of "
                    "jobs.train, which moves the folder aside"
                )

    def create(
        self, config: ConfigSection, splits: Mapping[str, Sequence[Prompt]], identity: Identity | None = None
    ) -> None:
        """Lay out the folder; ``splits`` (pool, evaluation, ...) become prompts.parquet."""
        for directory in (self.root, self.checkpoints, self.outcomes, self.probes):
            # What is resumed from here is the owner's alone to write; a folder that was there may stay readable.
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            directory.chmod(directory.stat().st_mode & 0o7755)
        resolved = config.model_dump(mode="json")
        with writing(self.config):
            self.config.write_text(yaml.safe_dump(resolved, sort_keys=False))
            self.identity.write_text((identity or Identity()).model_dump_json(indent=1) + "\n")
        rows = [
            {"prompt_id": p.prompt_id, "text": p.text, "level": p.level, "split": split}
            for split, prompts in splits.items()
            for p in prompts
        ]
        with writing(self.root / "prompts.parquet"):
            pq.write_table(pa.Table.from_pylist(rows), self.root / "prompts.parquet")

    def run_id(self) -> str:
        """Made at the folder's first use; stays through resumes and moves of the folder."""
        path = self.root / "run_id"
        if not path.exists():
            partial = path.with_suffix(".partial")
            partial.write_text(secrets.token_hex(4) + "\n")
            partial.replace(path)
        return path.read_text().strip()

    def first_date(self, made_with: Mapping[str, Any] | None = None) -> datetime.date | None:
        """The day that the run's config says (``run.date``): ``made_with`` is that of a manifest, else its own record
        counts; None where there is no run, or it says none."""
        record = (made_with,) if made_with is not None else self.record()
        if record is None:
            return None
        run = record[0].get("run")
        date = run.get("date") if isinstance(run, dict) else None
        try:
            return None if date is None else datetime.date.fromisoformat(str(date))
        except ValueError as error:
            raise CheckpointError(
                f"run.date: {self.config} says {str(date)!r:.100}, which is no day; mend it, or begin anew by --restart"
            ) from error

    def unfinished_model(self) -> Path:
        """Where the policy is exported to: not there, whatever a kill left."""
        shutil.rmtree(self._unfinished_model, ignore_errors=True)
        return self._unfinished_model

    def finish_model(self) -> None:
        """The export is whole: it becomes the final model in one step, in place of one of fewer steps."""
        if self.final_model.exists():
            shutil.rmtree(self.final_model)
        self._unfinished_model.rename(self.final_model)

    def keep_warm_start(self, source: Path) -> None:
        """The run's own copy of what it begins from: what another machine would make may differ in the last bits."""
        if source == self.warm_start:
            return
        partial = self.root / "warm_start.partial"
        for old in (partial, self.warm_start):
            shutil.rmtree(old, ignore_errors=True)
        with writing(self.warm_start):
            shutil.copytree(source, partial)
            partial.rename(self.warm_start)

    def is_finished(self, num_steps: int) -> bool:
        """Has the run made all its steps and exported its policy?"""
        if not (self.final_model / "config.json").exists() or not self.metrics.path.exists():
            return False
        rows = read_metrics(self.metrics.path)
        return bool(rows) and rows[-1]["step"] >= num_steps

    def has_results(self) -> bool:
        """Is there anything of a step? What was measured before the first one is soon measured again."""
        steps = self.metrics.path.exists() and any(row["step"] > 0 for row in read_metrics(self.metrics.path))
        return steps or any(self.outcomes.glob("*")) or self.final_model.exists()

    def position(self) -> FolderPosition:
        """How far everything goes now, for the manifest of a checkpoint. Nothing may be under way."""
        return FolderPosition(
            metrics_num_bytes=self.metrics.num_bytes,
            samples_num_bytes=self.samples.num_bytes,
            verifier_notes_num_bytes=self.verifier_notes.num_bytes,
            tables={name: table.position() for name, table in self._tables.items()},
        )

    def files_at(self, position: FolderPosition) -> dict[str, int]:
        """All files that go on from ``position``, by name, each with so many of its first bytes; those bytes never
        change while one driver goes on."""
        found = {
            self.metrics.path.name: position.metrics_num_bytes,
            self.samples.path.name: position.samples_num_bytes,
            self.verifier_notes.path.name: position.verifier_notes_num_bytes,
        }
        for name, table in position.tables.items():
            found |= {f"{name}/{file}": size for file, size in files_of(self.root / name, table).items()}
        whole = (self.config, self.notes, self.root / "run_id", *sorted(self.warm_start.glob("*")))
        names = {path.relative_to(self.root).as_posix(): path for path in whole}
        return found | {name: path.stat().st_size for name, path in names.items() if path.exists()}

    def roll_back(self, position: FolderPosition) -> list[str]:
        """Back to what a manifest says, or to an empty run by ``FolderPosition()``. Outcomes and probes that came after
        move to ``discarded/``, lines are cut off. Returns what is damaged, a line each; it ends no run."""
        notes = [
            *self.metrics.roll_back(position.metrics_num_bytes),
            *self.samples.roll_back(position.samples_num_bytes),
            *self.verifier_notes.roll_back(position.verifier_notes_num_bytes),
        ]
        for name, table in self._tables.items():
            notes += table.roll_back(position.tables.get(name, Position()))
        return notes

    def note(self, num_steps_done: int, notes: Sequence[str]) -> None:
        """Write down what is to be known of all steps after ``num_steps_done``, which are made from now on. What was
        noted of an earlier attempt at them goes."""
        old = self.notes.read_text(errors="replace").splitlines() if self.notes.exists() else []
        kept = [line for line in old if (step := _step_of(line)) is not None and step < num_steps_done]
        if num_damaged := sum(_step_of(line) is None for line in old):
            notes = [*notes, f"{self.notes.name}: {num_damaged} lines that cannot be read are dropped"]
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

    def write_probe(
        self,
        step: int,
        probe: str,
        prompts: Sequence[Prompt],
        posterior: PosteriorMoments | None,
        num_right: IntArray,
        num_tried: IntArray,
    ) -> None:
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
        self._tables["probes"].append(step, table)
