"""The instruction-following editor: InstructPix2Pix (arXiv 2211.09800) through diffusers, in batches of one shape.

The same code runs the shipped tiny-instruct-pix2pix and `timbrooks/instruct-pix2pix`, from a hub or a folder.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    SchedulerMixin,
    StableDiffusionInstructPix2PixPipeline,
    UniPCMultistepScheduler,
)
from torch import Tensor, nn

from dc3.images.decoding import resized
from dc3.machine.devices import has_bfloat16
from dc3.models.guidance import TENSORS, GuidedSteps, check_interval
from dc3.models.pipelines import load_pipeline

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SAMPLERS = {
    "euler_a": EulerAncestralDiscreteScheduler,  # published: draws fresh noise in every step
    "dpmpp_2m": DPMSolverMultistepScheduler,  # DPM-Solver++ (arXiv 2211.01095), second order; noise only at the start
    "unipc": UniPCMultistepScheduler,  # arXiv 2302.04867; noise only at the start
}


@dataclass(frozen=True)
class EditorSettings:
    """An editor and its use: image side `size`, denoising steps, two guidance scales, edits per batch.

    `name` is "tiny-instruct-pix2pix" (shipped), a folder in diffusers' format, or a hub id with a `revision`.
    `precision` "auto": float16 on a GPU, float32 elsewhere. `compiled`: torch.compile, which takes a minute and pays
    off on a GPU. `sampler` is a key of SAMPLERS. Guidance is on between two shares of the steps, `guidance_from` and
    `guidance_until` (0 … 1): a guided step takes three passes of the U-Net, another one. ValueError for other samplers,
    steps and shares.
    """

    name: str
    size: int
    steps: int
    guidance_scale: float
    image_guidance_scale: float
    batch_size: int
    revision: str = ""
    precision: str = "auto"
    compiled: bool = False
    sampler: str = "euler_a"
    guidance_from: float = 0.0
    guidance_until: float = 1.0

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler = {self.sampler!r}: choose one of {', '.join(SAMPLERS)}")
        if self.steps < 1:
            raise ValueError(f"edit_steps = {self.steps}: at least 1")
        check_interval(self.guidance_from, self.guidance_until)

    @property
    def guided_steps(self) -> GuidedSteps:
        """The steps with guidance."""
        return GuidedSteps.of(self.steps, self.guidance_from, self.guidance_until)

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> "EditorSettings":
        """The editor that the parameters of 04_compensation name."""
        return cls(
            params["editor"],
            params["edit_size"],
            params["edit_steps"],
            params["guidance_scale"],
            params["image_guidance_scale"],
            params["edit_batch_size"],
            params["editor_revision"],
            params["edit_precision"],
            params["edit_compile"],
            params["sampler"],
            params["guidance_from"],
            params["guidance_until"],
        )


@dataclass
class Editor:
    """A loaded pipeline with its settings."""

    edited_by: ClassVar[str] = "editor"  # value of the parameter `edit_by`

    pipeline: StableDiffusionInstructPix2PixPipeline
    settings: EditorSettings
    schedule: Mapping[str, Any]  # the configuration of the scheduler that the editor comes with
    embeddings: dict[str, Tensor] = field(default_factory=dict)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self.settings.compiled:  # compiled code is not pickled with the weights
            self.pipeline.unet.compile()

    def using(self, **changes: Any) -> "Editor":
        """The same pipeline with other settings, such as guidance_scale or batch_size."""
        return replace(self, settings=replace(self.settings, **changes))

    @property
    def device(self) -> torch.device:
        """Where the pipeline computes."""
        return self.pipeline.device

    @property
    def precision(self) -> str:
        """The weights' dtype: float32, bfloat16 or float16."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.pipeline.unet.dtype)

    def edit(
        self,
        images: np.ndarray,
        instructions: Sequence[str],
        seeds: Sequence[int],
        sources: Sequence[int] | np.ndarray | None = None,
    ) -> np.ndarray:
        """Edit k: image sources[k] (default: image k) by instruction k with the noise of seed k.

        images uint8 (m, S, S, 3) → float32 (n, S, S, 3) in 0…1, n = len(instructions). Each image is encoded once. An
        edit depends on its image, instruction and seed alone: every edit has its own generator, and every batch has
        `batch_size` rows (the last one is padded), because sums in floating point depend on the batch's shape. A failed
        edit comes back as NaN, for the caller to refuse. Raises ValueError when the lengths do not match.
        """
        rows_of = np.arange(len(images)) if sources is None else np.asarray(sources, np.int64)
        if not len(rows_of) == len(instructions) == len(seeds) or (len(rows_of) and rows_of.max() >= len(images)):
            raise ValueError(
                f"{len(images)} images, {len(instructions)} instructions and {len(seeds)} seeds do not match"
            )
        return self._edits(images, rows_of, instructions, seeds)

    def _edits(
        self, images: np.ndarray, rows_of: np.ndarray, instructions: Sequence[str], seeds: Sequence[int]
    ) -> np.ndarray:
        latents = self._source_latents(images)
        edited = np.empty((len(rows_of), *images.shape[1:]), np.float32)
        for rows in self._padded_batches(len(rows_of)):
            batch = self._edit_batch(latents[rows_of[rows]], [instructions[k] for k in rows], [seeds[k] for k in rows])
            edited[rows] = [resized(image, images.shape[1]) for image in batch]
        return edited

    def scheduler(self) -> SchedulerMixin:
        """A new scheduler of the sampler, with the noise schedule that the editor was trained with."""
        return SAMPLERS[self.settings.sampler].from_config(self.schedule)

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """U-Net, VAE and text encoder, whose `evaluation.weights_digest` identifies the editor."""
        return self.pipeline.unet, self.pipeline.vae, self.pipeline.text_encoder

    def variations(self, image: np.ndarray, instructions: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """Several edits of one uint8 (S, S, 3): float32 (n, S, S, 3) in 0…1."""
        return self.edit(image[None], instructions, seeds, sources=np.zeros(len(instructions), np.int64))

    def _padded_batches(self, count: int) -> list[np.ndarray]:
        """Row numbers 0 … count − 1 in arrays of batch_size; the last is padded with its own rows."""
        size = self.settings.batch_size
        return [np.resize(np.arange(start, min(start + size, count)), size) for start in range(0, count, size)]

    @torch.inference_mode()
    def _source_latents(self, images: np.ndarray) -> Tensor:
        """The images' posterior modes, unscaled as InstructPix2Pix takes them: (m, 4, s, s)."""
        parts: dict[int, Tensor] = {}
        for rows in self._padded_batches(len(images)):
            source = torch.from_numpy(np.stack([resized(image, self.settings.size) for image in images[rows]]))
            pixels = self.pipeline.image_processor.preprocess(source.permute(0, 3, 1, 2).float() / 255)
            latents = self.pipeline.vae.encode(pixels.to(self.device, self.pipeline.vae.dtype)).latent_dist.mode()
            parts |= dict(zip(rows.tolist(), latents, strict=True))
        return torch.stack([parts[k] for k in range(len(images))]) if parts else torch.empty(0)

    @torch.inference_mode()
    def _edit_batch(self, sources: Tensor, instructions: list[str], seeds: list[int]) -> np.ndarray:
        used, guided = self.settings, self.settings.guided_steps
        text = torch.cat([self._embedding(instruction) for instruction in instructions])
        empty = self._embedding("").expand_as(text)
        self.pipeline.scheduler = self.scheduler()
        whole = (guided.first, guided.last) == (0, used.steps)
        result = self.pipeline(
            image=sources,
            prompt_embeds=text,
            negative_prompt_embeds=empty,
            num_inference_steps=used.steps,
            guidance_scale=used.guidance_scale if guided.at_first else 1.0,
            image_guidance_scale=used.image_guidance_scale,
            generator=[torch.Generator().manual_seed(int(seed)) for seed in seeds],
            output_type="pt",
            callback_on_step_end=None if whole else guided.callback(used.guidance_scale, empty),
            callback_on_step_end_tensor_inputs=TENSORS,
        ).images
        return result.float().permute(0, 2, 3, 1).cpu().numpy()

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
    settings: EditorSettings, device: str | torch.device = "cpu", kind: type[Editor] = Editor
) -> Editor:
    """Loads a pipeline with the sampler of the settings, as an editor of a kind.

    Warns when bfloat16 is asked for on a processor that lacks its instructions: it computes the same, much slower.
    FileNotFoundError when the editor cannot be loaded, ValueError when its VAE has not 4 latent channels, by which the
    pipeline recognises latents; both name the parameter.
    """
    device, precision = torch.device(device), settings.precision
    _warn_of_slow(precision, device)
    dtype = DTYPES["float16" if device.type == "cuda" else "float32"] if precision == "auto" else DTYPES[precision]
    name, revision = settings.name, settings.revision
    pipeline = load_pipeline(StableDiffusionInstructPix2PixPipeline, "editor", name, revision, dtype)
    if (channels := pipeline.vae.config.latent_channels) != pipeline.image_processor.config.vae_latent_channels:
        raise ValueError(f"editor = {name!r}: its VAE has {channels} latent channels, not 4")
    editor = kind(pipeline, settings, dict(pipeline.scheduler.config))
    pipeline.scheduler = editor.scheduler()
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet.to(memory_format=torch.channels_last)
    pipeline.to(device)
    if settings.compiled:
        pipeline.unet.compile()
    return editor


def _warn_of_slow(precision: str, device: torch.device) -> None:
    if precision == "bfloat16" and not has_bfloat16(device):
        warnings.warn(
            f"edit_precision = 'bfloat16': this {device.type} device has no instructions for it and emulates them, "
            "many times slower; give auto or float32",
            stacklevel=3,
        )
