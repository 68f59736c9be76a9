"""A loader with a state: the batches that a selector chooses, and the same ones after a kill."""

from __future__ import annotations

import io
import itertools
import warnings
from typing import Any

import pytest
import torch

import gps_ray
from gps_ray.integrations.chosen_batches import ChosenBatches

PROMPTS = [f"prompt number {number}" for number in range(22)]
ROWS = [{"raw_prompt": [{"role": "user", "content": text}], "row": row} for row, text in enumerate(PROMPTS)]


def _loader() -> tuple[gps_ray.PromptFeed, ChosenBatches]:
    feed = gps_ray.PromptFeed(gps_ray.Selector(PROMPTS, seed=5), 4)
    return feed, ChosenBatches(feed, ROWS, lambda items: [item["row"] for item in items])


def test_an_epoch_has_as_many_batches_as_the_data_and_a_killed_one_goes_on() -> None:
    feed, loader = _loader()
    assert len(list(itertools.islice(loader, 1))) == 1
    epoch = []
    for batch in loader:  # a new pass begins with what nobody observed
        feed.observe([row % 5 for row in batch], 8)
        epoch.append(batch)
        if len(epoch) == 3:
            read = next(iter(_resumed(loader)))
    assert len(epoch) == len(loader) == 5
    assert epoch[3] == read
    assert feed.selector.num_updates == 5


def _resumed(loader: ChosenBatches) -> ChosenBatches:
    """One that has read its state from a file."""
    file = io.BytesIO()
    torch.save(loader.state_dict(), file)
    file.seek(0)
    resumed = _loader()[1]
    resumed.load_state_dict(torch.load(file, weights_only=False))
    return resumed


def test_rows_are_those_of_the_selectors_prompts() -> None:
    feed, _ = _loader()
    with pytest.raises(gps_ray.UsageError, match="expected the 22 rows of the selector's prompts, got 3"):
        ChosenBatches(feed, ROWS[:3], list)


def test_verls_trainer_fetches_chosen_batches_and_counts_their_scores() -> None:
    """Its own classes without a GPU: loader, batch and names are real, the scores are given by hand."""
    pytest.importorskip("verl", reason="verl is not installed (it wants an older transformers than we do)")
    from omegaconf import OmegaConf
    from torchdata.stateful_dataloader import StatefulDataLoader

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of verl about engines that are not installed
        from verl.utils.dataset.rl_dataset import collate_fn

        from examples.verl_trainer import SelectingTrainer

    trainer: Any = object.__new__(SelectingTrainer)
    trainer.config = OmegaConf.create({"data": {"train_batch_size": 4}})
    trainer.train_dataset, trainer.train_dataloader_it, trainer.global_steps = ROWS, None, 1
    trainer.train_dataloader = StatefulDataLoader(ROWS, batch_size=4, collate_fn=collate_fn)
    trainer.set_selector(gps_ray.Selector(PROMPTS, group_size=2))
    batch = trainer._next_train_batch()
    names, rows = list(batch["uid"]), list(batch["row"])
    assert trainer.feed.state()["out"].tolist() == [rows]
    scores = {f"{names[0]}_0_0": 1.0, f"{names[0]}_1_0": 0.5, f"{names[1]}_0_0": 1.0, f"{names[1]}_1_0": 1.0}
    metrics = trainer.observe(scores | {f"{names[2]}_0_0": 0.0})
    assert (metrics["share_useful"], metrics["success_rate"]) == (0.25, 3 / 5)
    state = trainer.feed.selector.state()
    assert state["history/rows"].tolist() == rows
    assert state["history/num_right"].tolist() == [1, 2, 0, 0]
    assert state["history/num_tried"].tolist() == [2, 2, 1, 0]
    trainer._next_train_batch()
    assert trainer.feed.num_out == 1
