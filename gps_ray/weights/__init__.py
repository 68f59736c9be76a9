"""A policy's weights on their way from the learner to the engines: a file per transport, a row in ``transports``."""
