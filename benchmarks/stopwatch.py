"""The stopwatch of the benchmarks."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Adds up the seconds of each step, by a clock."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.now = now
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        started = self.now()
        yield
        if torch.cuda.is_initialized():  # a GPU computes on after a call
            torch.cuda.synchronize()
        self.seconds[name] = self.seconds.get(name, 0) + self.now() - started

    def timed(self, name: str, function: Callable) -> Callable:
        """`function`, with its time added to the step."""

        def call(*arguments, **named):
            with self.step(name):
                return function(*arguments, **named)

        return call
