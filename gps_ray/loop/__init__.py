"""One RL step, then the run: the loop, its ports, evaluation, what a config amounts to."""
