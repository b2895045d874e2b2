"""Where things lie.

Two environment variables move them: DC3_HOME what runs write (runs/, figures/), DC3_NOTEBOOKS the numbered notebooks.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

HEADLESS = "DC3_HEADLESS"  # 1: nobody looks at a screen; set by the runner and by `make test`
PACKAGE = Path(__file__).resolve().parents[1]
REPOSITORY = PACKAGE.parent
NOTEBOOKS = Path(os.environ.get("DC3_NOTEBOOKS", REPOSITORY / "notebooks")).resolve()
SHIPPED_EDITOR = PACKAGE / "tiny-instruct-pix2pix"
HOME = Path(os.environ.get("DC3_HOME", REPOSITORY)).resolve()
RUNS = HOME / "runs"  # one folder a run, one folder in it a stage
FEATURES = RUNS / ".features"  # features of image sets, by what they are made of; may be deleted at any time
FIGURES = HOME / "figures"  # one folder a run: pictures, and tables as .csv and .md


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


def resolve(path: str) -> Path:
    """An absolute path as it is; a relative one as it is meant in parameters: relative to the repository."""
    return REPOSITORY / Path(path).expanduser()


def located(path: str) -> Place:
    """The same of a path or URL. ValueError for a URL that cannot be opened."""
    return place(path) if is_url(path) else resolve(path)


def in_clone(place: Place) -> str:
    """A place for a manifest: relative where it lies in the repository, so that every clone knows it. See `located`."""
    if isinstance(place, Path) and place.is_relative_to(REPOSITORY):
        return place.relative_to(REPOSITORY).as_posix()
    return str(place)


def model_location(name: str) -> str:
    """What `from_pretrained` takes: the shipped editor's folder, a path that exists, or the hub id as it stands."""
    if name == SHIPPED_EDITOR.name:
        return str(SHIPPED_EDITOR)
    return str(resolve(name)) if name and resolve(name).exists() else name


def shown(path: Path) -> str:
    """A path for people: relative to the home of the runs where it lies inside."""
    return str(path.relative_to(HOME)) if path.is_relative_to(HOME) else str(path)
