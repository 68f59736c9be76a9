from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader
from transformers import GPT2Config, GPT2LMHeadModel

from gps_ray.base.errors import CheckpointError, LearnerError
from gps_ray.base.types import RolloutGroup
from gps_ray.config import LearningConfig, TrainConfig, load_config
from gps_ray.learning.learner import Learner
from gps_ray.learning.lora import adapters_off, load_policy, merged_weights
from gps_ray.model import load_model, load_weights_into, weights_of
from tests.unit.learning.rollouts import (
    ALL_WRONG,
    MIXED,
    TEMPERATURE,
    VOCABULARY,
    ids,
    make_groups,
    make_learner,
    make_model,
    make_tables,
)

GROUPS = (MIXED, ALL_WRONG, "rw", "wwwwwr", MIXED)
LORA = {"lora_rank": 3, "lora_alpha": 6}


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def gpt2_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its layers are Conv1D (weights [in, out]), some of them square, so that a wrong side would go unnoticed."""
    directory = make_model(tmp_path_factory.mktemp("gpt2"))
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=2, n_head=2, eos_token_id=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        GPT2LMHeadModel(config).save_pretrained(directory)
    return directory


def _config(**changes: Any) -> LearningConfig:
    settings = {"num_threads": 1, "microbatch_tokens": 64, "learning_rate": 1e-2, **LORA, **changes}
    return LearningConfig.model_validate(settings)


def _learner(directory: Path, **changes: Any) -> Learner:
    return make_learner(directory, _config(**changes))


def _update(learner: Learner, groups: Sequence[RolloutGroup]) -> dict[str, float]:
    return dict(learner.update(make_tables(groups), ids(groups)).metrics)


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def _logprobs(model: Any, tokens: Any, temperature: float = 1.0) -> Any:
    tokens = torch.tensor(tokens.astype(np.int64))
    with torch.no_grad():
        logprobs = (model(input_ids=tokens[None]).logits[0] / temperature).log_softmax(-1)
    return logprobs[torch.arange(len(tokens) - 1), tokens[1:]].numpy()


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"]])
def test_the_first_policy_is_the_base_to_the_bit(model_directory: Path, targets: Any) -> None:
    learner, whole = _learner(model_directory, lora_target_modules=targets), _learner(model_directory, lora_rank=0)
    np.testing.assert_array_equal(learner.probe()[1], whole.probe()[1])
    assert _same(learner.weights(), whole.weights())


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "layers.1.mlp.down_proj"]])
def test_an_update_moves_the_targets_by_a_matrix_of_the_rank_and_nothing_else(
    model_directory: Path, targets: Any
) -> None:
    learner = _learner(model_directory, lora_target_modules=targets)
    before = learner.weights()
    _update(learner, make_groups(GROUPS))
    moved = {name: array - before[name] for name, array in learner.weights().items()}
    for name, difference in moved.items():
        is_target = "_proj" in name if targets == "all-linear" else any(f"{t}.weight" in name for t in targets)
        # Both optimizer steps together still give a product of the rank; float32 leaves rounding beyond it.
        rank = np.linalg.matrix_rank(difference, tol=1e-5) if difference.ndim == 2 else int(np.any(difference))
        assert rank == (3 if is_target else 0), name


def test_the_first_step_grows_with_alpha(model_directory: Path) -> None:
    sizes = []
    for alpha in (3.0, 6.0):
        learner = _learner(model_directory, lora_alpha=alpha, num_minibatches=1, learning_rate=1e-4)
        before = learner.weights()
        _update(learner, make_groups(GROUPS))
        sizes.append(sum(float(np.square(array - before[name]).sum()) for name, array in learner.weights().items()))
    # AdamW's first step on B does not depend on the gradient's size, and A stands still while B is 0.
    assert np.sqrt(sizes[1] / sizes[0]) == pytest.approx(2.0, rel=0.02)


def test_only_adapters_are_trained_and_stored(model_directory: Path, tmp_path: Path) -> None:
    learner = _learner(model_directory)
    _update(learner, make_groups(GROUPS))
    learner.save(tmp_path / "learner")
    stored = FileSystemReader(tmp_path / "learner").read_metadata().state_dict_metadata
    tensors = [name for name in stored if name.startswith(("model.", "optimizer.state."))]
    assert len(tensors) == 2 * 7 * 2 * 4  # layers, matrices in each, A and B; weight, step and two moments
    assert all(".lora_A." in name or ".lora_B." in name for name in tensors)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_merged_weights_are_the_adapted_policy(
    model_directory: Path, gpt2_directory: Path, family: str, recompute: bool
) -> None:
    directory = model_directory if family == "llama" else gpt2_directory
    learner = _learner(directory, activation_checkpointing=recompute)
    start = learner.probe()[1]
    for seed in range(3):
        _update(learner, make_groups(GROUPS, seed))
    weights = learner.weights()
    tokens, logprobs = learner.probe()
    assert np.abs(logprobs - start).max() > 0.01
    plain = load_model(directory)
    load_weights_into(plain, weights)
    np.testing.assert_allclose(_logprobs(plain, tokens), logprobs, atol=1e-5)
    # Merging is done on a copy.
    np.testing.assert_array_equal(learner.probe()[1], logprobs)
    assert _same(learner.weights(), weights)


def test_the_head_can_be_adapted_where_it_has_a_weight_of_its_own(tmp_path: Path) -> None:
    directory = make_model(tmp_path)
    model = load_model(directory)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model.save_pretrained(directory)
    learner = _learner(directory, lora_target_modules=["lm_head", "o_proj"])
    before = learner.weights()
    _update(learner, make_groups(GROUPS))
    moved = {name for name, array in learner.weights().items() if not np.array_equal(array, before[name])}
    assert moved == {"lm_head.weight", *(f"model.layers.{i}.self_attn.o_proj.weight" for i in range(2))}


def test_with_the_adapters_off_the_policy_is_the_base_to_the_bit(model_directory: Path) -> None:
    policy, base = load_policy(model_directory, _config()), load_model(model_directory)
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    with torch.no_grad():
        for parameter in trained:
            parameter.normal_()
    tokens = np.arange(3, 20)
    adapted = _logprobs(policy, tokens)
    with adapters_off(policy):
        np.testing.assert_array_equal(_logprobs(policy, tokens), _logprobs(base, tokens))
    np.testing.assert_array_equal(_logprobs(policy, tokens), adapted)
    assert not np.allclose(adapted, _logprobs(base, tokens), atol=0.1)
    assert [parameter for parameter in policy.parameters() if parameter.requires_grad] == trained


def test_the_reference_policy_is_the_base(model_directory: Path) -> None:
    learner = _learner(model_directory, kl_coefficient=0.1, num_minibatches=1)
    groups = make_groups(GROUPS)
    assert _update(learner, groups)["train/reference_kl"] == 0
    policy, base = load_model(model_directory), load_model(model_directory)
    load_weights_into(policy, learner.weights())
    kl = []
    for rollout in (rollout for group in groups for rollout in group.rollouts):
        tokens = np.concatenate([rollout.prompt_tokens, rollout.response_tokens])
        x = (_logprobs(policy, tokens, TEMPERATURE) - _logprobs(base, tokens, TEMPERATURE))[
            -len(rollout.response_tokens) :
        ]
        kl.append(np.exp(-x) + x - 1)
    expected = float(np.concatenate(kl).mean())
    assert expected > 1e-4
    assert _update(learner, groups)["train/reference_kl"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "changes", [{"kl_coefficient": 0.01, "weight_decay": 0.1}, {"loss": "ppo", "activation_checkpointing": True}]
)
def test_a_saved_and_loaded_learner_goes_on_bit_for_bit(
    model_directory: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    batches = [make_groups(GROUPS, seed) for seed in range(4)]
    straight = _learner(model_directory, **changes)
    for groups in batches[:2]:
        _update(straight, groups)
    straight.save(tmp_path / "learner")
    resumed = _learner(model_directory, **changes)
    resumed.load(tmp_path / "learner")
    assert resumed.policy_version == 2
    assert _same(straight.weights(), resumed.weights())
    for groups in batches[2:]:
        assert _update(straight, groups) == _update(resumed, groups)
    assert _same(straight.weights(), resumed.weights())


def test_a_checkpoint_of_the_whole_model_is_refused(model_directory: Path, tmp_path: Path) -> None:
    _learner(model_directory, lora_rank=0).save(tmp_path / "learner")
    with pytest.raises(CheckpointError, match="expected all shards of this model"):
        _learner(model_directory).load(tmp_path / "learner")


def test_activation_checkpointing_changes_nothing_but_memory(model_directory: Path) -> None:
    groups = make_groups(GROUPS)
    plain, recomputing = (_learner(model_directory, activation_checkpointing=flag) for flag in (False, True))
    for _ in range(2):
        assert _update(plain, groups) == _update(recomputing, groups)
    assert _same(plain.weights(), recomputing.weights())


def test_export_is_a_plain_folder_of_the_merged_policy(model_directory: Path, tmp_path: Path) -> None:
    learner = _learner(model_directory)
    _update(learner, make_groups(GROUPS))
    learner.export(tmp_path / "policy")
    exported = load_model(tmp_path / "policy")
    assert _same(weights_of(exported), learner.weights())
    assert not (tmp_path / "policy" / "adapter_config.json").exists()
    tokens, logprobs = learner.probe()
    np.testing.assert_allclose(_logprobs(exported, tokens), logprobs, atol=1e-5)


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        (["q_proj", "query"], r"got \['query'\].* all-linear or to some of .*q_proj"),
        ("gate", r"got \['gate'\]"),
        (["embed_tokens"], r"got \['embed_tokens'\]"),
        (["self_attn"], r"got \['self_attn'\]"),
        ([], "got none"),
        (["lm_head"], "shares its weight with the embedding"),
    ],
)
def test_a_target_that_is_no_linear_layer_is_one_line(model_directory: Path, targets: Any, says: str) -> None:
    with pytest.raises(LearnerError, match=rf"learning\.lora_target_modules: .*{says}") as caught:
        _learner(model_directory, lora_target_modules=targets)
    assert "\n" not in str(caught.value)


def test_targets_can_be_given_on_the_command_line() -> None:
    config = load_config(TrainConfig, None, ["learning.lora_rank=8", "learning.lora_target_modules=[q_proj, v_proj]"])
    assert config.learning.lora_target_modules == ("q_proj", "v_proj")
    assert load_config(TrainConfig, None).learning.lora_rank == 0


def test_making_adapters_draws_the_same_numbers_and_leaves_the_generator_alone(model_directory: Path) -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    one = load_policy(model_directory, _config()).state_dict()
    assert torch.equal(torch.rand(1), expected)
    other = load_policy(model_directory, _config()).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    first = [tensor for name, tensor in one.items() if ".lora_A." in name]
    assert all(tensor.any() for tensor in first)
    assert not torch.equal(first[0], first[1])


def test_a_model_without_adapters_is_left_as_it_is(model_directory: Path) -> None:
    model = load_policy(model_directory, _config(lora_rank=0))
    weights = weights_of(model)
    assert merged_weights(weights, model) is weights
    assert all(parameter.requires_grad for parameter in model.parameters())
