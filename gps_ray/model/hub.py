"""A model that is named by its id on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from gps_ray.base.errors import ConfigError, one_line

__all__ = ["local_folder"]

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
# Weights in safetensors, and no code: nothing else of a model is ever read.
_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]


def local_folder(path: Path) -> Path:
    """The folder at ``path``; where there is none, and it has the form of a hub id, the cached or fetched snapshot.

    Raises ConfigError, one line that says how to fetch it beforehand.
    """
    if path.is_dir():
        return path
    if not _HUB_ID.fullmatch(str(path)):
        raise ConfigError(f"model.path: no folder {path}; give a local Hugging Face folder, a hub id, or null")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(path), allow_patterns=_FILES))
    except Exception as error:  # no network, no such model, no permission: the library has an error for each
        raise ConfigError(
            f"model.path: no folder {path} here, and the hub did not give the model of that name ({one_line(error)}); "
            f"where there is a network run 'hf download {path} --local-dir FOLDER', and set model.path to FOLDER"
        ) from error
