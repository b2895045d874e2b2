"""Picking images: the gradient similarity, greedy maximisation of set functions, and the budget of each bin.

Vectorised in torch on the kernel's device. Every function keeps the gains of all images current, so one loop serves
every (function, greedy) pair:

| function | cost of a pick |
| --- | --- |
| GraphCut | O(n), one row of the kernel |
| LogDeterminant | O(n·picks), one row of an incremental Cholesky factor |
| FacilityLocation | O(n·changed), the rows of the images that the pick represents better: about n²·log(budget) in all |

All gains are current, so lazy evaluation saves nothing: LazyGreedy picks what NaiveGreedy picks, at its cost, and
LazierThanLazyGreedy what StochasticGreedy picks, as published. submodlib is only the oracle of the tests: it is slower
(benchmarks/sampling.py; 50 picks of n = 5000, one thread: 0.03 to 0.3 s here, 0.8 to 10 s there; it is milliseconds
faster at n ≤ 100, and with samples for FacilityLocation at n ≤ 1300), breaks ties towards the highest index, refuses a
budget of n, cannot be seeded, and takes most kernels as lists of Python floats (1.2 GB at n = 5000).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dc3.machine.devices import Array, accumulator, as_tensor

BLOCK_ROWS = 256  # of the kernel, computed at a time
LOG_DETERMINANT_RIDGE = 1e-6  # on the diagonal, so that duplicates have a conditional variance: gains are ≥ log(1e-6)
STOCHASTIC_EPSILON = 0.01  # Mirzasoleiman et al. 2015: a sample of n/budget·log(1/ε) is 1 − 1/e − ε optimal on average
CPU_GRAIN, GPU_GRAIN = 1 << 15, 1 << 24  # elements per block; on a CPU torch starts no threads for 2^15 elements
SYMMETRY_PROBES = 64
CHECKED_ROWS = 512


def gradient_kernel(
    logit_grad: Array, embedding: Array, columns: Sequence[int] | np.ndarray | None = None, block_rows: int = BLOCK_ROWS
) -> Array:
    """DC3's similarity s = 0.5 + 0.5·cos of the embeddings concat(g, g ⊗ h), exactly, as cos(g) ⊙ cos([1, h]).

    logit_grad (n, C) and embedding (n, d), both numpy or both torch on one device. Returns the same kind, float32 in
    [0, 1]: (n, n), bitwise symmetric, or (n, len(columns)), the similarities to these images only. An image with
    gradient 0 has cos 0 and s = 0.5 with every image, itself included; every other image has s = 1 with itself. Rows
    are scaled first, so that no finite gradient over- or underflows.
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
        raise ValueError("logit_grad, embedding = one numpy, one torch array: give both in one kind")
    gradient, largest_gradient = _finite("logit_grad", logit_grad)
    feature, largest_feature = _finite("embedding", embedding)
    if len(gradient) != len(feature):
        raise ValueError(f"logit_grad = {len(gradient)} rows and embedding {len(feature)}: give one row per image")
    scale = largest_feature.clamp(min=1)  # the largest of [1, h]
    gradient = gradient / largest_gradient.where(largest_gradient > 0, 1)
    return _normalised(gradient), _normalised(torch.cat([1 / scale, feature / scale], 1))


def _normalised(rows: Tensor) -> Tensor:
    """Unit rows, in place if they are float32; rows of 0 stay 0."""
    rows = rows.float()
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows.div_(norms.where(norms > 0, 1))


def _finite(name: str, factor: Array) -> tuple[Tensor, Tensor]:
    """The factor in floating point, and the largest magnitude of each row (n, 1)."""
    factor = as_tensor(factor)
    if factor.ndim != 2 or 0 in factor.shape:
        raise ValueError(f"{name} = {tuple(factor.shape)}: expected (n, columns), n ≥ 1")
    factor = factor if factor.dtype == torch.float64 else factor.float()
    largest = torch.linalg.vector_norm(factor, torch.inf, dim=1, keepdim=True)
    if not torch.isfinite(largest).all():
        row = int((~torch.isfinite(largest)).nonzero()[0, 0])
        raise ValueError(f"{name} = NaN or infinite values, first in row {row}: expected finite values")
    return factor, largest


def represented_by(kernel: Array, picks: Sequence[int] | np.ndarray) -> np.ndarray:
    """The pick that each image is most similar to (ties: the first pick), (n,) int64; kernel (n, n)."""
    picks = positions("picks", picks, len(kernel))
    closest = as_tensor(kernel)[:, torch.from_numpy(picks)].argmax(1)
    return picks[closest.cpu().numpy()]


def followers(kernel: np.ndarray, picks: Sequence[int] | np.ndarray, count: int) -> list[np.ndarray]:
    """For each pick, up to `count` other images that it represents (`represented_by`), the most similar first.

    kernel (n, n). Returns one int64 array of positions per pick, empty if it only represents itself.
    """
    owner = represented_by(kernel, picks)
    groups = []
    for pick in picks:
        group = np.setdiff1d(np.flatnonzero(owner == pick), picks)
        groups.append(group[np.argsort(-kernel[group, pick], kind="stable")][:count])
    return groups


@dataclass(frozen=True, eq=False)
class Selection:
    """The picks of a greedy: `indices` (budget,) int64 in pick order, `gains` (budget,) float64 of each pick."""

    indices: np.ndarray
    gains: np.ndarray


class SetFunction:
    """A set function f over the images; `gains` (n,): how much each image would add to f of the current set."""

    def __init__(self, kernel: Tensor, budget: int, lam: float):
        self.kernel, self.size = kernel, 0
        self.dtype = accumulator(kernel.device)
        self.gains = kernel.new_zeros(len(kernel), dtype=self.dtype)
        self.rows_per_block = max(1, (CPU_GRAIN if kernel.device.type == "cpu" else GPU_GRAIN) // len(kernel))

    def add(self, pick: int) -> None:
        """Adds image `pick` to the set and updates all gains."""
        self._update(pick, self.kernel[pick].to(self.dtype))
        self.size += 1

    def _update(self, pick: int, similarity: Tensor) -> None:
        raise NotImplementedError


class GraphCut(SetFunction):
    """DC3's default: gain(x|A) = λ·Σ_{i∈V} s_ix − 2·Σ_{j∈A} s_jx."""

    def __init__(self, kernel: Tensor, budget: int, lam: float):
        super().__init__(kernel, budget, lam)
        for rows in kernel.split(self.rows_per_block):
            self.gains += rows.sum(0, dtype=self.dtype)
        self.gains *= lam

    def _update(self, pick: int, similarity: Tensor) -> None:
        self.gains -= 2 * similarity


class FacilityLocation(SetFunction):
    """gain(x|A) = Σ_i max(0, s_ix − c_i), where c_i = max_{j∈A} s_ij, and 0 before the first pick."""

    def __init__(self, kernel: Tensor, budget: int, lam: float):
        super().__init__(kernel, budget, lam)
        self.closest = kernel.new_zeros(len(kernel))
        for rows in kernel.split(self.rows_per_block):
            self.gains += rows.clamp(min=0).sum(0, dtype=self.dtype)

    def _update(self, pick: int, similarity: Tensor) -> None:
        """Image i's share of every gain falls by max(0, s − c) − max(0, s − c′) = clamp(s, c, c′) − c."""
        closer = torch.maximum(self.closest, self.kernel[pick])
        for changed in (closer > self.closest).nonzero()[:, 0].split(self.rows_per_block):
            before, after = self.closest[changed, None], closer[changed, None]
            clamped = self.kernel[changed].clamp_(before, after)
            self.gains -= clamped.sum(0, dtype=self.dtype) - before.sum(dtype=self.dtype)
        self.closest = closer


class LogDeterminant(SetFunction):
    """gain(x|A) = log det L_{A∪x} − log det L_A = log of x's variance given A, with L = kernel + ridge·I."""

    def __init__(self, kernel: Tensor, budget: int, lam: float):
        super().__init__(kernel, budget, lam)
        self.factor = kernel.new_zeros(budget, len(kernel), dtype=self.dtype)  # rows of the Cholesky factor
        self._set_variance(kernel.diagonal().to(self.dtype) + LOG_DETERMINANT_RIDGE)

    def _set_variance(self, variance: Tensor) -> None:
        self.variance = variance.clamp(min=LOG_DETERMINANT_RIDGE)  # only rounding can make it less
        self.gains = self.variance.log()

    def _update(self, pick: int, similarity: Tensor) -> None:
        done = self.factor[: self.size]
        self.factor[self.size] = (similarity - done[:, pick] @ done) / self.variance[pick].sqrt()
        self._set_variance(self.variance - self.factor[self.size].square())


FUNCTIONS = {cls.__name__: cls for cls in (GraphCut, FacilityLocation, LogDeterminant)}
GREEDIES = {  # whether they pick from a random sample
    "NaiveGreedy": False,
    "LazyGreedy": False,
    "StochasticGreedy": True,
    "LazierThanLazyGreedy": True,
}


def select(
    kernel: Array,
    budget: int,
    function: str = "GraphCut",
    greedy: str = "NaiveGreedy",
    lam: float = 1.0,
    seed: int = 0,
) -> Selection:
    """DC3's greedy submodular maximisation: `budget` images of a symmetric (n, n) kernel, even at negative gains.

    function: GraphCut (with λ = `lam`), FacilityLocation or LogDeterminant.
    greedy: NaiveGreedy, LazyGreedy, StochasticGreedy or LazierThanLazyGreedy; the latter two draw from `seed`.
    Ties go to the lowest index. Runs on the kernel's device, with the published gains in float64.
    Raises ValueError for an unknown function or greedy, a budget outside 1 … n, a kernel that is not square, finite
    and symmetric (tested in 64 rows), and a λ or seed that is negative or not finite.
    """
    check_options(function, greedy, lam, seed)
    kernel = _checked_kernel(kernel)
    check_count("budget", budget, len(kernel), "the number of images")
    return _maximise(FUNCTIONS[function](kernel, budget, lam), budget, GREEDIES[greedy], seed)


def relative_gains(kernel: Array, budget: int, functions: Sequence[str], lam: float) -> dict[str, np.ndarray]:
    """The gains of the naive greedy's picks by function, (budget,), in units of the first gain, if it is not 0.

    Raises like `select`.
    """
    gains = {name: select(kernel, budget, name, lam=lam).gains for name in functions}
    return {name: of_picks / (of_picks[0] or 1.0) for name, of_picks in gains.items()}


def check_options(function: str, greedy: str, lam: float, seed: int) -> None:
    """ValueError for the options that `select` refuses."""
    for name, value, allowed in (("function", function, FUNCTIONS), ("greedy", greedy, GREEDIES)):
        if value not in allowed:
            raise ValueError(f"{name} = {value!r}: choose one of {', '.join(allowed)}")
    if not (np.isfinite(lam) and lam >= 0):
        raise ValueError(f"lam = {lam}: a finite number ≥ 0")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed = {seed!r}: an integer ≥ 0")


def positions(name: str, values: Sequence[int] | np.ndarray, n: int) -> np.ndarray:
    """The values as int64. ValueError unless they are positions among n images, at least one."""
    array = np.asarray(values)
    if array.ndim != 1 or not len(array) or array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= n:
        raise ValueError(f"{name} = {values!r}: expected positions among {n} images, 0 to {n - 1}")
    return array.astype(np.int64)


def check_count(name: str, count: int, most: int, meaning: str) -> None:
    """ValueError unless count is an integer from 1 to `most`."""
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or not 1 <= count <= most:
        raise ValueError(f"{name} = {count!r}: an integer from 1 to {most}, {meaning}")


def _checked_kernel(kernel: Array) -> Tensor:
    kernel = as_tensor(kernel)
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or not len(kernel):
        raise ValueError(f"kernel = {tuple(kernel.shape)}: expected (n, n), n ≥ 1")
    kernel = kernel if kernel.is_floating_point() else kernel.float()
    if not all(torch.isfinite(rows.sum()) or torch.isfinite(rows).all() for rows in kernel.split(CHECKED_ROWS)):
        raise ValueError("kernel = NaN or infinite similarities: expected finite values")
    probes = torch.linspace(0, len(kernel) - 1, SYMMETRY_PROBES, device=kernel.device).long()
    if not torch.allclose(kernel[probes], kernel[:, probes].T, atol=1e-4):
        raise ValueError("kernel = not symmetric: give the similarities of the images to themselves, (n, n)")
    return kernel


def _maximise(function: SetFunction, budget: int, stochastic: bool, seed: int) -> Selection:
    """Nemhauser et al. 1978: `budget` times the largest gain, negative ones included.

    stochastic: of a random sample of the remaining images, drawn on the CPU, so that all devices pick the same.
    """
    n = len(function.gains)
    rng = np.random.default_rng(seed)
    sample_size = math.ceil(n / budget * math.log(1 / STOCHASTIC_EPSILON))
    remaining = np.ones(n, dtype=bool)
    picks, gains = [], []
    for _ in range(budget):
        candidates = np.flatnonzero(remaining)
        if stochastic and sample_size < len(candidates):
            candidates = np.sort(rng.choice(candidates, sample_size, replace=False))
        scores = function.gains[torch.from_numpy(candidates).to(function.gains.device)]
        best = int(scores.argmax())  # ties: the first
        picks.append(int(candidates[best]))
        gains.append(float(scores[best]))
        remaining[picks[-1]] = False
        function.add(picks[-1])
    return Selection(np.array(picks, dtype=np.int64), np.array(gains, dtype=np.float64))


def allocate_budget(bin_sizes: Sequence[int] | np.ndarray, ipc: int, how: str = "proportional") -> list[int]:
    """Images to pick from each bin, `ipc` in total and never more than a bin holds, by largest remainder.

    how: "proportional" to the size of the bins, or "equal" shares; the others take over from full bins. Ties go to
    the first bins. Raises ValueError for negative sizes, an unknown how and an ipc outside 1 … the sum of the sizes.
    """
    sizes = np.asarray(bin_sizes)
    if sizes.ndim != 1 or (sizes.size and sizes.dtype.kind not in "iu") or (sizes < 0).any():
        raise ValueError(f"bin_sizes = {bin_sizes!r}: expected integers ≥ 0, one per bin")
    counts = [int(size) for size in sizes]
    if how not in ALLOCATIONS:
        raise ValueError(f"how = {how!r}: choose one of {', '.join(ALLOCATIONS)}")
    check_count("ipc", ipc, sum(counts), f"the images in bins of {counts}")
    return ALLOCATIONS[how](counts, int(ipc))


def _proportional(sizes: list[int], ipc: int) -> list[int]:
    shares, remainders = zip(*(divmod(ipc * size, sum(sizes)) for size in sizes), strict=True)
    by_remainder = sorted(range(len(sizes)), key=lambda b: -remainders[b])
    rounded_up = set(by_remainder[: ipc - sum(shares)])
    return [share + (b in rounded_up) for b, share in enumerate(shares)]


def _equal(sizes: list[int], ipc: int) -> list[int]:
    shares = [0] * len(sizes)
    while left := ipc - sum(shares):
        unfilled = [b for b, size in enumerate(sizes) if shares[b] < size]
        each = max(1, left // len(unfilled))
        for b in unfilled[:left]:
            shares[b] += min(each, sizes[b] - shares[b])
    return shares


ALLOCATIONS = {"proportional": _proportional, "equal": _equal}
