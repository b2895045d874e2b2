"""Precision, recall, density and coverage: how two sets of features lie among each other's nearest neighbours."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dc3.fidelity import feature_rows, require_width

ROWS = 1024  # of a distance matrix held at a time


class Neighbourhoods(NamedTuple):
    """Shares 0 … 1, but density, which is 1 for equal distributions and can exceed it."""

    precision: float
    recall: float
    density: float
    coverage: float


def neighbourhoods(real: np.ndarray, fake: np.ndarray, neighbours: int = 5) -> Neighbourhoods:
    """Precision and recall (Kynkäänniemi 2019), density and coverage (Naeem 2020) of features (n, d) and (m, d).

    The ball of an image reaches to its k-th neighbour in its own set. Precision: the share of fake images in a ball of
    a real one; density: in how many, over k; recall: the share of real images in a ball of a fake one; coverage: the
    share of real balls with a fake image. k is `neighbours`, or all others in a smaller set. The balls of a small fake
    set are wide: compare recall between sets of one size only; coverage, unlike FID, is meaningful for a handful.
    Raises as `fidelity.fid`, and ValueError for neighbours below 1.
    """
    x, y = (torch.cat(list(feature_rows(rows, side))) for rows, side in ((real, "real"), (fake, "fake")))
    require_width(x.shape[1], y.shape[1])
    if neighbours < 1:
        raise ValueError(f"neighbours={neighbours}: expected at least 1")
    for side, features in (("real", x), ("fake", y)):
        if len(features) < 2:
            raise ValueError(f"{side}: expected at least 2 images, one has no neighbour, got {len(features)}")
    real_radius, fake_radius = _radii(x, neighbours), _radii(y, neighbours)
    reached, recalled = (torch.zeros(len(x), dtype=torch.bool) for _ in range(2))
    inside = precise = 0
    for rows, radius in zip(y.split(ROWS), fake_radius.split(ROWS), strict=True):
        distance = torch.cdist(rows, x)
        in_real = distance <= real_radius
        inside, precise = inside + int(in_real.sum()), precise + int(in_real.any(dim=1).sum())
        reached |= in_real.any(dim=0)
        recalled |= (distance <= radius[:, None]).any(dim=0)
    share = min(neighbours, len(x) - 1) * len(y)
    return Neighbourhoods(
        precise / len(y), float(recalled.double().mean()), inside / share, float(reached.double().mean())
    )


def _radii(features: Tensor, neighbours: int) -> Tensor:
    kth = min(neighbours, len(features) - 1) + 1  # the first is the image itself
    return torch.cat([torch.cdist(rows, features).kthvalue(kth, dim=1).values for rows in features.split(ROWS)])
