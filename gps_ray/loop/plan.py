"""What a config amounts to, said before anything starts (``--dry-run``), and the checks that need the data."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from gps_ray.base.errors import CheckpointError, ConfigError, one_line
from gps_ray.config import DataConfig, TrainConfig
from gps_ray.loop.memory_plan import MemoryPlan, check_memory_plan, memory_plan
from gps_ray.loop.presets import with_presets
from gps_ray.loop.resources import resource_needs
from gps_ray.loop.suites import extra_suites
from gps_ray.loop.time_plan import MEAN_SHARE, time_plan
from gps_ray.selection.admission import build_admission
from gps_ray.selection.registry import check_predicts_rates, resolve_selection
from gps_ray.tasks.chat import ChatFormat
from gps_ray.tasks.chat_check import check_chat
from gps_ray.tasks.dataset import DataSets, PromptLimit
from gps_ray.tasks.prompt_lengths import PromptLengths
from gps_ray.weights.transports import check_transport

__all__ = [
    "RenderedPrompt",
    "chat_format",
    "check_data",
    "check_first_prompt",
    "describe",
    "first_prompt",
    "pool_fingerprint",
    "prompt_limit",
    "resolve",
    "with_folder",
]


_GIB = 2**30


def resolve(config: TrainConfig) -> TrainConfig:
    """The config with the presets of model and selector filled in, and the model's folder in place of a hub id: what
    the run really uses, and what it writes down.

    Raises ConfigError where a name in it stands for nothing, there is no such model, or the transport of weights lacks
    what it needs.
    """
    # With torch: two seconds that no typing error is to wait for.
    from gps_ray.learning.algorithms import check_algorithm, resolve_algorithm

    config = with_presets(with_folder(with_kept_caches(config)))
    check_algorithm(config.learning, config.rollout.group_size)
    check_transport(config.rollout, config.learning)
    config = config.model_copy(update={"selection": resolve_selection(config.selection)})
    algorithm, _ = resolve_algorithm(config.learning, config.rollout.max_response_tokens)
    if algorithm.needs_predictions:
        key = "loss" if config.learning.advantage is None else "advantage"
        check_predicts_rates(config.selection, f"learning.{key}", f"set another learning.{key},")
    if config.rollout.group_size < 2 and build_admission(config.selection).useful_only:
        raise ConfigError(
            "rollout.group_size: useful_only admits groups with right and wrong responses, which a single response "
            f"never is, got {config.rollout.group_size}; set selection.admission=keep_all, or rollout.group_size"
        )
    return config


def in_ray_job() -> bool:
    """Is this process's working directory one that Ray made for a submitted job, and will delete?"""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def with_kept_caches(config: TrainConfig) -> TrainConfig:
    """In a submitted job caches that are relative lie beside the run folder: the next job finds them again, wherever
    Ray unpacks it."""
    root = config.run.directory
    if not in_ray_job() or not root.is_absolute():
        return config
    warm_start, features = config.warm_start, config.selection.features
    if not warm_start.cache_directory.is_absolute():
        warm_start = warm_start.model_copy(update={"cache_directory": root.parent / warm_start.cache_directory.name})
    if features.cache_directory is not None and not features.cache_directory.is_absolute():
        features = features.model_copy(update={"cache_directory": root.parent / features.cache_directory.name})
    selection = config.selection.model_copy(update={"features": features})
    return config.model_copy(update={"warm_start": warm_start, "selection": selection})


def with_folder(config: TrainConfig) -> TrainConfig:
    """``model.path`` as a folder that is there. Raises ConfigError where there is none."""
    if config.model.path is None:
        return config
    from gps_ray.model.hub import local_folder  # transformers takes seconds to import, here and below

    folder = local_folder(config.model.path)
    return config.model_copy(update={"model": config.model.model_copy(update={"path": folder})})


def prompt_limit(config: TrainConfig) -> PromptLimit | None:
    """The longest prompts that a resolved config takes; None for the embedded model, and where nothing limits them.

    Raises ConfigError where the response's tokens leave no room for a prompt, and as ``check_chat`` does.
    """
    if config.model.path is None:
        return None
    from gps_ray.model.folder import load_tokenizer
    from gps_ray.model.model_facts import model_facts

    tokenizer = load_tokenizer(config.model.path)
    # On any day the same prompts are dropped: a resume must read the same pool.
    chat = chat_format(config.data, config.run.date or _LONG_DATE)
    check_chat(tokenizer, chat)
    served = config.rollout.vllm.max_model_len if config.rollout.engine == "vllm" else None
    positions = [limit for limit in (model_facts(config.model.path).max_positions, served) if limit is not None]
    own = config.data.max_prompt_tokens
    samplings = {
        "rollout": config.rollout_sampling,
        "evaluation": config.evaluation_sampling,
        **{f"evaluation.suites.{name}": config.suite_sampling(name) for name in config.evaluation.suites},
    }
    room = {key: _room(positions, own, sampling.max_response_tokens) for key, sampling in samplings.items()}
    limits = {key: limit for key, limit in room.items() if limit is not None}
    if not limits:
        return None
    for key, longest in limits.items():
        if longest < 1:
            raise ConfigError(
                f"{key}.max_response_tokens: {samplings[key].max_response_tokens} tokens leave no room for a prompt in "
                f"the {min(positions)} tokens that the model takes; lower it"
            )
    own_holds = own in limits.values()
    why = f"data.max_prompt_tokens={own}" if own_holds else "what the model takes less the response's tokens"
    lengths = PromptLengths(tokenizer, chat, min(limits.values()))
    return PromptLimit(
        pool=limits["rollout"],
        evaluation=limits["evaluation"],
        lengths=lengths,
        why=why,
        suites={name: limits[f"evaluation.suites.{name}"] for name in config.evaluation.suites},
    )


# A day that is long in words and digits.
_LONG_DATE = datetime.date(2028, 9, 27)


def _room(positions: Sequence[int], own: int | None, response_tokens: int) -> int | None:
    limits = [*(limit - response_tokens for limit in positions), *([] if own is None else [own])]
    return min(limits) if limits else None


def chat_format(data: DataConfig, date: datetime.date | None) -> ChatFormat:
    """How the run's prompts are written down; ``date`` is ``run.date``, None stands for today.

    Raises ConfigError where the template cannot be read.
    """
    template = None
    if data.chat_template is not None:
        try:
            template = data.chat_template.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"data.chat_template: cannot read {data.chat_template} ({one_line(error)}); give a Jinja file, or null "
                "for the model's own template"
            ) from error
    return ChatFormat(template=template, arguments=data.chat_template_kwargs, date=date or datetime.date.today())


def check_data(config: TrainConfig, data: DataSets) -> None:
    """Raise ConfigError where the data cannot feed the config, ResourceError where the model cannot fit with prompts of
    this length."""
    num_prompts, num_pool = config.selection.num_prompts, len(data.pool)
    if not num_pool:
        raise ConfigError("data.train: nothing to train on; set data.train or data.pool_file")
    if num_prompts > num_pool:
        raise ConfigError(
            f"selection.num_prompts: {num_prompts} prompts per step do not fit a pool of {num_pool}; "
            "lower selection.num_prompts or use a larger pool"
        )
    if not data.evaluation:
        raise ConfigError("data.evaluation_file: the evaluation set is empty; give one with at least one prompt")
    if config.makes_warm_start:
        _check_words(config, data)
    shown = first_prompt(config, data)
    if shown is not None:
        check_memory_plan(config, shown.num_tokens)


def _check_words(config: TrainConfig, data: DataSets) -> None:
    """The embedded model's tokens are words (of others' tokens ``prompt_limit`` knows the number)."""
    limit = config.model.embedded.max_position_embeddings
    for prompts, sampling in (
        ((*data.pool, *data.heldout_probe), config.rollout_sampling),
        (data.evaluation, config.evaluation_sampling),
    ):
        for prompt in prompts:
            num_words = len(prompt.text.split())
            if num_words + sampling.max_response_tokens > limit:
                raise ConfigError(
                    f"model.embedded.max_position_embeddings: expected room for every prompt and its response, got "
                    f"{limit} for {num_words} words ({prompt.text[:60]!r}) and {sampling.max_response_tokens} tokens; "
                    "raise it, lower rollout.max_response_tokens, or drop long prompts"
                )


def pool_fingerprint(data: DataSets) -> str:
    """A hash of the ids of all prompts, by split and in order: what a checkpoint's row numbers refer to."""
    digest = hashlib.sha256()
    for split in (*data.splits.values(), *data.suites.values()):
        digest.update(b"\n".join(prompt.prompt_id.encode() for prompt in split) + b"\0")
    return digest.hexdigest()[:16]


def describe(config: TrainConfig, data: DataSets) -> str:
    """Resolved config (YAML), batch arithmetic and placement, for people."""
    selection, rollout, learning = config.selection, config.rollout, config.learning
    num_rollouts = selection.num_prompts * rollout.group_size
    num_chunks = -(-selection.num_prompts // rollout.prompts_per_dispatch)
    lines = [
        "# resolved config",
        yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).rstrip(),
        "",
        "# batch arithmetic",
        f"pool: {len(data.pool)} prompts; evaluation: {len(data.evaluation)}; probes: {len(data.pool_probe)} of the "
        f"pool, {len(data.heldout_probe)} held out; duplicates dropped: {data.num_duplicates}; too long and dropped: "
        f"{data.num_overlong}",
        *(
            f"suite {suite.name}: {len(suite.prompts)} prompts x {suite.rollouts_per_prompt} rollouts, verifier "
            f"{suite.task}"
            for suite in extra_suites(config, data.suites)
        ),
        f"a step: {selection.num_prompts} prompts x {rollout.group_size} rollouts = {num_rollouts} rollouts, at most "
        f"{num_rollouts * rollout.max_response_tokens} tokens, in {num_chunks} chunks of "
        f"{rollout.prompts_per_dispatch} prompts for {rollout.num_workers} workers",
        f"an update: {learning.num_minibatches} mini-batches of at most "
        f"{-(-num_rollouts // learning.num_minibatches)} rollouts",
        f"an evaluation: {len(data.evaluation)} prompts x {config.evaluation.rollouts_per_prompt} rollouts, every "
        f"{config.evaluation.every_steps} steps",
        f"the run: {config.run.num_steps} steps, {config.run.num_steps * num_rollouts} rollouts at one round a step, "
        f"{config.run.num_steps * selection.num_prompts / max(len(data.pool), 1):.2f} times the pool",
        "",
        "# placement",
    ]
    for need in resource_needs(config):
        lines.append(f"{need.count} x {need.what}: {need.num_cpus:g} CPU, {need.num_gpus:g} GPU each ({need.key})")
    lines.append("1 x selector, 1 x learner: 0 CPU reserved")
    shown = first_prompt(config, data)
    if shown is not None:
        lines += _devices(config, shown.num_tokens)
        lines += ["", f"# the first prompt as the policy reads it, {shown.num_tokens} tokens", shown.text]
    return "\n".join(lines)


def _devices(config: TrainConfig, prompt_tokens: int) -> list[str]:
    """Memory by process and, on known GPUs, seconds of a step."""
    plan = memory_plan(config, prompt_tokens)
    if plan is None:
        return []
    lines = ["", f"# memory in GiB, by the model's config.json, with prompts of {prompt_tokens} tokens"]
    for process in plan.processes:
        parts = ", ".join(f"{part.what} {part.num_bytes / _GIB:.2f}" for part in process.parts)
        lines.append(f"{process.count} x {process.what}: {parts}: {process.num_bytes / _GIB:.2f} ({process.note})")
    for place, _, num_bytes in plan.loads():
        known = (
            "; set cluster.gpu to have it held against one"
            if plan.capacity is None
            else (f" of {plan.capacity / _GIB:.2f}, {(plan.capacity - num_bytes) / _GIB:.2f} left")
        )
        lines.append(f"{place}: {num_bytes / _GIB:.2f}{known}")
    return [*lines, *_seconds(config, plan, prompt_tokens)]


def _seconds(config: TrainConfig, plan: MemoryPlan, prompt_tokens: int) -> list[str]:
    times = time_plan(config, plan, prompt_tokens)
    if times is None:
        return []
    tokens = int(MEAN_SHARE * config.rollout.max_response_tokens)
    beside = "beside each other" if config.run.max_policy_lag else "one after the other (run.max_policy_lag=0)"
    return [
        "",
        f"# a step on {config.cluster.gpu}, a rough estimate with responses of {tokens} tokens",
        f"rollouts {times.rollout_s:.0f} s ({times.tokens_per_s:.0f} tokens/s over all workers), update "
        f"{times.update_s:.0f} s, {beside}: {times.step_s(config.run.max_policy_lag):.0f} s; {times.limit}",
    ]


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """A prompt as the policy reads it, and its number of tokens."""

    text: str
    num_tokens: int


def first_prompt(config: TrainConfig, data: DataSets, model_directory: Path | None = None) -> RenderedPrompt | None:
    """The pool's first prompt, without a pool the evaluation set's, as the model in ``model_directory`` (null:
    ``model.path``) reads it; None where there is no model folder to ask."""
    directory = model_directory or config.model.path
    if directory is None:
        return None
    from gps_ray.model.folder import load_tokenizer

    tokenizer = load_tokenizer(directory)
    chat = chat_format(config.data, config.run.date)
    messages = (data.pool or data.evaluation)[0].chat
    return RenderedPrompt(chat.render(tokenizer, messages), len(chat.encode(tokenizer, messages)))


def check_first_prompt(kept: Path, shown: RenderedPrompt) -> None:
    """Raise CheckpointError where a run that goes on would read its first prompt otherwise than it did, as after a
    change of the template or the tokenizer. ``kept`` is what the run wrote of it (JSON); without it nothing is known.
    """
    try:
        written = json.loads(kept.read_text())
        before = RenderedPrompt(str(written["text"]), int(written["num_tokens"]))
    except (OSError, ValueError, TypeError, KeyError):
        return
    if before != shown:
        place = next((i for i, (a, b) in enumerate(zip(before.text, shown.text, strict=False)) if a != b), 0)
        raise CheckpointError(
            f"data.chat_template: the run read its first prompt as {before.text[place:][:80]!r} ({before.num_tokens} "
            f"tokens in all), now it would be {shown.text[place:][:80]!r} ({shown.num_tokens}; both from where they "
            "part); bring the chat template and the tokenizer of model.path back as they were, or use another "
            "run.directory"
        )
