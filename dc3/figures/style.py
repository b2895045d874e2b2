"""The files of figures: a small PNG for the screen and a small PDF for print, with reproducible bytes.

PDF, not SVG: LaTeX reads it, it contains its fonts, and its photographs are a quarter smaller.
"""

import csv
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import rcParams
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from PIL import Image

from dc3.figures.names import families
from dc3.machine.files import replacing
from dc3.machine.markup import literal

log = logging.getLogger(__name__)

STYLE = Path(__file__).with_name("style.mplstyle")
LIMIT = 300_000  # bytes per file: pages with a dozen figures still load, and a repository can keep them
PALETTE = 256  # colours of reduced photographs: PNG and PDF store them in one byte per pixel
MAX_ROWS = 100  # of a table in Markdown: one of 1,000 classes is for the CSV
REDUCTIONS = [  # dots per inch, colours, whether marks become rasters
    (200, None, False),
    (100, None, False),
    (150, PALETTE, False),
    (100, PALETTE, False),
    (100, PALETTE, True),
    (50, PALETTE, True),
]
UNDATED = {  # without dates and versions, the files of one picture are the same
    ".png": {"Software": None},
    ".pdf": {"Creator": None, "Producer": None, "CreationDate": None},
}

plt.style.use(STYLE)
rcParams["font.family"] = families()  # a letter that one lacks is taken from the next
pd.set_option("display.html.use_mathjax", False)  # a class may be called $1_vs_$5, also in tables that notebooks show
logging.getLogger("fontTools").setLevel(logging.WARNING)  # it logs a hundred lines per PDF


def save(figure: Figure, path: Path) -> None:
    """Writes path.png and path.pdf, each complete or not at all; path's own suffix does not matter.

    A file above LIMIT is reduced, with a log message: first rasters of 100 instead of 200 dots per inch, then 256
    colours chosen for each photograph; last, the marks of a PDF become rasters, and only its text stays vectors. A file
    that is still too large is kept, with a warning: the size of a picture never stops a run.
    """
    for suffix, metadata in UNDATED.items():
        target = path.with_suffix(suffix)
        with replacing(target) as partial:
            _write(figure, partial, target, metadata)


def _write(figure: Figure, partial: Path, target: Path, metadata: dict[str, None]) -> None:
    name = target.name
    for dpi, colors, marks in REDUCTIONS:
        with _images_in(figure, colors), _rasterized(figure, marks):
            figure.savefig(partial, dpi=dpi, metadata=metadata)
        if colors and target.suffix == ".png":
            _to_palette(partial, colors)
        if partial.stat().st_size <= LIMIT:
            if (dpi, colors, marks) != REDUCTIONS[0]:
                palette = f" and {colors} colours" if colors else ""
                log.info("%s: reduced to %d dpi%s to stay below %d kB", name, dpi, palette, LIMIT // 1000)
            return
    size = partial.stat().st_size / 1000
    log.warning("%s takes %.0f kB, more than %d kB: show fewer images or marks in it", name, size, LIMIT // 1000)


def _to_palette(path: Path, colors: int) -> None:
    """Reduces a true-colour PNG to `colors` colours: one byte per pixel instead of four."""
    with Image.open(path) as image:
        reduced = _reduced(image.convert("RGB"), colors)
    reduced.save(path, format="PNG", optimize=True)


@contextmanager
def _images_in(figure: Figure, colors: int | None) -> Iterator[None]:
    """The figure with its photographs in at most `colors` colours; None: unchanged."""
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


@contextmanager
def _rasterized(figure: Figure, marks: bool) -> Iterator[None]:
    """The figure with lines, points and cells as rasters; this changes only a PDF."""
    drawn = [mark for ax in figure.axes for mark in (*ax.collections, *ax.lines, *ax.patches)] if marks else []
    before = [mark.get_rasterized() for mark in drawn]
    try:
        for mark in drawn:
            mark.set_rasterized(True)
        yield
    finally:
        for mark, was in zip(drawn, before, strict=True):
            mark.set_rasterized(was)


def quantised(pixels: np.ndarray, colors: int) -> np.ndarray:
    """uint8 (H, W, 3) in at most `colors` colours, chosen for this image by median cut, without dithering."""
    return np.asarray(_reduced(Image.fromarray(pixels), colors).convert("RGB"))


def _reduced(image: Image.Image, colors: int) -> Image.Image:
    return image.quantize(colors, Image.Quantize.MEDIANCUT, kmeans=1, dither=Image.Dither.NONE)


CYCLE: list[str] = rcParams["axes.prop_cycle"].by_key()["color"]
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK, YELLOW = CYCLE  # Okabe and Ito's
GREY = "#808080"  # light enough to see lines in a filled mark
SET_COLORS = {
    "DC3": BLUE,
    "DC3 picks, plain": ORANGE,
    "picks": ORANGE,
    "condensed": BLUE,
    "random": GREEN,
    "RDED": VERMILION,
    "herding": PURPLE,
    "DQ": SKY,
    "full set": GREY,
}
FREE_COLORS = [BLACK, SKY, PURPLE, YELLOW]  # of no set, or of sets that are seldom drawn


def colors_of(names: Iterable[str]) -> dict[str, str]:
    """A colour for each of `names`, a set's own by SET_COLORS.

    Of several settings of a set ("DC3, IPC 10") the first has its colour, if the set itself is not among them. Other
    names have unused colours, FREE_COLORS first.
    """
    distinct = list(dict.fromkeys(names))
    found = {name: SET_COLORS[name] for name in distinct if name in SET_COLORS}
    for name in distinct:
        sets = [known for known in SET_COLORS if name.startswith(f"{known}, ")]
        if name not in found and sets and (own := SET_COLORS[max(sets, key=len)]) not in found.values():
            found[name] = own
    left = [color for color in dict.fromkeys(FREE_COLORS + CYCLE) if color not in found.values()] or CYCLE
    others = [name for name in distinct if name not in found]
    found |= {name: left[k % len(left)] for k, name in enumerate(others)}
    return {name: found[name] for name in distinct}


def save_table(table: pd.DataFrame, path: Path) -> None:
    """Writes a table as path.csv, all rows in full precision, and as path.md, at most MAX_ROWS rows, to read.

    In Markdown texts are literal: a class called `$1|<b>` is no formula, no column and no markup.
    """
    with replacing(path.with_suffix(".csv")) as partial:
        table.to_csv(partial, index=False, quoting=_quoting(table))
    with replacing(path.with_suffix(".md")) as partial:
        partial.write_text(_markdown(table, f"{path.name}.csv"), encoding="utf-8")


def _quoting(table: pd.DataFrame) -> int:
    """Quotes around all texts when one has a carriage return, which Python's csv takes for the end of a row."""
    returns = table.map(lambda value: isinstance(value, str) and "\r" in value).to_numpy().any()
    return csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL


def _markdown(table: pd.DataFrame, whole: str) -> str:
    shown = table.head(MAX_ROWS)
    texts = [k for k, column in enumerate(table) if not pd.api.types.is_numeric_dtype(table[column])]
    shown = shown.map(lambda value: literal(value) if isinstance(value, str) else value)
    shown.columns = [literal(str(name)) for name in table]
    text = shown.to_markdown(index=False, floatfmt=".3g", disable_numparse=texts)
    more = f"\n\nThe first {MAX_ROWS} of {len(table):,} rows; {whole} has all." if len(table) > MAX_ROWS else ""
    return f"{text}{more}\n"
