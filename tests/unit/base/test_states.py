from pathlib import Path

import numpy as np
import pytest

from gps_ray.base.errors import CheckpointError
from gps_ray.base.states import load_state_file, save_state_file


def test_state_files_survive_and_damage_is_named(tmp_path: Path) -> None:
    state = {"a/b": np.arange(6).reshape(2, 3).T, "scalar": np.array(3.5)}
    path = tmp_path / "state.safetensors"
    save_state_file(state, path)
    back = load_state_file(path)
    for name, array in state.items():
        np.testing.assert_array_equal(back[name], array)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(CheckpointError, match=r"state\.safetensors"):
        load_state_file(path)
