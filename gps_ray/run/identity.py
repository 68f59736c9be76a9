"""What a run is made of beside its config: pool, model and code, as short strings that a resume can compare."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from gps_ray.base.errors import CheckpointError
from gps_ray.run.stored import Stored
from gps_ray.run.submission import commit_of

__all__ = ["Identity", "code_version", "model_identity", "weights_identity"]

_PACKAGE = Path(__file__).parents[1]
_WEIGHTS = (".safetensors", ".bin")
_HEAD_BYTES = 1 << 16  # names, shapes and types stand at the beginning of a safetensors file
# Of config.json what says where the folder came from and nothing of the model.
_ORIGIN = ("transformers_version", "_name_or_path")


class Identity(Stored):
    """``pool``: of the prompts, by split (``pool_fingerprint``). ``model``: of the folder that the policy begins from.
    ``code``: commit/sources. ``warm_start``: of the weights that the run's own warm start gave. ``verifier``: of what
    judges and is no code of this package (``tasks/verifier_identity.py``). "" where it is not known: runs of earlier
    versions."""

    pool: str = ""
    model: str = ""
    code: str = ""
    warm_start: str = ""
    verifier: str = ""

    def notes_against(self, made_with: Identity) -> list[str]:
        """What is to be known where a run that was ``made_with`` these goes on with this code. Raises CheckpointError,
        naming both sides, where pool or model would make it another run."""
        if made_with.pool and made_with.pool != self.pool:
            raise CheckpointError(
                f"the checkpoint's pool is {made_with.pool}, this config's is {self.pool}; "
                "use the data section the run was started with, or another run.directory"
            )
        if made_with.model and self.model and made_with.model != self.model:
            raise CheckpointError(
                f"model.path: the run's model is {made_with.model}, the one in its place now is {self.model} (a hash "
                "of config.json, tokenizer and weights' names, shapes and sizes); bring the first one back, or use "
                "another run.directory"
            )
        if made_with.warm_start and self.warm_start and made_with.warm_start != self.warm_start:
            raise CheckpointError(
                f"warm_start.cache_directory: the run began from the warm start {made_with.warm_start}, the one here "
                f"is {self.warm_start} (a hash of its weights): made on another machine, or with another torch, it "
                "comes out otherwise; bring the first one's folder here (run.mirror does), or use another run.directory"
            )
        notes = []
        if made_with.code and made_with.code.partition("/")[2] != self.code.partition("/")[2]:
            notes.append(
                f"resume: the run was made with code {made_with.code}, this is {self.code} (commit/hash of the "
                "sources): it goes on, and nobody has shown that it ends equal to the bit to one that was never stopped"
            )
        if made_with.verifier and self.verifier and made_with.verifier != self.verifier:
            notes.append(
                "resume: data.task: the verifier's file, or a package that it asks, is not the one that judged so far: "
                "from here on rewards may mean something else, and figures before and after may not compare; bring "
                "the old one back, or begin anew by --restart, if that is not what you want"
            )
        return notes


def code_version() -> str:
    """The commit, "none" without git, and a hash of this package's sources, which is what is compared."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{commit_of(_PACKAGE.parent)}/{digest.hexdigest()[:12]}"


def weights_identity(directory: Path) -> str:
    """A hash of the weight files, every byte of them: for a small model."""
    digest = hashlib.sha256()
    for path in sorted(path for path in directory.iterdir() if path.suffix in _WEIGHTS):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def model_identity(directory: Path | None) -> str:
    """A hash of config.json, of the tokenizer's size and of the weight files' names, sizes and heads: another model,
    or another dtype or vocabulary of it, has another. Weights of the same shapes are not told apart: to read them all
    takes minutes. "" for no model."""
    if directory is None:
        return ""
    digest = hashlib.sha256()
    for path in sorted(path for path in directory.iterdir() if path.is_file()):
        if path.name == "config.json":
            config = {k: v for k, v in json.loads(path.read_text()).items() if k not in _ORIGIN}
            digest.update(json.dumps(config, sort_keys=True).encode())
        elif path.suffix in _WEIGHTS:
            with path.open("rb") as file:
                digest.update(f"{path.name} {path.stat().st_size} ".encode() + file.read(_HEAD_BYTES))
        elif path.name == "tokenizer.json":
            digest.update(f"tokenizer {path.stat().st_size} ".encode())
    return digest.hexdigest()[:16]
