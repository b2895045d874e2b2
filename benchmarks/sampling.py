"""The sampling stage against simpler implementations, in one run: `python benchmarks/sampling.py [--quick]`.

1. The gradient kernel: the explicit embeddings concat(g, g ⊗ h) against the factored form (time, peak memory), and
   the factored form against bare matrix products of the same shapes, the limit of the machine.
2. The greedy: dc3 against submodlib and, if installed, apricot-select (which compiles again in every call).

Prints the tables as markdown; writes their rows to sampling.csv and sampling_greedy.csv, and the cost against n and C
to sampling.png. Times are the best of several runs. Peak memory is the increase during the first run.
"""

import argparse
import ctypes
import gc
import importlib
import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from dc3.sampling import FUNCTIONS, GREEDIES, gradient_kernel, select
from dc3.submodlib_picks import function_of, maximised

OUTPUT = Path(__file__).parents[1] / "figures" / "benchmarks"
CASES = [(500, 10, 512), (1300, 1000, 512), (5000, 10, 512)]
QUICK_CASES = [(100, 10, 64), (300, 50, 64)]
BUDGET = 50
PAIRS = [(function, greedy) for function in FUNCTIONS for greedy in GREEDIES]
APRICOT = {
    ("FacilityLocation", "NaiveGreedy"): ("FacilityLocationSelection", "naive"),
    ("FacilityLocation", "LazyGreedy"): ("FacilityLocationSelection", "lazy"),
    ("FacilityLocation", "StochasticGreedy"): ("FacilityLocationSelection", "stochastic"),
}  # its GraphCut is another function (no factor 2), so only its facility location is comparable
MEASURE_SECONDS, MOST_RUNS = 1.0, 20
CLOCK = {"now": time.perf_counter}  # or processor time, which other processes disturb less


def random_factors(n: int, classes: int, dim: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(n, classes, generator=generator)
    return gradient - gradient.mean(1, keepdim=True), torch.randn(n, dim, generator=generator).abs()


def explicit_kernel(gradient: Tensor, feature: Tensor) -> Tensor:
    n, classes = gradient.shape
    rows = torch.empty(n, classes * (1 + feature.shape[1]))
    rows[:, :classes] = gradient
    torch.mul(gradient[:, :, None], feature[:, None, :], out=rows[:, classes:].view(n, classes, -1))
    norms = rows.norm(dim=1)
    return (rows @ rows.T).div_(norms).div_(norms[:, None]).mul_(0.5).add_(0.5)


def matrix_products(gradient: Tensor, feature: Tensor) -> tuple[Tensor, Tensor]:
    return gradient @ gradient.T, feature @ feature.T


def seconds_and_megabytes(run: Callable[[], object]) -> tuple[float, float]:
    """The best time of several runs, and the increase of peak resident memory in the first."""
    times = []
    megabytes = _peak_of(lambda: times.append(_timed(run)))
    while sum(times) < MEASURE_SECONDS and len(times) < MOST_RUNS:
        times.append(_timed(run))
    return min(times), megabytes


def _timed(run: Callable[[], object]) -> float:
    start = CLOCK["now"]()
    run()
    return CLOCK["now"]() - start


def _peak_of(run: Callable[[], object]) -> float:
    """The increase of the kernel's high-water mark, which only Linux can reset; elsewhere NaN."""
    gc.collect()
    mark = Path("/proc/self/clear_refs")
    if not mark.exists():
        run()
        return float("nan")
    ctypes.CDLL(None).malloc_trim(0)
    mark.write_text("5", encoding="utf-8")
    before = _high_water_megabytes()
    run()
    return _high_water_megabytes() - before


def _high_water_megabytes() -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1e3 * 1.024


def kernel_row(n: int, classes: int, dim: int) -> dict:
    factors = random_factors(n, classes, dim)
    error = float((gradient_kernel(*factors) - explicit_kernel(*factors)).abs().max()) if n * classes < 1e5 else np.nan
    factored, factored_mb = seconds_and_megabytes(lambda: gradient_kernel(*factors))
    explicit, explicit_mb = seconds_and_megabytes(lambda: explicit_kernel(*factors))
    products, _ = seconds_and_megabytes(lambda: matrix_products(factors[0], F.pad(factors[1], (1, 0), value=1)))
    flops = 2 * n * n * (classes + dim + 1)
    return {
        "n": n,
        "C": classes,
        "d": dim,
        "explicit_s": explicit,
        "factored_s": factored,
        "speedup": explicit / factored,
        "explicit_mb": explicit_mb,
        "factored_mb": factored_mb,
        "max_error": error,
        "mm_s": products,
        "factored_gflops": flops / factored / 1e9,
        "mm_gflops": flops / products / 1e9,
    }


def kernel_table(rows: pd.DataFrame) -> str:
    lines = [
        "| n, C, d | explicit | factored | ratio | explicit MB | factored MB | GFLOP/s | of torch.mm's |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows.itertuples():
        lines.append(
            f"| {row.n}, {row.C}, {row.d} | {row.explicit_s:.3g} s | {row.factored_s:.3g} s | {row.speedup:.3g}× "
            f"| {row.explicit_mb:.0f} | {row.factored_mb:.0f} | {row.factored_gflops:.0f} "
            f"| {row.mm_s / row.factored_s:.0%} of {row.mm_gflops:.0f} |"
        )
    return "\n".join(lines)


def _picks(kernel: np.ndarray, function: str, greedy: str) -> list[int]:
    return select(kernel, BUDGET, function, greedy).indices.tolist()


def _submodlib_picks(kernel: np.ndarray, function: str, greedy: str) -> list[int]:
    return maximised(function_of(kernel, function), BUDGET, greedy)


def _apricot_picks(kernel: np.ndarray, function: str, greedy: str) -> list[int]:
    apricot = importlib.import_module("apricot")
    name, optimizer = APRICOT[function, greedy]
    selector = getattr(apricot, name)(BUDGET, metric="precomputed", optimizer=optimizer, random_state=0)
    return selector.fit(kernel).ranking.tolist()


def greedy_rows(n: int, dim: int, engine: str) -> Iterator[dict]:
    kernel = gradient_kernel(*(factor.numpy() for factor in random_factors(n, 10, dim)))
    for function, greedy in PAIRS if engine != "apricot" else APRICOT:
        picks = []
        run = {"dc3": _picks, "submodlib": _submodlib_picks, "apricot": _apricot_picks}[engine]
        seconds, megabytes = seconds_and_megabytes(lambda: picks.append(run(kernel, function, greedy)))  # noqa: B023
        same = len(set(picks[0]) & set(_picks(kernel, function, greedy))) / BUDGET
        yield {
            "n": n,
            "function": function,
            "greedy": greedy,
            "engine": engine,
            "seconds": seconds,
            "mb": megabytes,
            "same_picks": same,
        }


def greedy_table(rows: pd.DataFrame) -> str:
    """One line per function. Cells of other libraries: seconds, and the share of dc3's picks that they share."""
    rivals = [(engine, greedy) for engine in ("submodlib", "apricot") for greedy in GREEDIES]
    rivals = [(e, g) for e, g in rivals if ((rows["engine"] == e) & (rows["greedy"] == g)).any()]
    names = " | ".join(f"{engine} {greedy.removesuffix('Greedy')}" for engine, greedy in rivals)
    lines = [f"| n | function | dc3, any greedy | {names} | peak dc3, submodlib |", "| --- " * (len(rivals) + 4) + "|"]
    for (n, function), group in rows.groupby(["n", "function"], sort=False):
        ours, theirs = (group[group["engine"] == engine] for engine in ("dc3", "submodlib"))
        runs = group.set_index(["engine", "greedy"])[["seconds", "same_picks"]].to_dict("index")
        cells = (runs.get(rival) for rival in rivals)
        cells = " | ".join(f"{cell['seconds']:.2g} s, {cell['same_picks']:.0%}" if cell else "–" for cell in cells)
        memory = f"{ours['mb'].max():.0f}, {theirs['mb'].max():.0f} MB"
        lines.append(f"| {n} | {function} | {ours['seconds'].max():.2g} s | {cells} | {memory} |")
    if "apricot" not in set(rows["engine"]):
        lines.append("\napricot-select: not installed")
    return "\n".join(lines)


def draw(path: Path, over_n: pd.DataFrame, over_classes: pd.DataFrame) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for axis, rows, column, fixed in ((axes[0], over_n, "n", "C = 10"), (axes[1], over_classes, "C", "n = 500")):
        for name, label in (("explicit_s", "explicit"), ("factored_s", "factored"), ("mm_s", "torch.mm alone")):
            axis.loglog(rows[column], rows[name], marker="o", label=label, ls="--" if name == "mm_s" else "-")
        axis.set_xticks(rows[column], [f"{value}" for value in rows[column]])
        axis.minorticks_off()
        axis.set(xlabel={"n": "images n", "C": "classes C"}[column], title=f"{fixed}, d = {rows['d'].iloc[0]}")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("seconds")
    axes[0].legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small cases, a few seconds")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch threads (default: all cores)")
    parser.add_argument("--cpu-time", action="store_true", help="processor time on one thread, for a busy machine")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder of the figure and the tables")
    arguments = parser.parse_args()
    if arguments.cpu_time:
        CLOCK["now"], arguments.threads = time.process_time, 1
    torch.set_num_threads(arguments.threads)
    os.environ["NUMBA_NUM_THREADS"] = str(arguments.threads)  # apricot's
    arguments.output.mkdir(parents=True, exist_ok=True)
    cases, dim = (QUICK_CASES, 64) if arguments.quick else (CASES, 512)
    sizes, classes = (
        ([50, 100, 200], [2, 10, 50]) if arguments.quick else ([125, 250, 500, 1000, 2000], [10, 100, 1000])
    )
    load = os.getloadavg()[0]
    clock = "processor time" if arguments.cpu_time else f"load average {load:.1f} at the start"
    print(f"torch {torch.__version__}, threads: {arguments.threads}, {clock}\n")

    table, over_n, over_classes = (
        pd.DataFrame([kernel_row(*case) for case in part])
        for part in (cases, [(n, 10, dim) for n in sizes], [(sizes[2], count, dim) for count in classes])
    )
    print(kernel_table(table), flush=True)
    names = ["dc3", "submodlib"] + ["apricot"] * bool(importlib.util.find_spec("apricot"))
    greedy = pd.DataFrame([row for engine in names for n, *_ in cases for row in greedy_rows(n, dim, engine)])
    print("\n" + greedy_table(greedy), flush=True)
    draw(arguments.output / "sampling.png", over_n, over_classes)
    tables = {"case": table, "over_n": over_n, "over_C": over_classes}
    pd.concat(tables, names=["part"]).reset_index("part").to_csv(arguments.output / "sampling.csv", index=False)
    greedy.to_csv(arguments.output / "sampling_greedy.csv", index=False)


if __name__ == "__main__":
    main()
