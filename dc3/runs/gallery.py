"""The figures and tables of a run: whose they are, and all on one page, in the order of its stages (README.md)."""

from collections.abc import Sequence
from pathlib import Path

from dc3.machine.files import replacing
from dc3.runs.parameters import notebook_names

NAME = "README.md"


def of_stage(folder: Path, stage: str) -> list[Path]:
    """The files in `folder` that are a stage's ("03_sampling"): their names begin with its own, without the number.

    With the longest such name: color_and_fid_hues.png is not of a stage "color".
    """
    noun = _noun(stage)
    longer = tuple(f"{other}_" for other in map(_noun, notebook_names()) if other.startswith(f"{noun}_"))
    found = (path for path in folder.glob(f"{noun}_*") if path.is_file() and not path.name.startswith(longer))
    return sorted(found)


def write(folder: Path, stages: Sequence[str]) -> Path | None:
    """Writes the page over what stages ("03_sampling") left in `folder`; None where there is nothing yet."""
    sections = [section for stage in stages if (section := _section(folder, stage))]
    if not sections:
        return None
    heading = f"# Figures and tables of run {folder.name}\n\nWritten by `dc3 run`; for print there are PDFs beside."
    with replacing(folder / NAME) as partial:
        partial.write_text("\n\n".join([heading, *sections]) + "\n")
    return folder / NAME


def _section(folder: Path, stage: str) -> str:
    number, name = stage.split("_", 1)
    shown = [path for path in of_stage(folder, stage) if path.suffix in (".png", ".md")]
    parts = [_shown(path, path.stem.removeprefix(f"{name}_").replace("_", " ")) for path in shown]
    return "\n\n".join([f"## {number} {name.replace('_', ' ')}", *parts]) if parts else ""


def _noun(stage: str) -> str:
    return stage.split("_", 1)[1]


def _shown(path: Path, title: str) -> str:
    if path.suffix == ".png":
        return f"**{title}**\n\n![{title}]({path.name})"
    return f"**{title}** ([csv]({path.with_suffix('.csv').name}))\n\n{path.read_text().strip()}"
