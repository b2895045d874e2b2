"""Loading diffusers pipelines by shipped name, folder or hub id; and the noise schedule for small latents."""

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline

from dc3.machine import paths
from dc3.machine.files import first_line

NOISE_SCHEDULE = {  # v and zero terminal SNR (arXiv 2305.08891): the usual one never hides small latents' mean
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}


def load_pipeline(
    kind: type[DiffusionPipeline], parameter: str, name: str, revision: str, dtype: torch.dtype
) -> DiffusionPipeline:
    """A pipeline with a text encoder, without its safety checker. FileNotFoundError naming `parameter` if absent."""
    quiet_loading()
    try:
        return kind.from_pretrained(
            paths.model_location(name),
            dtype=dtype,
            safety_checker=None,
            requires_safety_checker=False,
            revision=revision or None,
        )
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{parameter} = {name!r} cannot be loaded ({first_line(error)}): give {paths.SHIPPED_EDITOR.name!r}, "
            "a folder in diffusers' format, or a hub id that this machine can reach"
        ) from error


def quiet_loading() -> None:
    """Turns off the libraries' progress bars, which would stay in a notebook's outputs."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
