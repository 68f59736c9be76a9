import numpy as np
import torch

from gps_ray.learning.packing import PackedBatch, Row, blank_batch, pack, split_rows


def _rows(seed: int, num_rows: int = 40) -> list[Row]:
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(num_rows):
        num_response = int(rng.integers(1, 9))
        rows.append(
            Row(
                prompt_tokens=rng.integers(3, 99, rng.integers(1, 12)).astype(np.int32),
                response_tokens=rng.integers(3, 99, num_response).astype(np.int32),
                sampled_logprobs=rng.normal(size=num_response).astype(np.float32),
                number=i,
            )
        )
    return rows


def _unpack(batch: PackedBatch) -> list[tuple[list[int], list[int], list[float], int]]:
    """Read every row back from the packed arrays by their documented meaning alone."""
    num_rows, length = batch.tokens.shape
    found = []
    for m in range(num_rows):
        positions = [length - batch.num_logits + k for k in range(batch.num_logits) if batch.mask[m, k]]
        # Response tokens are the successors of the positions whose logits are used, without a gap.
        assert positions == list(range(positions[0], positions[0] + len(positions)))
        successors = [int(batch.tokens[m, p + 1]) for p in positions]
        assert successors == batch.targets[m][batch.mask[m]].tolist()
        prompt = batch.tokens[m, : positions[0] + 1].tolist()
        assert (batch.tokens[m, positions[-1] + 2 :] == 0).all()
        found.append((prompt, successors, batch.sampled_logprobs[m][batch.mask[m]].tolist(), int(batch.numbers[m])))
    assert (batch.sampled_logprobs[~batch.mask] == 0).all()
    return found


def test_every_row_comes_back_whole_exactly_once() -> None:
    rows = _rows(0)
    batches = pack(rows, 100)
    found = sorted((row for batch in batches for row in _unpack(batch)), key=lambda row: row[3])
    assert found == [
        (r.prompt_tokens.tolist(), r.response_tokens.tolist(), list(map(float, r.sampled_logprobs)), r.number)  # type: ignore[arg-type]
        for r in rows
    ]
    assert sum(batch.num_tokens for batch in batches) == sum(len(row.response_tokens) for row in rows)


def test_a_micro_batch_stays_within_its_tokens_unless_one_row_is_longer() -> None:
    rows = _rows(1)
    for max_tokens in (5, 20, 64, 10_000):
        batches = pack(rows, max_tokens)
        assert all(batch.tokens.numel() <= max_tokens or len(batch.tokens) == 1 for batch in batches)
    assert len(pack(rows, 10_000)) == 1
    assert len(pack(rows, 1)) == len(rows)
    assert pack([], 10) == []


def test_sorting_by_length_pads_less_than_the_given_order() -> None:
    rows = _rows(2, 200)
    padded = sum(batch.tokens.numel() for batch in pack(rows, 300))
    unsorted = sum(sum(b.tokens.numel() for b in pack(rows[i : i + 15], 10_000)) for i in range(0, 200, 15))
    needed = sum(len(row.prompt_tokens) + len(row.response_tokens) for row in rows)
    assert needed <= padded < unsorted


def test_the_result_is_a_function_of_the_rows_and_ties_keep_their_order() -> None:
    rows = _rows(3)
    first, second = pack(rows, 64), pack(rows, 64)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.tokens, b.tokens)
        assert torch.equal(a.numbers, b.numbers)
    same = [Row(prompt_tokens=np.array([5]), response_tokens=np.array([6]), number=i) for i in range(9)]
    assert torch.cat([batch.numbers for batch in pack(same, 6)]).tolist() == list(range(9))


def test_rows_are_split_into_parts_of_about_equally_many_tokens() -> None:
    rows = _rows(4, 41)
    lengths = [len(row.prompt_tokens) + len(row.response_tokens) for row in rows]
    assert split_rows(rows, 1) == [rows]
    for num_parts in (2, 3, 5):
        parts = split_rows(rows, num_parts)
        numbers = [[row.number for row in part] for part in parts]
        assert sorted(number for part in numbers for number in part) == list(range(41))
        assert all(part == sorted(part) for part in numbers)
        sizes = [sum(lengths[number] for number in part) for part in numbers]
        assert max(sizes) - min(sizes) <= max(lengths)
    assert [len(part) for part in split_rows(rows[:1], 3)] == [1, 0, 0]


def test_a_blank_batch_counts_for_nothing() -> None:
    batch = blank_batch(_rows(5)[0])
    assert batch.num_tokens == 0
    assert (batch.sampled_logprobs == 0).all()
    assert batch.tokens.numel() > 0
