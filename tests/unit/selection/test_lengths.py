"""What is dealt out goes by expected lengths: the record, the posterior in its place, and both through a checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gps_ray.base.tables import outcomes_to_table
from gps_ray.base.types import GroupOutcome, Selection, SelectionRequest
from gps_ray.config import SelectionConfig
from gps_ray.predictor.interface import OutcomeBatch, PromptTable
from gps_ray.selection.lengths import ResponseLengths
from gps_ray.selection.registry import build_selector
from gps_ray.selection.service import SelectorService


def _batch(step: int, rows: list[int], lengths: list[float]) -> OutcomeBatch:
    counts = np.ones(len(rows), np.int32)
    return OutcomeBatch(
        step=step,
        rows=np.array(rows),
        num_right=counts,
        num_tried=counts,
        mean_response_length=np.array(lengths, np.float32),
    )


def test_a_prompt_is_expected_to_be_as_long_as_it_was_and_an_unseen_one_as_all_are() -> None:
    record = ResponseLengths(5)
    assert len(record.expected_lengths(np.array([0, 1]))) == 0
    record.observe(_batch(1, [0, 3], [100, 300]))
    np.testing.assert_allclose(record.expected_lengths(np.array([3, 0, 1])), [300, 100, 200])
    # A newer group counts twice as much as the one before, and one without responses says nothing.
    record.observe(_batch(2, [0, 3], [400, np.nan]))
    np.testing.assert_allclose(record.expected_lengths(np.array([0, 3])), [300, 300])
    np.testing.assert_allclose(record.expected_lengths(np.array([4])), (0.5 * 400 + 400) / 2)


def test_the_record_goes_on_after_a_kill() -> None:
    record, other = ResponseLengths(5), ResponseLengths(5)
    record.observe(_batch(1, [0, 3], [100, 300]))
    other.load_state(record.state())
    for each in (record, other):
        each.observe(_batch(2, [3, 4], [30, 50]))
    np.testing.assert_array_equal(other.expected_lengths(np.arange(5)), record.expected_lengths(np.arange(5)))


NUM_PROMPTS, BATCH, GROUP_SIZE = 80, 16, 4


def _service(selector: str, directory: Path, guarded: bool) -> SelectorService:
    forms = ("What is {} + {}?", "Explain at length and step by step why {} times {} is what it is.")
    texts = tuple(forms[row % 2].format(row, row + 1) for row in range(NUM_PROMPTS))
    table = PromptTable(
        prompt_ids=tuple(f"p{row}" for row in range(NUM_PROMPTS)),
        texts=texts,
        embeddings=np.zeros((NUM_PROMPTS, 4), np.float32),
        num_pool=NUM_PROMPTS,
    )
    config = SelectionConfig.model_validate(
        {
            "selector": selector,
            "num_prompts": BATCH,
            "fused": {"num_features": 32},
            "guard": {"enabled": guarded},
        }
    )
    return SelectorService(build_selector(config, table, GROUP_SIZE, 0), table, directory)


def _step(service: SelectorService, step: int) -> Selection:
    """Even prompts are answered with 10 tokens, odd ones with 200."""
    request = SelectionRequest(step=step, round=0, num_prompts=BATCH, group_size=GROUP_SIZE, num_missing=BATCH)
    selection = service.select(request)
    outcomes = [
        GroupOutcome(
            prompt_id=prompt_id,
            policy_version=step - 1,
            rewards=np.array([1, 0, 1, 0], np.float32),
            status=np.array([1, 0, 1, 0], np.int8),
            response_lengths=np.full(GROUP_SIZE, 200 if int(prompt_id[1:]) % 2 else 10, np.int32),
        )
        for prompt_id in selection.prompt_ids
    ]
    service.observe(step, [selection], [outcomes_to_table(outcomes)])
    return selection


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("selector", ["uniform", "mopps", "gps_fused"])
def test_a_selection_says_how_long_its_responses_will_be_after_a_resume_too(
    selector: str, guarded: bool, tmp_path: Path
) -> None:
    service, resumed = (_service(selector, tmp_path / name, guarded) for name in ("one", "other"))
    first = _step(service, 1)
    assert len(first.expected_lengths) == 0
    service.save(tmp_path / "state")
    resumed.load(tmp_path / "state")
    second, again = _step(service, 2), _step(resumed, 2)
    assert second.prompt_ids == again.prompt_ids
    np.testing.assert_array_equal(second.expected_lengths, again.expected_lengths)
    assert second.expected_lengths.shape == (BATCH,)
    unseen = [place for place, name in enumerate(second.prompt_ids) if name not in first.prompt_ids]
    is_long = np.array([int(second.prompt_ids[place][1:]) % 2 == 1 for place in unseen])
    expected = second.expected_lengths[unseen]
    if selector == "gps_fused":  # by their texts
        assert expected[is_long].min() > 2 * expected[~is_long].max()
    else:  # as all were
        assert np.ptp(expected) < 1e-9
