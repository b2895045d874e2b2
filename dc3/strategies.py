"""Choosing ipc images of every class by one of `dc3.strategies`, as one table: among which, how well covered."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from dc3 import rded
from dc3.binning import NO_BIN
from dc3.images.image_set import ImageSet
from dc3.machine.arrays import OnDisk, groups, portable, read_rows
from dc3.machine.devices import Array, accumulator, as_tensor
from dc3.machine.engine import LOCAL, Columns, Engine
from dc3.sampling import Selection, allocate_budget, check_count, check_options, gradient_kernel, select


def choose(
    selection: str,
    *,
    labels: Sequence[int] | np.ndarray,
    ipc: int,
    bins: Sequence[int] | np.ndarray | None = None,
    logit_grad: Array | None = None,
    embedding: Array | None = None,
    seed: int = 0,
    function: str = "GraphCut",
    greedy: str = "NaiveGreedy",
    lam: float = 1.0,
    allocation: str = "proportional",
    among: np.ndarray | None = None,
    device: torch.device | str | None = None,
    engine: Engine = LOCAL,
) -> pd.DataFrame:
    """The selection table: ipc images of every class, by one of STRATEGIES.

    labels, bins (n,) integers; logit_grad (n, C) and embedding (n, d) of gradient_factors, arrays or memory maps, of
    which one class at a time is read, to `device`; one kernel at a time is held. Herding and kcenter work on the
    embedding; bins, logit_grad and embedding may be absent where the strategy does not need them. Draws depend on
    (seed, class) only. among (n,) bool: the images that may be picked, such as `surest`; None for all. engine: class
    after class here, or each class in one of Ray's tasks, to the same picks.
    Returns columns index (position in the image set), label, bin (of `bins`; −1 without), rank (pick order in the
    class, from 0; dc3 takes the first picks of all bins, then the second ones, …), gain (NaN for the baselines that
    have none), sorted by label and rank. Raises ValueError naming an unknown strategy, a missing or mismatched
    array, and a class of fewer than ipc images to pick from.
    """
    if selection not in STRATEGIES:
        raise ValueError(f"selection: {selection!r} is not one of {', '.join(STRATEGIES)}")
    strategy = STRATEGIES[selection]
    labels, bins, factors = _checked(labels, bins, {"logit_grad": logit_grad, "embedding": embedding}, strategy.needs)
    check_options(function, greedy, lam, seed)
    among = np.ones(len(labels), bool) if among is None else np.asarray(among, bool)
    counts = np.bincount(labels[among], minlength=labels.max() + 1)
    for label in np.unique(labels):
        check_count("ipc", ipc, int(counts[label]), f"the number of images of class {label} to pick from")
    options = {"seed": int(seed), "function": function, "greedy": greedy, "lam": lam, "allocation": allocation}
    sent = {name: factor if engine.is_local else portable(factor) for name, factor in factors.items()}
    members = {int(label): of_class[among[of_class]] for label, of_class in groups(labels)}
    work = ClassWork(selection, int(ipc), members, bins, sent, options, device)
    of_classes = engine.map(work, [np.array([label]) for label in members], "classes", actors=False)
    return pd.concat(map(pd.DataFrame, of_classes)).sort_values(["label", "rank"], ignore_index=True)


@dataclass(frozen=True, eq=False)
class ClassWork:
    """`engine.Work`: the picks of one class, as the columns of the selection table."""

    selection: str
    ipc: int
    members: dict[int, np.ndarray]
    bins: np.ndarray
    factors: dict[str, Array | OnDisk | None]
    options: dict[str, Any]
    device: torch.device | str | None

    def __call__(self, chunk: np.ndarray) -> Columns:
        label = int(chunk[0])
        members = self.members[label]
        gradient, feature = (_rows(name, factor, members, self.device) for name, factor in self.factors.items())
        images = ClassImages(label, self.bins[members], gradient, feature, **self.options)
        picks = STRATEGIES[self.selection].choose(images, self.ipc)
        index = members[picks.indices]
        columns = {"index": index, "label": np.full(self.ipc, label), "bin": self.bins[index]}
        return columns | {"rank": np.arange(self.ipc), "gain": picks.gains}


def surest(losses: np.ndarray, labels: np.ndarray, share: float) -> np.ndarray:
    """The share (0 to 1, at least one image) of each class whose loss (n,) is lowest: (n,) bool. Ties go to the first.

    Images that a teacher is sure of teach most in a short training: the observation that RDED (2312.03526) rests on.
    ValueError for a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"sure_share = {share}: a share of each class above 0, and at most 1")
    kept = np.zeros(len(labels), bool)
    for _, members in groups(labels):
        kept[members[np.argsort(losses[members], kind="stable")][: sure_count(share, len(members))]] = True
    return kept


def sure_count(share: float, images: int) -> int:
    """How many of a class's images its `surest` are."""
    return max(round(share * images), 1)


def _checked(
    labels: Sequence[int] | np.ndarray,
    bins: Sequence[int] | np.ndarray | None,
    factors: dict[str, Array | None],
    needs: tuple[str, ...],
) -> tuple[np.ndarray, np.ndarray, dict[str, Array | None]]:
    labels = _integers("labels", labels)
    for name, array in {"bins": bins, **factors}.items():
        if array is None and name in needs:
            raise ValueError(f"{name}: missing, and the strategy needs it")
        if array is not None and len(array) != len(labels):
            raise ValueError(f"{name}: {len(array)} rows for {len(labels)} labels")
    bins = np.full(len(labels), NO_BIN) if bins is None else _integers("bins", bins)
    return labels, bins, {name: array if name in needs else None for name, array in factors.items()}


def _integers(name: str, values: Sequence[int] | np.ndarray) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or not len(array) or array.dtype.kind not in "iu" or (name == "labels" and array.min() < 0):
        raise ValueError(f"{name}: expected (n,) integers, n ≥ 1, labels from 0; got {array.dtype} {array.shape}")
    return array.astype(np.int64)


def _rows(name: str, factor: Array | OnDisk | None, members: np.ndarray, device: torch.device | str | None) -> Tensor:
    if factor is None:
        return torch.empty(len(members), 0)
    rows = as_tensor(factor[members] if isinstance(factor, Tensor) else read_rows(factor, members))
    if not torch.isfinite(rows).all():
        raise ValueError(f"{name}: NaN or infinite values")
    return rows.to(device=device, dtype=torch.float32)


def coverage(
    table: pd.DataFrame,
    *,
    labels: Sequence[int] | np.ndarray,
    bins: Sequence[int] | np.ndarray,
    logit_grad: Array,
    embedding: Array,
    device: torch.device | str | None = None,
) -> pd.DataFrame:
    """How well each class's picks cover it; no (n, n) kernel is formed, only (class size, picks).

    table: of `choose`; the rest as there. Returns columns label, bins (share of the class's bins with a pick, 0 to 1)
    and similarity (mean over the class of the similarity to the closest pick: the facility location of the picks / n).
    """
    factors: dict[str, Array | None] = {"logit_grad": logit_grad, "embedding": embedding}
    labels, bins, factors = _checked(labels, bins, factors, ("bins", *factors))
    rows, members_of = [], dict(groups(labels))
    for label, picks in table.groupby("label")["index"]:
        members = members_of[label]
        columns = np.searchsorted(members, picks.to_numpy())
        gradient, feature = (_rows(name, factor, members, device) for name, factor in factors.items())
        kernel = as_tensor(gradient_kernel(gradient, feature, columns))
        bin_share = len(np.unique(bins[picks])) / len(np.unique(bins[members]))
        rows.append({"label": label, "bins": bin_share, "similarity": float(kernel.amax(1).mean())})
    return pd.DataFrame(rows)


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


RDED = "rded"


@dataclass(frozen=True)
class Method:
    """`picked_by`: a strategy of dc3.strategies, or "rded"; None: the run's own `selection`. `edits`: by the editor."""

    name: str
    picked_by: str | None = None
    edits: bool = False

    @property
    def picks_file(self) -> str:
        """The selection table of the method among the outputs of 03_sampling."""
        return f"compared/{self.picked_by}.parquet" if self.picked_by else "selection.parquet"


METHODS = {
    "dc3": Method("DC3", edits=True),
    "dc3_plain": Method("DC3 picks, plain"),
    "submodular": Method("submodular, no bins", "submodular"),
    "random": Method("random", "random"),
    "herding": Method("herding", "herding"),
    "kcenter": Method("k-center", "kcenter"),
    "dq": Method("DQ", "dq"),
    "rded": Method("RDED", RDED),
}


def pick(
    picked_by: str,
    images: ImageSet,
    teacher: nn.Module,
    *,
    ipc: int,
    seed: int,
    crops: dict[str, Any] | None = None,
    **candidates: Any,
) -> pd.DataFrame:
    """The selection table: columns index, label, bin, rank, gain; for "rded" also tile, top, left, side.

    `crops`: factor, num_crop, mipc of `rded.choose`; `candidates`: the other arguments of `strategies.choose`.
    """
    if picked_by == RDED:
        return rded.choose(images, teacher, ipc=ipc, seed=seed, **(crops or {}))
    return choose(picked_by, labels=images.labels, ipc=ipc, seed=seed, **candidates)


def mosaic(images: ImageSet, part: pd.DataFrame) -> np.ndarray:
    """One condensed image of RDED, uint8 (S, S, 3), of its rows of the selection table."""
    return rded.condensed_image(images.images(part["index"].to_numpy()), part, isqrt(len(part)))


def plain_images(images: ImageSet, picks: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """What a method that does not edit makes of its picks, in memory: uint8 (n, S, S, 3) and labels (n,) int64."""
    if "tile" not in picks:
        return images.images(picks["index"].to_numpy()), picks["label"].to_numpy()
    parts = [(label, mosaic(images, part.sort_values("tile"))) for (label, _), part in picks.groupby(["label", "rank"])]
    return np.stack([image for _, image in parts]), np.array([label for label, _ in parts])
