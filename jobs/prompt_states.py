"""Read what a model's middle layers say of prompts, as features for gps_fused.

``python -m jobs.prompt_states --model FOLDER --prompts FILE [FILE ...] --out FILE.safetensors`` with Parquet files that
have a column ``prompt``. Then ``jobs.replay ... features.prompt_states=FILE.safetensors``, or, for training on prompts
that stand in the file word for word, ``selection.features.prompt_states=FILE.safetensors``. Called again with the same
--out it reads only what is missing. A run reads its own policy by itself: ``selection.features.policy_states=true``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gps_ray.base.types import FloatArray
from gps_ray.config import FeaturesConfig
from gps_ray.model import load_tokenizer
from gps_ray.predictor.policy_states import ModelReader
from gps_ray.predictor.prompt_states import fill_states
from gps_ray.predictor.recorded import read_prompts
from jobs.cli import run_job


def _arguments() -> argparse.ArgumentParser:
    defaults = FeaturesConfig()
    parser = argparse.ArgumentParser(description="Read what a model's middle layers say of prompts.")
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER", help="a local Hugging Face folder")
    parser.add_argument("--prompts", type=Path, nargs="+", required=True, metavar="FILE", help="Parquet: prompt")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--depths", type=float, nargs="+", default=defaults.state_depths, help="layers, as shares of the model's depth"
    )
    parser.add_argument(
        "--max-tokens", type=int, default=defaults.state_max_tokens, help="read of a prompt, from its end"
    )
    parser.add_argument("--limit", type=int, default=None, help="the first N prompts of every file only")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of the forward pass")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--num-threads", type=int, default=1)
    return parser


def main(argv: Sequence[str]) -> int:
    args = _arguments().parse_args(argv)
    texts = [text for file in args.prompts for text in read_prompts(file)[: args.limit]]
    tokenizer = load_tokenizer(args.model)
    reader = ModelReader(
        args.model,
        args.depths,
        args.max_tokens,
        num_threads=args.num_threads,
        dtype=args.dtype,
        device=args.device,
    )

    def read(part: Sequence[str]) -> FloatArray:
        return reader.read([np.array(tokenizer.encode(text), dtype=np.int32) for text in part])

    stored = fill_states(args.out, reader.of, texts, read, lambda line: print(line, flush=True))
    print(f"{args.out} holds the states of {len(stored.digests)} prompts, {stored.states.shape[1]} numbers each")
    return 0


if __name__ == "__main__":
    run_job(main)
