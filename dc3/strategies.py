"""From methods to picks: the strategy of each method, the images to pick from, and the picks of each class.

The table of picks has one row per image and the columns index (its position in the image set), label, bin (−1 without
bins), rank (pick order in its class, from 0) and gain (NaN if the strategy has none), sorted by label and rank. RDED
picks crops: its table has one row per crop and the columns of `dc3.rded.pick_crops`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from dc3.images.image_set import ImageSet, class_numbers
from dc3.machine.arrays import OnDisk, groups, portable, read_rows
from dc3.machine.devices import Array, accumulator, as_tensor
from dc3.machine.engine import LOCAL, Columns, Engine
from dc3.rded import NO_BIN, Crops, mosaic, pick_crops
from dc3.sampling import Selection, allocate_budget, check_count, check_options, gradient_kernel, select

RDED = "rded"
DQ_BINS = 10  # Dataset Quantization's N


@dataclass(frozen=True)
class Method:
    """`picked_by`: one of STRATEGIES, or "rded"; None: the run's own `selection`. `edits`: by the editor."""

    name: str
    picked_by: str | None = None
    edits: bool = False

    @property
    def picks_file(self) -> str:
        """The method's table of picks in the outputs of 03_sampling."""
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


@dataclass(frozen=True)
class PickOptions:
    """How many images are picked per class, and how; `crops` are RDED's. Draws depend on (seed, class) only.

    Raises ValueError for options that `sampling.select` refuses.
    """

    ipc: int
    seed: int = 0
    function: str = "GraphCut"
    greedy: str = "NaiveGreedy"
    lam: float = 1.0
    allocation: str = "proportional"
    crops: Crops = field(default_factory=Crops)

    def __post_init__(self) -> None:
        check_options(self.function, self.greedy, self.lam, self.seed)

    @classmethod
    def of(cls, params: Mapping[str, Any], seed: int) -> "PickOptions":
        """The options in the parameters of 03_sampling."""
        own = {name: params[name] for name in ("ipc", "function", "greedy", "lam", "allocation")}
        return cls(seed=seed, crops=Crops.of(params), **own)


@dataclass(frozen=True, eq=False)
class Pool:
    """The images to pick from, with their data; a strategy needs only some of it.

    labels, bins (n,) integers; logit_grad (n, C), embedding (n, d) of `gradients.to_disk`: arrays or memory maps,
    read to `device` one class at a time. among (n,) bool: the images that may be picked, such as `surest`; None:
    all. RDED needs the teacher and images framed at its size, and ignores `among`.
    """

    labels: Sequence[int] | np.ndarray
    bins: Sequence[int] | np.ndarray | None = None
    logit_grad: Array | None = None
    embedding: Array | None = None
    among: np.ndarray | None = None
    images: ImageSet | None = None
    teacher: nn.Module | None = None
    device: torch.device | str | None = None

    def limited_to(self, among: np.ndarray) -> "Pool":
        """The same pool, of which only the images `among`, (n,) bool, may be picked."""
        return replace(self, among=among)

    @property
    def factors(self) -> dict[str, Array | None]:
        """The two arrays that are read one class at a time, by name."""
        return {"logit_grad": self.logit_grad, "embedding": self.embedding}


def surest(losses: np.ndarray, labels: np.ndarray, share: float) -> np.ndarray:
    """The share (0 to 1, at least one image) of each class whose loss (n,) is lowest: (n,) bool. Ties go to the first.

    In a short training, images that a teacher is sure of teach most, as RDED (2312.03526) observed.
    ValueError for a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"sure_share = {share}: a share of each class above 0 and at most 1")
    kept = np.zeros(len(labels), bool)
    for _, members in groups(labels):
        kept[members[np.argsort(losses[members], kind="stable")][: sure_count(share, len(members))]] = True
    return kept


def sure_count(share: float, images: int) -> int:
    """The number of `surest` images in a class."""
    return max(round(share * images), 1)


def pick(picked_by: str, pool: Pool, options: PickOptions, engine: Engine = LOCAL) -> pd.DataFrame:
    """The table of picks: ipc images of every class, by one of STRATEGIES, or RDED's crops.

    dc3 ranks the first picks of all bins first, then the second ones, … Herding and kcenter use the embedding. Holds
    one kernel at a time. engine: local, or one Ray task per class, with the same picks.
    Raises ValueError for an unknown strategy, a missing or mismatched array, and a class of fewer than ipc images.
    """
    if picked_by == RDED:
        if pool.images is None or pool.teacher is None:
            raise ValueError("images, teacher = None: rded needs them")
        return pick_crops(pool.images, pool.teacher, options.ipc, options.seed, options.crops)
    if picked_by not in STRATEGIES:
        raise ValueError(f"selection = {picked_by!r}: choose one of {', '.join(STRATEGIES)}")
    labels, bins, factors = _checked_pool(pool, STRATEGIES[picked_by].needs)
    among = np.ones(len(labels), bool) if pool.among is None else np.asarray(pool.among, bool)
    counts = np.bincount(labels[among], minlength=labels.max() + 1)
    for label in np.unique(labels):
        check_count("ipc", options.ipc, int(counts[label]), f"the images of class {label} to pick from")
    sent = {name: factor if engine.is_local else portable(factor) for name, factor in factors.items()}
    members = {int(label): of_class[among[of_class]] for label, of_class in groups(labels)}
    work = ClassWork(picked_by, members, bins, sent, options, pool.device)
    of_classes = engine.map(work, [np.array([label]) for label in members], "classes", actors=False)
    return pd.concat(map(pd.DataFrame, of_classes)).sort_values(["label", "rank"], ignore_index=True)


@dataclass(frozen=True, eq=False)
class ClassWork:
    """`engine.Work`: the picks of one class, as the columns of the table of picks."""

    picked_by: str
    members: dict[int, np.ndarray]
    bins: np.ndarray
    factors: dict[str, Array | OnDisk | None]
    options: PickOptions
    device: torch.device | str | None

    def __call__(self, chunk: np.ndarray) -> Columns:
        """The picks of the chunk's one class."""
        label, ipc = int(chunk[0]), int(self.options.ipc)
        members = self.members[label]
        gradient, feature = (_rows(name, factor, members, self.device) for name, factor in self.factors.items())
        images = ClassImages(label, self.bins[members], gradient, feature, self.options)
        picks = STRATEGIES[self.picked_by].pick(images, ipc)
        index = members[picks.indices]
        columns = {"index": index, "label": np.full(ipc, label), "bin": self.bins[index]}
        return columns | {"rank": np.arange(ipc), "gain": picks.gains}


def _checked_pool(pool: Pool, needs: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, dict[str, Array | None]]:
    """Labels, bins and factors of the pool; factors that are not needed are None."""
    labels = class_numbers(pool.labels)
    for name, array in {"bins": pool.bins, **pool.factors}.items():
        if array is None and name in needs:
            raise ValueError(f"{name} = None: the strategy needs it")
        if array is not None and len(array) != len(labels):
            raise ValueError(f"{name} = {len(array)} rows: expected one for each of {len(labels)} labels")
    bins = np.full(len(labels), NO_BIN) if pool.bins is None else np.asarray(pool.bins)
    if bins.ndim != 1 or bins.dtype.kind not in "iu":
        raise ValueError(f"bins = {bins.dtype} {bins.shape}: expected (n,) integers")
    return (
        labels,
        bins.astype(np.int64),
        {name: array if name in needs else None for name, array in pool.factors.items()},
    )


def _rows(name: str, factor: Array | OnDisk | None, members: np.ndarray, device: torch.device | str | None) -> Tensor:
    if factor is None:
        return torch.empty(len(members), 0)
    rows = as_tensor(factor[members] if isinstance(factor, Tensor) else read_rows(factor, members))
    if not torch.isfinite(rows).all():
        raise ValueError(f"{name} = NaN or infinite values: expected finite values")
    return rows.to(device=device, dtype=torch.float32)


@dataclass(frozen=True, eq=False)
class ClassImages:
    """One class, its images numbered from 0: bins (n,), logit_grad (n, C), embedding (n, d), and how to pick.

    Arrays that the strategy does not need have no columns, (n, 0).
    """

    label: int
    bins: np.ndarray
    logit_grad: Tensor
    embedding: Tensor
    options: PickOptions

    def __len__(self) -> int:
        return len(self.bins)

    def rng(self) -> np.random.Generator:
        """A new generator, from (seed, class)."""
        return np.random.default_rng([self.options.seed, self.label])

    def greedy_picks(self, members: np.ndarray, budget: int, function: str, part: int = 0) -> Selection:
        """The picks among `members` (m,), by the kernel of these only; each `part` of a class has its own draws."""
        rows = torch.from_numpy(members).to(self.logit_grad.device)
        kernel = gradient_kernel(self.logit_grad[rows], self.embedding[rows])
        seed = int(np.random.SeedSequence([self.options.seed, self.label, part]).generate_state(1)[0])
        chosen = select(kernel, budget, function, self.options.greedy, self.options.lam, seed)
        return Selection(members[chosen.indices], chosen.gains)


def dc3(images: ClassImages, ipc: int) -> Selection:
    """DC3: greedy submodular picks in every bin, ranked in turns: the first picks of all bins first."""
    names, sizes = np.unique(images.bins, return_counts=True)
    shares = allocate_budget(sizes, ipc, images.options.allocation)
    chosen = [
        images.greedy_picks(np.flatnonzero(images.bins == name), share, images.options.function, part)
        for part, (name, share) in enumerate(zip(names, shares, strict=True))
        if share
    ]
    turn = np.concatenate([np.arange(len(picks.indices)) for picks in chosen])
    order = np.argsort(turn, kind="stable")
    return Selection(*(np.concatenate([getattr(picks, f) for picks in chosen])[order] for f in ("indices", "gains")))


def submodular(images: ClassImages, ipc: int) -> Selection:
    """The same greedy over the whole class, without bins."""
    return images.greedy_picks(np.arange(len(images)), ipc, images.options.function)


def random(images: ClassImages, ipc: int) -> Selection:
    """Uniform without replacement."""
    return _without_gains(images.rng().choice(len(images), ipc, replace=False))


def herding(images: ClassImages, ipc: int) -> Selection:
    """Welling 2009, as in iCaRL: the image that brings the mean of the picks closest to the mean of the class."""
    features = images.embedding.to(accumulator(images.embedding.device))
    lengths, mean = features.square().sum(1), features.mean(0)
    picks: list[int] = []
    missing = mean.clone()  # the ideal next pick, (k + 1)·mean − Σ picks
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
    """Dataset Quantization (Zhou et al. 2023): GraphCut bins of the images left by earlier ones, then random picks."""
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
    """How ipc images of a class are picked, and the arrays of the pool (bins, logit_grad, embedding) that it needs."""

    pick: Callable[[ClassImages, int], Selection]
    needs: tuple[str, ...] = ()


STRATEGIES = {
    "dc3": Strategy(dc3, ("bins", "logit_grad", "embedding")),
    "submodular": Strategy(submodular, ("logit_grad", "embedding")),
    "random": Strategy(random),
    "herding": Strategy(herding, ("embedding",)),
    "kcenter": Strategy(kcenter, ("embedding",)),
    "dq": Strategy(dq, ("logit_grad", "embedding")),
}


def coverage(picks: pd.DataFrame, pool: Pool) -> pd.DataFrame:
    """How well each class's picks cover it; no (n, n) kernel is formed, only (class size, picks).

    The pool needs bins, logit_grad and embedding. Returns columns label, bins (share of the class's bins with a pick, 0
    to 1) and similarity (mean over the class of the similarity to the closest pick: the facility location of the
    picks / n).
    """
    labels, bins, factors = _checked_pool(pool, ("bins", *pool.factors))
    rows, members_of = [], dict(groups(labels))
    for label, picked in picks.groupby("label")["index"]:
        members = members_of[label]
        columns = np.searchsorted(members, picked.to_numpy())
        gradient, feature = (_rows(name, factor, members, pool.device) for name, factor in factors.items())
        kernel = as_tensor(gradient_kernel(gradient, feature, columns))
        bin_share = len(np.unique(bins[picked])) / len(np.unique(bins[members]))
        rows.append({"label": label, "bins": bin_share, "similarity": float(kernel.amax(1).mean())})
    return pd.DataFrame(rows)


def plain_images(images: ImageSet, picks: pd.DataFrame, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The condensed images of a method without edits: uint8 (n, size, size, 3) and labels (n,) int64."""
    if "tile" not in picks:
        return images.images(picks["index"].to_numpy(), size), picks["label"].to_numpy()
    tiles = picks.sort_values("tile").groupby(["label", "rank"])
    parts = [(label, mosaic(images, part, size)) for (label, _), part in tiles]
    return np.stack([image for _, image in parts]), np.array([label for label, _ in parts])
