"""All figures and tables of a run on one page, in the order of its stages: figures/<run>/README.md."""

from collections.abc import Sequence
from pathlib import Path

from dc3.files import replacing

NAME = "README.md"


def write(folder: Path, stages: Sequence[str]) -> Path | None:
    """Writes the page over what stages ("03_sampling") left in `folder`; None where there is nothing yet.

    A picture or table belongs to the stage whose name, without the number, its file name begins with.
    """
    sections = [section for stage in stages if (section := _section(folder, stage))]
    if not sections:
        return None
    heading = f"# Figures and tables of run {folder.name}\n\nWritten by `dc3 run`; for print there are PDFs beside."
    with replacing(folder / NAME) as partial:
        partial.write_text("\n\n".join([heading, *sections]) + "\n")
    return folder / NAME


def _section(folder: Path, stage: str) -> str:
    number, name = stage.split("_", 1)
    shown = sorted(path for path in folder.glob(f"{name}_*") if path.suffix in (".png", ".md"))
    parts = [_shown(path, path.stem.removeprefix(f"{name}_").replace("_", " ")) for path in shown]
    return "\n\n".join([f"## {number} {name.replace('_', ' ')}", *parts]) if parts else ""


def _shown(path: Path, title: str) -> str:
    if path.suffix == ".png":
        return f"**{title}**\n\n![{title}]({path.name})"
    return f"**{title}** ([csv]({path.with_suffix('.csv').name}))\n\n{path.read_text().strip()}"
