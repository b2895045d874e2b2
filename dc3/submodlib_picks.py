"""The picks of submodlib (Kaushal et al., arXiv 2202.10680) on the kernel of `dc3.sampling`, where it is installed.

The method does not use it (`dc3.sampling` says why); 03_sampling and benchmarks/sampling.py lay its picks and its time
beside ours.
"""

import importlib
import importlib.util
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from dc3.sampling import LOG_DETERMINANT_RIDGE, select

NOT_INSTALLED = "submodlib is not installed: it has no wheels for this Python, so there is nothing to compare with"


def is_installed() -> bool:
    """Whether submodlib can be imported: its wheels end with Python 3.12."""
    return importlib.util.find_spec("submodlib") is not None


def function_of(kernel: np.ndarray, name: str, lam: float = 1.0) -> Any:
    """submodlib's object for a function of `dc3.sampling` on a kernel (n, n). ImportError where it is not installed."""
    import submodlib

    options = {
        "GraphCut": {"ggsijs": kernel, "lambdaVal": lam},
        "FacilityLocation": {"sijs": kernel, "separate_rep": False},
        "LogDeterminant": {"sijs": kernel, "lambdaVal": LOG_DETERMINANT_RIDGE},
    }.get(name, {"sijs": kernel})
    return getattr(submodlib, f"{name}Function")(n=len(kernel), mode="dense", **options)


def maximised(function: Any, budget: int, greedy: str) -> list[int]:
    """The picks of a `function_of`, in order."""
    chosen = function.maximize(
        budget=budget, optimizer=greedy, stopIfZeroGain=False, stopIfNegativeGain=False, show_progress=False
    )
    return [index for index, _ in chosen]


def picks(kernel: np.ndarray, budget: int, name: str, lam: float = 1.0) -> list[int]:
    """The naive greedy's picks from a kernel (n, n), in order, for a budget below n; `lam` is GraphCut's weight.

    submodlib gives ties to the highest index, and we to the lowest: it gets the images in reverse order.
    """
    reverse = np.ascontiguousarray(kernel[::-1, ::-1])
    return [len(kernel) - 1 - index for index in maximised(function_of(reverse, name, lam), budget, "NaiveGreedy")]


def compared(kernel: np.ndarray, budget: int, functions: Sequence[str], lam: float = 1.0) -> pd.DataFrame:
    """Our picks and submodlib's, one row per function.

    Columns same picks (their number), same order up to pick, dc3 (ms), submodlib (ms).

    Times are wall time of one call each, after submodlib's import. ImportError where it is not installed.
    """
    importlib.import_module("submodlib")
    rows = []
    for function in functions:
        ours, our_time = _timed(partial(_own_picks, kernel, budget, function, lam))
        theirs, their_time = _timed(partial(picks, kernel, budget, function, lam))
        parted = [rank for rank, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]]
        same = len(set(ours) & set(theirs))
        rows.append((function, same, parted[0] if parted else budget, 1000 * our_time, 1000 * their_time))
    columns = ["function", "same picks", "same order up to pick", "dc3 (ms)", "submodlib (ms)"]
    return pd.DataFrame(rows, columns=columns).set_index("function")


def _own_picks(kernel: np.ndarray, budget: int, name: str, lam: float) -> list[int]:
    return select(kernel, budget, name, lam=lam).indices.tolist()


def _timed(work: Callable[[], list[int]]) -> tuple[list[int], float]:
    start = time.perf_counter()
    return work(), time.perf_counter() - start
