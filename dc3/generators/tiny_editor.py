"""Training of tiny-instruct-pix2pix, the instruction-following latent-diffusion editor that the package ships.

The recipe is InstructPix2Pix's (arXiv 2211.09800): a U-Net denoises the latents of the edited image, given the source's
latents as further channels and the instruction through cross-attention; both are dropped now and then, for guidance.
Here the edits are colour grades (`grading`). At 16×16 latents the usual noise schedule still shows the mean colour at
its last step, so ours ends in pure noise and the U-Net predicts v (arXiv 2305.08891).

    dc3 train-editor params/editor/tiny-instruct-pix2pix.yaml
"""

import json
import logging
from pathlib import Path
from string import ascii_lowercase

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    EulerAncestralDiscreteScheduler,
    StableDiffusionInstructPix2PixPipeline,
    UNet2DConditionModel,
)
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dc3.generators.training_loop import fit
from dc3.images import datasets
from dc3.machine import devices, limits, paths
from dc3.machine.keeping import kept_folder
from dc3.models.evaluation import images_digest
from dc3.models.grading import GRADES, grade
from dc3.models.pipelines import NOISE_SCHEDULE

log = logging.getLogger(__name__)

INSTRUCTION = "Adjust the color hue to be {p} and preserve all details and content"
TEXT_WIDTH = 96
TEXT_LENGTH = 32  # tokens; the instruction with the longest prompt takes 17
KL_WEIGHT = 1e-4  # enough to bound the latents' scale; more blurs 32-pixel images
SCALING_BATCHES = 8
START, END = "<|startoftext|>", "<|endoftext|>"


class ImageSource(BaseModel):
    """One image set to train on, at one size; the arguments of `datasets.load`."""

    model_config = ConfigDict(extra="forbid")
    dataset: str
    data_dir: str = ""
    image_size: int = Field(ge=limits.SMALLEST_SIZE, le=limits.LARGEST_SIZE)
    images_per_class: int = Field(0, ge=0, le=limits.LARGEST)


class EditorRecipe(BaseModel):
    """Everything that decides the weights."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    sources: list[ImageSource] = Field(min_length=1)
    seed: int = Field(0, ge=0, le=limits.LARGEST_SEED)
    batch_pixels: int = Field(gt=0, le=limits.LARGEST)  # pixels per batch: larger images come in smaller batches
    large_share: float = Field(ge=0, le=1)  # share of steps with the larger sizes
    autoencoder_steps: int = Field(gt=0, le=limits.MOST_STEPS)
    autoencoder_learning_rate: float = Field(ge=limits.SMALLEST_RATE, le=limits.LARGEST_RATE)
    steps: int = Field(gt=0, le=limits.MOST_STEPS)
    learning_rate: float = Field(ge=limits.SMALLEST_RATE, le=limits.LARGEST_RATE)
    drop: float = Field(ge=0, le=0.3)  # each of: source, instruction, both
    save_every: int = Field(250, gt=0, le=limits.MOST_STEPS)


def train_editor(recipe: EditorRecipe, work: Path, out: Path, device: str = "auto") -> None:
    """Trains autoencoder, then U-Net and text encoder; writes a diffusers pipeline folder (fp16 safetensors) to `out`.

    A killed run resumes from its checkpoints in `work`. keeping.AnotherTraining when they come from another recipe or
    other images.
    """
    torch.manual_seed(recipe.seed)
    target = devices.device(device)
    stream = PairStream(recipe)
    images = {str(size): images_digest(pool) for size, pool in stream.pools.items()}
    kept_folder(work, recipe.model_dump() | {"images": images}, "remove it, or choose another folder with --work")
    vae = build_autoencoder().to(target)
    fit(
        vae,
        lambda step: reconstruction_loss(vae, stream, step),
        work / "autoencoder.pt",
        steps=recipe.autoencoder_steps,
        learning_rate=recipe.autoencoder_learning_rate,
        save_every=recipe.save_every,
    )
    set_scaling_factor(vae.requires_grad_(False), stream)
    tokenizer = build_tokenizer([INSTRUCTION.format(p=prompt) for prompt in GRADES], TEXT_LENGTH)
    model = nn.ModuleDict(
        {"unet": build_unet(vae.config.latent_channels), "text_encoder": build_text_encoder(tokenizer)}
    )
    fit(
        model.to(target),
        DenoisingLoss(stream, vae, model, tokenizer),
        work / "denoiser.pt",
        steps=recipe.steps,
        learning_rate=recipe.learning_rate,
        save_every=recipe.save_every,
    )
    assemble(vae, model, tokenizer).to(torch.float16).save_pretrained(out, safe_serialization=True)
    log.info("wrote %s", out)


def assemble(
    vae: AutoencoderKL, model: nn.ModuleDict, tokenizer: CLIPTokenizer
) -> StableDiffusionInstructPix2PixPipeline:
    """The trained parts as a pipeline."""
    return StableDiffusionInstructPix2PixPipeline(
        vae=vae,
        text_encoder=model["text_encoder"],
        tokenizer=tokenizer,
        unet=model["unet"],
        scheduler=EulerAncestralDiscreteScheduler(**NOISE_SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


class PairStream:
    """Source, target and instruction of every training step, a pure function of (seed, step)."""

    def __init__(self, recipe: EditorRecipe):
        self.recipe = recipe
        self.pools: dict[int, np.ndarray] = {}
        for source in recipe.sources:
            images = datasets.load(
                source.dataset,
                "train",
                data_dir=source.data_dir and str(paths.resolve(source.data_dir)),
                images_per_class=source.images_per_class,
            ).images(size=source.image_size)
            pool = self.pools.get(source.image_size)
            self.pools[source.image_size] = images if pool is None else np.concatenate([pool, images])

    def batch(self, step: int, stage: str) -> tuple[torch.Tensor, torch.Tensor, list[str], np.random.Generator]:
        """Source and target, float32 (b, 3, S, S) in −1…1, b prompts, and a generator for the step's other draws."""
        rng = np.random.default_rng([self.recipe.seed, len(stage), step])
        smallest, *larger = sorted(self.pools)
        size = int(rng.choice(larger)) if larger and rng.random() < self.recipe.large_share else smallest
        count = max(self.recipe.batch_pixels // size**2, 1)
        images = self.pools[size][np.sort(rng.integers(len(self.pools[size]), size=count))]
        flipped = rng.random(count) < 0.5
        images = np.where(flipped[:, None, None, None], images[:, :, ::-1], images)
        prompts = [list(GRADES)[k] for k in rng.integers(len(GRADES), size=count)]
        return to_model_range(images), to_model_range(grade(images, prompts, rng)), prompts, rng


def to_model_range(images: np.ndarray) -> torch.Tensor:
    """uint8 (n, H, W, 3) → float32 (n, 3, H, W) in −1…1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def build_autoencoder() -> AutoencoderKL:
    """0.6 million parameters; (3, S, S) ↔ (4, S/2, S/2), with as many channels as Stable Diffusion's."""
    return AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,  # without it the network works alike at any image size
        sample_size=32,
    )


def reconstruction_loss(vae: AutoencoderKL, stream: PairStream, step: int) -> torch.Tensor:
    """L1 + L2 between image and reconstruction, plus the weighted KL divergence to N(0, 1) (nats per latent element).

    Sources and graded targets alternate, so that the autoencoder learns strong tints.
    """
    source, target, _, rng = stream.batch(step, "autoencoder")
    images = (source if step % 2 else target).to(vae.device)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    with devices.autocast(vae.device, True):
        posterior = vae.encode(images).latent_dist
        mean, log_variance = posterior.mean.float(), posterior.logvar.float()
        noise = torch.randn(mean.shape, generator=generator).to(mean.device)
        decoded = vae.decode(mean + torch.exp(0.5 * log_variance) * noise).sample.float()
    divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
    return (decoded - images).abs().mean() + (decoded - images).pow(2).mean() + KL_WEIGHT * divergence


@torch.no_grad()
def set_scaling_factor(vae: AutoencoderKL, stream: PairStream) -> None:
    """Sets 1 / (standard deviation of the latents over training batches), as latent diffusion expects."""
    latents = [
        vae.encode(stream.batch(step, "autoencoder")[:2][step % 2].to(vae.device)).latent_dist.mode().flatten()
        for step in range(SCALING_BATCHES)
    ]
    vae.register_to_config(scaling_factor=round(1 / torch.cat(latents).std().item(), 5))


def build_tokenizer(instructions: list[str], max_length: int) -> CLIPTokenizer:
    """A tokenizer with one token per word of the instructions, and letters for all other words."""
    trainer = BpeTrainer(
        vocab_size=1024,
        min_frequency=1,
        special_tokens=[START, END],
        initial_alphabet=sorted(ByteLevel.alphabet()),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner = Tokenizer(BPE(end_of_word_suffix="</w>", unk_token=END))
    learner.pre_tokenizer = Sequence([Split(" ", "removed"), ByteLevel(add_prefix_space=False, use_regex=False)])
    learner.train_from_iterator([text.lower() for text in instructions] + [" ".join(ascii_lowercase)], trainer)
    learned = json.loads(learner.to_str())["model"]
    merges = [tuple(merge) for merge in learned["merges"]]
    return CLIPTokenizer(vocab=learned["vocab"], merges=merges, model_max_length=max_length)


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A CLIP text encoder of two layers."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TEXT_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_unet(latent_channels: int) -> UNet2DConditionModel:
    """6.7 million parameters; inputs are the channels of noisy target and source latents."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=2 * latent_channels,
        out_channels=latent_channels,
        block_out_channels=(64, 128, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


class DenoisingLoss:
    """The v-prediction loss of one step: ‖v̂(z_t, z_source, instruction, t) − v‖², with dropped conditions."""

    def __init__(self, stream: PairStream, vae: AutoencoderKL, model: nn.ModuleDict, tokenizer: CLIPTokenizer):
        self.stream, self.vae, self.model = stream, vae, model
        self.noising = DDPMScheduler(**NOISE_SCHEDULE)
        texts = [INSTRUCTION.format(p=prompt) for prompt in GRADES] + [""]
        tokens = tokenizer(texts, padding="max_length", max_length=TEXT_LENGTH, return_tensors="pt")
        self.tokens = tokens.input_ids.to(vae.device)
        self.row = {prompt: k for k, prompt in enumerate(GRADES)}

    def __call__(self, step: int) -> torch.Tensor:
        """The scalar loss of step `step`, whose draws depend on (seed, step) only."""
        source, target, prompts, rng = self.stream.batch(step, "denoising")
        device, drop = self.vae.device, self.stream.recipe.drop
        fate = rng.random(len(source))
        no_source, no_text = fate < 2 * drop, (fate >= drop) & (fate < 3 * drop)
        rows = np.where(no_text, len(GRADES), [self.row[prompt] for prompt in prompts])
        noise_seed = torch.Generator().manual_seed(int(rng.integers(2**62)))
        with devices.autocast(device, True):
            with torch.no_grad():
                z_source = self.vae.encode(source.to(device)).latent_dist.mode().float()
                z = self.vae.encode(target.to(device)).latent_dist.mode().float() * self.vae.config.scaling_factor
            z_source[torch.from_numpy(no_source)] = 0
            noise = torch.randn(z.shape, generator=noise_seed).to(device)
            t = torch.randint(self.noising.config.num_train_timesteps, (len(z),), generator=noise_seed).to(device)
            text = self.model["text_encoder"](self.tokens).last_hidden_state[torch.from_numpy(rows)]
            noisy = torch.cat([self.noising.add_noise(z, noise, t), z_source], dim=1)
            predicted = self.model["unet"](noisy, t, encoder_hidden_states=text).sample
        return F.mse_loss(predicted.float(), self.noising.get_velocity(z, noise, t))
