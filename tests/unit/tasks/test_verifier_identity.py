from pathlib import Path

import pytest

from gps_ray.tasks.registry import load_task
from gps_ray.tasks.verifier_identity import verifier_identity

OWN = "def reward(response):\n    return response == {right!r}\n"


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_change_of_the_users_verifier_is_another_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrapped: bool
) -> None:
    """Asked by the source of a prompt too: evaluations kept under the old one are not its verdicts."""
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / f"own_verifier_{wrapped}.py"
    module.write_text(OWN.format(right="1"))
    name = f"{module.stem}:reward"
    task = load_task("by_source", {"sources": {"mine": name}}) if wrapped else load_task(name, {})
    before = verifier_identity(task)
    assert verifier_identity(task) == before
    module.write_text(OWN.format(right="2"))
    assert verifier_identity(task) != before


def test_built_in_verifiers_are_known_by_what_they_are_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    shaped = load_task("math", {"format": "boxed", "format_reward": 0.1})
    before = verifier_identity(shaped)
    assert verifier_identity(load_task("math", {})) == before
    monkeypatch.setattr("importlib.metadata.version", lambda package: "another")
    assert verifier_identity(shaped) != before
