from pathlib import Path

import numpy as np
import pytest

from gps_ray.base.errors import CheckpointError
from gps_ray.base.states import below, load_state_file, nested, save_state_file


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


def test_a_part_is_found_again_in_the_whole() -> None:
    inner, outer = {"a": np.arange(2), "b/c": np.arange(3)}, {"a": np.zeros(1)}
    whole = nested("part", inner) | nested("partner", outer) | {"part": np.ones(1)}
    assert sorted(whole) == ["part", "part/a", "part/b/c", "partner/a"]
    assert below("part", whole) == inner
    assert below("partner", whole) == outer
    assert below("absent", whole) == {}
