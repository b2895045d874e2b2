"""What is left of an edit without the diffusion model, for ablation: plain colour grades, or the VAE's round trip.

Both take the editor's place, so that two runs differ only in what makes the edits.
"""

from collections.abc import Sequence

import numpy as np
import torch

from dc3.images.decoding import resized
from dc3.models.editor import Editor
from dc3.models.grading import GRADES, check_graded, grade


class Grading(Editor):
    """Grades an image as the prompt in its instruction says (`grading.GRADES`); the seed draws strength and tint."""

    edited_by = "grading"

    def _edits(
        self, images: np.ndarray, rows_of: np.ndarray, instructions: Sequence[str], seeds: Sequence[int]
    ) -> np.ndarray:
        edited = np.empty((len(rows_of), *images.shape[1:]), np.float32)
        for k, (row, instruction, seed) in enumerate(zip(rows_of, instructions, seeds, strict=True)):
            rng = np.random.default_rng(int(seed))
            edited[k] = grade(images[row][None], [_prompt(instruction)], rng)[0] / np.float32(255)
        return edited


class RoundTrip(Editor):
    """Encodes an image with the editor's VAE and decodes it again: what every edit does to an image, and no more."""

    edited_by = "vae"

    @torch.inference_mode()
    def _edits(
        self, images: np.ndarray, rows_of: np.ndarray, instructions: Sequence[str], seeds: Sequence[int]
    ) -> np.ndarray:
        latents, decoded = self._source_latents(images), np.empty(images.shape, np.float32)
        for rows in self._padded_batches(len(images)):
            pixels = self.pipeline.vae.decode(latents[rows]).sample
            found = self.pipeline.image_processor.postprocess(pixels, output_type="pt").float()
            decoded[rows] = [resized(image, images.shape[1]) for image in found.permute(0, 2, 3, 1).cpu().numpy()]
        return decoded[rows_of]


EDITORS: dict[str, type[Editor]] = {kind.edited_by: kind for kind in (Editor, Grading, RoundTrip)}


def _prompt(instruction: str) -> str:
    """The prompt in an instruction. ValueError when it has none that has a grade."""
    found = [prompt for prompt in GRADES if prompt in instruction]
    if not found:
        check_graded([instruction])
    return max(found, key=len)
