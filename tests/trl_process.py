"""One process of a run of TRL's trainer with several: ``python -m tests.trl_process FOLDER [KILLED_AT]``.

Begins anew, or goes on from the last checkpoint that is there. Process 0 writes what the selector learnt and the
weights' sum to ``FOLDER/learnt.json``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from tests.trl_runs import kill_at, learnt, make_trainer


def main(folder: Path, killed_at: int | None) -> None:
    trainer = make_trainer(
        folder, per_device_train_batch_size=6, max_steps=8, save_strategy="steps", save_steps=3, ddp_backend="gloo"
    )
    if killed_at is not None:
        kill_at(trainer, killed_at, lambda: os.kill(os.getpid(), signal.SIGKILL))
    trainer.train(resume_from_checkpoint=any(folder.glob("run/checkpoint-*")) or None)
    if trainer.accelerator.is_main_process:
        found = {"learnt": [array.tolist() for array in learnt(trainer)]}
        found["weights"] = [weights.double().sum().item() for weights in trainer.model.parameters()]
        (folder / "learnt.json").write_text(json.dumps(found))
    else:
        assert trainer.selector.num_updates == 0  # it receives choices and makes none
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
