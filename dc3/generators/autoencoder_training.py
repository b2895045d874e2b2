"""The small AutoencoderKL of the shipped editor, which is also the default encoder of the features stage."""

from typing import Protocol

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from dc3.machine.devices import autocast

KL_WEIGHT = 1e-4  # enough to keep the latents' scale bounded; more of it blurs 32-pixel images
SCALING_BATCHES = 8


class Stream(Protocol):
    """The batches that `dc3.generators.tiny_editor.PairStream` draws."""

    def batch(self, step: int, stage: str) -> tuple[Tensor, Tensor, list[str], np.random.Generator]:
        """Source and target, float32 (b, 3, S, S) in −1…1, b prompts, and a generator for the step's other draws."""


def build_autoencoder() -> AutoencoderKL:
    """0.6 million parameters; (3, S, S) ↔ (4, S/2, S/2), the channel count of Stable Diffusion's."""
    return AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,  # without it the network works at any image size alike
        sample_size=32,
    )


def reconstruction_loss(vae: AutoencoderKL, stream: Stream, step: int) -> torch.Tensor:
    """L1 + L2 between image and reconstruction, plus the weighted KL divergence to N(0, 1) (nats a latent element).

    Sources and graded targets alternate, so that strong tints are inside what the autoencoder knows.
    """
    source, target, _, rng = stream.batch(step, "autoencoder")
    images = (source if step % 2 else target).to(vae.device)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    with autocast(vae.device, True):
        posterior = vae.encode(images).latent_dist
        mean, log_variance = posterior.mean.float(), posterior.logvar.float()
        noise = torch.randn(mean.shape, generator=generator).to(mean.device)
        decoded = vae.decode(mean + torch.exp(0.5 * log_variance) * noise).sample.float()
    divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
    return (decoded - images).abs().mean() + (decoded - images).pow(2).mean() + KL_WEIGHT * divergence


@torch.no_grad()
def set_scaling_factor(vae: AutoencoderKL, stream: Stream) -> None:
    """Sets 1 / (standard deviation of the latents over training batches), as latent diffusion expects."""
    latents = [
        vae.encode(stream.batch(step, "autoencoder")[:2][step % 2].to(vae.device)).latent_dist.mode().flatten()
        for step in range(SCALING_BATCHES)
    ]
    vae.register_to_config(scaling_factor=round(1 / torch.cat(latents).std().item(), 5))
