"""DiT, the class-conditional diffusion transformer (Peebles & Xie, arXiv 2212.09748): small and new, or a checkpoint.

Both are diffusers `DiTPipeline`s.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from diffusers.models.embeddings import LabelEmbedding
from torch import Tensor, nn

from dc3.features import downscaling
from dc3.generators.recipes import PUBLISHED_CLASSES, DiTShape, dit_rows
from dc3.generators.training_loop import seeded
from dc3.machine import paths
from dc3.machine.files import first_line
from dc3.models.pipelines import NOISE_SCHEDULE, quiet_loading

NULL_CLASS = PUBLISHED_CLASSES  # DiTPipeline always guides away from row 1000 of the class embeddings


class DiT:
    """A `finetuning.Generator` that trains the whole transformer; class k of the data is its class `rows[k]`."""

    name = "DiT"

    def __init__(self, pipeline: DiTPipeline, rows: Sequence[int], device: torch.device, checkpointing: bool = False):
        pipeline.set_progress_bar_config(disable=True)
        pipeline.vae.requires_grad_(False)
        self.pipeline = pipeline.to(device)
        self.rows = torch.tensor([*rows, NULL_CLASS], device=device)  # NO_CLASS = −1 picks the last
        self.classes = len(rows)
        self.vae, self.scheduler, self.transformer = pipeline.vae, pipeline.scheduler, pipeline.transformer
        self.size = self.transformer.config.sample_size * downscaling(self.vae.config)
        for module in self.transformer.modules():
            if isinstance(module, LabelEmbedding):
                module.dropout_prob = 0.0  # each block would drop other labels, by the global generator
        if checkpointing:
            self.transformer.enable_gradient_checkpointing()
        self.trained = nn.ParameterList(self.transformer.parameters())

    def predict(self, noisy: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """ε or v (b, c, h, w), without the variance that some transformers also predict."""
        predicted = self.transformer(noisy, timestep=t, class_labels=self.rows[labels]).sample
        return predicted[:, : noisy.shape[1]]

    def sample(self, labels: list[int], noise: list[torch.Generator], steps: int, guidance: float) -> Tensor:
        """Images (b, 3, size, size) in 0…1; `guidance` 1 means none."""
        rows = self.rows[torch.tensor(labels)].tolist()
        return self.pipeline(rows, guidance, noise, steps, output_type="pt").images

    def save(self, folder: Path) -> None:
        """Writes the whole pipeline, for `load_dit`."""
        self.pipeline.save_pretrained(folder, safe_serialization=True)

    def load(self, folder: Path) -> None:
        """Loads the transformer that `save` wrote; the VAE is not trained."""
        loaded = DiTTransformer2DModel.from_pretrained(folder / "transformer")
        self.transformer.load_state_dict(loaded.state_dict())


def new_dit(
    vae: AutoencoderKL,
    classes: int,
    size: int,
    shape: DiTShape,
    device: torch.device,
    *,
    seed: int,
    checkpointing: bool = False,
) -> DiT:
    """An untrained DiT over the latents of `vae` for images of `size` pixels, adaLN-Zero initialised as published.

    Raises ValueError when tokens do not tile the latents, and for more than 1000 classes.
    """
    shape.check_size(size, downscaling(vae.config))
    rows = dit_rows([], classes)
    transformer = seeded(
        lambda: _initialised(
            DiTTransformer2DModel(
                num_attention_heads=shape.heads,
                attention_head_dim=shape.width // shape.heads,
                in_channels=vae.config.latent_channels,
                out_channels=vae.config.latent_channels,
                num_layers=shape.depth,
                sample_size=size // downscaling(vae.config),
                patch_size=shape.patch,
                num_embeds_ada_norm=NULL_CLASS,
            )
        ),
        seed,
    )
    pipeline = DiTPipeline(transformer, vae.eval(), DDIMScheduler(**NOISE_SCHEDULE, clip_sample=False))
    return DiT(pipeline, rows, device, checkpointing)


def load_dit(
    base: str, classes: int, device: torch.device, *, rows: Sequence[int] = (), revision: str = "",
    checkpointing: bool = False,
) -> DiT:  # fmt: skip
    """A trained DiTPipeline, folder or hub id (facebook/DiT-XL-2-256), in float32, because all weights are trained.

    `rows`: each class's number among the checkpoint's 1000 (empty: the first ones, which are retrained).
    FileNotFoundError when it cannot be loaded, ValueError for another kind of pipeline or a bad number of rows.
    """
    quiet_loading()
    try:
        pipeline = DiTPipeline.from_pretrained(paths.model_location(base), revision=revision or None)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"dit_base = {base!r} cannot be loaded ({first_line(error)}): give a folder with a DiTPipeline, a hub id "
            "that this machine can reach, or '' for a small new DiT"
        ) from error
    if not isinstance(pipeline.transformer, DiTTransformer2DModel):
        raise ValueError(f"dit_base = {base!r} has a {type(pipeline.transformer).__name__}: give a pipeline with a DiT")
    return DiT(pipeline, dit_rows(rows, classes), device, checkpointing)


def _initialised(model: DiTTransformer2DModel) -> DiTTransformer2DModel:
    """Xavier for linear layers, zero for modulation and output layers: every block begins as the identity."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        if isinstance(module, LabelEmbedding):
            nn.init.normal_(module.embedding_table.weight, std=0.02)
    for block in model.transformer_blocks:
        nn.init.zeros_(block.norm1.linear.weight)
        for layer in (block.norm1.emb.timestep_embedder.linear_1, block.norm1.emb.timestep_embedder.linear_2):
            nn.init.normal_(layer.weight, std=0.02)
    for layer in (model.proj_out_1, model.proj_out_2):
        nn.init.zeros_(layer.weight)
    return model
