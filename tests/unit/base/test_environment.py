"""A verifier's environment holds no token."""

import pytest

from gps_ray.base.environment import clean_environment


def test_rays_token_and_its_path_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/somewhere")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert not any(name.startswith("RAY_AUTH_") for name in clean_environment())
    assert clean_environment({"RAY_AUTH_MODE": "token", "PATH": "/bin"}) == {"PATH": "/bin"}
