"""The policy update: algorithms, packing, the learner and its mailbox, the warm start."""
