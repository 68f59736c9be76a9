"""Sampling in PyTorch from any transformers causal LM: the reference engine, and the quick one for small models.

One prefill per prompt, one row per response, a preallocated cache, keyed uniforms. The same request gives the same
responses on any worker, bit for bit on one kind of machine with the same number of threads: nothing depends on time
or on what ran before.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from gps_ray.base.errors import RolloutError
from gps_ray.base.keyed_random import uniforms
from gps_ray.base.types import BoolArray, FinishReason, FloatArray, IntArray
from gps_ray.model import load_model, load_tokenizer, load_weights_into
from gps_ray.model.stopping import response_stop_tokens, unknown_token_ids
from gps_ray.rollout.cpu_decoder.decoder import Decoder
from gps_ray.rollout.cpu_decoder.llama import LlamaDecoder, LlamaWeights
from gps_ray.rollout.drawing import draw
from gps_ray.rollout.engine import EngineRequest, GeneratedGroup, GeneratedResponse
from gps_ray.rollout.response_text import ResponseText
from gps_ray.rollout.stop_strings import StopStrings
from gps_ray.tasks.chat import DEFAULT_CHAT, ChatFormat
from gps_ray.weights.interface import WeightPayload, payload_of
from gps_ray.weights.object_store import ObjectStorePayload

__all__ = ["TorchEngine", "left_padded"]

# Finished rows are dropped once at most this share of the rows is still running: dropping copies the cache.
_COMPACTION_SHARE = 0.75


class TorchEngine:
    """A ``RolloutEngine`` (``gps_ray.rollout.engine``) on a local Hugging Face folder.

    ``written_out_step`` allows the quick decoding step where the model has one; False forces the model's own forward.
    """

    def __init__(
        self,
        model_directory: Path,
        *,
        dtype: str = "float32",
        num_threads: int = 1,
        device: str = "cpu",
        written_out_step: bool = True,
        chat: ChatFormat = DEFAULT_CHAT,
    ) -> None:
        # Part of the result: the order in which sums are formed depends on it.
        torch.set_num_threads(num_threads)
        self.model = load_model(model_directory, dtype).to(device)
        self.tokenizer = load_tokenizer(model_directory)
        self._chat = chat
        self.policy_version = 0
        self.stop_tokens = response_stop_tokens(self.model, self.tokenizer)
        self._texts = ResponseText(self.tokenizer, self.stop_tokens)
        # [V] bool: does the response go on after this token?
        num_logits = self.model.get_output_embeddings().out_features
        self._goes_on = torch.ones(num_logits, dtype=torch.bool, device=device)
        self._goes_on[list(self.stop_tokens)] = False
        self._unknown = torch.from_numpy(unknown_token_ids(num_logits, self.tokenizer)).to(device)
        use_written_out = written_out_step and LlamaDecoder.supports(self.model)
        self._weights = LlamaWeights(self.model) if use_written_out else None

    def load_weights(self, policy_version: int, payload: WeightPayload) -> None:
        """Copy the parameters in place. Raises ModelError where names or shapes do not fit; nothing is changed then."""
        load_weights_into(self.model, payload_of(ObjectStorePayload, payload).tensors())
        if self._weights is not None:
            self._weights.pack()
        self.policy_version = policy_version

    @torch.inference_mode()
    def logprobs(self, tokens: IntArray) -> FloatArray:
        """[T - 1] float32: log p(token t + 1 | tokens up to t) at temperature 1."""
        rows = torch.tensor(np.asarray(tokens, dtype=np.int64), device=self.model.device)
        logits = self._masked(self.model(input_ids=rows[None, :-1]).logits[0].float())
        chosen = logits.log_softmax(-1).gather(1, rows[1:, None])[:, 0]
        return np.asarray(chosen.cpu().numpy(), dtype=np.float32)

    @torch.inference_mode()
    def generate(self, request: EngineRequest) -> list[GeneratedGroup]:
        """Sample all responses of the request in one batch.

        Raises RolloutError where a prompt and its response do not fit the model, or where the policy's logits are
        not finite.
        """
        prompts = [self._chat.encode(self.tokenizer, prompt.chat) for prompt in request.prompts]
        self._check_lengths(prompts, request.sampling.max_response_tokens)
        draws = torch.from_numpy(_draws(request)).T.contiguous().to(self.model.device)
        tokens, logprobs, lengths = self._sample(prompts, request, draws)
        if not np.isfinite(logprobs).all():
            raise RolloutError(
                f"expected finite log-probs from the policy, got NaN or infinity (policy version "
                f"{self.policy_version}, step {request.step}); lower learning.learning_rate or check model.path"
            )
        return self._groups(prompts, request, tokens, logprobs, lengths)

    def _check_lengths(self, prompts: Sequence[IntArray], max_response_tokens: int) -> None:
        limit = getattr(self.model.config, "max_position_embeddings", None)
        longest = max(map(len, prompts), default=0)
        if limit is not None and longest + max_response_tokens > limit:
            raise RolloutError(
                f"a prompt of {longest} tokens and rollout.max_response_tokens={max_response_tokens} exceed the "
                f"model's {limit} positions; lower it (evaluation.max_response_tokens where that is set), or drop long "
                "prompts"
            )
        if any(len(prompt) == 0 for prompt in prompts):
            raise RolloutError("expected a prompt of at least one token, got an empty one; check data.pool_file")

    def _sample(
        self, prompts: Sequence[IntArray], request: EngineRequest, draws: torch.Tensor
    ) -> tuple[IntArray, FloatArray, IntArray]:
        """Tokens and their log-probs [R, T] (R responses, T = max_response_tokens; behind the end: undefined), and
        their lengths [R], T + 1 where the limit ended them."""
        sampling, device = request.sampling, self.model.device
        max_tokens = sampling.max_response_tokens
        stop_strings = StopStrings(self._texts, sampling.stop)
        decoder = self._decoder(max_tokens)
        logits = decoder.prefill(*left_padded(prompts, device))
        branches = torch.repeat_interleave(torch.as_tensor(np.asarray(request.num_rollouts, dtype=np.int64)))
        branches = branches.to(device)
        logits = logits[branches]
        decoder.select_rows(branches)
        tokens = torch.zeros(draws.shape, dtype=torch.int64, device=device)
        logprobs = torch.zeros(draws.shape, dtype=torch.float32, device=device)
        # rows[i]: which response the i-th row of the decoder is; running[i]: whether it still goes on.
        rows = torch.arange(draws.shape[1], device=device)
        running = torch.ones(draws.shape[1], dtype=torch.bool, device=device)
        lengths = torch.full((draws.shape[1],), max_tokens + 1, dtype=torch.int64, device=device)
        for t in range(max_tokens):
            drawn, logprob = draw(self._masked(logits), draws[t, rows], sampling)
            tokens[t, rows] = drawn
            logprobs[t, rows] = logprob
            was_running = running
            running = running & self._goes_on[drawn]
            if sampling.stop:
                going = running.nonzero()[:, 0]
                ended = stop_strings.ended(tokens[: t + 1, rows[going]].T.tolist())
                running[going[torch.tensor(ended, dtype=torch.bool, device=device)]] = False
            lengths[rows[was_running & ~running]] = t + 1
            num_running = int(running.sum())
            if num_running == 0 or t + 1 == max_tokens:
                break
            if num_running <= _COMPACTION_SHARE * len(rows):
                kept = running.nonzero()[:, 0]
                decoder.select_rows(kept)
                rows, drawn, running = rows[kept], drawn[kept], running[kept]
            logits = decoder.step(drawn)
        return tokens.T.contiguous().cpu().numpy(), logprobs.T.contiguous().cpu().numpy(), lengths.cpu().numpy()

    def _masked(self, logits: torch.Tensor) -> torch.Tensor:
        """The same logits [R, V], -inf where the tokenizer knows no such token; in place."""
        return logits.index_fill_(-1, self._unknown, float("-inf")) if len(self._unknown) else logits

    def _decoder(self, max_new_tokens: int) -> Decoder:
        if self._weights is not None:
            return LlamaDecoder(self.model, self._weights, max_new_tokens)
        return Decoder(self.model, max_new_tokens)

    def _groups(
        self,
        prompts: Sequence[IntArray],
        request: EngineRequest,
        tokens: IntArray,
        logprobs: FloatArray,
        lengths: IntArray,
    ) -> list[GeneratedGroup]:
        stopped: BoolArray = lengths <= tokens.shape[1]
        lengths = np.minimum(lengths, tokens.shape[1])
        tokens = tokens.astype(np.int32)
        # The stop token ends the response and is no part of its text, whether or not the tokenizer calls it special.
        by_token = np.isin(tokens[np.arange(len(tokens)), lengths - 1], self.stop_tokens)
        texts = self._texts.decode(
            [row[: length - stop].tolist() for row, length, stop in zip(tokens, lengths, by_token, strict=True)]
        )
        texts = [StopStrings(self._texts, request.sampling.stop).cut(text) for text in texts]
        responses = [
            GeneratedResponse(
                tokens=row[:length],
                sampled_logprobs=logprob[:length],
                text=text,
                finish_reason=FinishReason.STOP if stop else FinishReason.LENGTH,
            )
            for row, logprob, length, stop, text in zip(tokens, logprobs, lengths, stopped, texts, strict=True)
        ]
        ends = np.cumsum(request.num_rollouts)
        return [
            GeneratedGroup(prompt_tokens=prompt, responses=responses[end - num : end])
            for prompt, num, end in zip(prompts, request.num_rollouts, ends, strict=True)
        ]


def _draws(request: EngineRequest) -> FloatArray:
    """[R, T] float32 in [0, 1): row by row from the key of the response, so that a response does not depend on which
    prompts share its batch through its random numbers."""
    keys = [
        (prompt.prompt_id, rollout)
        for prompt, num in zip(request.prompts, request.num_rollouts, strict=True)
        for rollout in range(int(num))
    ]
    return uniforms(request.run_seed, request.stream, request.step, keys, request.sampling.max_response_tokens)


def left_padded(prompts: Sequence[IntArray], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [K, P] int64 (padding 0) and mask [K, P] bool."""
    longest = max(map(len, prompts))
    tokens = np.zeros((len(prompts), longest), dtype=np.int64)
    mask = np.zeros((len(prompts), longest), dtype=np.bool_)
    for i, prompt in enumerate(prompts):
        tokens[i, longest - len(prompt) :] = prompt
        mask[i, longest - len(prompt) :] = True
    return torch.from_numpy(tokens).to(device), torch.from_numpy(mask).to(device)
