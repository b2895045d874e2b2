"""What the panels for JupyterLab share. Without a screen (papermill, nbval) there is none to show."""

import io
import os
from collections.abc import Callable, Sequence

import ipywidgets as widgets
import numpy as np
from PIL import Image

from dc3.figures.images import mosaic
from dc3.machine.paths import HEADLESS

SHOWN_PIXELS = 160  # a side of an image in a panel


def has_screen() -> bool:
    """Whether somebody may be looking: False where DC3_HEADLESS is 1."""
    return os.environ.get(HEADLESS) != "1"


def png(images: Sequence[np.ndarray] | np.ndarray, columns: int | None = None, side: int = SHOWN_PIXELS) -> bytes:
    """uint8 (S, S, 3) images as the bytes of a PNG, `columns` a row (None: all), enlarged unsmoothed to some `side`."""
    factor = max(side // images[0].shape[0], 1)
    enlarged = np.stack(list(images)).repeat(factor, axis=1).repeat(factor, axis=2)
    stream = io.BytesIO()
    Image.fromarray(mosaic(enlarged, columns or len(images), gap=4)).save(stream, format="PNG")
    return stream.getvalue()


def telling(label: widgets.Label, action: Callable[[], None]) -> Callable[[object], None]:
    """A handler that does `action`, and tells in `label` what it raises: else nobody would see it."""

    def handler(_change: object) -> None:
        try:
            action()
        except Exception as error:
            label.value = f"{type(error).__name__}: {error}"

    return handler
