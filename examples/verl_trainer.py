"""A selector inside verl 0.9.1's synchronous trainer: chosen batches in, verdicts back, its state in verl's checkpoint.

    python -m examples.verl_trainer OVERRIDES       # those of python -m verl.trainer.main_ppo

verl trains on GPUs only; docs/trl.md says what of this was run without one.
"""

from __future__ import annotations

from typing import Any

import hydra
import numpy as np
import ray
import transfer_queue
from verl.trainer.main_ppo import TaskRunnerV1, run_ppo
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

import gps_ray
from gps_ray.integrations.chosen_batches import ChosenBatches

SOLVED_FROM = 1.0  # the score of a response that has solved its prompt


class SelectingTrainer(PPOTrainerSync):
    """verl's trainer with its training loader replaced, and the scores of each batch reported before the update."""

    def _init_dataloader(self) -> None:
        super()._init_dataloader()
        prompts = [self.train_dataset[row]["raw_prompt"] for row in range(len(self.train_dataset))]
        self.set_selector(gps_ray.Selector(prompts, group_size=self.config.actor_rollout_ref.rollout.n))

    def set_selector(self, selector: gps_ray.Selector) -> None:
        """verl saves and loads the loader's state, which is the selector's here."""
        num_prompts = self.config.data.train_batch_size
        if self.config.data.get("gen_batch_size") not in (None, num_prompts):
            raise gps_ray.UsageError("verl: expected one batch per step; switch filter_groups and refilling off")
        self.feed = gps_ray.PromptFeed(selector, num_prompts)
        self.train_dataloader = ChosenBatches(self.feed, self.train_dataset, self.train_dataloader.collate_fn)

    def _fetch_one_gen_batch(self) -> Any:
        batch = super()._fetch_one_gen_batch()
        self._names = list(batch["uid"])  # of the prompts, in the order of the batch; responses come back by them
        return batch

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        found = transfer_queue.kv_batch_get(
            keys=batch.keys, partition_id=batch.partition_id, select_fields=["rm_scores"]
        )
        scores = [float(of_response.sum()) for of_response in found["rm_scores"].unbind()]
        by_key = {
            key: score
            for key, score, tag in zip(batch.keys, scores, batch.tags, strict=True)
            if not tag.get("is_padding", False)
        }
        metrics.update({f"gps/{name}": value for name, value in self.observe(by_key).items()})
        return super()._compute_advantage(batch, metrics)

    def observe(self, scores: dict[str, float]) -> dict[str, float]:
        """``scores`` of responses by their key, ``{prompt}_{response}_{part}``. A prompt without any was not tried."""
        place = {name: number for number, name in enumerate(self._names)}
        num_right, num_tried = np.zeros((2, len(place)), dtype=np.int64)
        for key, score in scores.items():
            number = place[key.split("_")[0]]
            num_tried[number] += 1
            num_right[number] += score >= SOLVED_FROM
        return dict(self.feed.observe(num_right, num_tried))


@ray.remote
class Runner(TaskRunnerV1.__ray_metadata__.modified_class):  # type: ignore[misc]
    """verl's runner, with our trainer under the name of its own."""

    def run(self, config: Any) -> None:
        TRAINER_REGISTRY["sync"] = SelectingTrainer
        super().run(config)


@hydra.main(config_path="pkg://verl.trainer.config", config_name="ppo_trainer", version_base=None)
def main(config: Any) -> None:
    run_ppo(config, task_runner_class=Runner)


if __name__ == "__main__":
    main()
