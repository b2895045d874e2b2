"""The panels for JupyterLab: edit an image, explore the bins, explore the picks.

Without a screen (papermill, nbval) there are no panels.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING

import ipywidgets as widgets
import numpy as np
import pandas as pd
from PIL import Image

from dc3.blending import IMAGES_NEEDED
from dc3.figures.images import MUTED, mosaic
from dc3.images.image_set import ImageSet
from dc3.machine.files import first_line
from dc3.machine.paths import is_headless

if TYPE_CHECKING:
    from dc3.compensation import Compensator

SHOWN_PIXELS = 160  # a side of an image in a panel


def png(images: Sequence[np.ndarray] | np.ndarray, columns: int | None = None, side: int = SHOWN_PIXELS) -> bytes:
    """PNG bytes of uint8 (S, S, 3) images, `columns` per row (None: all), enlarged unsmoothed to about `side`."""
    factor = max(side // images[0].shape[0], 1)
    enlarged = np.stack(list(images)).repeat(factor, axis=1).repeat(factor, axis=2)
    stream = io.BytesIO()
    Image.fromarray(mosaic(enlarged, columns or len(images), gap=4)).save(stream, format="PNG")
    return stream.getvalue()


def picture() -> widgets.Image:
    """An empty picture that is never wider than the page."""
    return widgets.Image(format="png", layout=widgets.Layout(max_width="100%", object_fit="contain"))


class Caption(widgets.HTML):
    """A line of text that is shown as it is; a Label takes what stands between two `$` for a formula."""

    def say(self, text: str) -> None:
        """Shows `text` in the place of what was there."""
        self.value = escape(text)


def class_choice(images: ImageSet, labels: Iterable[int]) -> widgets.Dropdown:
    """A menu of the classes of some labels, by name."""
    options = [(images.classes[label], int(label)) for label in sorted(set(labels))]
    return widgets.Dropdown(options=options, description="class")


def on_change(control: widgets.Widget, action: Callable[[], None], report: Caption) -> None:
    """Calls `action` when the control's value changes; shows its exceptions in `report`, as nothing else does."""

    def handle(_change: object) -> None:
        try:
            action()
        except Exception as error:
            report.say(error_text(error))

    control.observe(handle, "value")


def error_text(error: Exception) -> str:
    """The kind of an error and the first line of its message."""
    return f"{type(error).__name__}: {first_line(error)}"


def edit_panel(images: np.ndarray, classes: Sequence[str], compensator: Compensator) -> widgets.Widget | None:
    """A panel to edit one of uint8 images (n, S, S, 3), each of its class: source, warm, cold, blended.

    Controls choose prompts, guidance scales, seed and blend; `compensator` gives their first values and the rest. None
    without a screen.
    """
    return None if is_headless() else EditPanel(images, classes, compensator).view


class EditPanel:
    """The controls and the picture; `edit` draws it for their current values, `show_source` the chosen image alone."""

    def __init__(self, images: np.ndarray, classes: Sequence[str], compensator: Compensator):
        self.images, self.classes, self.compensator = images, classes, compensator
        coloring, editor = compensator.coloring, compensator.editor.settings
        self.image = widgets.IntSlider(0, 0, len(images) - 1, description="image")
        self.warm = widgets.Dropdown(options=list(coloring.warm_prompts), description="warm")
        self.cold = widgets.Dropdown(options=list(coloring.cold_prompts), description="cold")
        self.guidance = _slider("guidance", editor.guidance_scale, 1.05, 8, 0.05)
        self.keeping = _slider("image g.", editor.image_guidance_scale, 1, 3, 0.1)
        pairs = [mode for mode, needed in IMAGES_NEEDED.items() if needed == 2]
        self.blend = widgets.Dropdown(options=pairs, value="gradient", description="blend")
        self.seed = widgets.BoundedIntText(0, min=0, max=2**31, description="seed ≥ 0")
        self.button = widgets.Button(description="edit", button_style="primary")
        self.button.on_click(lambda _: self.pressed())
        self.picture, self.caption = picture(), Caption()
        on_change(self.image, self.show_source, self.caption)
        choices = [self.image, self.warm, self.cold, self.guidance, self.keeping, self.blend, self.seed, self.button]
        self.view = widgets.HBox([widgets.VBox(choices), widgets.VBox([self.picture, self.caption])])
        self.edit()

    @property
    def name(self) -> str:
        """The chosen image and its class."""
        return f"image {self.image.value} ({self.classes[self.image.value]})"

    def show_source(self) -> None:
        """Shows the chosen image unedited, because an edit takes seconds."""
        self.picture.value = png([self.images[self.image.value]])
        self.caption.say(f"{self.name}: press edit")

    def pressed(self) -> None:
        """Edits, with the button disabled meanwhile; the caption shows errors."""
        self.button.disabled = True
        self.caption.say("editing …")
        try:
            self.edit()
        except Exception as error:  # nothing else shows the exceptions of a button's handler
            self._failed(error_text(error))
        finally:
            self.button.disabled = False

    def _failed(self, why: str) -> None:
        self.caption.say(f"this edit failed: {why}")
        self.picture.value = b""

    def edit(self) -> None:
        """Edits the chosen image and shows it, or a failure in the caption."""
        from dc3.compensation import Compensator, EditDraw, compensated, to_uint8  # brings the editor

        source, seed = self.images[self.image.value], self.seed.value
        drawn = EditDraw([self.warm.value, self.cold.value], [2 * seed, 2 * seed + 1], seed, 0)
        coloring = replace(self.compensator.coloring, blend_mode=self.blend.value)
        editor = self.compensator.editor.using(
            guidance_scale=self.guidance.value, image_guidance_scale=self.keeping.value, batch_size=2
        )
        edits = Compensator(coloring, editor).edits_of(source[None], [drawn])[0]
        blended = compensated(source, edits, drawn, coloring)
        if blended is None:
            self._failed("NaN or black; change the seed or lower the guidance")
            return
        self.caption.say(
            f"{self.name}: source, {self.warm.value}, {self.cold.value}, {self.blend.value} blend; "
            f"guidance {self.guidance.value:g} and {self.keeping.value:g}, seed {seed}"
        )
        self.picture.value = png([source, *to_uint8(edits), blended])


def _slider(name: str, value: float, least: float, most: float, step: float) -> widgets.FloatSlider:
    return widgets.FloatSlider(value, min=min(least, value), max=max(most, value), step=step, description=name)


FRAME = (213, 94, 0)  # vermilion, which colour-blind people can distinguish


def framed(image: np.ndarray) -> np.ndarray:
    """A uint8 (S, S, 3) image with a coloured border, a sixteenth of its side but at least a pixel wide."""
    wide = max(1, len(image) // 16)
    out = np.full_like(image, FRAME)
    out[wide:-wide, wide:-wide] = image[wide:-wide, wide:-wide]
    return out


MAP, PREVIEW, MARGIN = 440, 200, 12  # pixels
LEGEND_ROW, LEGEND_ROWS = 16, 10  # pixels of a row, rows of a column
THUMBNAIL = 64  # pixels per side, at most, of the images in a map
BIN_SHOWN, BIN_COLUMNS = 24, 12  # images of a bin below the map, and images per row
SMALL = 48  # pixels per side of these
EXACT = 32  # pixels per side up to which a PNG is hardly larger than a JPEG
ALL = "all"
HINT = "point at an image on the map, or click it to keep it in view until you click elsewhere"
# No script: a point shows its picture while the mouse is over it and, after a click, until the next click
STYLE = """<style>
.dc3-map .p { cursor: pointer; outline: none } .dc3-map .shown { display: none }
.dc3-map .p:hover .shown, .dc3-map .p:focus .shown { display: inline }
.dc3-map:has(.p:hover) .p:focus:not(:hover) .shown { display: none }
.dc3-map .p:hover circle, .dc3-map .p:focus circle { stroke: black; stroke-width: 2 }
.dc3-map:has(.p:hover, .p:focus) .p circle { fill-opacity: 0.35 }
.dc3-map:has(.p:hover, .p:focus) .before { display: none }
.dc3-map .pale { opacity: 0.15; pointer-events: none }
.dc3-map image { image-rendering: pixelated } .dc3-map text { font: 12px sans-serif; fill: currentColor }
</style>"""


def bin_panel(images: ImageSet, table: pd.DataFrame) -> widgets.Widget | None:
    """The panel for a map with the columns index (into `images`), label, bin, x, y; None without a screen."""
    return None if is_headless() else BinPanel(images, table).view


class BinPanel:
    """The controls, the map of a class, and images of the chosen bin (or one of each bin)."""

    def __init__(self, images: ImageSet, table: pd.DataFrame):
        self.images, self.table = images, table
        self.of_class = class_choice(images, table["label"])
        self.bin = widgets.Dropdown(options=[ALL], description="bin")
        self.map, self.picture = widgets.HTML(), picture()
        self.hint, self.caption = Caption(HINT), Caption()
        on_change(self.of_class, self.choose_class, self.hint)
        on_change(self.bin, self.show, self.hint)
        controls = widgets.HBox([self.of_class, self.bin])
        self.view = widgets.VBox([controls, self.hint, self.map, self.caption, self.picture])
        self.choose_class()

    @property
    def part(self) -> pd.DataFrame:
        """The rows of the chosen class."""
        return self.table[self.table["label"] == self.of_class.value]

    def choose_class(self) -> None:
        """Offers the bins of the chosen class, all at first, and shows them."""
        with self.bin.hold_trait_notifications():
            self.bin.options = [ALL, *sorted(self.part["bin"].unique().tolist())]
            self.bin.value = ALL
        self.show()

    def show(self) -> None:
        """Shows the map of the chosen class, and images of the chosen bin."""
        part = self.part
        self.hint.say(HINT)
        self.map.value = STYLE + _map(part, self.images.images(part["index"].to_numpy()), self.bin.value)
        if self.bin.value == ALL:
            first = part.drop_duplicates("bin").sort_values("bin")[:BIN_SHOWN]
            shown, text = first["index"], f"one image of each bin: {', '.join(map(str, first['bin']))}"
        else:
            shown = part.loc[part["bin"] == self.bin.value, "index"]
            text = f"bin {self.bin.value}: {min(len(shown), BIN_SHOWN)} of its {len(shown)} images"
        self.caption.say(text)
        self.picture.value = png(self.images.images(shown.to_numpy()[:BIN_SHOWN]), BIN_COLUMNS, SMALL)


def _map(part: pd.DataFrame, pixels: np.ndarray, chosen: int | str) -> str:
    """An SVG of the points, pale outside the chosen bin."""
    last = np.argsort(part["bin"].to_numpy() == chosen, kind="stable")  # the last points are on top
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
    before = f'<text class="before" x="{MAP + MARGIN}" y="{2 * MARGIN}">Point at an image.</text>'
    size = f'width="{MAP + PREVIEW + 2 * MARGIN}" height="{MAP}"'
    return f'<svg class="dc3-map" {size}>{before}{_legend(part["bin"])}{"".join(points)}</svg>'


def _legend(bins: pd.Series) -> str:
    """The colours of the largest bins and the numbers of their images, below the place of the preview."""
    counts = bins.value_counts().sort_index(kind="stable").nlargest(2 * LEGEND_ROWS).sort_index()
    rows = []
    for place, (number, count) in enumerate(counts.items()):
        x = MAP + MARGIN + place // LEGEND_ROWS * PREVIEW // 2
        y = PREVIEW + 5 * MARGIN + place % LEGEND_ROWS * LEGEND_ROW
        circle = f'<circle cx="{x + 4}" cy="{y - 4}" r="4" fill="{MUTED[int(str(number)) % len(MUTED)]}"/>'
        rows.append(f'{circle}<text x="{x + MARGIN}" y="{y}">bin {number} ({count})</text>')
    return "".join(rows)


def _thumbnail(image: np.ndarray) -> str:
    """A data URL of at most THUMBNAIL pixels per side: small images are exact, others keep full colour resolution."""
    stream, small = io.BytesIO(), Image.fromarray(image)
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    kind = "png" if max(small.size) <= EXACT else "jpeg"
    small.save(stream, format=kind, **({} if kind == "png" else {"quality": 95, "subsampling": 0}))
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


NEAREST, PICK_COLUMNS = 11, 6  # the images most like a pick, and images per row


def pick_panel(
    images: ImageSet, picks: pd.DataFrame, logit_grad: np.ndarray, embedding: np.ndarray
) -> widgets.Widget | None:
    """The panel for picks with the columns index (into `images`), label, bin, rank, gain; None without a screen.

    logit_grad (n, C) and embedding (n, d) of all images give the similarities.
    """
    return None if is_headless() else PickPanel(images, picks, logit_grad, embedding).view


class PickPanel:
    """The controls and the pictures: the chosen pick, then the images of its class that are most like it."""

    def __init__(self, images: ImageSet, picks: pd.DataFrame, logit_grad: np.ndarray, embedding: np.ndarray):
        self.images, self.picks, self.logit_grad, self.embedding = images, picks, logit_grad, embedding
        self.of_class = class_choice(images, picks["label"])
        self.rank = widgets.IntSlider(0, 0, 0, description="pick")
        self.caption, self.picture = Caption(), picture()
        on_change(self.of_class, self.choose_class, self.caption)
        on_change(self.rank, self.show, self.caption)
        self.view = widgets.VBox([widgets.HBox([self.of_class, self.rank]), self.caption, self.picture])
        self.choose_class()

    @property
    def part(self) -> pd.DataFrame:
        """The picks of the chosen class, in pick order."""
        return self.picks[self.picks["label"] == self.of_class.value].sort_values("rank")

    def choose_class(self) -> None:
        """Shows the first pick of the chosen class."""
        with self.rank.hold_trait_notifications():
            self.rank.max = len(self.part) - 1
            self.rank.value = 0
        self.show()

    def show(self) -> None:
        """Shows the chosen pick, then the images of its class that are most like it."""
        pick = self.part.iloc[self.rank.value]
        nearest, similarity = self.nearest(int(pick["index"]))
        gain = "" if np.isnan(pick["gain"]) else f", gain {pick['gain']:.3g}"
        alike = f"similarity {similarity[0]:.3f} to {similarity[-1]:.3f}" if len(nearest) else "none"
        self.caption.say(
            f"framed: image {int(pick['index'])}, the pick, bin {int(pick['bin'])}{gain}; after it the images most "
            f"like it: {alike}"
        )
        shown = self.images.images([int(pick["index"]), *nearest])
        self.picture.value = png([framed(shown[0]), *shown[1:]], PICK_COLUMNS, side=96)

    def nearest(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Up to NEAREST other images of the class, the most similar to image `index` first, and their similarities."""
        from dc3.sampling import gradient_kernel  # brings torch

        members = self.images.class_indices(self.of_class.value)
        place = int(np.searchsorted(members, index))
        kernel = np.asarray(gradient_kernel(self.logit_grad[members], self.embedding[members], columns=[place]))[:, 0]
        order = np.argsort(-kernel, kind="stable")
        order = order[order != place][:NEAREST]
        return members[order], kernel[order]
