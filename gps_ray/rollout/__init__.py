"""Making rollouts: engines, scoring, chunks, and who makes which."""
