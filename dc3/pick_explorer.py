"""A panel for JupyterLab over the picks: one pick after another, its gain, its bin, and the images most like it."""

import ipywidgets as widgets
import numpy as np
import pandas as pd

from dc3.images.image_set import ImageSet
from dc3.panels import has_screen, png, telling
from dc3.sampling import gradient_kernel

NEAREST, A_ROW = 11, 6  # images beside a pick; images a row


def pick_panel(
    images: ImageSet, picks: pd.DataFrame, logit_grad: np.ndarray, embedding: np.ndarray
) -> widgets.Widget | None:
    """The panel over picks with the columns index (into `images`), label, bin, rank, gain; None without a screen.

    logit_grad (n, C) and embedding (n, d) are those of all images, by which they are alike.
    """
    return PickExplorer(images, picks, logit_grad, embedding).view if has_screen() else None


class PickExplorer:
    """The controls, and what they show: the chosen pick, then the images of its class that are most like it."""

    def __init__(self, images: ImageSet, picks: pd.DataFrame, logit_grad: np.ndarray, embedding: np.ndarray):
        self.images, self.picks, self.logit_grad, self.embedding = images, picks, logit_grad, embedding
        labels = [(images.classes[label], int(label)) for label in sorted(picks["label"].unique())]
        self.of_class = widgets.Dropdown(options=labels, description="class")
        self.rank = widgets.IntSlider(0, 0, 0, description="pick")
        self.caption, self.picture = widgets.Label(), widgets.Image(format="png")
        self.of_class.observe(telling(self.caption, self.choose_class), "value")
        self.rank.observe(telling(self.caption, self.draw), "value")
        self.view = widgets.VBox([widgets.HBox([self.of_class, self.rank]), self.caption, self.picture])
        self.choose_class()

    @property
    def part(self) -> pd.DataFrame:
        """The picks of the chosen class, in the order in which they were picked."""
        return self.picks[self.picks["label"] == self.of_class.value].sort_values("rank")

    def choose_class(self) -> None:
        """Goes to the first pick of the chosen class, and draws it."""
        with self.rank.hold_trait_notifications():
            self.rank.max = len(self.part) - 1
            self.rank.value = 0
        self.draw()

    def draw(self) -> None:
        """Shows the chosen pick, and beside it the images of its class that are most like it."""
        pick = self.part.iloc[self.rank.value]
        nearest, similarity = self.nearest(int(pick["index"]))
        gain = "" if np.isnan(pick["gain"]) else f", gain {pick['gain']:.3g}"
        alike = f"similarity {similarity[0]:.3f} to {similarity[-1]:.3f}" if len(nearest) else "none"
        self.caption.value = (
            f"image {int(pick['index'])}, bin {int(pick['bin'])}{gain}; after it the images most like it: {alike}"
        )
        self.picture.value = png(self.images.images([int(pick["index"]), *nearest]), A_ROW, side=96)

    def nearest(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Up to NEAREST other images of the class, the most similar to image `index` first, and their similarities."""
        members = self.images.class_indices(self.of_class.value)
        place = int(np.searchsorted(members, index))
        kernel = np.asarray(gradient_kernel(self.logit_grad[members], self.embedding[members], columns=[place]))[:, 0]
        order = np.argsort(-kernel, kind="stable")
        order = order[order != place][:NEAREST]
        return members[order], kernel[order]
