"""Where things lie.

In the workspace: the folder of `dc3 init` that the current folder is or lies in, else the repository. Two environment
variables move parts of it: DC3_HOME the outputs (runs/, figures/), DC3_NOTEBOOKS the numbered notebooks.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Union

from dc3.machine.files import walk

if TYPE_CHECKING:
    from upath import UPath

HEADLESS = "DC3_HEADLESS"  # 1: no screen; set by the runner and by `make test`
MARKER = ".dc3"  # a file in the folders of `dc3 init`


def workspace_of(path: Path) -> Path | None:
    """The folder of `dc3 init` that an absolute path is or lies in; None outside."""
    return next((folder for folder in (path, *path.parents) if (folder / MARKER).is_file()), None)


PACKAGE = Path(__file__).resolve().parents[1]
REPOSITORY = PACKAGE.parent  # of a clone
WORKSPACE = workspace_of(Path.cwd()) or REPOSITORY
NOTEBOOKS = Path(os.environ.get("DC3_NOTEBOOKS", WORKSPACE / "notebooks")).resolve()
SHIPPED_EDITOR = PACKAGE / "tiny-instruct-pix2pix"
HOME = Path(os.environ.get("DC3_HOME", WORKSPACE)).resolve()
RUNS = HOME / "runs"  # <run>/<stage>/
FEATURES = RUNS / ".features"  # a cache of image sets' features; may be deleted at any time
FIGURES = HOME / "figures"  # <run>/: pictures, and tables as .csv and .md
Place = Union[Path, "UPath"]  # upath and fsspec are imported only for URLs
DROPPINGS = ("__MACOSX", "__pycache__", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found")
MARKS = ["size", "ETag", "etag", "md5Hash", "content_md5", "checksum", "mtime", "LastModified", "last_modified"]
MARKS += ["updated", "modified", "created"]  # fields by which file systems show that a file changed


def is_headless() -> bool:
    """Whether nobody looks on: the runner or `make test` executes the notebook."""
    return os.environ.get(HEADLESS) == "1"


def is_url(text: str) -> bool:
    """Whether a location is a URL, not a path."""
    return "://" in text


def place(text: str | Path) -> Place:
    """A path or file:// URL as a Path, any other URL as a UPath.

    ValueError for an unknown protocol, or one whose package is not installed.
    """
    if isinstance(text, Path) or not is_url(text):
        return Path(text).expanduser()
    from upath import UPath
    from upath.implementations.local import FilePath

    try:
        opened = UPath(text.rstrip("/"))
        _ = opened.fs  # imports the package of its protocol
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"{text!r} cannot be opened ({error}): give a path, or a URL that fsspec opens; "
            "some need a package (s3fs for s3://, gcsfs for gs://)"
        ) from error
    return Path(opened.path) if isinstance(opened, FilePath) else opened


@contextmanager
def reaching(place: Place | None) -> Iterator[None]:
    """Turns a remote store's own exceptions into an OSError that names the URL."""
    try:
        yield
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:
        if place is None or isinstance(place, Path):
            raise
        raise OSError(f"{place} cannot be reached ({type(error).__name__}: {error})") from error


def marks(folder: "UPath") -> dict[str, str]:
    """Every file below a URL, sorted, relative to it → size and ETag or times, which change when the file does."""
    with reaching(folder):
        folder.fs.invalidate_cache()
        found = {PurePosixPath(name): info for name, info in folder.fs.find(folder.path, detail=True).items()}
        return {
            name.relative_to(folder.path).as_posix(): " ".join(
                f"{key}={info[key]}" for key in MARKS if info.get(key) is not None
            )
            for name, info in sorted(found.items())
        }


def is_hidden(path: str) -> bool:
    """Whether a relative path leads through a hidden file or folder, or one that a system leaves behind (DROPPINGS)."""
    return any(part.startswith(".") or part in DROPPINGS for part in path.split("/"))


def files_below(folder: Place, hidden: bool = False) -> Iterator[str]:
    """Every file below a folder, relative to it, in the order of sorted paths: those that `is_hidden`, or the others.

    Raises like `files.walk` and `marks`.
    """
    if isinstance(folder, Path):
        prefix = len(os.path.join(folder, ""))
        found: Iterable[str] = (path[prefix:] for path in walk(folder))
    else:
        found = marks(folder)
    return (path for path in found if is_hidden(path) == hidden)


def resolve(path: str) -> Path:
    """The absolute path of a parameter's value: relative paths are relative to the workspace."""
    return WORKSPACE / os.path.expanduser(path)  # which leaves ~ with an unknown name as it is


def located(path: str) -> Place:
    """The same for a path or URL. ValueError for a URL that cannot be opened."""
    return place(path) if is_url(path) else resolve(path)


def relative_in_workspace(place: Place) -> str:
    """A place for a manifest: relative inside the workspace, so that every clone finds it with `located`."""
    if isinstance(place, Path) and place.is_relative_to(WORKSPACE):
        return place.relative_to(WORKSPACE).as_posix()
    return str(place)


def model_location(name: str) -> str:
    """The argument of `from_pretrained`: the shipped editor's folder, an existing path, or the hub id unchanged."""
    if name == SHIPPED_EDITOR.name:
        return str(SHIPPED_EDITOR)
    return str(resolve(name)) if name and os.path.exists(resolve(name)) else name


def shown(path: Path) -> str:
    """A path for people: relative to HOME when it lies inside."""
    return str(path.relative_to(HOME)) if path.is_relative_to(HOME) else str(path)
