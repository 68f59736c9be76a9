"""Ray's token, which whoever holds it may run code with: made for its owner alone, refused where others can read it."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from gps_ray.base.errors import ConfigError

__all__ = ["ensure_private_token"]


def ensure_private_token() -> None:
    """Make the token file that a local Ray reads (mode 0600) where there is none; leave one that is private.

    Ray looks at RAY_AUTH_TOKEN first, then at the file of RAY_AUTH_TOKEN_PATH, then at ``~/.ray/auth_token``, and makes
    the last one itself, readable by whom the umask allows: so it is made here. Raises ConfigError for a file that
    others can read; one that Ray made in a home that is closed to others is let pass.
    """
    if os.environ.get("RAY_AUTH_TOKEN"):
        return
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    if named is None:
        _make(path)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(
            f"RAY_AUTH_TOKEN_PATH: cannot read {path}: {error.strerror}; give a token's file or unset it"
        ) from error
    if _is_open(path, mode):
        raise ConfigError(
            f"{path}: expected Ray's token to be open to its owner alone (mode 0600), got {mode & 0o777:04o}; "
            "others may know it: delete the file for a new token, or `chmod 600` it where they do not"
        )


def _is_open(path: Path, mode: int) -> bool:
    """May group or others read or write the file, and pass all folders above it?"""
    folders = [folder.stat().st_mode for folder in path.resolve().parents]
    by_group = mode & 0o060 and all(folder & 0o011 for folder in folders)
    by_others = mode & 0o006 and all(folder & 0o001 for folder in folders)
    return bool(by_group or by_others)


def _make(path: Path) -> None:
    """Appears whole or not at all: two runs that start at once find the same token."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    with open(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    try:
        os.link(partial, path)
    except FileExistsError:
        pass  # another run was first
    finally:
        partial.unlink()
