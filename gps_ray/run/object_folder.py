"""A folder on an object store, or on anything else that pyarrow or fsspec can open by a URI."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow as pa

from gps_ray.base.errors import ConfigError, one_line

__all__ = ["STORE_ERRORS", "ObjectFolder"]

_BLOCK = 1 << 20  # bytes
# What a store's driver may raise.
STORE_ERRORS = (OSError, pa.ArrowException, ValueError)


class ObjectFolder:
    """Files by name (``a/b/c``) below one place. Everything raises OSError where the store does not do it.

    A file that could not be written to its end may be there all the same, in part.
    """

    def __init__(self, uri: str) -> None:
        """Raises ConfigError where nothing opens the URI. Looks at the store no further than its driver does."""
        from pyarrow import fs  # its S3 driver starts threads, which a run without a mirror does not need

        shown = urlsplit(uri)
        if not shown.scheme or "\0" in uri:
            raise ConfigError(
                f"run.mirror: expected a URI such as s3://bucket/folder or file:///folder, got {uri!r:.200}"
            )
        if shown.password is not None:
            raise ConfigError(
                "run.mirror: keys in a URI would stand in config.yaml for everybody to read; leave them out and set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or what your store reads"
            )
        try:
            self._store, path = _s3(uri) if shown.scheme == "s3" else fs.FileSystem.from_uri(uri)
        except (pa.ArrowException, OSError, ValueError, ImportError) as error:
            raise ConfigError(f"run.mirror: {uri!r:.200} cannot be opened ({one_line(error)}); give another") from error
        self.uri = uri
        self._selector: Any = fs.FileSelector
        self._base = path.rstrip("/")

    def put(self, name: str, source: Path, start: int = 0, num_bytes: int | None = None) -> None:
        """A file of this machine, or ``num_bytes`` of it from ``start`` on. Raises OSError where it has fewer."""
        with source.open("rb") as file, self._writer(name) as stream:
            file.seek(start)
            left = source.stat().st_size - start if num_bytes is None else num_bytes
            while left:
                block = file.read(min(left, _BLOCK))
                if not block:
                    raise OSError(f"{source}: expected {left} bytes more")
                stream.write(block)
                left -= len(block)

    def put_bytes(self, name: str, data: bytes) -> None:
        with self._writer(name) as stream:
            stream.write(data)

    def read(self, name: str) -> bytes:
        with self._store.open_input_stream(self._path(name), compression=None) as stream:
            data: bytes = stream.read()
        return data

    def get(self, name: str, target: Path) -> None:
        """Append the file to ``target``."""
        with self._store.open_input_stream(self._path(name), compression=None) as stream, target.open("ab") as file:
            while block := stream.read(_BLOCK):
                file.write(block)

    def sizes(self) -> dict[str, int]:
        """Every file, with its size in bytes."""
        return {name: info.size for name, info in self._files(self._base)}

    def times(self, folder: str) -> dict[str, float | None]:
        """When each file below ``folder`` was written last, in seconds by the store's clock; None: it does not say."""
        files = self._files(self._path(folder))
        return {name: None if info.mtime is None else info.mtime_ns / 1e9 for name, info in files}

    def _files(self, path: str) -> Iterator[tuple[str, Any]]:
        for info in self._store.get_file_info(self._selector(path, recursive=True, allow_not_found=True)):
            if info.is_file:
                yield info.path.removeprefix(self._base).lstrip("/"), info

    def delete(self, name: str) -> None:
        self._store.delete_file(self._path(name))

    def delete_folder(self, name: str) -> None:
        self._store.delete_dir(self._path(name))

    def _writer(self, name: str) -> Any:
        path = self._path(name)
        # Object stores have no folders, and make none; a local file needs one.
        if not self._store.type_name.startswith(("s3", "gcs", "abfs")):
            self._store.create_dir(path.rpartition("/")[0])
        return self._store.open_output_stream(path, compression=None)

    def _path(self, name: str) -> str:
        return f"{self._base}/{name}"


# Of pyarrow's own parameters those that a bucket which is there may need.
_S3_PARAMETERS = ("region", "scheme", "endpoint_override")


def _s3(uri: str) -> tuple[Any, str]:
    """As pyarrow's own ``from_uri``, which tries again for more than a minute where a server does not answer."""
    from pyarrow import fs

    parts = urlsplit(uri)
    parameters = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    unknown = sorted(set(parameters) - set(_S3_PARAMETERS))
    if unknown:
        raise ValueError(f"{unknown[0]}: not one of {', '.join(_S3_PARAMETERS)}")
    if not parts.netloc:
        raise ValueError("no bucket in it")
    store = fs.S3FileSystem(retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=3), **parameters)
    return store, f"{parts.netloc}{unquote(parts.path)}"
