"""Gradient factors of an image set larger than memory, to the disk, and the losses that they imply."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from dc3.images.image_set import ImageSet
from dc3.machine.arrays import RowFile
from dc3.machine.engine import LOCAL, Columns, Engine, chunks
from dc3.machine.files import replacing
from dc3.models.networks import last_linear
from dc3.sampling import checked_labels, factor_batches

ROWS = 4096  # of the embedding that are in memory at a time


@dataclass(frozen=True, eq=False)
class FactorWork:
    """`engine.Work`: the factors of the images at some positions, columns "row", "logit_grad" and "embedding"."""

    model: nn.Module
    images: ImageSet
    labels: np.ndarray
    loss: str
    amp: bool | None = None

    def __call__(self, chunk: np.ndarray) -> Columns:
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
    """`sampling.gradient_factors` straight to two .npy files, there when complete; returns them memory-mapped.

    One batch is held at a time. float32 (n, C) and (n, d): for ImageNet-1K and a ResNet-18 5.1 and 2.6 GB.
    engine: here, or in Ray's actors, to the same bytes at the same batch size. amp: of `devices.autocast`.
    Raises as `sampling.gradient_factors`, and OSError for a full disk, before anything is computed.
    """
    layer = last_linear(model)
    labels = checked_labels(labels, layer.out_features)
    if len(images) != len(labels):
        raise ValueError(f"images: {len(images)} given for {len(labels)} labels")
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
    """Cross-entropy of the model's answer with each label, (n,) float64, from the embedding (n, d) alone.

    The logits are the last linear layer's, so no image is looked at again; a part of the rows is in memory at a time.
    """
    layer = last_linear(model)
    weight, bias = (0 if values is None else values.cpu().double() for values in (layer.weight, layer.bias))
    losses = np.empty(len(labels))
    for start in range(0, len(labels), ROWS):
        part = slice(start, start + ROWS)
        logits = torch.from_numpy(np.array(embedding[part])).double() @ weight.T + bias
        losses[part] = F.cross_entropy(logits, torch.from_numpy(labels[part]), reduction="none").numpy()
    return losses
