"""A selector inside TRL's GRPOTrainer and RLOOTrainer: it chooses the prompts and learns from their rewards.

    selector = gps_ray.Selector(dataset["prompt"], "gps_fused", group_size=args.num_generations)
    trainer = SelectingGRPOTrainer(
        model, [is_right], args=args, train_dataset=dataset, selector=selector, success=Solved("is_right")
    )

Hooks, of TRL 1.16 and transformers 5.19: ``_get_train_sampler`` (prompts), ``_calculate_rewards`` (outcomes),
``_save_checkpoint`` and ``_load_optimizer_and_scheduler`` (state). Process 0 chooses and learns; the others receive its
choices. Written without any of those packages' code.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from gps_ray.base.errors import CheckpointError, UsageError
from gps_ray.base.states import load_state_file, save_state_file
from gps_ray.base.types import IntArray
from gps_ray.integrations.prompt_feed import PromptFeed
from gps_ray.integrations.prompts import prompt_text
from gps_ray.integrations.selector import Selector
from gps_ray.integrations.success import Solved, SuccessRule, count_successes

try:
    import trl
    from accelerate.utils import broadcast_object_list
    from datasets import Dataset
    from trl import GRPOTrainer, RLOOTrainer
except ImportError as error:
    raise ImportError(f"gps_ray.integrations.trl: {error}; pip install 'gps-ray[trl]'") from error

__all__ = ["STATE_FILE", "SelectingGRPOTrainer", "SelectingRLOOTrainer", "SelectsPrompts", "Solved"]

STATE_FILE = "gps_ray.safetensors"
_TESTED_WITH = "1.16"
_HOOKS = ("_get_train_sampler", "_calculate_rewards", "_save_checkpoint", "_load_optimizer_and_scheduler")


class SelectsPrompts:
    """Put before one of TRL's trainers: ``class MyTrainer(SelectsPrompts, GRPOTrainer)``.

    ``selector``: made from the prompts of ``train_dataset``, in its order, with ``group_size`` = ``num_generations``.
    ``success``: which rollouts solved their prompt (``SuccessRule``), for instance ``Solved("is_right")``. All other
    arguments are the trainer's; its ``shuffle_dataset`` means nothing here. Logs ``gps/*`` beside its metrics.

    An epoch has as many batches as the trainer's own, but a prompt may come several times in it, or not at all.
    A run that resumes from a checkpoint goes on with the same choices, also from the middle of a generation batch.
    Raises UsageError in one line.
    """

    def __init__(self, *args: Any, selector: Selector, success: SuccessRule, **kwargs: Any) -> None:
        _check_version(type(self))
        super().__init__(*args, **kwargs)
        trainer: Any = self
        _check_settings(trainer, selector)
        num_prompts = trainer.args.generation_batch_size // trainer.num_generations
        self.selector = selector
        self.feed = PromptFeed(selector, num_prompts)
        self._success = success
        # Batches that this process was given and has not rolled out, oldest first.
        self._given: deque[IntArray] = deque()
        self._num_skipped = 0

    # How often the loader gives a generation batch: the trainer rolls it out at the first and reuses the rollouts.
    @property
    def _num_repeats(self) -> int:
        trainer: Any = self
        return int(trainer.num_iterations * trainer.args.steps_per_generation)

    def _get_train_sampler(self, dataset: Any = None) -> Sampler[int]:
        trainer: Any = self
        num_rows = len(trainer.train_dataset if dataset is None else dataset)
        return _ChosenPrompts(self, num_rows // self.feed.num_prompts)

    def _begin_pass(self) -> int:
        """The loader begins to read: what an earlier pass read and did not roll out comes first. Returns how many
        loader batches the trainer will skip, as those of before a checkpoint."""
        trainer: Any = self
        self.feed.put_back()
        self._given.clear()
        num_skipped, self._num_skipped = self._num_skipped, 0
        if not num_skipped:
            # A pass begins with a batch of its own: rollouts that a run broken off has left are of other prompts.
            trainer._step, trainer._buffered_inputs = 0, None
        return num_skipped

    def _choose(self) -> IntArray:
        trainer: Any = self
        rows = [self.feed.choose() if trainer.accelerator.is_main_process else None]
        # A collective, but in program order: every process reads its loader at the same places.
        broadcast_object_list(rows, from_process=0)
        assert rows[0] is not None
        self._given.append(rows[0])
        return rows[0]

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
        trainer: Any = super()
        rewards = trainer._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if self.model.training:  # type: ignore[attr-defined]
            self._observe([example["prompt"] for example in inputs], rewards)
        return rewards

    def _observe(self, prompts: list[Any], rewards: Any) -> None:
        """``prompts``: those of this process; ``rewards`` [N, F] of all, in the order of the processes."""
        trainer: Any = self
        group_size = trainer.num_generations
        self._check_batch(prompts, trainer.accelerator.process_index, trainer.accelerator.num_processes)
        self._given.popleft()
        if not trainer.accelerator.is_main_process:
            return
        columns = rewards.detach().to("cpu", torch.float64).numpy().T
        named = dict(zip(trainer.reward_func_names, columns, strict=True))
        num_right, num_tried = count_successes(self._success, named, group_size)
        for name, value in self.feed.observe(num_right, num_tried).items():
            trainer._metrics["train"][f"gps/{name}"].append(value)

    def _check_batch(self, prompts: list[Any], process: int, num_processes: int) -> None:
        """What is rolled out is what was chosen: rewards would otherwise be counted for other prompts."""
        trainer: Any = self
        if not self._given:
            raise UsageError("a batch was rolled out that no one has chosen; was the training loader replaced?")
        rows = np.repeat(self._given[0], trainer.num_generations)
        own = rows[process * len(prompts) : (process + 1) * len(prompts)]
        texts = [prompt_text(prompt) for prompt in prompts]
        if len(rows) != len(prompts) * num_processes or texts != [self.selector.prompts[row] for row in own]:
            raise UsageError(
                f"expected rollouts of the rows {own[:: trainer.num_generations].tolist()} in process {process}, got "
                f"{len(prompts)} of others, first {texts[0][:80]!r}; was the training loader or the data set replaced?"
            )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Ours first: the trainer writes last what makes a folder a checkpoint."""
        trainer: Any = self
        folder = Path(trainer._get_output_dir(trial=trial)) / f"checkpoint-{trainer.state.global_step}"
        folder.mkdir(parents=True, exist_ok=True)
        if trainer.accelerator.is_main_process:
            save_state_file(self.feed.state(), folder / STATE_FILE)
        rollouts = folder / _rollouts_file(trainer)
        if trainer._step % self._num_repeats:
            torch.save({"step": trainer._step % self._num_repeats, "batches": trainer._buffered_inputs}, rollouts)
        else:
            rollouts.unlink(missing_ok=True)
        super()._save_checkpoint(model, trial)  # type: ignore[misc]

    def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        if checkpoint is not None:
            self._resume(Path(checkpoint))

    def _resume(self, folder: Path) -> None:
        trainer: Any = self
        file = folder / STATE_FILE
        if trainer.accelerator.is_main_process:
            if file.is_file():
                self.feed.load_state(load_state_file(file))
            else:
                warnings.warn(f"{file} is not there: the selector begins anew, without past outcomes", stacklevel=2)
        self._num_skipped = _num_skipped(
            trainer, self._num_repeats * (len(trainer.train_dataset) // self.feed.num_prompts)
        )
        trainer._step, trainer._buffered_inputs = 0, None
        if not self._num_skipped % self._num_repeats:
            return
        rollouts = folder / _rollouts_file(trainer)
        if not rollouts.is_file():
            raise CheckpointError(
                f"{folder}: expected {rollouts.name}, the rollouts of the generation batch that was being trained on; "
                "resume with as many processes, num_iterations and steps_per_generation as before, or from another step"
            )
        begun = torch.load(rollouts, map_location=trainer.accelerator.device, weights_only=True)
        trainer._step, trainer._buffered_inputs = begun["step"], begun["batches"]


class SelectingGRPOTrainer(SelectsPrompts, GRPOTrainer):  # type: ignore[misc]
    """TRL's GRPOTrainer with a selector; see ``SelectsPrompts``."""


class SelectingRLOOTrainer(SelectsPrompts, RLOOTrainer):  # type: ignore[misc]
    """TRL's RLOOTrainer with a selector; see ``SelectsPrompts``."""


class _ChosenPrompts(Sampler[int]):
    """Each batch of a pass chosen when the loader comes to it, each prompt ``num_generations`` times, and the whole
    as often as the trainer reads one generation batch."""

    def __init__(self, trainer: Any, num_batches: int) -> None:
        self._trainer, self._num_batches = trainer, num_batches

    def __iter__(self) -> Iterator[int]:
        num_repeats, num_generations = self._trainer._num_repeats, self._trainer.num_generations
        # What is skipped is dropped before any row is read, as is what is left of a batch that was being trained on.
        num_skipped = math.ceil(self._trainer._begin_pass() / num_repeats)
        filler = [0] * (self._trainer.feed.num_prompts * num_generations)
        for number in range(self._num_batches):
            batch = filler if number < num_skipped else np.repeat(self._trainer._choose(), num_generations).tolist()
            for _ in range(num_repeats):
                yield from batch

    def __len__(self) -> int:
        num_rollouts = self._trainer.feed.num_prompts * self._trainer.num_generations
        return int(self._num_batches * self._trainer._num_repeats * num_rollouts)


def _rollouts_file(trainer: Any) -> str:
    return f"gps_ray_rollouts_{trainer.accelerator.process_index}.pt"


def _num_skipped(trainer: Any, batches_per_epoch: int) -> int:
    """How many loader batches of the epoch transformers skips on resuming: those that were trained on."""
    accumulated = trainer.args.gradient_accumulation_steps
    updates_per_epoch = max(math.ceil(batches_per_epoch / accumulated), 1)
    return int(trainer.state.global_step % updates_per_epoch) * int(accumulated)


def _check_version(trainer: type) -> None:
    if trl.__version__.split(".")[:2] != _TESTED_WITH.split("."):
        warnings.warn(
            f"gps_ray.integrations.trl was tested with TRL {_TESTED_WITH}, this is {trl.__version__}", stacklevel=3
        )
    missing = [name for name in _HOOKS if not hasattr(super(SelectsPrompts, trainer), name)]
    if missing:
        raise UsageError(
            f"TRL {trl.__version__}: {trainer.__name__} has no {', '.join(missing)}; install {_TESTED_WITH}"
        )


def _check_settings(trainer: Any, selector: Selector) -> None:
    args, dataset = trainer.args, trainer.train_dataset
    if not isinstance(dataset, Dataset):
        raise UsageError(f"train_dataset: expected a datasets.Dataset, got {type(dataset).__name__}; rows are chosen")
    if "prompt" not in dataset.column_names:
        raise UsageError(f"train_dataset: expected a column 'prompt', got {dataset.column_names}")
    loader = args.accelerator_config
    if args.ignore_data_skip or loader.dispatch_batches or loader.split_batches:
        raise UsageError(
            "args: expected ignore_data_skip, accelerator_config.dispatch_batches and split_batches unset; the "
            "selector counts on how the trainer reads its loader"
        )
    if selector.group_size != trainer.num_generations:
        raise UsageError(
            f"selector: expected group_size {trainer.num_generations} (num_generations), got {selector.group_size}"
        )
    texts = [prompt_text(prompt) for prompt in dataset["prompt"]]
    if tuple(texts) != selector.prompts:
        same = [mine == theirs for mine, theirs in zip(selector.prompts, texts, strict=False)]
        raise UsageError(
            f"selector: expected the {len(texts)} prompts of train_dataset in its order, got "
            f"{len(selector.prompts)} that differ from row {[*same, False].index(False)} on"
        )
    _check_pool(trainer, len(texts))


def _check_pool(trainer: Any, num_rows: int) -> None:
    args = trainer.args
    num_prompts = args.generation_batch_size // trainer.num_generations
    read_ahead = args.gradient_accumulation_steps + args.dataloader_num_workers * (args.dataloader_prefetch_factor or 2)
    num_out = 1 + math.ceil(read_ahead / (trainer.num_iterations * args.steps_per_generation))
    if num_rows < num_prompts:
        raise UsageError(f"train_dataset: expected a generation batch of {num_prompts} prompts or more, got {num_rows}")
    if num_rows < (num_out + 1) * num_prompts:
        warnings.warn(
            f"train_dataset has {num_rows} prompts, and {num_out} batches of {num_prompts} are out at once: the "
            "selector has little to choose from",
            stacklevel=4,
        )
