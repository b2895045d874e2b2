"""DC3's gradient factors: the last-layer loss gradients of images, without autograd, streamed to disk."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dc3.images.image_set import ImageSet, class_numbers
from dc3.machine.arrays import RowFile
from dc3.machine.devices import Array, accumulator, as_tensor, autocast
from dc3.machine.engine import LOCAL, Columns, Engine, chunks
from dc3.machine.files import replacing
from dc3.models.augmentation import normalise
from dc3.models.networks import last_linear

ROWS = 4096  # of the embedding in memory at a time


def logit_gradient(logits: Tensor, labels: Tensor, loss: str = "softmax_ce") -> Tensor:
    """Closed form of ∂loss/∂logits per sample: p − y for "ce", p ⊙ (r − ⟨p, r⟩), r = softmax(p) − y, for "softmax_ce".

    logits (n, C) float, labels (n,) int64, p = softmax(logits), y one-hot. "softmax_ce" is cross-entropy applied to
    softmax(logits), a double softmax: the loss of the published DC3. Returns (n, C) float32, computed in float64: for a
    confident prediction, float32 autograd returns rounding errors, or 0. Raises ValueError for
    another loss.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss = {loss!r}: choose one of {', '.join(LOSSES)}")
    probability = logits.to(accumulator(logits.device)).softmax(1)
    gradient = LOSSES[loss](probability, F.one_hot(labels, logits.shape[1]))
    # Both gradients sum to 0. In a confident network the entry of the top class cancels: compute it from the others.
    top = probability.argmax(1, keepdim=True)
    others = gradient.scatter(1, top, 0)
    return others.scatter(1, top, -others.sum(1, keepdim=True)).float()


def _through_softmax(probability: Tensor, one_hot: Tensor) -> Tensor:
    residual = probability.softmax(1) - one_hot
    return probability * (residual - (probability * residual).sum(1, keepdim=True))


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "softmax_ce": _through_softmax,
    "ce": lambda probability, one_hot: probability - one_hot,
}


def factor_batches(
    model: nn.Module,
    images: Array | Iterable[Array],
    labels: Sequence[int] | Array,
    loss: str = "softmax_ce",
    batch_size: int = 256,
    first: int = 0,
    amp: bool | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The two factors of DC3's last-layer gradient embedding concat(g, g ⊗ h), without forming it and without autograd.

    model: any classifier whose logits are the output of its last linear layer; it runs in eval mode (channels_last on
    a GPU), in the precision of `devices.autocast` for `amp`, and gets its old modes back.
    images: one array, cut into batches of `batch_size`, or an iterable of batches, held one at a time; arrays are uint8
    (n, H, W, 3), which are ImageNet-normalised here, or float (n, 3, H, W), already normalised.
    labels: (n,) integers. first: the position of the first image in a larger set, for messages.
    Yields for each batch g = ∂loss/∂logits (b, C) and h = the last layer's input (b, d), float32.
    Raises ValueError for labels outside the model's classes, another number of images, and non-finite outputs.
    """
    layer = last_linear(model)
    labels = class_numbers(
        np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels), classes=layer.out_features
    )
    if loss not in LOSSES:
        raise ValueError(f"loss = {loss!r}: choose one of {', '.join(LOSSES)}")
    start = 0
    with _last_layer(model, layer, amp) as forward:
        for batch in _batches(images, batch_size, len(labels)):
            stop = start + len(batch)
            if stop > len(labels):
                raise ValueError(f"images = {stop} or more: expected one for each of {len(labels)} labels")
            features, logits = forward(batch)
            if not (torch.isfinite(features).all() and torch.isfinite(logits).all()):
                raise ValueError(f"model = NaN or infinite outputs for images {first + start} … {first + stop - 1}")
            target = torch.from_numpy(labels[start:stop]).to(logits.device)
            yield logit_gradient(logits, target, loss).cpu().numpy(), features.cpu().numpy()
            start = stop
    if start < len(labels):
        raise ValueError(f"images = {start}: expected one for each of {len(labels)} labels")


def _batches(images: Array | Iterable[Array], batch_size: int, count: int) -> Iterator[Array]:
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}: at least 1")
    batches: Iterable[Array] = images
    if isinstance(images, np.ndarray | Tensor):
        if len(images) != count:
            raise ValueError(f"images = {len(images)}: expected one for each of {count} labels")
        batches = (images[start : start + batch_size] for start in range(0, count, batch_size))
    for batch in batches:
        if not isinstance(batch, np.ndarray | Tensor) or batch.ndim != 4:
            raise ValueError(f"images = {getattr(batch, 'shape', type(batch))}: expected batches with 4 axes")
        yield batch


@contextmanager
def _last_layer(
    model: nn.Module, layer: nn.Linear, amp: bool | None
) -> Iterator[Callable[[Array], tuple[Tensor, Tensor]]]:
    """A function from a batch to the last layer's input and output, float32; the model is restored afterwards."""
    device, seen = layer.weight.device, []
    training = [(module, module.training) for module in model.modules()]
    hook = layer.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].float(), output.float())))

    def forward(batch: Array) -> tuple[Tensor, Tensor]:
        seen.clear()
        batch = as_tensor(batch)
        pixels = normalise(batch, device) if batch.dtype == torch.uint8 else batch.to(device, torch.float32)
        layout = torch.channels_last if device.type == "cuda" else torch.preserve_format
        with torch.inference_mode(), autocast(device, amp):
            model(pixels.to(memory_format=layout))
        if len(seen) != 1 or seen[0][0].ndim != 2:
            raise ValueError(
                f"model = {type(model).__name__}: expected a last linear layer that is applied once, to (n, d) features"
            )
        return seen[0]

    try:
        model.eval()
        yield forward
    finally:
        hook.remove()
        for module, mode in training:
            module.training = mode


@dataclass(frozen=True, eq=False)
class FactorWork:
    """`engine.Work`: the factors of the images at some positions, columns "row", "logit_grad" and "embedding"."""

    model: nn.Module
    images: ImageSet
    labels: np.ndarray
    loss: str
    amp: bool | None = None

    def __call__(self, chunk: np.ndarray) -> Columns:
        """The chunk's factors."""
        batch = [self.images.images(chunk)]
        labels, first = self.labels[chunk], int(chunk[0])
        ((gradient, features),) = factor_batches(self.model, batch, labels, self.loss, first=first, amp=self.amp)
        return {"row": chunk, "logit_grad": gradient, "embedding": features}


def to_disk(
    logit_grad_path: Path | str,
    embedding_path: Path | str,
    model: nn.Module,
    images: ImageSet,
    labels: np.ndarray,
    loss: str = "softmax_ce",
    batch_size: int = 256,
    engine: Engine = LOCAL,
    amp: bool | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Writes the factors of `factor_batches` to two .npy files, which appear when complete; returns them mapped.

    One batch is held at a time. float32 (n, C) and (n, d): for ImageNet-1K and a ResNet-18 5.1 and 2.6 GB.
    engine: local, or Ray's actors, with the same bytes at the same batch size. amp: as in `devices.autocast`.
    Raises as `factor_batches`, and OSError for a full disk, before it computes anything.
    """
    layer = last_linear(model)
    labels = class_numbers(labels, count=len(images), classes=layer.out_features)
    work = FactorWork(model, images, labels, loss, amp)
    with (
        replacing(logit_grad_path) as first,
        replacing(embedding_path) as second,
        RowFile(first, (len(labels), layer.out_features), np.float32, "gradients") as gradients,
        RowFile(second, (len(labels), layer.in_features), np.float32, "embeddings") as embeddings,
    ):
        for block in engine.map(work, chunks(len(labels), batch_size), "gradients"):
            gradients.put(block["row"], block["logit_grad"])
            embeddings.put(block["row"], block["embedding"])
    return np.load(logit_grad_path, mmap_mode="r"), np.load(embedding_path, mmap_mode="r")


@torch.no_grad()
def class_losses(model: nn.Module, embedding: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross-entropy of the model's output with each label, (n,) float64, from the embedding (n, d) alone.

    Applies the last linear layer to ROWS rows at a time; the images are not needed.
    """
    layer = last_linear(model)
    weight, bias = (0 if values is None else values.cpu().double() for values in (layer.weight, layer.bias))
    losses = np.empty(len(labels))
    for start in range(0, len(labels), ROWS):
        part = slice(start, start + ROWS)
        logits = torch.from_numpy(np.array(embedding[part])).double() @ weight.T + bias
        losses[part] = F.cross_entropy(logits, torch.from_numpy(labels[part]), reduction="none").numpy()
    return losses
