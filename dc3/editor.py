"""The instruction-following editor: InstructPix2Pix (arXiv 2211.09800) through diffusers, in batches of one shape.

The same code runs the shipped tiny-instruct-pix2pix and `timbrooks/instruct-pix2pix`, from a hub or a folder.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import diffusers
import numpy as np
import torch
import transformers
from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionInstructPix2PixPipeline
from PIL import Image
from torch import Tensor

from dc3 import paths, progress
from dc3.progress import tqdm


@dataclass
class Editor:
    """A loaded pipeline and how it is used: `size` pixels a side, steps, the two guidance scales, edits a batch."""

    pipeline: StableDiffusionInstructPix2PixPipeline
    size: int
    steps: int
    guidance_scale: float
    image_guidance_scale: float
    batch_size: int
    embeddings: dict[str, Tensor] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return self.pipeline.device

    def edit(self, images: np.ndarray, instructions: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """Edits image k by instruction k with the noise of seed k: uint8 (n, S, S, 3) → float32 (n, S, S, 3) in 0…1.

        An edit depends on its image, instruction and seed alone: every image has its own generator, and every batch has
        `batch_size` rows (the last one is padded), because sums in floating point depend on the batch's shape. A failed
        edit comes back as NaN; it is for the caller to refuse it.
        """
        if not len(images) == len(instructions) == len(seeds):
            raise ValueError(
                f"{len(images)} images, {len(instructions)} instructions and {len(seeds)} seeds do not match"
            )
        edited = np.empty(images.shape, np.float32)
        with tqdm(total=len(images), desc="edits", unit="img") as bar:
            for start in range(0, len(images), self.batch_size):
                rows = np.arange(start, min(start + self.batch_size, len(images)))
                padded = np.resize(rows, self.batch_size)
                batch = self._edit_batch(images[padded], [instructions[k] for k in padded], [seeds[k] for k in padded])
                edited[rows] = batch[: len(rows)]
                bar.update(len(rows))
        return edited

    @torch.inference_mode()
    def _edit_batch(self, images: np.ndarray, instructions: list[str], seeds: list[int]) -> np.ndarray:
        text = torch.cat([self._embedding(instruction) for instruction in instructions])
        source = torch.from_numpy(np.stack([resized(image, self.size) for image in images]))
        result = self.pipeline(
            image=source.permute(0, 3, 1, 2).to(self.device).float() / 255,
            prompt_embeds=text,
            negative_prompt_embeds=self._embedding("").expand_as(text),
            num_inference_steps=self.steps,
            guidance_scale=self.guidance_scale,
            image_guidance_scale=self.image_guidance_scale,
            generator=[torch.Generator().manual_seed(int(seed)) for seed in seeds],
            output_type="pt",
        ).images
        return np.stack(
            [resized_back(image, images.shape[1]) for image in result.float().permute(0, 2, 3, 1).cpu().numpy()]
        )

    def _embedding(self, instruction: str) -> Tensor:
        """(1, tokens, width); the few instructions of a run are embedded once."""
        if instruction not in self.embeddings:
            tokens = self.pipeline.tokenizer(
                instruction,
                padding="max_length",
                max_length=self.pipeline.tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            )
            self.embeddings[instruction] = self.pipeline.text_encoder(tokens.input_ids.to(self.device))[0]
        return self.embeddings[instruction]


def load_editor(
    editor: str,
    *,
    size: int,
    steps: int,
    guidance_scale: float,
    image_guidance_scale: float,
    batch_size: int,
    revision: str = "",
    device: str | torch.device = "cpu",
) -> Editor:
    """Loads a pipeline with the Euler ancestral sampler: fp16 on a GPU, fp32 elsewhere.

    `editor` is "tiny-instruct-pix2pix" (shipped), a folder in diffusers' format, or a hub id, of which `revision` names
    one version. FileNotFoundError when it cannot be had, naming the parameter.
    """
    if not progress.SHOWN:
        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()
    device = torch.device(device)
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    try:
        pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(
            paths.model_location(editor),
            dtype=dtype,
            safety_checker=None,
            requires_safety_checker=False,
            revision=revision or None,
        )
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"editor = {editor!r} cannot be loaded ({first_line(error)}): give {paths.SHIPPED_EDITOR.name!r}, "
            "a folder in diffusers' format, or a hub id that this machine can reach"
        ) from error
    pipeline.scheduler = EulerAncestralDiscreteScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet.to(memory_format=torch.channels_last)
    return Editor(pipeline.to(device), size, steps, guidance_scale, image_guidance_scale, batch_size)


def weights_hash(editor: Editor) -> str:
    """SHA-256 over the parameters of U-Net, VAE and text encoder as loaded: which editor made an image."""
    digest = hashlib.sha256()
    for part in (editor.pipeline.unet, editor.pipeline.vae, editor.pipeline.text_encoder):
        for name, tensor in sorted(part.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def resized(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 (S, S, 3) → uint8 (size, size, 3), antialiased bilinear."""
    if image.shape[0] == size:
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def resized_back(image: np.ndarray, size: int) -> np.ndarray:
    """float32 (s, s, 3) → float32 (size, size, 3), antialiased bilinear, channel by channel."""
    if image.shape[0] == size:
        return image
    channels = [
        Image.fromarray(channel).resize((size, size), Image.Resampling.BILINEAR)
        for channel in np.moveaxis(image, -1, 0)
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)


def first_line(error: Exception) -> str:
    """The first line of a message that may be a page long."""
    return str(error).strip().split("\n", 1)[0]
