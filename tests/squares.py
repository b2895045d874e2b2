"""Work for engines that needs no models, in a module of its own, so that actors need not import them."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Squares:
    """Squares of a chunk; 7 ends the process, as long as `trace` has not the marks of `deaths`."""

    trace: Path | None = None
    deaths: int = 0

    def __call__(self, chunk):
        if 7 in chunk and self.trace and len(self.trace.read_text(encoding="utf-8")) < self.deaths:
            with self.trace.open("a", encoding="utf-8") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        return {"row": chunk, "square": chunk**2}
