"""Plain colour grades in CIELAB, one per prompt: the shipped editor learned them and is measured against them."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from skimage.color import lab2rgb, rgb2lab

TINT_JITTER = 5.0  # standard deviation of a* and b*, which the instruction leaves open
STRENGTH_RANGE = (0.4, 1.0)


class Grade(NamedTuple):
    """A grade at full strength: factor on chroma, shifts of a* and b*, bend of L* at mid-grey."""

    chroma: float
    a: float
    b: float
    lightness: float


GRADES = {  # mild: a CIFAR-10 teacher still recognises most images (benchmarks/editor.py)
    "sunny": Grade(1.10, 2, 20, 6),
    "golden hour": Grade(1.10, 12, 26, 0),
    "sepia": Grade(0.30, 6, 17, -3),
    "vivid colors": Grade(1.80, 2, 5, 0),
    "daylight": Grade(1.10, -5, 8, 10),
    "rainy": Grade(0.45, -2, -10, -8),
    "snowy": Grade(0.60, 2, -12, 10),
    "frozen lake": Grade(0.90, -6, -20, 3),
    "infrared": Grade(1.05, 23, -12, 0),
    "underwater": Grade(0.85, -17, -9, -5),
}


def check_graded(prompts: Sequence[str]) -> None:
    """ValueError for prompts without a grade."""
    if lacking := [prompt for prompt in prompts if prompt not in GRADES]:
        names = ", ".join(map(repr, lacking))
        raise ValueError(f"edit_by = 'grading': no colour grade for {names}; prompts with one: {', '.join(GRADES)}")


def grade(images: np.ndarray, prompts: list[str], rng: np.random.Generator) -> np.ndarray:
    """uint8 (n, H, W, 3) → uint8 (n, H, W, 3): each image under its prompt's grade, at a random strength and tint.

    L' = L + s·l·4·L(100 − L)/100², a' = (1 + s(c − 1))·a + s·Δa + t_a, and likewise b', with s ~ U(0.4, 1) and
    t ~ N(0, 5²)·s. KeyError for a prompt without a grade.
    """
    grades = np.array([GRADES[prompt] for prompt in prompts])[:, :, None, None]
    strength = rng.uniform(*STRENGTH_RANGE, size=(len(images), 1, 1))
    tint = rng.normal(0, TINT_JITTER, size=(len(images), 2, 1, 1))
    lightness, a, b = np.moveaxis(rgb2lab(images), -1, 0)
    chroma = 1 + strength * (grades[:, 0] - 1)
    graded = np.stack(
        [
            lightness + strength * grades[:, 3] * 4 * lightness * (100 - lightness) / 100**2,
            chroma * a + strength * (grades[:, 1] + tint[:, 0]),
            chroma * b + strength * (grades[:, 2] + tint[:, 1]),
        ],
        axis=-1,
    )
    with warnings.catch_warnings():  # a grade may leave the gamut, and is clipped to it
        warnings.filterwarnings("ignore", "Conversion from CIE-LAB")
        return (lab2rgb(graded) * 255).round().astype(np.uint8)
