"""TRL's GRPOTrainer with a selector of gps-ray against its own sampling, on data and settings of a config of ours.

    python -m jobs.warm_start --config configs/demo.yaml       # prints the folder of the small model
    python -m examples.trl_study --config configs/demo.yaml --model FOLDER --out runs/trl_study

Prints the share of useful groups during training and the accuracy after it, both as TRL itself logs them, and their
differences paired by seed, with 95 % intervals over seeds. What lies in ``--out`` already is not run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

import gps_ray
from gps_ray.base.errors import UsageError
from gps_ray.base.intervals import mean_estimate
from gps_ray.base.types import Prompt, RolloutStatus
from gps_ray.config import TrainConfig, load_config
from gps_ray.integrations.trl import SelectingGRPOTrainer, Solved
from gps_ray.tasks.dataset import load_data
from gps_ray.tasks.interface import Task
from gps_ray.tasks.registry import load_task
from jobs.cli import run_job

OWN = "own"  # the trainer's own sampling


def main(argv: Sequence[str]) -> int:
    args = _arguments(argv)
    torch.set_num_threads(args.num_threads)
    config = load_config(TrainConfig, args.config, args.overrides)
    args.out.mkdir(parents=True, exist_ok=True)
    arms = (OWN, args.selector)
    by_seed = [{arm: _result(args, config, arm, seed) for arm in arms} for seed in range(args.num_seeds)]
    for name in ("share_useful", "accuracy"):
        own, selected = (np.array([of_seed[arm][name] for of_seed in by_seed]) for arm in arms)
        for arm, values in ((OWN, own), (args.selector, selected), ("difference", selected - own)):
            found = mean_estimate(100 * values)
            print(f"{name} {arm}: {found.value:.1f} [{found.low:.1f}, {found.high:.1f}] %")
    return 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="config keys as key=value, such as selection.num_prompts=2")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--selector", default="gps_fused")
    parser.add_argument("--num-seeds", type=int, default=3)
    parser.add_argument("--num-batches", type=int, default=60, help="generation batches per run")
    parser.add_argument("--num-evaluation-prompts", type=int, default=256)
    parser.add_argument("--num-threads", type=int, default=1)
    parser.add_argument("--rollouts-per-pass", type=int, help="in one forward pass of an update; all where left out")
    return parser.parse_args(argv)


def _result(args: argparse.Namespace, config: TrainConfig, arm: str, seed: int) -> dict[str, Any]:
    file = args.out / f"{arm}_{seed}.json"
    if not file.exists():
        trainer = _trainer(args, config, arm, seed)
        trainer.train()
        accuracy = trainer.evaluate()["eval_rewards/is_right/mean"]
        useful = [1 - row["frac_reward_zero_std"] for row in trainer.state.log_history if "frac_reward_zero_std" in row]
        found = {"share_useful": float(np.mean(useful)), "accuracy": accuracy, "share_useful_by_batch": useful}
        file.write_text(json.dumps(found))
    result: dict[str, Any] = json.loads(file.read_text())
    print(f"{arm}, seed {seed}: {result['share_useful']:.3f} useful, accuracy {result['accuracy']:.3f}", flush=True)
    return result


def _trainer(args: argparse.Namespace, config: TrainConfig, arm: str, seed: int) -> GRPOTrainer:
    data = load_data(config.data, num_probe_prompts=0)
    as_chats = AutoTokenizer.from_pretrained(args.model).chat_template is not None
    pool = _dataset(data.pool, as_chats)
    settings = _settings(args, config, seed)
    common = {
        "model": str(args.model),
        "reward_funcs": [_reward(load_task(config.data.task, config.data.task_options), data.pool, data.evaluation)],
        "args": settings,
        "train_dataset": pool,
        "eval_dataset": _dataset(data.evaluation[: args.num_evaluation_prompts], as_chats),
    }
    if arm == OWN:
        return GRPOTrainer(**common)
    selector = gps_ray.Selector(pool["prompt"], arm, group_size=settings.num_generations, seed=seed)
    return SelectingGRPOTrainer(**common, selector=selector, success=Solved("is_right"))


def _settings(args: argparse.Namespace, config: TrainConfig, seed: int) -> GRPOConfig:
    """The config's batch, cut into its mini-batches; what neither it nor a line here names is TRL's default."""
    num_updates = config.learning.num_minibatches
    per_update = config.selection.num_prompts * config.rollout.group_size // num_updates
    per_pass = min(args.rollouts_per_pass or per_update, per_update)
    if per_update % per_pass:
        raise UsageError(
            f"--rollouts-per-pass: expected a divisor of an update's {per_update} rollouts, got {per_pass}"
        )
    return GRPOConfig(
        str(args.out / "trainer"),
        use_cpu=not torch.cuda.is_available(),
        # On a CPU products in bfloat16 take less than half the time, where the processor has them.
        bf16=config.model.dtype == "bfloat16",
        # TRL's default saves memory by one more forward pass; here --rollouts-per-pass saves it.
        gradient_checkpointing=False,
        seed=seed,
        max_steps=args.num_batches * num_updates,
        per_device_train_batch_size=per_pass,
        gradient_accumulation_steps=per_update // per_pass,
        # As many as are accumulated: TRL computes no old log-probs where a generation batch is one update.
        steps_per_generation=num_updates * per_update // per_pass,
        num_generations=config.rollout.group_size,
        max_completion_length=config.rollout.max_response_tokens,
        temperature=config.rollout.temperature,
        learning_rate=config.learning.learning_rate,
        lr_scheduler_type="constant",
        max_grad_norm=config.learning.max_grad_norm,
        per_device_eval_batch_size=256,
        logging_steps=num_updates,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _dataset(prompts: tuple[Prompt, ...], as_chats: bool) -> Dataset:
    chats = [[{"role": turn.role, "content": turn.content} for turn in prompt.chat] for prompt in prompts]
    given = chats if as_chats else [prompt.text for prompt in prompts]
    return Dataset.from_dict({"prompt": given, "prompt_id": [prompt.prompt_id for prompt in prompts]})


def _reward(task: Task, *sets: tuple[Prompt, ...]) -> Any:
    by_id = {prompt.prompt_id: prompt for prompts in sets for prompt in prompts}

    def is_right(completions: list[Any], prompt_id: list[str], **_: Any) -> list[float]:
        texts = [text if isinstance(text, str) else text[0]["content"] for text in completions]
        return [
            float(task.verify(by_id[name], text)[1] is RolloutStatus.RIGHT)
            for name, text in zip(prompt_id, texts, strict=True)
        ]

    return is_right


if __name__ == "__main__":
    run_job(main)
