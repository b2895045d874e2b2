"""Engines: a stage's work in chunks, one after another here, or in the actors and tasks of Ray.

A chunk is an array of positions (of images, of picks, of classes) and its result a pure function of them, so that both
engines give the same bytes. Scheduling, retries and progress bars are Ray's own (Ray Data's `map_batches`).
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

Columns = dict[str, Any]  # name → one value a row: an array (b, …), or a list of text
Work = Callable[[np.ndarray], Columns]  # holds the models and images that it needs, and travels with them

MOST_BLOCKS = 4096  # one chunk each as long as there are no more: a finished one arrives at once
STORE_BYTES = 4e9  # at most, of a Ray of our own; it takes what it uses, and beyond this the disk
RETRIES = 3  # of a chunk whose process dies
CONNECT_SECONDS = 5
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}  # unless the user has set them
ASK_FOR_RAY = "engine = 'ray': Ray is not installed: pip install 'dc3[ray]', or set engine: local"


class EngineFailed(RuntimeError):
    """Ray could not do the work, though the work itself raised nothing; the message says what to do."""


@dataclass
class Engine:
    """`local`, or `ray` with a cluster's address ("": RAY_ADDRESS, else a Ray of its own).

    actors: processes that hold the models of a stage. gpus: the share of a GPU of each, 0 to leave them on processors.
    """

    name: str = "local"
    address: str = ""
    actors: int = 1
    gpus: float = 0.0
    _joined: bool = field(default=False, init=False, repr=False)

    @property
    def is_local(self) -> bool:
        """Whether the work is done in this process."""
        return self.name == "local"

    def map(self, work: Work, chunks: Sequence[np.ndarray], what: str, actors: bool = True) -> Iterator[Columns]:
        """The results of `work`: here one chunk after another; on Ray in any order, several chunks together or not.

        `what` names them on the progress bar. `actors`: on Ray, in a pool of actors; else in tasks, as many as fit. An
        error of the work is raised as itself. EngineFailed for a cluster without room, and when a chunk's process died
        again and again; ModuleNotFoundError without Ray.
        """
        if self.is_local:
            return (work(chunk) for chunk in progress.tqdm(chunks, desc=what, unit="batch"))
        return self._on_ray(work, chunks, actors)

    def stop(self) -> None:
        """Leaves the cluster; a Ray of its own ends. Does nothing when there is none."""
        if self._joined:
            import ray

            ray.shutdown()
            self._joined = False

    def _on_ray(self, work: Work, chunks: Sequence[np.ndarray], actors: bool) -> Iterator[Columns]:
        ray, threads = self._started(), torch.get_num_threads()  # sums in floating point may depend on the threads
        self.check_room(ray.nodes(), threads, self.actors if actors else 1)
        rows = ray.data.from_items(
            [{"chunk": chunk.tolist()} for chunk in chunks], override_num_blocks=min(len(chunks), MOST_BLOCKS)
        )
        arguments = ray.put(work), threads
        how = {"batch_size": 1, "batch_format": "pyarrow", "num_cpus": threads, "num_gpus": self.gpus or None}
        if actors:
            how |= {"compute": ray.data.ActorPoolStrategy(size=self.actors), "fn_constructor_args": arguments}
            how |= {"max_restarts": -1, "max_task_retries": RETRIES}  # of a task; Ray Data's default is for ever
        else:
            how |= {"fn_args": arguments}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of `max_task_retries`, from Ray 2.64 on
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
            only = own if address == "local" else {}
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **only)
            self._joined = True
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it tells of errors is raised too
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # which Ray's own defaults give
            context = ray.data.DataContext.get_current()
        context.raise_original_map_exception = True
        context.enable_progress_bars = progress.SHOWN
        return ray

    def check_room(self, nodes: list[dict[str, Any]], threads: int, wanted: int) -> None:
        """EngineFailed unless Ray's `nodes` have room for `wanted` actors or tasks of so many threads each."""
        there = [node["Resources"] for node in nodes if node["Alive"]]
        room = sum(min(node.get("CPU", 0) // threads, _on_gpus(node.get("GPU", 0), self.gpus)) for node in there)
        if room < wanted:
            raise EngineFailed(
                f"ray_actors = {wanted}: the {len(there)} machine(s) of the Ray cluster have room for {int(room)}, at "
                f"{threads} processor core(s) (OMP_NUM_THREADS) and {self.gpus:g} of a GPU (ray_gpus) each"
            )


def _on_gpus(gpus: float, share: float) -> float:
    """How many actors of a `share` go on the GPUs of a machine: a share of one GPU is never made up of two.

    1.0 // 0.2 is 4: the quotient is a little too small where the share has no exact binary fraction.
    """
    if not share:
        return np.inf
    return int(gpus) * int(1 / share + 1e-9) if share < 1 else gpus // share


LOCAL = Engine()


def engine_of(params: dict[str, Any], device: torch.device) -> Engine:
    """The engine that a stage's parameters name; the models' device is the run's, there as here."""
    gpus = params["ray_gpus"] if device.type == "cuda" else 0.0
    return Engine(params["engine"], params["ray_address"], params["ray_actors"], gpus)


def check(name: str, address: str) -> None:
    """ModuleNotFoundError where Ray is wanted and not installed, ConnectionError where no cluster answers."""
    if name == "local":
        return
    if importlib.util.find_spec("ray") is None:
        raise ModuleNotFoundError(ASK_FOR_RAY)
    given = _address(address)
    place = urlsplit(given if "://" in given else f"ray://{given}")
    if not place.port:  # "local", or "auto": the one that was started on this machine
        return
    try:
        socket.create_connection((place.hostname, place.port), CONNECT_SECONDS).close()
    except OSError as error:
        raise ConnectionError(
            f"ray_address = {given!r}: nothing answers there ({error}); start it with `ray start --head`, or leave "
            "ray_address empty for a Ray of this run's own"
        ) from None


def chunks(count: int, size: int) -> list[np.ndarray]:
    """0 … count − 1, `size` at a time."""
    return np.split(np.arange(count), range(size, count, size))


class _Actor:
    """Work that waits in a process of its own for chunks."""

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


def _address(given: str) -> str:
    return given or os.environ.get("RAY_ADDRESS") or "local"


def _store_bytes() -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(min(STORE_BYTES, 0.3 * memory))


def _own_error(error: BaseException) -> BaseException:
    """What the work itself raised, out of Ray's error around it; EngineFailed when it was Ray that failed."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception) and type(cause).__module__.split(".")[0] != "ray":
        return cause
    return EngineFailed(
        f"Ray gave the work up ({type(error).__name__}: {str(error).strip().splitlines()[0]}). A process that dies "
        "again and again is most often short of memory: fewer ray_actors, or smaller batches. Then run again"
    )
