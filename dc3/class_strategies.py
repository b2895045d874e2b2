"""The ways to choose ipc images of one class: DC3's, and the baselines it is compared with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dc3.machine.devices import accumulator
from dc3.sampling import Selection, allocate_budget, gradient_kernel, select

DQ_BINS = 10  # Dataset Quantization's N


@dataclass(frozen=True, eq=False)
class ClassImages:
    """One class, its images numbered from 0: bins (n,), logit_grad (n, C), embedding (n, d), and how to select.

    What the strategy does not need has no columns, (n, 0).
    """

    label: int
    bins: np.ndarray
    logit_grad: Tensor
    embedding: Tensor
    seed: int
    function: str
    greedy: str
    lam: float
    allocation: str

    def __len__(self) -> int:
        return len(self.bins)

    def rng(self) -> np.random.Generator:
        """A generator at its start, from (seed, class)."""
        return np.random.default_rng([self.seed, self.label])

    def greedy_picks(self, members: np.ndarray, budget: int, function: str, part: int = 0) -> Selection:
        """The picks among `members` (m,), by a kernel of these only; `part` tells the class's several draws apart."""
        rows = torch.from_numpy(members).to(self.logit_grad.device)
        kernel = gradient_kernel(self.logit_grad[rows], self.embedding[rows])
        seed = int(np.random.SeedSequence([self.seed, self.label, part]).generate_state(1)[0])
        chosen = select(kernel, budget, function, self.greedy, self.lam, seed)
        return Selection(members[chosen.indices], chosen.gains)


def dc3(images: ClassImages, ipc: int) -> Selection:
    """DC3: greedy submodular picks in every bin; ranked bin after bin in turns, first picks of all bins first."""
    names, sizes = np.unique(images.bins, return_counts=True)
    shares = allocate_budget(sizes, ipc, images.allocation)
    chosen = [
        images.greedy_picks(np.flatnonzero(images.bins == name), share, images.function, part)
        for part, (name, share) in enumerate(zip(names, shares, strict=True))
        if share
    ]
    turn = np.concatenate([np.arange(len(picks.indices)) for picks in chosen])
    order = np.argsort(turn, kind="stable")
    return Selection(*(np.concatenate([getattr(picks, f) for picks in chosen])[order] for f in ("indices", "gains")))


def submodular(images: ClassImages, ipc: int) -> Selection:
    """The same greedy over the whole class, without bins."""
    return images.greedy_picks(np.arange(len(images)), ipc, images.function)


def random(images: ClassImages, ipc: int) -> Selection:
    """Uniform without replacement."""
    return _without_gains(images.rng().choice(len(images), ipc, replace=False))


def herding(images: ClassImages, ipc: int) -> Selection:
    """Welling 2009, as in iCaRL: the image that brings the mean of the picks closest to the mean of the class."""
    features = images.embedding.to(accumulator(images.embedding.device))
    lengths, mean = features.square().sum(1), features.mean(0)
    picks: list[int] = []
    missing = mean.clone()  # missing: what the next pick should be, (k + 1)·mean − Σ picks
    for _ in range(ipc):
        distances = lengths - 2 * features @ missing
        distances[picks] = torch.inf
        picks.append(int(distances.argmin()))
        missing += mean - features[picks[-1]]
    return _without_gains(picks)


def kcenter(images: ClassImages, ipc: int) -> Selection:
    """k-Center greedy (Sener & Savarese 2018): from a random first image, the one farthest from all picks."""
    features = images.embedding
    picks = [int(images.rng().integers(len(images)))]
    nearest = torch.full_like(features[:, 0], torch.inf)
    while len(picks) < ipc:
        nearest = torch.minimum(nearest, (features - features[picks[-1]]).square().sum(1))
        nearest[picks] = -1  # duplicates of a pick, at 0, come before the picks themselves
        picks.append(int(nearest.argmax()))
    return _without_gains(picks)


def dq(images: ClassImages, ipc: int) -> Selection:
    """Dataset Quantization (Zhou et al. 2023): GraphCut bins of what earlier bins left, then random picks of each."""
    left, sizes = np.arange(len(images)), [len(part) for part in np.array_split(np.arange(len(images)), DQ_BINS)]
    rng = images.rng()
    picks: list[int] = []
    for part, share in enumerate(allocate_budget(sizes, ipc, "equal")):
        if not share:
            continue
        quantized = images.greedy_picks(left, sizes[part], "GraphCut", part).indices
        left = np.setdiff1d(left, quantized)
        picks.extend(rng.choice(quantized, share, replace=False))
    return _without_gains(picks)


def _without_gains(picks: Sequence[int] | np.ndarray) -> Selection:
    return Selection(np.array(picks, dtype=np.int64), np.full(len(picks), np.nan))


@dataclass(frozen=True)
class Strategy:
    """How ipc images of a class are chosen, and which of bins, logit_grad and embedding that needs."""

    choose: Callable[[ClassImages, int], Selection]
    needs: tuple[str, ...] = ()


STRATEGIES = {
    "dc3": Strategy(dc3, ("bins", "logit_grad", "embedding")),
    "submodular": Strategy(submodular, ("logit_grad", "embedding")),
    "random": Strategy(random),
    "herding": Strategy(herding, ("embedding",)),
    "kcenter": Strategy(kcenter, ("embedding",)),
    "dq": Strategy(dq, ("logit_grad", "embedding")),
}
