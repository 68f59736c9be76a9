"""The policy as a Hugging Face folder and in memory, and the small embedded one."""

from gps_ray.model.embedded import EOS_TOKEN, PAD_TOKEN, UNKNOWN_TOKEN, make_embedded_model
from gps_ray.model.folder import load_model, load_tokenizer, stop_token_ids
from gps_ray.model.parameters import load_weights_into, tied_names, weights_from_state_dict, weights_of

__all__ = [
    "EOS_TOKEN",
    "PAD_TOKEN",
    "UNKNOWN_TOKEN",
    "load_model",
    "load_tokenizer",
    "load_weights_into",
    "make_embedded_model",
    "stop_token_ids",
    "tied_names",
    "weights_from_state_dict",
    "weights_of",
]
