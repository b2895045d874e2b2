"""A panel for JupyterLab over the bins: point at an image on the map of its class, or click it, and see it."""

import base64
import io

import ipywidgets as widgets
import numpy as np
import pandas as pd
from PIL import Image

from dc3.figures.images import MUTED
from dc3.images.image_set import ImageSet
from dc3.panels import has_screen, png, telling

MAP, PREVIEW, MARGIN = 440, 200, 12  # pixels
THUMBNAIL = 64  # pixels a side at most, of the images that a map holds
OF_A_BIN, A_ROW = 24, 12  # images shown below the map
SMALL = 48  # pixels a side of these
EXACT = 32  # pixels a side up to which a PNG is hardly larger than a JPEG
ALL = "all"
HINT = "point at an image on the map, or click it to keep it in view until you click elsewhere"
# No script: a point shows its picture while it is pointed at, and, once clicked, until another is
STYLE = """<style>
.dc3-map .p { cursor: pointer; outline: none } .dc3-map .shown { display: none }
.dc3-map .p:hover .shown, .dc3-map .p:focus .shown { display: inline }
.dc3-map:has(.p:hover) .p:focus:not(:hover) .shown { display: none }
.dc3-map .p:hover circle, .dc3-map .p:focus circle { stroke: black; stroke-width: 2 }
.dc3-map:has(.p:hover, .p:focus) circle { fill-opacity: 0.35 }
.dc3-map .pale { opacity: 0.15; pointer-events: none }
.dc3-map image { image-rendering: pixelated } .dc3-map text { font: 12px sans-serif; fill: currentColor }
</style>"""


def bin_panel(images: ImageSet, table: pd.DataFrame) -> widgets.Widget | None:
    """The panel over a map with the columns index (into `images`), label, bin, x, y; None without a screen."""
    return BinExplorer(images, table).view if has_screen() else None


class BinExplorer:
    """The controls, and what they show: the map of a class, and images of the chosen bin (or one of each bin)."""

    def __init__(self, images: ImageSet, table: pd.DataFrame):
        self.images, self.table = images, table
        labels = [(images.classes[label], int(label)) for label in sorted(table["label"].unique())]
        self.of_class = widgets.Dropdown(options=labels, description="class")
        self.bin = widgets.Dropdown(options=[ALL], description="bin")
        self.map, self.picture = widgets.HTML(), widgets.Image(format="png")
        self.hint, self.caption = widgets.Label(HINT), widgets.Label()
        self.of_class.observe(telling(self.hint, self.choose_class), "value")
        self.bin.observe(telling(self.hint, self.draw), "value")
        controls = widgets.HBox([self.of_class, self.bin])
        self.view = widgets.VBox([controls, self.hint, self.map, self.caption, self.picture])
        self.choose_class()

    @property
    def part(self) -> pd.DataFrame:
        """The rows of the chosen class."""
        return self.table[self.table["label"] == self.of_class.value]

    def choose_class(self) -> None:
        """Offers the bins of the chosen class, all at first, and draws them."""
        with self.bin.hold_trait_notifications():
            self.bin.options = [ALL, *sorted(self.part["bin"].unique().tolist())]
            self.bin.value = ALL
        self.draw()

    def draw(self) -> None:
        """Shows the map of the chosen class, and images of the chosen bin."""
        part, self.hint.value = self.part, HINT
        self.map.value = STYLE + _map(part, self.images.images(part["index"].to_numpy()), self.bin.value)
        if self.bin.value == ALL:
            first = part.drop_duplicates("bin").sort_values("bin")[:OF_A_BIN]
            shown, told = first["index"], f"an image of each bin: {', '.join(map(str, first['bin']))}"
        else:
            shown = part.loc[part["bin"] == self.bin.value, "index"]
            told = f"bin {self.bin.value}: {min(len(shown), OF_A_BIN)} of its {len(shown)} images"
        self.caption.value = told
        self.picture.value = png(self.images.images(shown.to_numpy()[:OF_A_BIN]), A_ROW, SMALL)


def _map(part: pd.DataFrame, pixels: np.ndarray, chosen: int | str) -> str:
    """An SVG of the points; those of bins that are not chosen are pale."""
    last = np.argsort(part["bin"].to_numpy() == chosen, kind="stable")  # what is drawn last lies on top
    part, pixels = part.iloc[last], pixels[last]
    places = part[["x", "y"]].to_numpy(float)
    low, high = places.min(axis=0), places.max(axis=0)
    places = MARGIN + (places - low) / np.maximum(high - low, 1e-12) * (MAP - 2 * MARGIN)
    points = []
    for (x, y), row, image in zip(places, part.itertuples(index=False), pixels, strict=True):
        pale = " pale" if chosen not in (ALL, row.bin) else ""
        points.append(
            f'<g class="p{pale}" tabindex="0"><circle cx="{x:.1f}" cy="{MAP - y:.1f}" r="3.5" '
            f'fill="{MUTED[row.bin % len(MUTED)]}"/><g class="shown">'
            f'<image x="{MAP + MARGIN}" y="{MARGIN}" width="{PREVIEW}" height="{PREVIEW}" href="{_thumbnail(image)}"/>'
            f'<text x="{MAP + MARGIN}" y="{PREVIEW + 3 * MARGIN}">image {row.index}, bin {row.bin}</text></g></g>'
        )
    return f'<svg class="dc3-map" width="{MAP + PREVIEW + 2 * MARGIN}" height="{MAP}">{"".join(points)}</svg>'


def _thumbnail(image: np.ndarray) -> str:
    """A data URL of at most THUMBNAIL pixels a side: small images are exact, others keep all their colour."""
    stream, small = io.BytesIO(), Image.fromarray(image)
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    kind = "png" if max(small.size) <= EXACT else "jpeg"
    small.save(stream, format=kind, **({} if kind == "png" else {"quality": 95, "subsampling": 0}))
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
