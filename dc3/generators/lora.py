"""Text-to-image by LoRA (Hu, arXiv 2106.09685): class names are the prompts, only low-rank updates are trained.

The same code takes `StableDiffusionPipeline`s (stable-diffusion-v1-5) and the shipped tiny-instruct-pix2pix. The latter
is an editor: its U-Net sees the latents of a source image beside the noise. It was also trained with zeros instead of
the source, and that is how it is used here: no source, the prompt alone.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import (
    DiffusionPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.training_utils import cast_training_params
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor, nn
from transformers import CLIPTokenizer

from dc3.generators.recipes import LoRASettings
from dc3.generators.training_loop import seeded
from dc3.machine import paths
from dc3.machine.files import first_line
from dc3.models.pipelines import load_pipeline, quiet_loading

ADAPTER = "default"
KINDS = (StableDiffusionPipeline, StableDiffusionInstructPix2PixPipeline)


class LoRA:
    """A `finetuning.Generator`: a text-to-image pipeline that trains a LoRA of its U-Net."""

    name = "LoRA"

    def __init__(self, pipeline: DiffusionPipeline, prompts: Sequence[str], size: int, checkpointing: bool = False):
        self.pipeline, self.prompts, self.size, self.classes = pipeline, list(prompts), size, len(prompts)
        self.vae, self.unet, self.scheduler = pipeline.vae, pipeline.unet, pipeline.scheduler
        self.text = _embeddings(pipeline, [*prompts, ""])  # NO_CLASS = −1 picks the last, no prompt
        if checkpointing:
            self.unet.enable_gradient_checkpointing()
        self.trained = nn.ParameterList(p for p in self.unet.parameters() if p.requires_grad)

    @property
    def edits(self) -> bool:
        """Whether the U-Net has further input channels for the source of an edit."""
        return isinstance(self.pipeline, StableDiffusionInstructPix2PixPipeline)

    def predict(self, noisy: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """ε or v (b, c, h, w), given the classes' prompts; an editor's U-Net also gets an empty source."""
        text = self.text[labels]
        seen = torch.cat([noisy, torch.zeros_like(noisy)], dim=1) if self.edits else noisy
        return self.unet(seen.to(text.dtype), t, encoder_hidden_states=text).sample

    def sample(self, labels: list[int], noise: list[torch.Generator], steps: int, guidance: float) -> Tensor:
        """Images (b, 3, size, size) in 0…1 for the classes' prompts; `guidance` 1 means none."""
        text = self.text[torch.tensor(labels)]
        if self.edits:
            side = self.size // self.pipeline.vae_scale_factor
            empty = text.new_zeros(len(labels), self.vae.config.latent_channels, side, side)
            shape = {"image": empty, "image_guidance_scale": 1.0}
        else:
            shape = {"height": self.size, "width": self.size}
        return self.pipeline(
            prompt_embeds=text,
            negative_prompt_embeds=self.text[-1:].expand_as(text),
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=noise,
            output_type="pt",
            **shape,
        ).images

    def save(self, folder: Path) -> None:
        """Writes pytorch_lora_weights.safetensors, for `load_lora_weights` of the base's pipeline."""
        layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(self.unet, adapter_name=ADAPTER))
        self.pipeline.save_lora_weights(folder, unet_lora_layers=layers, safe_serialization=True)

    def load(self, folder: Path) -> None:
        """Replaces the layers by those that `save` wrote."""
        self.unet.delete_adapters(ADAPTER)
        weights, alphas = self.pipeline.lora_state_dict(folder)
        with warnings.catch_warnings():  # diffusers guesses layers by name, and peft finds more
            warnings.filterwarnings("ignore", "While injecting the PEFT adapters", RuntimeWarning)
            self.pipeline.load_lora_into_unet(weights, alphas, self.unet, adapter_name=ADAPTER)


def load_lora_base(
    base: str,
    classes: Sequence[str],
    settings: LoRASettings,
    device: torch.device,
    *,
    size: int = 0,
    seed: int = 0,
    revision: str = "",
    dtype: torch.dtype = torch.float32,
    checkpointing: bool = False,
) -> LoRA:
    """A base model (shipped, folder or hub id) with a fresh LoRA on its U-Net, as in `settings`.

    `classes` are the names in the prompts; size 0 is the base's own. U-Net and text encoder are in `dtype` (bfloat16
    needs autocast), LoRA and VAE in float32. FileNotFoundError when the base cannot be loaded, ValueError naming the
    parameter when it is not a text-to-image pipeline, lacks the layers, or reads two prompts as one.
    """
    pipeline = _pipeline(base, revision, dtype)
    pipeline.set_progress_bar_config(disable=True)
    for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        part.requires_grad_(False)
    prompts = settings.prompts(classes)
    _check_distinct(pipeline.tokenizer, prompts)
    seeded(lambda: _add_lora(pipeline.unet, settings), seed)
    cast_training_params(pipeline.unet, torch.float32)
    if pipeline.vae.dtype != torch.float32:
        pipeline.vae.to(torch.float32)
    size = size or pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    return LoRA(pipeline.to(device), prompts, size, checkpointing)


def _pipeline(base: str, revision: str, dtype: torch.dtype) -> DiffusionPipeline:
    pipeline = load_pipeline(DiffusionPipeline, "lora_base", base, revision, dtype)
    if not isinstance(pipeline, KINDS):
        known = ", ".join(kind.__name__ for kind in KINDS)
        raise ValueError(f"lora_base = {base!r} is a {type(pipeline).__name__}: allowed are {known}")
    return pipeline


def check_base(base: str, classes: Sequence[str], settings: LoRASettings, revision: str = "") -> None:
    """Raises as `load_lora_base` would, judging by the base's configurations alone: its weights are not read."""
    quiet_loading()
    location, of_revision = paths.model_location(base), {"revision": revision or None}
    try:
        tokenizer = CLIPTokenizer.from_pretrained(location, subfolder="tokenizer", **of_revision)
        config = UNet2DConditionModel.load_config(location, subfolder="unet", **of_revision)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"lora_base = {base!r} cannot be loaded ({first_line(error)})") from error
    _check_distinct(tokenizer, settings.prompts(classes))
    with torch.device("meta"):
        _add_lora(UNet2DConditionModel.from_config(config), settings)


def _add_lora(unet: UNet2DConditionModel, settings: LoRASettings) -> None:
    """Adds a fresh LoRA. ValueError naming lora_targets when one of them is no layer that takes one."""
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.rank,
        init_lora_weights="gaussian",
        target_modules=list(settings.targets),
    )
    names = [name for name, _ in unet.named_modules()]
    lacking = [target for target in settings.targets if not any(f".{name}".endswith(f".{target}") for name in names)]
    try:
        if lacking:
            raise ValueError(f"the U-Net has no layers whose names end with {', '.join(map(repr, lacking))}")
        unet.add_adapter(config, adapter_name=ADAPTER)
    except ValueError as error:
        raise ValueError(f"lora_targets = {list(settings.targets)}: {first_line(error)}") from error


def _tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    return tokenizer(
        texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids


def _check_distinct(tokenizer: CLIPTokenizer, prompts: list[str]) -> None:
    """ValueError when the tokenizer, which truncates long texts, gives two prompts the same tokens."""
    read: dict[tuple[int, ...], str] = {}
    for prompt, tokens in zip(prompts, map(tuple, _tokens(tokenizer, prompts).tolist()), strict=True):
        if tokens in read:
            raise ValueError(
                f"prompt_template: {prompt!r} and {read[tokens]!r} are the same to the model, which reads "
                f"{tokenizer.model_max_length} tokens: shorten the template, give class_names, or leave lora out of "
                "generators"
            )
        read[tokens] = prompt


@torch.no_grad()
def _embeddings(pipeline: DiffusionPipeline, texts: list[str]) -> Tensor:
    """(n, tokens, width), computed once because the text encoder is frozen."""
    return pipeline.text_encoder(_tokens(pipeline.tokenizer, texts).to(pipeline.device))[0]
