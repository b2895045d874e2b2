"""Images that lie elsewhere: folders by URL (s3://…, gs://…, memory://…), listed and read through fsspec.

file:// is a folder of this machine, and is treated as any other. Credentials and endpoints are fsspec's own
configuration (its environment variables and files), never parameters.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

MARKS = ["size", "ETag", "etag", "md5Hash", "content_md5", "checksum", "mtime", "LastModified", "last_modified"]
MARKS += ["updated", "modified", "created"]  # by which file systems tell that a file has changed


@dataclass(frozen=True)
class Remote:
    """A file or folder by its URL, with as much of a Path as image sets need. OSError, naming it, where that fails."""

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "Remote":
        return Remote(f"{self.url.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return PurePosixPath(self.url).name

    @property
    def parent(self) -> "Remote":
        """The folder that it lies in."""
        return Remote(self.url.rstrip("/").rpartition("/")[0])

    def exists(self) -> bool:
        """Whether there is a file or folder of this URL."""
        with self._naming() as (system, path):
            return system.exists(path)

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        with self._naming() as (system, path):
            return system.isdir(path)

    def folders(self) -> list[str]:
        """The names of the folders in this one, sorted."""
        with self._naming() as (system, path):
            found = system.ls(path, detail=True)
            return sorted(PurePosixPath(entry["name"]).name for entry in found if entry["type"] == "directory")

    def files(self) -> dict[str, str]:
        """Every file below: its path relative to this folder → a mark that changes when the file does. Sorted."""
        with self._naming() as (system, path):
            system.invalidate_cache()
            found = {PurePosixPath(key): info for key, info in system.find(path, detail=True).items()}
            return {key.relative_to(path).as_posix(): _mark(info) for key, info in sorted(found.items())}

    def read_bytes(self) -> bytes:
        """The content of the file."""
        with self._naming() as (system, path):
            return system.cat_file(path)

    def write_bytes(self, content: bytes) -> None:
        """In one request, so that an object store has the file whole or not at all."""
        with self._naming() as (system, path):
            system.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
            system.pipe_file(path, content)

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes the file."""
        with self._naming() as (system, path):
            if not missing_ok or system.exists(path):
                system.rm_file(path)

    @contextmanager
    def _naming(self) -> Iterator[tuple[Any, str]]:
        try:
            yield fsspec.core.url_to_fs(self.url)
        except Exception as error:  # each store has exceptions of its own
            raise OSError(f"{self.url}: {type(error).__name__}: {error}") from error


Place = Path | Remote


def is_url(text: str) -> bool:
    """Whether a location is given by its URL, not as a path."""
    return "://" in text


def place(text: str | Path) -> Place:
    """A path as a Path, and so a file:// URL; any other URL as a Remote.

    ValueError for a URL that nothing here can open: an unknown protocol, or one whose package is not installed.
    """
    if isinstance(text, Path) or not is_url(text):
        return Path(text).expanduser()
    try:
        system, path = fsspec.core.url_to_fs(text)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{text!r} cannot be opened ({error})") from error
    return Path(path) if isinstance(system, LocalFileSystem) else Remote(text.rstrip("/"))


def _mark(info: dict[str, Any]) -> str:
    return " ".join(f"{key}={info[key]}" for key in MARKS if info.get(key) is not None)
