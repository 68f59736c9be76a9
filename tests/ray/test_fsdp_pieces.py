"""Log-probs in pieces with the model shared by two processes: the losses and gradients of one worker's whole road."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing

from gps_ray.config import LearningConfig
from gps_ray.learning import logprobs
from tests.unit.learning.rollouts import (
    ALL_RIGHT,
    ALL_WRONG,
    MIXED,
    ids,
    make_groups,
    make_learner,
    make_model,
    make_tables,
)

pytestmark = pytest.mark.ray

# In the last, one worker has a blank micro-batch.
BATCHES = [make_groups([MIXED, ALL_WRONG, "rwwrw", "rw", ALL_RIGHT, MIXED], seed) for seed in range(2)]
BATCHES.append(make_groups(["rww", ALL_WRONG], 9))
PIECE_ENTRIES = 100


def _figures(directory: Path, num_workers: int) -> tuple[bool, np.ndarray[Any, Any]]:
    config = LearningConfig(num_threads=1, num_workers=num_workers, microbatch_tokens=24, kl_coefficient=0.1)
    learner = make_learner(directory, config)
    found = [learner.update(make_tables(groups), ids(groups)).metrics for groups in BATCHES]
    names = ("train/loss", "train/grad_norm", "train/entropy", "train/reference_kl")
    return learner.takes_logits_in_pieces, np.array([[metrics[name] for name in names] for metrics in found])


def _rank(rank: int, directory: Path, out: Path) -> None:
    logprobs.piece_entries = lambda _: PIECE_ENTRIES
    torch.distributed.init_process_group("gloo", init_method=f"file://{out / 'meeting'}", rank=rank, world_size=2)
    in_pieces, figures = _figures(directory, num_workers=2)
    assert in_pieces
    if rank == 0:
        np.save(out / "figures.npy", figures)
    torch.distributed.destroy_process_group()


@pytest.mark.timeout(300)
def test_two_workers_in_pieces_are_one_worker_on_the_whole_road(tmp_path: Path) -> None:
    directory = make_model(tmp_path / "model")
    in_pieces, expected = _figures(directory, num_workers=1)
    assert not in_pieces
    torch.multiprocessing.spawn(_rank, (directory, tmp_path), nprocs=2)  # type: ignore[no-untyped-call]
    np.testing.assert_allclose(np.load(tmp_path / "figures.npy"), expected, rtol=1e-4, atol=1e-6)
