import numpy as np

from gps_ray.predictor.interface import OutcomeBatch
from gps_ray.selection.lengths import ResponseLengths


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
