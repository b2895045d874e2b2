"""Fine-tuning of generative models: equal steps on every image set, then images of every class.

Two generators share this code: a class-conditional DiT and a text-to-image U-Net with LoRA. Both denoise latents of an
AutoencoderKL. All draws depend on (seed, step) in training and (seed, class, number) in generation, so sets of any size
see the same noise at each step, a killed run resumes to the same weights, and an image does not depend on its batch.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ConfigMixin, DDPMScheduler
from numpy.typing import ArrayLike
from torch import Tensor, nn

from dc3 import features
from dc3.generators.recipes import FinetuneRecipe, Sampling
from dc3.generators.training_loop import fit
from dc3.images.decoding import resized
from dc3.images.framing import Frame
from dc3.images.image_set import ImageSet
from dc3.machine import progress
from dc3.machine.devices import autocast
from dc3.machine.keeping import kept, kept_folder, key_digest
from dc3.models.evaluation import weights_digest

NO_CLASS = -1  # a dropped class, from which classifier-free guidance guides away
LOSSES, CHECKPOINT = "losses.npy", "checkpoint.pt"
ENCODE_BATCH = 32  # images
WARMUP = 0.1  # share of the steps
EMA_DECAY = 0.999


class Generator(Protocol):
    """A latent diffusion model to train; `name` for messages, `size` the image side, `classes` their number."""

    name: str
    size: int
    classes: int
    vae: AutoencoderKL
    scheduler: ConfigMixin
    trained: nn.ParameterList

    def predict(self, noisy: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """The prediction (b, c, h, w) for noisy latents (b, c, h, w) at times t (b,) with labels (b,) or NO_CLASS."""

    def sample(self, labels: list[int], noise: list[torch.Generator], steps: int, guidance: float) -> Tensor:
        """Images (b, 3, size, size) in 0…1."""

    def save(self, folder: Path) -> None:
        """Writes the weights as diffusers loads them."""

    def load(self, folder: Path) -> None:
        """Loads what `save` wrote."""


class Latents(NamedTuple):
    """The unscaled posterior means (m, c, h, w) of the images that a training draws.

    `keys` (m,) ascend: 2 · index + mirrored, because mirrored images are encoded too; labels (n,) of the whole set.
    """

    means: np.ndarray
    keys: np.ndarray
    labels: np.ndarray
    fingerprint: str


class Batch(NamedTuple):
    """The draws of one batch: `keys` (b,) of images, mirrored or not; which labels are dropped (b,); a noise seed."""

    keys: np.ndarray
    dropped: np.ndarray
    noise_seed: int

    @property
    def images(self) -> np.ndarray:
        """Positions in the set, (b,)."""
        return self.keys // 2


@dataclass(frozen=True, eq=False, kw_only=True)
class _Drawn(ImageSet):
    """The images of a set by `keys`, mirrored or not."""

    original: ImageSet
    keys: np.ndarray

    def _read(self, chosen: np.ndarray, frame: Frame | None) -> Iterator[tuple[np.ndarray, tuple[int, int]]]:
        keys = self.keys[chosen]
        for key, (image, size) in zip(keys, self.original._read(keys // 2, frame), strict=True):
            yield image[:, ::-1] if key % 2 else image, size

    def own_sizes(self, indices: ArrayLike | None = None) -> np.ndarray:
        return self.original.own_sizes(self.keys[self._positions(indices)] // 2)


def encode(generator: Generator, images: ImageSet, recipe: FinetuneRecipe, folder: Path) -> Latents:
    """Encodes each image that a training draws once, into a memory map in `folder`, and keeps it there.

    Raises ValueError for a set without images, or with a class that the generator does not have.
    """
    if not len(images):
        raise ValueError(f"{images.name} has no images: {generator.name} needs some to train on")
    if images.labels.max() >= generator.classes or images.labels.min() < 0:
        raise ValueError(
            f"{images.name} has labels up to {images.labels.max()}, {generator.name} has {generator.classes} "
            "classes: use a set and a generator of one data set"
        )
    parts = range(recipe.steps * recipe.accumulate)
    keys = np.unique([draw_batch(recipe, part, len(images)).keys for part in parts])
    fingerprint, size, vae = images.fingerprint(), generator.size, generator.vae
    side = size // features.downscaling(vae.config)
    shape = (len(keys), vae.config.latent_channels, side, side)
    if not len(keys):
        return Latents(np.empty(shape, np.float16), keys, images.labels, fingerprint)
    labels = images.labels[keys // 2]
    about = {name: getattr(images, name) for name in ("name", "split", "classes", "framing", "resampling")}
    own = _Drawn(**about, labels=labels, sources=(), original=images, keys=keys)
    drawn = sha256(keys.tobytes()).hexdigest()
    key = {"vae": weights_digest(vae), "set": fingerprint, "drawn": drawn, "size": size, "amp": recipe.amp}
    means = kept(
        folder / f"{key_digest(key)}.npy",
        lambda path: features.encode(vae, own, path, size=size, batch_size=ENCODE_BATCH, amp=recipe.amp),
        partial(np.load, mmap_mode="r"),
    )
    return Latents(means.reshape(shape), keys, images.labels, fingerprint)


def draw_batch(recipe: FinetuneRecipe, part: int, count: int) -> Batch:
    """The draws of batch `part` for a set of `count` images; only the choice of images depends on `count`."""
    rng = np.random.default_rng([recipe.seed, part])
    rows = (rng.random(recipe.batch_size) * count).astype(np.int64)
    mirrored, dropped = rng.random(recipe.batch_size) < 0.5, rng.random(recipe.batch_size) < recipe.drop
    return Batch(2 * rows + mirrored, dropped, int(rng.integers(2**62)))


@dataclass
class DenoisingLoss:
    """‖model(z_t, t, class) − target‖² of one batch (Ho 2020); the target is ε or v, as the scheduler says.

    The variance channels of a DiT (DiT-XL-2-256) get no gradient: the pipeline does not use them.
    """

    generator: Generator
    latents: Latents
    recipe: FinetuneRecipe

    def __post_init__(self) -> None:
        self.noising = DDPMScheduler.from_config(self.generator.scheduler.config)
        if self.noising.config.prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(
                f"{self.generator.name}: its scheduler predicts {self.noising.config.prediction_type!r}: allowed are "
                "'epsilon' and 'v_prediction'"
            )

    def __call__(self, part: int) -> Tensor:
        """The scalar loss of batch `part`, whose draws depend on (seed, part) only."""
        device, latents = self.generator.vae.device, self.latents
        drawn = draw_batch(self.recipe, part, len(latents.labels))
        means = latents.means[np.searchsorted(latents.keys, drawn.keys)].astype(np.float32)
        z = torch.from_numpy(means).to(device) * self.generator.vae.config.scaling_factor
        labels = torch.from_numpy(np.where(drawn.dropped, NO_CLASS, latents.labels[drawn.images])).to(device)
        draws = torch.Generator().manual_seed(drawn.noise_seed)
        noise = torch.randn(z.shape, generator=draws).to(device)
        t = torch.randint(self.noising.config.num_train_timesteps, (len(z),), generator=draws).to(device)
        noisy = self.noising.add_noise(z, noise, t)
        target = noise if self.noising.config.prediction_type == "epsilon" else self.noising.get_velocity(z, noise, t)
        with autocast(device, self.recipe.amp):
            predicted = self.generator.predict(noisy, t, labels)
        return F.mse_loss(predicted.float(), target)


def train(generator: Generator, latents: Latents, recipe: FinetuneRecipe, folder: Path) -> np.ndarray:
    """Trains `generator` in place and writes its weights to `folder`; returns the loss of every step, float64 (steps,).

    A killed training resumes from its checkpoint, a finished one is loaded; `folder` is emptied of another set's or
    recipe's results. 0 steps leave the generator unchanged. FloatingPointError when a loss is not finite.
    """
    if not recipe.steps:
        return np.empty(0)
    kept_folder(folder, asdict(recipe) | {"generator": generator.name, "set": latents.fingerprint})

    def write(path: Path) -> None:
        losses = fit(
            generator.trained,
            DenoisingLoss(generator, latents, recipe),
            folder / CHECKPOINT,
            steps=recipe.steps,
            learning_rate=recipe.learning_rate,
            ema_decay=EMA_DECAY,
            warmup=int(WARMUP * recipe.steps),
            save_every=recipe.save_every,
            accumulate=recipe.accumulate,
        )
        generator.save(folder)
        np.save(path, np.array(losses))

    def read(path: Path) -> np.ndarray:
        losses = np.load(path)
        generator.load(folder)  # after training too: bit for bit what a resumed run has
        return losses

    losses = kept(folder / LOSSES, write, read)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return losses


def generate(
    generator: Generator, sampling: Sampling, seed: int, amp: bool | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Images of every class, uint8 (C · per_class, image_size, image_size, 3), and their labels, class by class.

    Each image has its own noise from (seed, class, number) and every batch the same shape (the last one is padded).
    FloatingPointError when an image is not finite.
    """
    labels = np.repeat(np.arange(generator.classes), sampling.per_class)
    numbers = np.tile(np.arange(sampling.per_class), generator.classes)
    made = np.empty((len(labels), sampling.image_size, sampling.image_size, 3), np.uint8)
    starts = range(0, len(labels), sampling.batch_size)
    for start in progress.tqdm(starts, desc=f"{generator.name} generates", unit="batches"):
        rows = np.resize(np.arange(start, min(start + sampling.batch_size, len(labels))), sampling.batch_size)
        noise = [_noise(seed, int(labels[k]), int(numbers[k])) for k in rows]
        with torch.no_grad(), autocast(generator.vae.device, amp):
            batch = generator.sample(labels[rows].tolist(), noise, sampling.steps, sampling.guidance)
        pixels = batch.float().permute(0, 2, 3, 1).cpu().numpy()
        if not np.isfinite(pixels).all():
            raise FloatingPointError(f"{generator.name} generated images that are not finite: lower its learning rate")
        made[rows] = [np.rint(255 * resized(image, sampling.image_size).clip(0, 1)) for image in pixels]
    return made, labels


def _noise(seed: int, label: int, number: int) -> torch.Generator:
    draws = np.random.default_rng([seed, label, number])
    return torch.Generator().manual_seed(int(draws.integers(2**62)))
