"""vLLM for real, on CPU: the engine against transformers after every update, what it refuses, and a training run."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from actors.rollout_pool import RayRolloutPool
from actors.rollout_worker import WorkerSpec
from gps_ray.base.errors import ModelError, RolloutError
from gps_ray.base.tables import groups_from_table
from gps_ray.base.types import FinishReason, GenerateRequest
from gps_ray.config import RolloutConfig
from gps_ray.model import load_model, weights_of
from gps_ray.rollout.drawing import drawn_logprobs
from gps_ray.rollout.engine import EngineRequest
from gps_ray.rollout.torch_engine import TorchEngine
from gps_ray.run.metrics import read_metrics
from gps_ray.weights.interface import PublisherSettings
from gps_ray.weights.ipc import TRANSPORT as IPC
from gps_ray.weights.ipc import ipc_payload
from gps_ray.weights.nccl import NcclGroup
from gps_ray.weights.object_store import ObjectStorePayload
from tests.file_transport import FilePublisher
from tests.processes import SMALL_RUN, Head, run_job, spawn_process
from tests.vllm_process import (
    PROMPTS,
    ArraySource,
    assert_serves,
    engine_process,
    learner_process,
    make_folder,
    make_request,
    moved,
    receive_over_a_store,
    start_engine,
    tokens_of,
)

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vLLM: make vllm"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="tests/gpu has the GPU's"),
]


@pytest.fixture(scope="module")
def process() -> Iterator[ProcessPoolExecutor]:
    """For the tests that make no engine that lives: vLLM alone takes ten seconds and more to import."""
    with spawn_process() as running:
        yield running


@pytest.mark.parametrize("tied", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_every_update_takes_whole_or_is_refused(tmp_path: Path, tied: bool) -> None:
    folder = make_folder(tmp_path / "model", tie_embeddings=tied)
    reference = TorchEngine(folder)
    start = weights_of(reference.model)
    with engine_process(folder) as call:
        assert_serves(call, reference, 0)
        for version in (1, 2, 3):
            weights = moved(start, version)
            call("load_weights", version, ObjectStorePayload(arrays=weights))
            reference.load_weights(version, ObjectStorePayload(arrays=weights))
            assert_serves(call, reference, version)
        part = dict(list(weights.items())[1:])
        with pytest.raises(ModelError, match="policy version 4 does not fit"):
            call("load_weights", 4, ObjectStorePayload(arrays=part))
        more = weights | {"model.layers.0.no_such.weight": np.zeros(3, np.float32)}
        with pytest.raises(ModelError, match="policy version 4 does not fit"):
            call("load_weights", 4, ObjectStorePayload(arrays=more))


def _read_by_vllm(message: dict[str, Any]) -> list[str]:
    from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferInitInfo, IPCWeightTransferUpdateInfo

    assert IPC.backend.init_info is not None
    assert not IPCWeightTransferInitInfo(**IPC.backend.init_info).packed
    names: list[str] = IPCWeightTransferUpdateInfo(**message).names
    return names


def test_the_learners_ipc_message_is_one_that_vllm_reads(process: ProcessPoolExecutor) -> None:
    """As far as it goes without a GPU, with a stand-in for the handles themselves."""
    parameters = {"a": torch.zeros(2, 3), "b": torch.zeros(1)}
    message = ipc_payload(parameters, lambda tensor: {"GPU-0": tuple(tensor.shape)}).update_info()
    assert process.submit(_read_by_vllm, message).result(300) == ["a", "b"]
    with pytest.raises(ValueError, match="same size"):
        process.submit(_read_by_vllm, message | {"ipc_handles": message["ipc_handles"][1:]}).result(300)


def _open_a_group_that_nobody_enters() -> str:
    torch.cuda.set_device = lambda _: None  # type: ignore[assignment,misc]
    listener = socket.create_server(("127.0.0.1", 0))
    address, port = listener.getsockname()
    init_info = {"master_address": address, "master_port": port, "rank_offset": 1, "world_size": 2}
    with pytest.raises(torch.distributed.DistStoreError) as caught:
        NcclGroup(init_info, listener, device=torch.device("cuda", 0), deadline_s=1)
    return str(caught.value)


def test_a_group_that_nobody_enters_is_given_up_at_its_deadline(process: ProcessPoolExecutor) -> None:
    reason = process.submit(_open_a_group_that_nobody_enters).result(300)
    assert "1/2 clients joined" in reason


@pytest.mark.slow
def test_updates_by_the_nccl_backend_are_served_over_a_store(tmp_path: Path) -> None:
    """All of the way but NCCL itself: vLLM's backend, the learner's sender, a group per engine, over a TCP store."""
    folder = make_folder(tmp_path / "model", tie_embeddings=False)
    reference = TorchEngine(folder)
    with learner_process() as learner:
        for num_versions in (3, 1):  # the second engine is the first one's successor
            with engine_process(
                folder, setup=receive_over_a_store, weight_transfer="nccl", enable_prefix_caching=False
            ) as call:
                for version in range(1, num_versions + 1):
                    weights = moved(weights_of(reference.model), version)
                    call("load_weights", version, learner("publish", version, weights))
                    reference.load_weights(version, ObjectStorePayload(arrays=weights))
                    assert_serves(call, reference, version)


@pytest.mark.slow
def test_updates_by_a_transport_from_outside_are_served(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model", tie_embeddings=False)
    reference = TorchEngine(folder)
    publisher = FilePublisher(
        PublisherSettings(rank=0, dtype="float32", num_live_versions=2, deadline_s=1, host="127.0.0.1")
    )
    with engine_process(folder, weight_transfer="tests.file_transport:TRANSPORT") as call:
        for version in (1, 2):
            weights = moved(weights_of(reference.model), version)
            call("load_weights", version, publisher.publish(ArraySource(version, weights, torch.device("cpu"))))
            reference.load_weights(version, ObjectStorePayload(arrays=weights))
            assert_serves(call, reference, version)
        with pytest.raises(RolloutError, match="expected FilePayload from the learner, got ObjectStorePayload"):
            call("load_weights", 3, ObjectStorePayload(arrays=weights))
    publisher.close()


@pytest.mark.slow
def test_prompts_that_do_not_fit_one_pass_are_served(tmp_path: Path) -> None:
    """With prompts cut between two passes vLLM fails on CPU, where responses have seeds of their own."""
    folder = make_folder(tmp_path / "model")
    with engine_process(folder, max_model_len=48, max_num_batched_tokens=48, max_num_seqs=16) as call:
        assert_serves(call, TorchEngine(folder), 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("engine") / "model")


@pytest.fixture(scope="module")
def call(folder: Path) -> Iterator[Callable[..., Any]]:
    with engine_process(folder) as running:
        yield running


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.0, "top_p": 0.5},
        {"top_p": 0.6},
        {"top_k": 5},
        {"min_p": 0.8},
        {"top_p": 0.9, "top_k": 9, "min_p": 0.3},
    ],
)
def test_sampling_is_the_torch_engines(folder: Path, call: Callable[..., Any], settings: dict[str, Any]) -> None:
    """Log-probs are those of the distribution that was drawn from, after all that takes tokens away."""
    request = make_request(1 if settings.get("temperature") == 0 else 6, **settings)
    reference = TorchEngine(folder)
    groups = call("generate", request)
    for group in groups:
        for response in group.responses:
            whole = torch.from_numpy(np.concatenate([group.prompt_tokens, response.tokens]).astype(np.int64))[None]
            with torch.no_grad():
                logits = reference.model(whole[:, :-1]).logits[0, len(group.prompt_tokens) - 1 :]
            expected = drawn_logprobs(logits, request.sampling).gather(1, whole[0, len(group.prompt_tokens) :, None])
            np.testing.assert_allclose(response.sampled_logprobs, expected[:, 0].numpy(), atol=1e-4)
    if request.sampling.is_greedy:
        assert tokens_of(groups) == tokens_of(reference.generate(request))


def test_stop_strings_end_a_response_and_stay_in_its_text(folder: Path, call: Callable[..., Any]) -> None:
    words = TorchEngine(folder).tokenizer
    free = [r for group in call("generate", make_request(6)) for r in group.responses]
    stop = ("9", "1 2")
    stopped = [r for group in call("generate", make_request(6, stop=stop)) for r in group.responses]
    num_found = 0
    for one, other in zip(free, stopped, strict=True):
        found = [one.text.index(text) + len(text) for text in stop if text in one.text]
        num_found += bool(found)
        assert other.text == (one.text[: min(found)] if found else one.text)
        assert other.tokens.tolist() == one.tokens[: len(other.tokens)].tolist()
        assert other.finish_reason is (FinishReason.STOP if found else one.finish_reason)
        if found:
            assert not any(text in words.decode(other.tokens[:-1], skip_special_tokens=True) for text in stop)
    assert num_found > 5


def test_ids_that_the_tokenizer_does_not_know_are_never_sampled(tmp_path: Path, folder: Path) -> None:
    shutil.copytree(folder, tmp_path / "padded")
    model = load_model(folder)
    num_known = model.config.vocab_size
    model.resize_token_embeddings(num_known + 60, mean_resizing=False)
    # Likely ones, if anybody asked.
    model.get_output_embeddings().weight.data[num_known:] *= 20
    model.save_pretrained(tmp_path / "padded")
    reference = TorchEngine(tmp_path / "padded")
    with engine_process(tmp_path / "padded") as call:
        for version in (0, 1):
            if version:
                weights = moved(weights_of(reference.model), version)
                call("load_weights", version, ObjectStorePayload(arrays=weights))
                reference.load_weights(version, ObjectStorePayload(arrays=weights))
            greedy = make_request(1, temperature=0.0)
            assert tokens_of(call("generate", greedy)) == tokens_of(reference.generate(greedy))
            text = np.random.default_rng(version).integers(0, num_known, 40).astype(np.int32)
            np.testing.assert_allclose(call("logprobs", text), reference.logprobs(text), atol=1e-4)
            for group in call("generate", make_request(6, temperature=1.0)):
                for response in group.responses:
                    assert response.tokens.max() < num_known
                    whole = np.concatenate([group.prompt_tokens, response.tokens])
                    expected = reference.logprobs(whole)[len(group.prompt_tokens) - 1 :]
                    np.testing.assert_allclose(response.sampled_logprobs, expected, atol=1e-4)


def test_a_request_repeats_and_its_draws_are_its_own(call: Callable[..., Any]) -> None:
    first = tokens_of(call("generate", make_request()))
    assert tokens_of(call("generate", make_request())) == first
    assert tokens_of(call("generate", make_request(step=2))) != first
    assert tokens_of(call("generate", make_request(run_seed=4))) != first
    assert any(len({tuple(response) for response in group}) > 1 for group in first)
    # A prompt's draws do not depend on how many rollouts another one gets.
    ragged = tokens_of(call("generate", make_request([3, 1] * (len(PROMPTS) // 2))))
    assert [len(group) for group in ragged] == [3, 1] * (len(PROMPTS) // 2)
    assert ragged == [group[: len(part)] for group, part in zip(first, ragged, strict=True)]


def _in_a_running_batch(
    engine: Any, request: EngineRequest
) -> tuple[list[list[list[int]]], list[tuple[int, int, int]]]:
    """Tokens by group, two groups submitted before each pass; and (submitted, begun, finished groups) after each."""
    numbers, groups, history = [], {}, []
    while len(groups) < len(request.prompts):
        for i in range(len(numbers), min(len(numbers) + 2, len(request.prompts))):
            one = slice(i, i + 1)
            numbers.append(
                engine.submit(replace(request, prompts=request.prompts[one], num_rollouts=request.num_rollouts[one]))
            )
        begun = engine.begun()
        assert begun <= set(numbers)
        groups |= dict(engine.step())
        history.append((len(numbers), len(begun), len(groups)))
    assert (engine.num_unfinished, engine.begun()) == (0, set())
    return tokens_of([groups[number] for number in numbers]), history


def test_groups_enter_a_running_batch_and_leave_one_by_one(call: Callable[..., Any]) -> None:
    """With the draws that they have when all are there at once."""
    request = make_request(12)
    assert call("__getattribute__", "num_places") == 256 < 12 * len(PROMPTS)
    tokens, history = call(_in_a_running_batch, request)
    assert tokens == tokens_of(call("generate", request))
    # The first left while others had not come, and no group left that had not begun.
    assert any(finished > 0 and submitted < len(PROMPTS) for submitted, _, finished in history)
    assert all(finished <= submitted for submitted, _, finished in history)
    assert history[0][1] == 1


def test_responses_end_at_a_stop_token_or_at_the_limit(call: Callable[..., Any]) -> None:
    responses = [r for group in call("generate", make_request(4, temperature=1.0)) for r in group.responses]
    for response in responses:
        stopped = response.finish_reason is FinishReason.STOP
        assert stopped == (response.tokens[-1] in (1, 5, 6, 7))
        assert stopped or len(response.tokens) == 10
        assert not np.isin(response.tokens[:-1], (1, 5, 6, 7)).any()
        assert len(response.sampled_logprobs) == len(response.tokens)
        assert len(response.text.split()) <= len(response.tokens) - stopped
    assert {response.finish_reason for response in responses} == {FinishReason.STOP, FinishReason.LENGTH}


def test_a_response_of_another_version_is_refused(call: Callable[..., Any]) -> None:
    call("__setattr__", "policy_version", 7)
    with pytest.raises(RolloutError, match="expected a response of policy version 7, vLLM says 0"):
        call("generate", make_request(1))
    call("__setattr__", "policy_version", 0)
    assert len(call("generate", make_request(1))) == len(PROMPTS)


def test_a_response_beyond_the_positions_is_refused(call: Callable[..., Any]) -> None:
    with pytest.raises(RolloutError, match=r"rollout\.max_response_tokens=100 exceed the 48 positions"):
        call("generate", make_request(max_response_tokens=100))


def test_a_head_dimension_that_the_cpu_lacks_is_one_line(process: ProcessPoolExecutor, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model", hidden_size=32)
    with pytest.raises(ModelError, match="vLLM cannot serve") as caught:
        start_engine(process, folder)
    assert "\n" not in str(caught.value)
    assert "16" in str(caught.value)
    assert "rollout.engine=torch" in str(caught.value)


def test_a_folder_without_a_model_is_refused_at_once(process: ProcessPoolExecutor, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.path"):
        start_engine(process, tmp_path)


def _run(head: Head, tmp_path: Path, *overrides: str) -> Any:
    return run_job(
        "train",
        *SMALL_RUN,
        "rollout.engine=vllm",
        "rollout.num_workers=1",
        f"run.directory={tmp_path / 'run'}",
        *overrides,
        head=head,
        timeout_s=550,
    )


def test_a_training_run_on_vllm(head: Head, tmp_path: Path) -> None:
    done = _run(head, tmp_path, "run.num_steps=3", "evaluation.every_steps=3")
    assert done.returncode == 0, done.stdout + done.stderr
    steps = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [step["step"] for step in steps if "rollout/num_restarts" in step][-1] == 3
    # Every load passed its probe, or a worker would have been lost.
    assert steps[-1]["rollout/num_restarts"] == 0
    assert (tmp_path / "run" / "final_model" / "config.json").is_file()


async def _tokens_from_a_pool(folder: Path, strike: bool) -> tuple[dict[str, list[list[int]]], float]:
    """Tokens by prompt, and the workers replaced; with ``strike`` the worker is killed after its first group."""
    vllm = {"kv_cache_memory_bytes": 64 << 20, "max_num_seqs": 6}
    rollout = RolloutConfig.model_validate({"engine": "vllm", "num_workers": 1, "group_size": 3, "vllm": vllm})
    task = "tests.unit.rollout.own_task:OwnTask"
    spec = WorkerSpec(rollout=rollout, model_directory=folder, dtype="float32", task=task, run_seed=3)
    pool = RayRolloutPool(f"groups-{strike}", spec, {prompt.prompt_id: prompt for prompt in PROMPTS})
    request = GenerateRequest(
        step=1,
        stream="rollout",
        prompt_ids=tuple(prompt.prompt_id for prompt in PROMPTS),
        num_rollouts=np.full(len(PROMPTS), 3, np.int32),
        policy_version=0,
        sampling=make_request().sampling,
    )
    tokens: dict[str, list[list[int]]] = {}
    try:
        await pool.start()
        await pool.serve_model_directory()
        async for chunk in pool.generate(request):
            (rollouts,) = groups_from_table(ray.get(chunk.rollouts)).values()
            (name,) = chunk.header.prompt_ids
            assert name not in tokens
            tokens[name] = [rollout.response_tokens.tolist() for rollout in rollouts]
            if strike and len(tokens) == 1:
                ray.kill(pool._slots[0].worker.actor)
        return tokens, pool.metrics()["rollout/num_restarts"]
    finally:
        pool.close()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_groups_of_a_killed_worker_are_made_anew_with_the_same_draws(folder: Path) -> None:
    whole, _ = asyncio.run(_tokens_from_a_pool(folder, False))
    assert set(whole) == {prompt.prompt_id for prompt in PROMPTS}
    assert asyncio.run(_tokens_from_a_pool(folder, True)) == (whole, 1)


@pytest.mark.slow
def test_a_cache_that_is_too_small_ends_the_run_with_one_line(head: Head, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model", max_position_embeddings=4096, num_layers=3, hidden_size=128)
    done = _run(head, tmp_path, f"model.path={folder}", f"rollout.vllm.kv_cache_memory_bytes={1 << 20}")
    assert done.returncode == 2, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "rollout.vllm" in errors[0]
