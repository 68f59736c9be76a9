from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gps_ray.base.errors import LearnerError
from gps_ray.config import WarmStartConfig
from gps_ray.learning.supervised import _rate, train_warm_start
from gps_ray.model import load_model, load_tokenizer, weights_of
from tests.unit.learning.rollouts import make_model

# Copy the number behind the sign: learnable in a few steps, and only by reading the prompt.
EXAMPLES = [(f"{a} + {b}", f"{a} - {a}" if a > 9 else f"{a}") for a in range(20) for b in range(20)]


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), num_layers=1)


def _config(**changes: Any) -> WarmStartConfig:
    values = {"num_steps": 3, "batch_size": 16, "num_warmup_steps": 2, "learning_rate": 1e-2, "num_threads": 1}
    return WarmStartConfig.model_validate(values | changes)


def test_it_learns_and_writes_a_complete_folder(model_directory: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int, float]] = []
    config = _config(num_steps=150, batch_size=32)
    result = train_warm_start(model_directory, EXAMPLES, config, tmp_path, lambda *now: seen.append(now))
    assert [step for step, _, _ in seen] == list(range(1, 151))
    assert {whole for _, whole, _ in seen} == {150}
    losses = [loss for _, _, loss in seen]
    assert losses[0] == pytest.approx(np.log(25), abs=0.3)
    assert result.final_loss == pytest.approx(np.mean(losses[-15:]))
    assert result.final_loss < 0.1
    assert result.cpu_s > 0
    model, tokenizer = load_model(tmp_path), load_tokenizer(tmp_path)
    prompt = torch.tensor([tokenizer.encode("13 + 4")])
    written = model.generate(prompt, max_new_tokens=6, do_sample=False)[0, prompt.shape[1] :]
    assert tokenizer.decode(written) == "13 - 13 <eos>"


def test_the_first_loss_is_the_cross_entropy_of_solutions_with_their_end(model_directory: Path, tmp_path: Path) -> None:
    seen: list[float] = []
    # A batch of all examples: whatever the order, the loss is that of the whole set.
    examples = EXAMPLES[::4]
    config = _config(num_steps=1, batch_size=len(examples), microbatch_tokens=100)
    result = train_warm_start(model_directory, examples, config, tmp_path, lambda _, __, loss: seen.append(loss))
    model, tokenizer = load_model(model_directory), load_tokenizer(model_directory)
    total, num_tokens = 0.0, 0
    for prompt, solution in examples:
        given, wanted = tokenizer.encode(prompt), [*tokenizer.encode(solution), tokenizer.eos_token_id]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*given, *wanted]])).logits[0, len(given) - 1 : -1]
        total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(wanted), reduction="sum"))
        num_tokens += len(wanted)
    assert seen == pytest.approx([total / num_tokens], rel=1e-5)
    assert result.num_tokens == num_tokens


def test_the_same_arguments_give_the_same_weights_and_another_seed_others(
    model_directory: Path, tmp_path: Path
) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_warm_start(model_directory, EXAMPLES, _config(seed=seed), tmp_path / name)
    a, b, c = (weights_of(load_model(tmp_path / name)) for name in "abc")
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert any(not np.array_equal(a[name], c[name]) for name in a)


def test_every_example_comes_once_per_pass(model_directory: Path, tmp_path: Path) -> None:
    from gps_ray.learning.packing import TrainRow
    from gps_ray.learning.supervised import _batches

    rows = [TrainRow(prompt_tokens=np.array([i]), response_tokens=np.array([1])) for i in range(10)]
    order = [int(row.prompt_tokens[0]) for batch in _batches(rows, _config(num_steps=5, batch_size=4)) for row in batch]
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert order[:10] != order[10:]


def test_the_learning_rate_rises_and_falls_to_zero() -> None:
    config = _config(num_steps=100, num_warmup_steps=10)
    rates = [_rate(step, config) for step in range(100)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert rates[10] == 1
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert 0 < rates[-1] < 1e-3
    assert _rate(0, _config(num_warmup_steps=0)) == 1


def test_a_loss_that_is_not_finite_names_the_learning_rate(model_directory: Path, tmp_path: Path) -> None:
    with pytest.raises(LearnerError, match=r"expected a finite loss.*lower warm_start\.learning_rate"):
        train_warm_start(model_directory, EXAMPLES, _config(num_steps=50, learning_rate=1e30), tmp_path)
