"""Ray's token on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.token import ensure_private_token
from gps_ray.base.errors import ConfigError


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    # Not pytest's own folder, which is closed to others.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setenv("HOME", folder)
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_a_token_is_made_once_for_its_owner_alone(home: Path) -> None:
    path = home / ".ray" / "auth_token"
    ensure_private_token()
    first = path.read_text()
    ensure_private_token()
    assert len(first) == 64
    assert path.read_text() == first
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["auth_token"]


def test_a_token_that_others_can_read_is_refused_in_one_line(home: Path) -> None:
    path = home / ".ray" / "auth_token"
    ensure_private_token()
    path.parent.chmod(0o755)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match=r"got 0644; .*chmod 600") as caught:
        ensure_private_token()
    assert "\n" not in str(caught.value)
    home.chmod(0o700)  # nobody else gets as far as the file
    ensure_private_token()


def test_the_file_that_the_environment_names_is_looked_at(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = home / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    with pytest.raises(ConfigError, match=r"RAY_AUTH_TOKEN_PATH: cannot read .*No such file"):
        ensure_private_token()
    token.write_text("t")
    token.chmod(0o644)
    with pytest.raises(ConfigError, match="got 0644"):
        ensure_private_token()
    token.chmod(0o600)
    ensure_private_token()
    assert not (home / ".ray").exists()
