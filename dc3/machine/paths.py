"""Where things lie.

Two environment variables move them: DC3_HOME what runs write (runs/, figures/), DC3_NOTEBOOKS the numbered notebooks.
"""

import os
from pathlib import Path

from dc3.machine.storage import Place, is_url, place

HEADLESS = "DC3_HEADLESS"  # 1: nobody looks at a screen; set by the runner and by `make test`
PACKAGE = Path(__file__).resolve().parents[1]
REPOSITORY = PACKAGE.parent
NOTEBOOKS = Path(os.environ.get("DC3_NOTEBOOKS", REPOSITORY / "notebooks")).resolve()
SHIPPED_EDITOR = PACKAGE / "tiny-instruct-pix2pix"
HOME = Path(os.environ.get("DC3_HOME", REPOSITORY)).resolve()
RUNS = HOME / "runs"  # one folder a run, one folder in it a stage
FEATURES = RUNS / ".features"  # features of image sets, by what they are made of; may be deleted at any time
FIGURES = HOME / "figures"  # one folder a run: pictures, and tables as .csv and .md


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
