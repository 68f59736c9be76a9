"""The rollouts of one step: round after round, until admission has what the update needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from gps_ray.base.types import GenerateRequest, Selection
from gps_ray.base.useful import is_useful
from gps_ray.config import TrainConfig
from gps_ray.loop.chooser import Chooser
from gps_ray.loop.ports import RolloutPool
from gps_ray.loop.sampling import sorted_chunks
from gps_ray.loop.step_record import StepRecord
from gps_ray.selection.admission import build_admission

__all__ = ["roll_out"]

# Readable responses that are kept of a step where they are due.
NUM_SAMPLES_KEPT = 4


async def roll_out(
    record: StepRecord,
    selection: Selection,
    config: TrainConfig,
    pool: RolloutPool,
    chooser: Chooser,
    before_another: Callable[[], Awaitable[None]],
) -> None:
    """Fill the record's selections, chunks and admitted prompts, beginning with ``selection``. Ends when admission is
    full, the rounds are used up or the pool has nothing left. ``before_another`` is awaited before a further round is
    selected."""
    admission = build_admission(config.selection)
    admission.begin(config.selection.num_prompts)
    wants_samples = (record.step - 1) % config.run.sample_every_steps == 0 or record.step == config.run.num_steps
    while True:
        record.selections.append(selection)
        request = GenerateRequest(
            step=record.step,
            stream="rollout",
            prompt_ids=selection.prompt_ids,
            num_rollouts=selection.num_rollouts,
            policy_version=record.policy_version,
            sampling=config.rollout_sampling,
            first_chunk=len(record.chunks),
            num_samples_kept=NUM_SAMPLES_KEPT if wants_samples else 0,
            expected_lengths=selection.expected_lengths,
            num_followers=record.num_followers,
        )
        for chunk in await sorted_chunks(pool, request):
            record.chunks.append(chunk)
            header = chunk.header
            admission.offer(header.prompt_ids, is_useful(header.num_right, header.num_tried))
        if not admission.wants_more(len(record.selections)):
            break
        await before_another()
        selection = await chooser.another_round(record.step, len(record.selections), admission.num_missing)
        if not selection.prompt_ids:
            break
    record.admitted = admission.admitted
