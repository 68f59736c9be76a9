"""What a config amounts to, said before anything starts (``--dry-run``), and the checks that need the data."""

from __future__ import annotations

import datetime
import hashlib

import yaml

from gps_ray.base.errors import ConfigError, one_line
from gps_ray.config import DataConfig, TrainConfig
from gps_ray.learning.algorithms import check_algorithm
from gps_ray.loop.resources import resource_needs
from gps_ray.loop.suites import extra_suites
from gps_ray.selection.registry import resolve_selection
from gps_ray.tasks.chat import ChatFormat
from gps_ray.tasks.dataset import DataSets
from gps_ray.weights.transports import check_transport

__all__ = ["chat_format", "check_data", "describe", "pool_fingerprint", "resolve"]


def resolve(config: TrainConfig) -> TrainConfig:
    """The config with the selector's preset filled in: what the run really uses, and what it writes down.

    Raises ConfigError where a name in it stands for nothing, or the transport of weights lacks what it needs.
    """
    check_algorithm(config.learning, config.rollout.group_size)
    check_transport(config.rollout, config.learning)
    return config.model_copy(update={"selection": resolve_selection(config.selection)})


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
    """Raise ConfigError where the data cannot feed the config."""
    num_prompts, num_pool = config.selection.num_prompts, len(data.pool)
    if num_prompts > num_pool:
        raise ConfigError(
            f"selection.num_prompts: {num_prompts} prompts per step do not fit a pool of {num_pool}; "
            "lower selection.num_prompts or use a larger pool"
        )
    if not data.evaluation:
        raise ConfigError("data.evaluation_file: the evaluation set is empty; give one with at least one prompt")


def pool_fingerprint(data: DataSets) -> str:
    """A hash of the ids of all prompts, by split and in order: what a checkpoint's row numbers refer to."""
    digest = hashlib.sha256()
    for split in (data.pool, data.evaluation, data.pool_probe, data.heldout_probe, *data.suites.values()):
        digest.update(b"\n".join(prompt.prompt_id.encode() for prompt in split) + b"\0")
    return digest.hexdigest()[:16]


def describe(config: TrainConfig, data: DataSets) -> str:
    """Resolved config (YAML), batch arithmetic and placement, for people."""
    selection, rollout, learning = config.selection, config.rollout, config.learning
    num_rollouts = selection.num_prompts * rollout.group_size
    num_chunks = -(-selection.num_prompts // rollout.prompts_per_chunk)
    lines = [
        "# resolved config",
        yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).rstrip(),
        "",
        "# batch arithmetic",
        f"pool: {len(data.pool)} prompts; evaluation: {len(data.evaluation)}; probes: {len(data.pool_probe)} of the "
        f"pool, {len(data.heldout_probe)} held out; duplicates dropped: {data.num_duplicates}",
        *(
            f"suite {suite.name}: {len(suite.prompts)} prompts x {suite.rollouts_per_prompt} rollouts, verifier "
            f"{suite.task}"
            for suite in extra_suites(config, data.suites)
        ),
        f"a step: {selection.num_prompts} prompts x {rollout.group_size} rollouts = {num_rollouts} rollouts, at most "
        f"{num_rollouts * rollout.max_response_tokens} tokens, in {num_chunks} chunks of {rollout.prompts_per_chunk} "
        f"prompts for {rollout.num_workers} workers",
        f"an update: {learning.num_minibatches} mini-batches of at most "
        f"{-(-num_rollouts // learning.num_minibatches)} rollouts",
        f"the run: {config.run.num_steps} steps, {config.run.num_steps * num_rollouts} rollouts at one round a step, "
        f"{config.run.num_steps * selection.num_prompts / max(len(data.pool), 1):.2f} times the pool",
        "",
        "# placement",
    ]
    for need in resource_needs(config):
        lines.append(f"{need.count} x {need.what}: {need.num_cpus:g} CPU, {need.num_gpus:g} GPU each ({need.key})")
    lines.append("1 x selector, 1 x learner: 0 CPU reserved")
    return "\n".join([*lines, *_first_prompt(config, data)])


def _first_prompt(config: TrainConfig, data: DataSets) -> list[str]:
    """What the policy reads of the pool's first prompt, where there is a model folder to ask."""
    if config.model.path is None:
        return []
    from gps_ray.model import load_tokenizer  # transformers takes seconds to import

    tokenizer = load_tokenizer(config.model.path)
    chat = chat_format(config.data, config.run.date)
    messages = data.pool[0].chat
    return [
        "",
        f"# the first prompt as the policy reads it, {len(chat.encode(tokenizer, messages))} tokens",
        chat.render(tokenizer, messages),
    ]
