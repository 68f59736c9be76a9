"""What a run folder costs as a run gets long: steps are written down, checkpointed and resumed, nothing is learnt."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from gps_ray.base.errors import CheckpointError
from gps_ray.base.types import FloatArray, GroupOutcome, Prompt, Selection, SlotKind
from gps_ray.run.checkpoint import CheckpointStore, Manifest
from gps_ray.run.folder import RunFolder
from gps_ray.run.lease import Lease
from gps_ray.run.mirror_store import MirrorStore
from gps_ray.run.object_folder import ObjectFolder
from gps_ray.run.outcomes import write_outcomes
from gps_ray.run.segments import Segments

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--steps",
        type=int,
        nargs="+",
        default=[990, 9_990, 49_990, 99_990],
        help="looked at here; by default where the newest segment is nearly full",
    )
    parser.add_argument("--num-prompts", type=int, default=32, help="groups of 8 in a step")
    parser.add_argument("--checkpoint-every", type=int, default=10, help="steps")
    parser.add_argument("--probe-every", type=int, default=30, help="steps")
    parser.add_argument("--learner-kib", type=int, default=64, help="what the learner adds to a checkpoint")
    parser.add_argument(
        "--mirror",
        nargs="?",
        const="",
        default=None,
        metavar="URI",
        help="and upload every checkpoint to this place (run.mirror), without a URI to a folder",
    )
    parser.add_argument("--step-s", type=float, default=0.9, help="a step of the demo, for the share of it")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """A row for each of ``--steps``: files in the folder, manifest bytes; milliseconds per step, per checkpoint (median
    of the last hundred) and per resume (best of three); with ``--mirror`` also those that an upload takes in its own
    thread (median of the last hundred), of them on a CPU of this process, the objects there, and a fetch.
    ``share_of_step``: of a step of ``--step-s``, by all of it: the step's records, a checkpoint's part, and an upload's
    CPU time as if it held the step up."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / "run"
        root.mkdir()
        place = (Path(directory) / "mirror").as_uri() if args.mirror == "" else args.mirror
        with Lease(root, 60.0) as lease:
            rows = _rows(root, args, place, lease.check)
    return {
        "prompts": args.num_prompts,
        "checkpoint_every": args.checkpoint_every,
        "learner_kib": args.learner_kib,
        "step_s": args.step_s,
        "rows": rows,
    }


def _rows(root: Path, args: argparse.Namespace, place: str | None, fence: Callable[[], None]) -> list[dict[str, Any]]:
    folder, store = RunFolder(root, fence), CheckpointStore(root, keep_last=2, fence=fence)
    segments, rng = Segments(folder.outcomes), np.random.default_rng(0)
    for path in (folder.outcomes, folder.probes):
        path.mkdir()
    probe = [Prompt(prompt_id=f"p{i:015d}", text="", answer="", task="bench") for i in range(args.num_prompts)]
    mirror = None if place is None else MirrorStore(ObjectFolder(place))
    rows, step_s, checkpoint_s, uploads = [], list[float](), list[float](), list[tuple[float, float]]()
    for step in range(1, max(args.steps) + 1):
        outcomes, selection = _step(rng, step, args.num_prompts)
        begin = time.perf_counter()
        fence()  # as the loop before a selector writes
        write_outcomes(segments, step, outcomes, [selection])
        folder.metrics.append({"step": step, **{f"metric/{i}": float(step + i) for i in range(40)}})
        if step % args.probe_every == 0:
            zeros = np.zeros(len(probe), np.int32)
            folder.write_probe(step, "pool_probe", probe, None, zeros, zeros)
        step_s.append(time.perf_counter() - begin)
        if step % args.checkpoint_every == 0:
            begin = time.perf_counter()
            path, manifest = _checkpoint(folder, store, step, args.learner_kib << 10)
            checkpoint_s.append(time.perf_counter() - begin)
            if mirror is not None:
                begin, begin_cpu = time.perf_counter(), time.process_time()
                mirror.commit(folder, path, manifest)
                mirror.prune(2, 0)
                uploads.append((time.perf_counter() - begin, time.process_time() - begin_cpu))
        if step in args.steps:
            rows.append(_row(folder, step, step_s[-1000:], checkpoint_s[-100:]))
            if place is not None:
                rows[-1] |= _mirror_row(place, uploads[-100:])
            by_checkpoint = rows[-1]["checkpoint_ms"] + rows[-1].get("upload_cpu_ms", 0.0)
            total_ms = rows[-1]["step_ms"] + by_checkpoint / args.checkpoint_every
            rows[-1]["share_of_step"] = total_ms / (1e3 * args.step_s)
    return rows


def _step(rng: np.random.Generator, step: int, num_prompts: int) -> tuple[list[GroupOutcome], Selection]:
    ids = tuple(f"{key:016x}" for key in rng.integers(1 << 60, size=num_prompts))
    outcomes = [
        GroupOutcome(
            prompt_id=prompt_id,
            policy_version=step - 1,
            rewards=(status := rng.integers(2, size=8)).astype(np.float32),
            status=status.astype(np.int8),
            response_lengths=rng.integers(4, 600, 8).astype(np.int32),
        )
        for prompt_id in ids
    ]
    means: FloatArray = rng.random(num_prompts)
    return outcomes, Selection(
        step=step,
        round=0,
        prompt_ids=ids,
        num_rollouts=np.full(num_prompts, 8, np.int32),
        predicted_mean=means,
        predicted_std=means / 4,
        slot_kind=np.full(num_prompts, SlotKind.CHOSEN, np.int8),
        num_candidates=num_prompts,
    )


def _mirror_row(place: str, uploads: Sequence[tuple[float, float]]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as elsewhere:
        begin = time.perf_counter()
        MirrorStore(ObjectFolder(place)).fetch(Path(elsewhere))
        fetch_s = time.perf_counter() - begin
    return {
        "upload_ms": 1e3 * median(seconds for seconds, _ in uploads),
        "upload_cpu_ms": 1e3 * median(cpu_s for _, cpu_s in uploads),
        "fetch_ms": 1e3 * fetch_s,
        "mirror_objects": len(ObjectFolder(place).sizes()),
    }


def _checkpoint(folder: RunFolder, store: CheckpointStore, step: int, num_bytes: int) -> tuple[Path, Manifest]:
    path = store.begin(step)
    (path / "learner").write_bytes(bytes(num_bytes))
    manifest = Manifest(
        num_steps_done=step,
        counters={"cost/num_rollouts": float(step)},
        next_selection=None,
        config={},
        pool_fingerprint="bench",
        **dict(folder.position()),
    )
    return path, store.commit(path, manifest)


def _row(folder: RunFolder, step: int, step_s: Sequence[float], checkpoint_s: Sequence[float]) -> dict[str, Any]:
    resumed = [_resume(folder.root) for _ in range(3)]
    files = [path for path in folder.root.rglob("*") if path.is_file()]
    return {
        "steps": step,
        "files": len(files),
        "manifest_bytes": (resumed[0][1] / "manifest.json").stat().st_size,
        "step_ms": 1e3 * median(step_s),
        "checkpoint_ms": 1e3 * median(checkpoint_s),
        "resume_ms": 1e3 * min(seconds for seconds, _ in resumed),
        "outcomes_mib": sum(path.stat().st_size for path in folder.outcomes.iterdir()) / 2**20,
    }


def _resume(root: Path) -> tuple[float, Path]:
    """Seconds, and the checkpoint that was found."""
    begin = time.perf_counter()
    found = CheckpointStore(root, keep_last=2).newest()
    if found is None or (damage := RunFolder(root).roll_back(found[1])):
        raise CheckpointError(
            f"{root}: expected a whole run folder, got {'no checkpoint' if found is None else damage}"
        )
    return time.perf_counter() - begin, found[0]
