"""What a run leaves behind: folder, checkpoints, outcomes, metrics, progress."""
