"""How figures are written: a PNG to look at and a PDF to print, small, and the same bytes whenever drawn again.

PDF and not SVG, because LaTeX takes it, it holds its fonts, and photographs in it are a quarter smaller.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from PIL import Image

from dc3.files import replacing

log = logging.getLogger(__name__)

STYLE = Path(__file__).with_name("figure_files.mplstyle")
LIMIT = 300_000  # bytes a file: pages with a dozen figures still load, and a repository can keep them
PALETTE = 256  # colours, where photographs have to be reduced: PNG and PDF store them in one byte a pixel
REDUCTIONS = [(200, None), (100, None), (150, PALETTE), (100, PALETTE), (50, PALETTE)]  # dots an inch, colours
UNDATED = {  # what would make two files of one picture differ: dates and versions
    ".png": {"Software": None},
    ".pdf": {"Creator": None, "Producer": None, "CreationDate": None},
}

plt.style.use(STYLE)
logging.getLogger("fontTools").setLevel(logging.WARNING)  # a hundred lines a PDF on what it did to the fonts


class FigureTooLarge(ValueError):
    """A figure that no reduction brings below LIMIT."""


def save(figure: Figure, path: Path) -> None:
    """Writes path.png and path.pdf, each complete or not at all; path's own suffix does not matter.

    A file above LIMIT is written again with less, and the log says so: rasters at 100 instead of 200 dots an inch, then
    in 256 colours of their own choice. Lines and text of the PDF stay vectors throughout.
    Raises FigureTooLarge when that is not enough: too many vector marks, which the drawing function must rasterise.
    """
    for suffix, metadata in UNDATED.items():
        target = path.with_suffix(suffix)
        with replacing(target) as partial:
            _write(figure, partial, target, metadata)


def _write(figure: Figure, partial: Path, target: Path, metadata: dict[str, None]) -> None:
    name = target.name
    for dpi, colors in REDUCTIONS:
        with _images_in(figure, colors):
            figure.savefig(partial, dpi=dpi, metadata=metadata)
        if colors and target.suffix == ".png":
            _to_palette(partial, colors)
        if partial.stat().st_size <= LIMIT:
            if (dpi, colors) != REDUCTIONS[0]:
                log.info("%s: reduced to %d dpi%s to stay below %d kB", name, dpi, _told(colors), LIMIT // 1000)
            return
    raise FigureTooLarge(
        f"{name} takes {partial.stat().st_size / 1000:.0f} kB at {dpi} dpi and {colors} colours, {LIMIT // 1000} kB "
        "are allowed: show fewer images, or draw its many marks with rasterized=True"
    )


def _to_palette(path: Path, colors: int) -> None:
    """A PNG of `colors` colours in the place of a true-colour one: a byte a pixel instead of four."""
    with Image.open(path) as image:
        reduced = _reduced(image.convert("RGB"), colors)
    reduced.save(path, format="PNG", optimize=True)


def _told(colors: int | None) -> str:
    return f" and {colors} colours" if colors else ""


@contextmanager
def _images_in(figure: Figure, colors: int | None) -> Iterator[None]:
    """The figure with its photographs in at most `colors` colours; None: as they are."""
    if colors is None:
        yield
        return
    photographs = [image for image in figure.findobj(AxesImage) if np.ndim(image.get_array()) == 3]
    originals = [image.get_array() for image in photographs]
    try:
        for image, pixels in zip(photographs, originals, strict=True):
            image.set_data(quantised(np.asarray(pixels), colors))
        yield
    finally:
        for image, pixels in zip(photographs, originals, strict=True):
            image.set_data(pixels)


def quantised(pixels: np.ndarray, colors: int) -> np.ndarray:
    """uint8 (H, W, 3) in at most `colors` colours, chosen for this image by median cut, without dithering."""
    return np.asarray(_reduced(Image.fromarray(pixels), colors).convert("RGB"))


def _reduced(image: Image.Image, colors: int) -> Image.Image:
    return image.quantize(colors, Image.Quantize.MEDIANCUT, kmeans=1, dither=Image.Dither.NONE)


def save_table(table: pd.DataFrame, path: Path) -> None:
    """Writes a table as path.csv (full precision) and path.md (to read)."""
    with replacing(path.with_suffix(".csv")) as partial:
        table.to_csv(partial, index=False)
    with replacing(path.with_suffix(".md")) as partial:
        texts = [k for k, column in enumerate(table) if not pd.api.types.is_numeric_dtype(table[column])]
        partial.write_text(table.to_markdown(index=False, floatfmt=".3g", disable_numparse=texts) + "\n")
