"""A written-out decoding step for Llama-like models on CPU."""
