"""DC3's sampling stage: gradient factors, their exact similarity kernel, greedy selection, and the budget of bins."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dc3.greedy import Array, Selection, accumulator, allocate_budget, as_tensor, positions, select
from dc3.images.image_set import normalise
from dc3.machine.devices import autocast
from dc3.machine.progress import tqdm
from dc3.models.networks import last_linear

__all__ = [
    "Selection",
    "allocate_budget",
    "factor_batches",
    "followers",
    "gradient_factors",
    "gradient_kernel",
    "logit_gradient",
    "represented_by",
    "select",
]

BLOCK_ROWS = 256  # of the kernel, computed at a time


def logit_gradient(logits: Tensor, labels: Tensor, loss: str = "softmax_ce") -> Tensor:
    """Closed form of ∂loss/∂logits a sample: p − y for "ce", p ⊙ (r − ⟨p, r⟩), r = softmax(p) − y, for "softmax_ce".

    logits (n, C) float, labels (n,) int64, p = softmax(logits), y one-hot. "softmax_ce" is cross-entropy applied to
    softmax(logits), a double softmax: the loss of the published DC3. Returns (n, C) float32, computed in float64: of a
    confident prediction, autograd in float32 gives the direction of its rounding errors, or 0. Raises ValueError for
    another loss.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss: {loss!r} is not one of {', '.join(LOSSES)}")
    probability = logits.to(accumulator(logits.device)).softmax(1)
    gradient = LOSSES[loss](probability, F.one_hot(labels, logits.shape[1]))
    # Both gradients sum to 0. The most probable class's entry cancels in a confident network: take it from the others.
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


def gradient_factors(
    model: nn.Module,
    images: Array | Iterable[Array],
    labels: Sequence[int] | Array,
    loss: str = "softmax_ce",
    batch_size: int = 256,
    amp: bool | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The two factors of DC3's last-layer gradient embedding concat(g, g ⊗ h), without forming it and without autograd.

    model: any classifier whose logits are the output of its last linear layer; it runs in eval mode (channels_last on
    a GPU), in the precision that `devices.autocast` gives for `amp`, and is put back as it was.
    images: one array, cut into batches of `batch_size`, or any iterable of batches, of which one is held at a time; an
    array is uint8 (n, H, W, 3), to be ImageNet-normalised here, or float (n, 3, H, W), normalised already.
    labels: (n,) integers.
    Returns g = ∂loss/∂logits (n, C) and h = the last layer's input (n, d), float32.
    Raises ValueError for labels outside the model's classes, an image count other than theirs, and non-finite outputs.
    """
    layer = last_linear(model)
    logit_grad = np.empty((len(labels), layer.out_features), np.float32)
    embedding = np.empty((len(labels), layer.in_features), np.float32)
    start = 0
    with tqdm(total=len(labels), unit="image") as bar:
        for gradient, features in factor_batches(model, images, labels, loss, batch_size, amp=amp):
            logit_grad[start : start + len(gradient)] = gradient
            embedding[start : start + len(gradient)] = features
            start += len(gradient)
            bar.update(len(gradient))
    return logit_grad, embedding


def factor_batches(
    model: nn.Module,
    images: Array | Iterable[Array],
    labels: Sequence[int] | Array,
    loss: str = "softmax_ce",
    batch_size: int = 256,
    first: int = 0,
    amp: bool | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The two factors, float32 (b, C) and (b, d), batch by batch; arguments and errors of `gradient_factors`.

    first: the first image's place in a larger set, for messages.
    """
    layer = last_linear(model)
    labels = checked_labels(labels, layer.out_features)
    if loss not in LOSSES:
        raise ValueError(f"loss: {loss!r} is not one of {', '.join(LOSSES)}")
    start = 0
    with _last_layer(model, layer, amp) as forward:
        for batch in _batches(images, batch_size, len(labels)):
            stop = start + len(batch)
            if stop > len(labels):
                raise ValueError(f"images: more than the {len(labels)} labels given")
            features, logits = forward(batch)
            if not (torch.isfinite(features).all() and torch.isfinite(logits).all()):
                raise ValueError(f"model: NaN or infinite outputs among images {first + start} to {first + stop - 1}")
            target = torch.from_numpy(labels[start:stop]).to(logits.device)
            yield logit_gradient(logits, target, loss).cpu().numpy(), features.cpu().numpy()
            start = stop
    if start < len(labels):
        raise ValueError(f"images: {start} given for {len(labels)} labels")


def checked_labels(labels: Sequence[int] | Array, classes: int) -> np.ndarray:
    """labels (n,) as int64. ValueError when they are no integers, none, or not below `classes`."""
    labels = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    if labels.ndim != 1 or not len(labels) or labels.dtype.kind not in "iu":
        raise ValueError(f"labels: expected (n,) integers, n ≥ 1, got {labels.dtype} {labels.shape}")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels: {labels.min()} to {labels.max()}, but the model has classes 0 to {classes - 1}")
    return labels.astype(np.int64)


def _batches(images: Array | Iterable[Array], batch_size: int, count: int) -> Iterator[Array]:
    if batch_size < 1:
        raise ValueError(f"batch_size: {batch_size} is below 1")
    batches: Iterable[Array] = images
    if isinstance(images, np.ndarray | Tensor):
        if len(images) != count:
            raise ValueError(f"images: {len(images)} given for {count} labels")
        batches = (images[start : start + batch_size] for start in range(0, count, batch_size))
    for batch in batches:
        if not isinstance(batch, np.ndarray | Tensor) or batch.ndim != 4:
            raise ValueError(f"images: a batch is an array of 4 axes, got {getattr(batch, 'shape', type(batch))}")
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
                f"model: {type(model).__name__}'s last linear layer is not applied once, to (n, d) features"
            )
        return seen[0]

    try:
        model.eval()
        yield forward
    finally:
        hook.remove()
        for module, mode in training:
            module.training = mode


def gradient_kernel(
    logit_grad: Array, embedding: Array, columns: Sequence[int] | np.ndarray | None = None, block_rows: int = BLOCK_ROWS
) -> Array:
    """DC3's similarity s = 0.5 + 0.5·cos of the embeddings concat(g, g ⊗ h), exactly, as cos(g) ⊙ cos([1, h]).

    logit_grad (n, C) and embedding (n, d), both numpy or both torch on one device. Returns the same kind, float32 in
    [0, 1]: (n, n), bitwise symmetric, or (n, len(columns)) similarities to these images only. An image whose gradient
    is 0 has cos 0 with every image, itself included: s = 0.5; every other image has s = 1 with itself. Rows are scaled
    first, so no finite gradient, however small or large, over- or underflows.
    Memory: the output, two scratch blocks of (block_rows, n), and the scaled factors, n·(C + d + 1) floats; for
    n = 20,000, C = 10, d = 512: 1.60 GB + 0.04 GB + 0.04 GB. Half the products of the full matrix are computed.
    Raises ValueError for mismatched shapes or kinds, and for NaN or infinite factors.
    """
    gradient, feature = _unit_factors(logit_grad, embedding)
    self_similarity = 0.5 + 0.5 * gradient.any(dim=1).float()
    if columns is None:
        kernel = _square(gradient, feature, self_similarity, block_rows)
    else:
        chosen = torch.from_numpy(positions("columns", columns, len(gradient))).to(gradient.device)
        blocks = zip(gradient.split(block_rows), feature.split(block_rows), strict=True)
        kernel = torch.cat([_similarity(g, h, gradient[chosen], feature[chosen]) for g, h in blocks])
        kernel[chosen, torch.arange(len(chosen), device=chosen.device)] = self_similarity[chosen]
    return kernel.numpy() if isinstance(logit_grad, np.ndarray) else kernel


def _similarity(gradient: Tensor, feature: Tensor, other_gradient: Tensor, other_feature: Tensor) -> Tensor:
    cosine = (gradient @ other_gradient.T).mul_(feature @ other_feature.T)
    return cosine.mul_(0.5).add_(0.5).clamp_(0, 1)


def _square(gradient: Tensor, feature: Tensor, diagonal: Tensor, block_rows: int) -> Tensor:
    n = len(gradient)
    kernel = gradient.new_empty(n, n)
    for start in range(0, n, block_rows):
        stop = min(start + block_rows, n)
        block = _similarity(gradient[start:stop], feature[start:stop], gradient[start:], feature[start:])
        upper = block[:, : stop - start].triu(1)
        kernel[start:stop, start:stop] = upper + upper.T + torch.diag(diagonal[start:stop])
        kernel[start:stop, stop:] = block[:, stop - start :]
        kernel[stop:, start:stop] = block[:, stop - start :].T
    return kernel


def _unit_factors(logit_grad: Array, embedding: Array) -> tuple[Tensor, Tensor]:
    """Unit rows of g and of [1, h], float32."""
    if isinstance(logit_grad, np.ndarray) != isinstance(embedding, np.ndarray):
        raise ValueError("logit_grad, embedding: one is numpy and the other torch; give both in one kind")
    gradient, largest_gradient = _finite("logit_grad", logit_grad)
    feature, largest_feature = _finite("embedding", embedding)
    if len(gradient) != len(feature):
        raise ValueError(f"logit_grad, embedding: {len(gradient)} rows against {len(feature)}; give one for each image")
    scale = largest_feature.clamp(min=1)  # the largest of [1, h]
    gradient = gradient / largest_gradient.where(largest_gradient > 0, 1)
    return _normalised(gradient), _normalised(torch.cat([1 / scale, feature / scale], 1))


def _normalised(rows: Tensor) -> Tensor:
    """In place where they are float32 already; rows of 0 stay 0."""
    rows = rows.float()
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows.div_(norms.where(norms > 0, 1))


def _finite(name: str, factor: Array) -> tuple[Tensor, Tensor]:
    """The factor in floating point, and the largest magnitude of each row (n, 1)."""
    factor = as_tensor(factor)
    if factor.ndim != 2 or 0 in factor.shape:
        raise ValueError(f"{name}: expected (n, columns) with n ≥ 1, got {tuple(factor.shape)}")
    factor = factor if factor.dtype == torch.float64 else factor.float()
    largest = torch.linalg.vector_norm(factor, torch.inf, dim=1, keepdim=True)
    if not torch.isfinite(largest).all():
        row = int((~torch.isfinite(largest)).nonzero()[0, 0])
        raise ValueError(f"{name}: NaN or infinite values, the first in row {row}")
    return factor, largest


def represented_by(kernel: Array, picks: Sequence[int] | np.ndarray) -> np.ndarray:
    """The pick that each image is most similar to, (n,) int64 (the first picked among equals); kernel (n, n)."""
    picks = positions("picks", picks, len(kernel))
    closest = as_tensor(kernel)[:, torch.from_numpy(picks)].argmax(1)
    return picks[closest.cpu().numpy()]


def followers(kernel: np.ndarray, picks: Sequence[int] | np.ndarray, count: int) -> list[np.ndarray]:
    """For each pick, up to `count` other images that it represents (`represented_by`), the most similar first.

    kernel (n, n). Returns one int64 array of positions a pick, empty where it represents itself alone.
    """
    owner = represented_by(kernel, picks)
    groups = []
    for pick in picks:
        group = np.setdiff1d(np.flatnonzero(owner == pick), picks)
        groups.append(group[np.argsort(-kernel[group, pick], kind="stable")][:count])
    return groups
