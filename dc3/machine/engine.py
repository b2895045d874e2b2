"""Engines: a stage's work in chunks, one after another in this process, or in Ray's actors and tasks.

A chunk is an array of positions (images, picks or classes) and its result a pure function of them, so both engines
give the same bytes. Scheduling, retries and progress bars are Ray's own (Ray Data's `map_batches`).
"""

import importlib.util
import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch

from dc3.machine import progress
from dc3.machine.files import first_line
from dc3.machine.temporary import short_base

Columns = dict[str, Any]  # name → one value per row: an array (b, …), or a list of text
Work = Callable[[np.ndarray], Columns]  # holds its models and images, and is sent to actors with them

MOST_BLOCKS = 4096  # up to this many chunks each have a block of their own: its result arrives at once
STORE_BYTES = 4e9  # limit for a Ray that we start; beyond it Ray spills to disk
RETRIES = 3  # for a chunk whose process dies
CONNECT_SECONDS = 5
LONGEST_OF_RAY = len("/ray/session_2026-01-31_12-00-00_123456_1234567/sockets/plasma_store")  # below its folder
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}  # unless the user has set them
NO_RAY = "engine = 'ray': Ray is not installed: run pip install 'dc3[ray]', or set engine: local"


class EngineFailed(RuntimeError):
    """Ray failed, not the work itself; the message says what to do."""


@dataclass
class Engine:
    """`local`, or `ray` with a cluster's address ("": RAY_ADDRESS, else a Ray started here).

    actors: processes that hold a stage's models. gpus: share of a GPU per actor, 0 for CPUs.
    """

    name: str = "local"
    address: str = ""
    actors: int = 1
    gpus: float = 0.0
    _joined: bool = field(default=False, init=False, repr=False)

    @property
    def is_local(self) -> bool:
        """Whether the work runs in this process."""
        return self.name == "local"

    def map(self, work: Work, chunks: Sequence[np.ndarray], what: str, actors: bool = True) -> Iterator[Columns]:
        """The results of `work`: locally in order; on Ray in any order, sometimes several chunks together.

        `what` labels the progress bar. On Ray, `actors` chooses a pool of actors, else as many tasks as fit. Errors of
        the work are raised unchanged. EngineFailed when the cluster has no room or a chunk's process keeps dying;
        ModuleNotFoundError without Ray.
        """
        if self.is_local:
            return _worked_on_here(work, chunks, what)
        return self._on_ray(work, chunks, actors)

    def stop(self) -> None:
        """Leaves the cluster; ends a Ray that this engine started. Does nothing when there is none."""
        if self._joined:
            import ray

            ray.shutdown()
            self._joined = False

    def _on_ray(self, work: Work, chunks: Sequence[np.ndarray], actors: bool) -> Iterator[Columns]:
        ray, threads = self._started(), torch.get_num_threads()  # sums in floating point may depend on their number
        self.check_room(ray.nodes(), threads, self.actors if actors else 1)
        rows = ray.data.from_items(
            [{"chunk": chunk.tolist()} for chunk in chunks], override_num_blocks=min(len(chunks), MOST_BLOCKS)
        )
        arguments = ray.put(work), threads
        how = {"batch_size": 1, "batch_format": "pyarrow", "num_cpus": threads, "num_gpus": self.gpus or None}
        if actors:
            how |= {"compute": ray.data.ActorPoolStrategy(size=self.actors), "fn_constructor_args": arguments}
            how |= {"max_restarts": -1, "max_task_retries": RETRIES}  # per task; Ray Data retries forever by default
        else:
            how |= {"fn_args": arguments}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # `max_task_retries`, since Ray 2.64
            results = rows.map_batches(_Actor if actors else _task, **how)
        try:
            yield from results.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0)
        except ray.exceptions.RayError as error:
            raise _own_error(error) from error

    def _started(self) -> Any:
        check(self.name, self.address)
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        import ray
        import ray.data

        if not ray.is_initialized():
            address = _address(self.address)
            own: dict[str, Any] = {"num_cpus": max(os.cpu_count() or 1, self.actors * torch.get_num_threads())}
            own |= {"include_dashboard": False, "object_store_memory": _store_bytes()}
            if not os.environ.get("RAY_TMPDIR"):
                own["_temp_dir"] = os.path.join(short_base(LONGEST_OF_RAY), "ray")
            only = own if address == "local" else {}
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **only)
            self._joined = True
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it logs the errors that it also raises
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # caused by Ray's own defaults
            context = ray.data.DataContext.get_current()
        context.raise_original_map_exception = True
        context.enable_progress_bars = progress.SHOWN
        return ray

    def check_room(self, nodes: list[dict[str, Any]], threads: int, wanted: int) -> None:
        """EngineFailed unless Ray's `nodes` have room for `wanted` actors or tasks of `threads` threads each."""
        machines = [node["Resources"] for node in nodes if node["Alive"]]
        room = sum(min(node.get("CPU", 0) // threads, _on_gpus(node.get("GPU", 0), self.gpus)) for node in machines)
        if room < wanted:
            raise EngineFailed(
                f"ray_actors = {wanted}: the {len(machines)} machine(s) of the Ray cluster have room for {int(room)}, "
                f"at {threads} processor core(s) (OMP_NUM_THREADS) and {self.gpus:g} GPU (ray_gpus) each"
            )


def _worked_on_here(work: Work, chunks: Sequence[np.ndarray], what: str) -> Iterator[Columns]:
    with progress.tqdm(total=sum(map(len, chunks)), desc=what, unit="images") as bar:
        for chunk in chunks:
            yield work(chunk)
            bar.update(len(chunk))


def _on_gpus(gpus: float, share: float) -> float:
    """How many actors with a `share` fit on a machine's GPUs: a share below 1 lies on a single GPU.

    1.0 // 0.2 is 4, because 0.2 has no exact binary fraction: hence the 1e-9.
    """
    if not share:
        return np.inf
    return int(gpus) * int(1 / share + 1e-9) if share < 1 else gpus // share


LOCAL = Engine()


def engine_of(params: dict[str, Any], device: torch.device) -> Engine:
    """The engine that a stage's parameters name; `device` is the run's."""
    gpus = params["ray_gpus"] if device.type == "cuda" else 0.0
    return Engine(params["engine"], params["ray_address"], params["ray_actors"], gpus)


def check(name: str, address: str) -> None:
    """ModuleNotFoundError when Ray is needed but not installed, ConnectionError when no cluster answers."""
    if name == "local":
        return
    if importlib.util.find_spec("ray") is None:
        raise ModuleNotFoundError(NO_RAY)
    address = _address(address)
    url = urlsplit(address if "://" in address else f"ray://{address}")
    if not url.port:  # "local", or "auto": the Ray that runs on this machine
        return
    try:
        socket.create_connection((url.hostname, url.port), CONNECT_SECONDS).close()
    except OSError as error:
        raise ConnectionError(
            f"ray_address = {address!r}: nothing answers there ({error}); start it with `ray start --head`, or leave "
            "ray_address empty to start Ray for this run alone"
        ) from None


def chunks(count: int, size: int) -> list[np.ndarray]:
    """0 … count − 1, `size` at a time."""
    return np.split(np.arange(count), range(size, count, size))


class _Actor:
    """A process that holds the work and waits for chunks."""

    def __init__(self, work: Any, threads: int) -> None:
        self.work = _arrived(work, threads)

    def __call__(self, batch: Any) -> Columns:
        return self.work(_chunk(batch))


def _task(batch: Any, work: Any, threads: int) -> Columns:
    return _arrived(work, threads)(_chunk(batch))


def _arrived(work: Any, threads: int) -> Work:
    import ray

    torch.set_num_threads(threads)
    return ray.get(work)


def _chunk(batch: Any) -> np.ndarray:
    return np.array(batch["chunk"][0].as_py(), np.int64)


def _address(address: str) -> str:
    return address or os.environ.get("RAY_ADDRESS") or "local"


def _store_bytes() -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(min(STORE_BYTES, 0.3 * memory))


def _own_error(error: BaseException) -> BaseException:
    """The work's own error, unwrapped from Ray's; EngineFailed when Ray failed."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception) and type(cause).__module__.split(".")[0] != "ray":
        return cause
    return EngineFailed(
        f"Ray gave up ({type(error).__name__}: {first_line(error)}). A process that keeps dying "
        "usually lacks memory: set fewer ray_actors or smaller batches, then run again"
    )
