from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, MistralConfig

from gps_ray.learning.logprobs import can_share_prompts, token_logprobs
from gps_ray.learning.packing import PackedBatch, PackedLine, TrainRow, blank_batch, lines_of, pack, split_lines
from gps_ray.model import load_model
from tests.unit.learning.rollouts import VOCABULARY, make_model


def make_rows(seed: int, num_prompts: int = 40, group_size: int = 1) -> list[TrainRow]:
    rng = np.random.default_rng(seed)
    rows: list[TrainRow] = []
    for _ in range(num_prompts):
        prompt = rng.integers(3, VOCABULARY, rng.integers(1, 12)).astype(np.int32)
        for _ in range(group_size):
            num_response = int(rng.integers(1, 9))
            rows.append(
                TrainRow(
                    prompt_tokens=prompt,
                    response_tokens=rng.integers(3, VOCABULARY, num_response).astype(np.int32),
                    sampled_logprobs=rng.normal(size=num_response).astype(np.float32),
                    number=len(rows),
                )
            )
    return rows


def _length(line: PackedLine) -> int:
    return len(line[0].prompt_tokens) + sum(len(row.response_tokens) - 1 for row in line)


def _context(batch: PackedBatch, place: int) -> list[int]:
    """What the token at a source place sees, in order of position, by the documented meaning of the arrays alone."""
    line, k = divmod(place, batch.num_logits)
    length = batch.tokens.shape[1]
    query = length - batch.num_logits + k
    if batch.attention is None or batch.positions is None:
        return batch.tokens[line, : query + 1].tolist()
    seen = torch.nonzero(batch.attention[line, 0, query]).flatten()
    assert batch.positions[line, seen].tolist() == list(range(len(seen)))
    return batch.tokens[line, seen].tolist()


def _unpack(batch: PackedBatch) -> list[tuple[list[int], list[int], list[float], int]]:
    """Prompt, response, log-probs and number of every row."""
    found = []
    for m in range(len(batch.numbers)):
        width = int(batch.mask[m].sum())
        assert batch.mask[m, :width].all()
        targets = batch.targets[m, :width].tolist()
        contexts = [_context(batch, int(place)) for place in batch.sources[m, :width]]
        # Every target is predicted from the prompt and the response so far, and from nothing else.
        assert contexts == [contexts[0] + targets[:t] for t in range(width)]
        found.append((contexts[0], targets, batch.sampled_logprobs[m, :width].tolist(), int(batch.numbers[m])))
    assert (batch.sampled_logprobs[~batch.mask] == 0).all()
    return found


@pytest.mark.parametrize("max_shared_tokens", [0, 20, 512])
def test_every_row_comes_back_whole_exactly_once(max_shared_tokens: int) -> None:
    rows = make_rows(0, num_prompts=10, group_size=4)
    batches = pack(lines_of(rows, max_shared_tokens), 100)
    found = sorted((row for batch in batches for row in _unpack(batch)), key=lambda row: row[3])
    assert found == [
        (r.prompt_tokens.tolist(), r.response_tokens.tolist(), list(map(float, r.sampled_logprobs)), r.number)  # type: ignore[arg-type]
        for r in rows
    ]
    assert sum(batch.num_tokens for batch in batches) == sum(len(row.response_tokens) for row in rows)


def test_rows_of_one_prompt_share_lines_of_a_bounded_length() -> None:
    rows = make_rows(1, num_prompts=6, group_size=8)
    assert [len(line) for line in lines_of(rows)] == [1] * 48
    assert [len(line) for line in lines_of(rows, 512)] == [8] * 6
    lines = lines_of(rows, 24)
    assert all(_length(line) <= 24 or len(line) == 1 for line in lines)
    assert 6 < len(lines) < 48
    assert sorted(row.number for line in lines for row in line) == list(range(48))
    assert all(len({row.prompt_tokens.tobytes() for row in line}) == 1 for line in lines)


def test_a_prompt_that_comes_again_joins_its_line() -> None:
    first, second = make_rows(2, num_prompts=2, group_size=2)[:2], make_rows(2, num_prompts=2, group_size=2)[2:]
    lines = lines_of([first[0], second[0], first[1], second[1]], 512)
    assert [[row.number for row in line] for line in lines] == [[0, 1], [2, 3]]


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_shared_prompt_changes_no_log_prob_and_no_gradient(tmp_path: Path, family: Literal["llama", "qwen3"]) -> None:
    model = load_model(make_model(tmp_path, family))
    assert can_share_prompts(model)
    rows = make_rows(3, num_prompts=5, group_size=6)
    found, gradients = [], []
    for max_shared_tokens in (0, 30, 512):
        model.zero_grad()
        logprobs = np.zeros((len(rows), 8))
        for batch in pack(lines_of(rows, max_shared_tokens), 200):
            values, _ = token_logprobs(model, batch, 0.8)
            (values * batch.mask * batch.sampled_logprobs).sum().backward()  # type: ignore[no-untyped-call]
            logprobs[batch.numbers.numpy(), : values.shape[1]] = (values * batch.mask).detach().numpy()
        found.append(logprobs)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    for logprobs, gradient in zip(found[1:], gradients[1:], strict=True):
        np.testing.assert_allclose(logprobs, found[0], atol=2e-6)
        torch.testing.assert_close(gradient, gradients[0], atol=2e-5, rtol=1e-4)


def test_models_whose_attention_obeys_no_mask_of_ours_share_nothing() -> None:
    def mistral(sliding_window: int | None) -> Any:
        config = MistralConfig(
            vocab_size=32, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, sliding_window=sliding_window,
        )  # fmt: skip
        return AutoModelForCausalLM.from_config(config)

    assert can_share_prompts(mistral(None))
    assert not can_share_prompts(mistral(16))


def test_a_micro_batch_stays_within_its_tokens_unless_one_line_is_longer() -> None:
    rows = make_rows(4, group_size=2)
    for max_shared_tokens in (0, 512):
        lines = lines_of(rows, max_shared_tokens)
        for max_tokens in (5, 20, 64, 10_000):
            batches = pack(lines, max_tokens)
            assert all(batch.tokens.numel() <= max_tokens or len(batch.tokens) == 1 for batch in batches)
        assert len(pack(lines, 10_000)) == 1
        assert len(pack(lines, 1)) == len(lines)
    assert pack([], 10) == []


@pytest.mark.parametrize(("num_workers", "share"), [(4, 0.98), (8, 0.95), (32, 0.85)])
def test_workers_in_step_hardly_wait_for_long_responses(num_workers: int, share: float) -> None:
    """256 prompts x 8 responses as long as a 7B model's: log-normal between groups and in them, cut off at 8,192. A
    step of all workers takes as long as its largest micro-batch. Found: .98, .97, .92 (by prompt .58, .54, .48).
    """
    rng = np.random.default_rng(0)
    lines: list[PackedLine] = []
    for scale in rng.lognormal(np.log(3280) - (0.5**2 + 0.6**2) / 2, 0.5, 256):
        prompt = np.zeros(rng.integers(60, 300), dtype=np.int32)
        for length in np.clip(rng.lognormal(np.log(scale), 0.6, 8), 1, 8192).astype(int):
            lines.append((TrainRow(prompt_tokens=prompt, response_tokens=np.zeros(length, dtype=np.int32)),))
    found = []
    for by_prompt in (False, True):
        parts = [pack(part, 16_384, by_prompt=by_prompt) for part in split_lines(lines, num_workers)]
        sizes = ([batch.tokens.numel() for batch in batches] for batches in parts)
        in_step = num_workers * sum(map(max, zip_longest(*sizes, fillvalue=0)))
        found.append(sum(map(_length, lines)) / in_step)
    assert found[0] >= share
    assert found[1] < 0.6


def test_lines_that_share_a_prompt_stand_apart_from_those_that_need_no_mask() -> None:
    rows = make_rows(10, num_prompts=6, group_size=4)
    long = TrainRow(prompt_tokens=np.arange(3, 9), response_tokens=np.full(60, 4), number=len(rows))
    lines = [(long,), *lines_of(rows, 512)]
    batches = pack(lines, 10_000)
    assert [batch.attention is None for batch in batches] == [False, True]
    assert [len(batch.numbers) for batch in batches] == [24, 1]


@pytest.mark.parametrize("by_prompt", [False, True])
def test_responses_in_rows_of_their_own_stay_within_the_tokens_too(by_prompt: bool) -> None:
    """A line of one long response and many short ones: as rows they pad to the longest."""
    rng = np.random.default_rng(0)
    rows = []
    for prompt in range(20):
        for length in (30, *[1] * 7):
            response = rng.integers(3, VOCABULARY, length).astype(np.int32)
            rows.append(TrainRow(prompt_tokens=np.array([3, prompt + 3]), response_tokens=response, number=len(rows)))
    batches = pack(lines_of(rows, 512), 700, by_prompt=by_prompt)
    assert all(batch.mask.numel() <= 700 for batch in batches)
    assert sum(len(batch.numbers) for batch in batches) == 160


def test_sorting_by_length_pads_less_than_the_given_order() -> None:
    lines = lines_of(make_rows(5, 200))
    padded = sum(batch.tokens.numel() for batch in pack(lines, 300))
    unsorted = sum(sum(b.tokens.numel() for b in pack(lines[i : i + 15], 10_000)) for i in range(0, 200, 15))
    assert sum(map(_length, lines)) <= padded < unsorted


def test_the_result_is_a_function_of_the_rows_and_ties_keep_their_order() -> None:
    lines = lines_of(make_rows(6, group_size=3), 40)
    for a, b in zip(pack(lines, 64), pack(lines, 64), strict=True):
        assert torch.equal(a.tokens, b.tokens)
        assert torch.equal(a.numbers, b.numbers)
    same = [(TrainRow(prompt_tokens=np.array([5]), response_tokens=np.array([6]), number=i),) for i in range(9)]
    assert torch.cat([batch.numbers for batch in pack(same, 3)]).tolist() == list(range(9))


def test_lines_are_split_into_parts_of_about_equally_many_tokens() -> None:
    lines = lines_of(make_rows(7, 41))
    assert split_lines(lines, 1) == [lines]
    for num_parts in (2, 3, 5):
        parts = split_lines(lines, num_parts)
        numbers = [[line[0].number for line in part] for part in parts]
        assert sorted(number for part in numbers for number in part) == list(range(41))
        assert all(part == sorted(part) for part in numbers)
        sizes = [sum(map(_length, part)) for part in parts]
        assert max(sizes) - min(sizes) <= max(map(_length, lines))
    assert [len(part) for part in split_lines(lines[:1], 3)] == [1, 0, 0]


def test_a_blank_batch_counts_for_nothing() -> None:
    batch = blank_batch(lines_of(make_rows(8))[0])
    assert batch.num_tokens == 0
    assert (batch.sampled_logprobs == 0).all()
    assert batch.tokens.numel() > 0
