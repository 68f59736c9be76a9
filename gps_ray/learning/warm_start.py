"""The embedded model after its warm start: made once, kept in a folder named by the hash of what determines it.

A folder counts only with its manifest, which is written last and lists every file with its size. It is made beside its
place and moved there when it is whole, so a killed or a parallel warm start leaves nothing half-made.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gps_ray.base.errors import DataError
from gps_ray.config import DataConfig, EmbeddedModelConfig, Fact, Resume, WarmStartConfig, key_facts
from gps_ray.tasks.registry import load_generated_task

if TYPE_CHECKING:
    from gps_ray.learning.supervised import Progress

__all__ = ["build_warm_start", "find_warm_start", "warm_start_folder"]

# To be raised with every change of the code that changes what a warm start gives.
CODE_VERSION = 2
MANIFEST = "warm_start.json"


def warm_start_folder(data: DataConfig, embedded: EmbeddedModelConfig, config: WarmStartConfig) -> Path:
    """Where the result of these settings lies, made or not."""
    text = json.dumps(_settings(data, embedded, config), sort_keys=True)
    return config.cache_directory / hashlib.sha256(text.encode()).hexdigest()[:16]


def find_warm_start(data: DataConfig, embedded: EmbeddedModelConfig, config: WarmStartConfig) -> Path | None:
    """The folder of these settings if it is there and whole."""
    folder = warm_start_folder(data, embedded, config)
    return folder if _is_whole(folder) else None


def build_warm_start(
    data: DataConfig, embedded: EmbeddedModelConfig, config: WarmStartConfig, progress: Progress | None = None
) -> Path:
    """The folder of these settings, trained now unless it is there.

    Raises ConfigError (naming data.task) where the task makes no examples of its own, LearnerError where training
    diverges.
    """
    # Most callers only look a folder up: for that they need no transformers.
    from gps_ray.learning.supervised import train_warm_start
    from gps_ray.model import make_embedded_model

    folder = warm_start_folder(data, embedded, config)
    if _is_whole(folder):
        return folder
    task = load_generated_task(data.task, data.task_options, "set model.path to a model that needs no warm start")
    examples = task.warm_start_examples(data, config.num_examples, config.seed)
    config.cache_directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=config.cache_directory, prefix=f"{folder.name}.partial-") as scratch:
        initial, trained = Path(scratch) / "initial", Path(scratch) / "trained"
        make_embedded_model(embedded, task.vocabulary(), initial)
        result = train_warm_start(initial, examples, config, trained, progress)
        manifest = {
            "settings": _settings(data, embedded, config),
            "final_loss": result.final_loss,
            "num_tokens": result.num_tokens,
            "cpu_s": result.cpu_s,
            "files": {path.name: path.stat().st_size for path in sorted(trained.iterdir())},
        }
        (trained / MANIFEST).write_text(json.dumps(manifest, indent=1))
        _move(trained, folder)
    return folder


def _settings(data: DataConfig, embedded: EmbeddedModelConfig, config: WarmStartConfig) -> dict[str, Any]:
    """Everything that determines the trained weights."""
    # Examples avoid the problems of the data sets, so the content of the files counts, not their names.
    by_content = [key for key, facts in key_facts(DataConfig).items() if Fact.BY_CONTENT in facts.others]
    files = [key for key in by_content if key not in ("train", "evaluation")]
    free = {key for key, facts in key_facts(WarmStartConfig).items() if facts.resume is Resume.FREE}
    # Empty options leave the name as it was before there were any; the embedded model has no chat template.
    left_out = {"chat_template", "chat_template_kwargs", "max_prompt_tokens", "overlong_prompts"}
    left_out |= set() if data.task_options else {"task_options"}
    sources = [source for _, source in (*data.train_sources, *data.evaluation_sources) if data.train or data.evaluation]
    listed = [
        source.model_dump(mode="json", exclude={"path"})
        | {"path": _sha256(Path(source.path)) if source.is_file else source.path}
        for source in sources
    ]
    return {
        "code_version": CODE_VERSION,
        "torch": version("torch"),
        "data": data.model_dump(mode="json", exclude={*files, *left_out, "train", "evaluation"}),
        "data_files": [None if (file := getattr(data, key)) is None else _sha256(file) for key in files],
        **({"data_sources": listed} if listed else {}),
        "embedded": embedded.model_dump(mode="json"),
        "warm_start": config.model_dump(mode="json", exclude=free),
    }


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            f"data: cannot read {file}: {error.strerror}; change data.pool_file and its companions"
        ) from error


def _is_whole(folder: Path) -> bool:
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        return all((folder / name).stat().st_size == num_bytes for name, num_bytes in files.items())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False


def _move(trained: Path, folder: Path) -> None:
    """Into place, unless another process was first; a damaged folder in the way goes."""
    if folder.exists() and not _is_whole(folder):
        shutil.rmtree(folder)
    try:
        trained.rename(folder)
    except OSError:
        if not _is_whole(folder):
            raise
