"""A panel for JupyterLab over the edits: choose an image, prompts and guidance, press, see."""

from dataclasses import replace

import ipywidgets as widgets
import numpy as np

from dc3.blending import IMAGES_NEEDED
from dc3.compensation import Coloring, Draw, compensated, edit_pairs, to_uint8
from dc3.models.editor import Editor
from dc3.models.pipelines import first_line
from dc3.panels import has_screen, png


def edit_panel(images: np.ndarray, coloring: Coloring, editor: Editor) -> widgets.Widget | None:
    """A panel to edit one of uint8 (n, S, S, 3): source, warm, cold, blended; None without a screen.

    Prompts, guidance scales, seed and blend can be chosen; `coloring` and `editor` give the rest and the first values.
    """
    return EditPanel(images, coloring, editor).view if has_screen() else None


class EditPanel:
    """The controls, and what they show; `edit` makes the picture of their present values."""

    def __init__(self, images: np.ndarray, coloring: Coloring, editor: Editor):
        self.images, self.coloring, self.editor = images, coloring, editor
        self.image = widgets.IntSlider(0, 0, len(images) - 1, description="image")
        self.warm = widgets.Dropdown(options=list(coloring.warm_prompts), description="warm")
        self.cold = widgets.Dropdown(options=list(coloring.cold_prompts), description="cold")
        self.guidance = widgets.FloatSlider(
            editor.guidance_scale, min=1.05, max=max(8, editor.guidance_scale), step=0.05, description="guidance"
        )
        self.keeping = widgets.FloatSlider(
            editor.image_guidance_scale,
            min=1,
            max=max(3, editor.image_guidance_scale),
            step=0.1,
            description="image g.",
        )
        pairs = [mode for mode, needed in IMAGES_NEEDED.items() if needed == 2]
        self.blend = widgets.Dropdown(options=pairs, value="gradient", description="blend")
        self.seed = widgets.BoundedIntText(0, min=0, max=2**31, description="seed ≥ 0")
        self.button = widgets.Button(description="edit", button_style="primary")
        self.button.on_click(lambda _: self.pressed())
        self.picture, self.caption = widgets.Image(format="png"), widgets.Label("source, warm, cold, blended")
        choices = [self.image, self.warm, self.cold, self.guidance, self.keeping, self.blend, self.seed, self.button]
        self.view = widgets.HBox([widgets.VBox(choices), widgets.VBox([self.picture, self.caption])])
        self.edit()

    def pressed(self) -> None:
        """What the button does: it is grey while the edit is made, and an error is told in the caption."""
        self.button.disabled, self.caption.value = True, "editing …"
        try:
            self.edit()
        except Exception as error:  # the handler of a button: what it raises is seen nowhere else
            self._failed(f"{type(error).__name__}: {first_line(error)}")
        finally:
            self.button.disabled = False

    def _failed(self, why: str) -> None:
        self.caption.value = f"this edit failed: {why}"
        self.picture.value = b""

    def edit(self) -> None:
        """Edits the chosen image and shows it, or says in the caption that the edit failed."""
        source = self.images[self.image.value]
        coloring = replace(self.coloring, blend_mode=self.blend.value)
        seed = self.seed.value
        drawn = Draw([self.warm.value, self.cold.value], [2 * seed, 2 * seed + 1], seed, 0)
        editor = replace(
            self.editor, guidance_scale=self.guidance.value, image_guidance_scale=self.keeping.value, batch_size=2
        )
        edits = edit_pairs(source[None], [drawn], coloring, editor)[0]
        blended = compensated(source, edits, drawn, coloring)
        if blended is None:
            self._failed("NaN or black; change the seed or lower the guidance")
            return
        self.caption.value = (
            f"image {self.image.value}: source, {self.warm.value}, {self.cold.value}, {self.blend.value} blend; "
            f"guidance {self.guidance.value:g} and {self.keeping.value:g}, seed {seed}"
        )
        self.picture.value = png([source, *to_uint8(edits), blended])
