"""Folders of models that people train, as far as a plan reads them: config.json, tokenizer, chat template."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>"
_LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True}
_QWEN2 = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "tie_word_embeddings": False}
_QWEN3 = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 128}


def _shape(
    hidden: int, layers: int, inner: int, heads: int, kv_heads: int, vocab: int, positions: int
) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": positions,
    }


# The published config.json of each, as far as shapes go, and billions of parameters.
MODELS: dict[str, tuple[dict[str, Any], float]] = {
    "Qwen3-4B": (_QWEN3 | _shape(2560, 36, 9728, 32, 8, 151936, 40960) | {"tie_word_embeddings": True}, 4.02),
    "Qwen3-8B": (_QWEN3 | _shape(4096, 36, 12288, 32, 8, 151936, 40960) | {"tie_word_embeddings": False}, 8.19),
    "DeepSeek-R1-Distill-Qwen-1.5B": (_QWEN2 | _shape(1536, 28, 8960, 12, 2, 151936, 131072), 1.78),
    "DeepSeek-R1-Distill-Qwen-7B": (_QWEN2 | _shape(3584, 28, 18944, 28, 4, 152064, 131072), 7.62),
    "Llama-3.2-3B-Instruct": (_LLAMA | _shape(3072, 28, 8192, 24, 8, 128256, 131072) | {"head_dim": 128}, 3.21),
}
SMALL = _LLAMA | _shape(576, 30, 1536, 9, 3, 49152, 8192)


def model_folder(directory: Path, tokenizer: Path, config: dict[str, Any], template: str = TEMPLATE) -> Path:
    directory.mkdir(parents=True)
    for file in tokenizer.glob("tokenizer*"):
        shutil.copy(file, directory)
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "chat_template.jinja").write_text(template)
    return directory
