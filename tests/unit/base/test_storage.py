import errno
import os
from pathlib import Path

import pytest

from gps_ray.base.errors import StorageError
from gps_ray.base.storage import check_room, human_bytes, storage_error, writing


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "no room for 3.0 GiB: the disk is full, "),
        (errno.EDQUOT, "no room for 3.0 GiB: over the quota"),
        (errno.EROFS, r"may not be written \(\[Errno 30\] Read-only file system: '.*'\); make its folder writable"),
        (errno.EACCES, "may not be written"),
        (errno.EIO, "cannot be written"),
    ],
)
def test_what_the_system_says_becomes_a_line_with_the_remedy(tmp_path: Path, code: int, said: str) -> None:
    file = tmp_path / "shard"
    error = storage_error(file, OSError(code, os.strerror(code), str(file)), need=3 << 30)
    assert error.exit_code == 3
    with pytest.raises(StorageError, match=rf"^{file}: {said}.*--resume goes on from the last checkpoint$"):
        raise error


def test_a_deleted_folder_is_said_and_others_errors_only_where_named(tmp_path: Path) -> None:
    file = tmp_path / "gone" / "file"
    with pytest.raises(StorageError, match="its folder is gone"), writing(file):
        file.write_text("x")
    with pytest.raises(RuntimeError), writing(file):
        raise RuntimeError("unexpected pos 704 vs 598")
    file.parent.mkdir()
    with (
        pytest.raises(StorageError, match=r"cannot be written \(RuntimeError: unexpected pos"),
        writing(file, RuntimeError),
    ):
        raise RuntimeError("unexpected pos 704 vs 598")


def test_room_is_looked_at_before(tmp_path: Path) -> None:
    check_room(tmp_path, 1000)
    with pytest.raises(StorageError, match=r"no room for 1048576\.0 TiB: the disk is full, .* free"):
        check_room(tmp_path, 1 << 60)
    check_room(tmp_path / "gone", 1 << 60)  # another error says that better


def test_bytes_for_people() -> None:
    assert [human_bytes(n) for n in (0, 1023, 1024, 5 << 20, 3 << 40, 1 << 60)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "5.0 MiB",
        "3.0 TiB",
        "1048576.0 TiB",
    ]
