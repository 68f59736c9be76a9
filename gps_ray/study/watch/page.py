"""The live page in parts, each as HTML: what a browser puts in place when the run has gone on."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gps_ray.run.metrics import STEP
from gps_ray.run.status import read_status
from gps_ray.study.report import predictor_figures, run_figures
from gps_ray.study.report.headlines import headlines
from gps_ray.study.report.render import templates, visible
from gps_ray.study.report.run_data import ReadFiles, RunData, SampleRow, read_run
from gps_ray.study.watch.batch import BatchRow, batch_of
from gps_ray.study.watch.words import state_of

__all__ = ["Query", "WatchPage"]

MAX_ROLLOUTS = 60
_STEPS = {STEP: "step"}
_WATCHED = ("metrics.jsonl", "rollouts.jsonl", "config.yaml", "prompts.parquet", "notes.jsonl", "outcomes", "probes")


@dataclass(frozen=True, slots=True)
class Query:
    """What the reader asked for. ``step`` None: the newest batch, rollouts of any step; ``text`` is looked for in
    prompts, responses and ids, whatever its case; ``verdict`` "": any."""

    step: int | None = None
    text: str = ""
    verdict: str = ""

    @classmethod
    def of(cls, values: Mapping[str, str]) -> Query:
        """What makes no sense is as if it were not there."""
        step, verdict = values.get("step", ""), values.get("verdict", "")
        return cls(
            step=int(step) if step.isascii() and step.isdigit() and len(step) < 10 else None,
            text=values.get("text", "")[:200].strip(),
            verdict=verdict if verdict in ("right", "wrong", "failed") else "",
        )

    def finds(self, *texts: str) -> bool:
        wanted = self.text.casefold()
        return not wanted or any(wanted in text.casefold() for text in texts)


class WatchPage:
    """The page of one run folder. Thread-safe; reads, never writes.

    Figures are drawn anew only where the folder has changed, and then not before ``pause`` times as long as the last
    drawing took. Raises DataError where the folder is no run's.
    """

    pause = 4.0

    def __init__(self, root: Path, every_s: float) -> None:
        self._root, self._every_s = root, every_s
        self._files, self._lock = ReadFiles(), threading.Lock()
        self._templates = templates(Path(__file__).parent)
        self._script = (Path(__file__).parent / "watch.js").read_text()
        self._stamp, self._run, self._figures = "", read_run(root, self._files), dict[str, str]()
        self._drawn_at, self._drawing_s = float("-inf"), 0.0

    @property
    def policy(self) -> str:
        """Content-Security-Policy: this page's own script by its hash, this server's answers, nothing else."""
        digest = base64.b64encode(hashlib.sha256(self._script.encode()).digest()).decode()
        return (
            f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'; "
            "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )

    def html(self, query: Query) -> str:
        """The whole page, as it is before its script asks for more; it reads well without one."""
        parts = json.loads(self.parts(query))
        return self._templates.get_template("watch.html").render(
            title=visible(self._run.name, 120),
            query=query,
            parts=parts["parts"],
            stamp=parts["stamp"],
            every_s=self._every_s,
            script=self._script,
            sample_every=self._run.setting("run", "sample_every_steps"),
            sections=[],
        )

    def parts(self, query: Query, have: str = "") -> str:
        """JSON {stamp, title, parts: {id: html}}. A reader that has the newest ``stamp`` is told how the run is, and
        spared the rest."""
        with self._lock:
            self._refresh()
            parts = {"now": self._now()}
            if have != self._stamp:
                parts |= {**self._figures, **self._batch(query), **self._rollouts(query)}
            done, planned = self._run.num_steps_done, self._run.num_steps_planned
            title = f"{done}/{planned} {visible(self._run.name, 60)}" if planned else visible(self._run.name, 60)
            return json.dumps({"stamp": self._stamp, "title": title, "parts": parts})

    def _refresh(self) -> None:
        """Read and draw where the folder has changed and it is time for it."""
        stamp = self._folder_stamp()
        if stamp == self._stamp or time.monotonic() - self._drawn_at < self.pause * self._drawing_s:
            return
        start = time.monotonic()
        self._run = read_run(self._root, self._files)
        self._figures = {name: self._figure(panels) for name, panels in _figures(self._run).items()}
        self._figures["cards"] = self._part("cards", cards=headlines(self._run))
        self._figures["about"] = self._part("about", **_about(self._run))
        self._stamp, self._drawn_at = stamp, time.monotonic()
        self._drawing_s = self._drawn_at - start

    def _folder_stamp(self) -> str:
        signs = []
        for name in _WATCHED:
            try:
                found = (self._root / name).stat()
                signs.append((found.st_mtime_ns, found.st_size))
            except FileNotFoundError:
                signs.append((0, 0))
        return hashlib.sha256(repr(signs).encode()).hexdigest()[:16]

    def _part(self, part: str, **values: Any) -> str:
        return self._templates.get_template("parts.html").render(part=part, **values)

    def _figure(self, rows: Sequence[tuple[str, Sequence[Any]]]) -> str:
        return self._part("figures", rows=[{"size": size, "panels": panels} for size, panels in rows if panels])

    def _now(self) -> str:
        run, status = self._run, read_status(self._root / "status.json")
        lease_s = run.setting("run", "lease_s")
        state = state_of(
            self._root,
            status,
            run.num_steps_done,
            run.num_steps_planned,
            float(lease_s) if isinstance(lease_s, int | float) else 60.0,
        )
        workers = [] if status is None else [asdict(worker) for worker in status.workers]
        age = None if status is None else max(0.0, time.time() - status.written_at)
        return self._part("now", state=state, workers=workers, age=age)

    def _batch(self, query: Query) -> dict[str, str]:
        groups = self._run.groups
        newest = int(groups.step[-1]) if len(groups.step) else None
        step = newest if query.step is None else query.step
        rows = [] if step is None else batch_of(groups, step, self._texts(groups.prompt_id[groups.step == step]))
        shown = [row for row in rows if query.finds(row.prompt, row.prompt_id, row.level, row.why)]
        return {"batch": self._part("batch", step=step, rows=shown, num=len(rows), kinds=_kinds(rows), text=query.text)}

    def _texts(self, prompt_ids: Any) -> dict[str, str]:
        try:
            table = self._files.read(self._root / "prompts.parquet", ["prompt_id", "text"])
        except (OSError, pa.ArrowException, ValueError):
            return {}
        found = table.filter(pc.is_in(table["prompt_id"], pa.array([str(i) for i in prompt_ids], pa.string())))
        return dict(zip(found["prompt_id"].to_pylist(), found["text"].to_pylist(), strict=True))

    def _rollouts(self, query: Query) -> dict[str, str]:
        kept = self._run.samples
        found = [row for row in reversed(kept) if _wanted(row, query)]
        shown = [_shown(row) for row in found[:MAX_ROLLOUTS]]
        return {"responses": self._part("responses", rows=shown, num_found=len(found), num_kept=len(kept))}


def _figures(run: RunData) -> dict[str, list[tuple[str, Sequence[Any]]]]:
    """By part: rows of (size, panels)."""
    curves = [
        *run_figures.pass_rate_panels(run, _STEPS),
        *run_figures.useful_ratio_panels(run, _STEPS),
        *run_figures.rollout_panels(run),
        *run_figures.group_panels(run),
    ]
    predicted = [
        *predictor_figures.batch_panels(run),
        *predictor_figures.spearman_panels(run),
        *predictor_figures.calibration_panels(run),
    ]
    return {
        "curves": [("medium", curves)],
        "predicted": [("wide", predicted)],
        "difficulty": [("wide", [*predictor_figures.probe_maps(run), *run_figures.level_maps(run)])],
    }


def _about(run: RunData) -> dict[str, Any]:
    settings = [("selection", "selector"), ("data", "task"), ("rollout", "engine"), ("run", "seed")]
    facts = {key: run.setting(section, key) for section, key in settings}
    tags = [visible(f"{name} {value}", 70) for name, value in facts.items() if value is not None]
    return {"tags": tags, "notes": [visible(note, 200) for note in run.notes]}


def _kinds(rows: Sequence[BatchRow]) -> list[tuple[str, int]]:
    """How many were picked by what, in the order of their first."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.why] = counts.get(row.why, 0) + 1
    return list(counts.items())


def _wanted(row: SampleRow, query: Query) -> bool:
    if query.verdict and row.status != query.verdict:
        return False
    if query.step is not None and row.step != query.step:
        return False
    return query.finds(row.prompt_text, row.response_text, row.prompt_id)


def _shown(row: SampleRow) -> dict[str, Any]:
    return {
        "step": row.step,
        "status": visible(row.status, 20),
        "kind": row.status if row.status in ("right", "wrong", "failed") else "",
        "reward": f"{row.reward:g}",
        "prompt": visible(row.prompt_text),
        "response": visible(row.response_text, 4000),
    }
