"""Progress bars of what takes longer than five seconds; they vanish when done.

DC3_PROGRESS=0 turns them off, for outputs that are compared. They are text, not tqdm's widget, which becomes an error
message in a notebook that is saved and opened again. In a notebook that the runner executes, a `Relay` brings them to
the terminal.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TextIO

from tqdm import std

SHOWN = os.environ.get("DC3_PROGRESS", "1") != "0"
SECONDS = 5
LOOK = {
    **{"leave": False, "disable": not SHOWN, "delay": SECONDS, "mininterval": 0.5},
    "smoothing": 0,  # the time left is by the speed since the start: that of the last steps jumps
    "bar_format": "{desc}: {percentage:3.0f}%|{bar:20}| {n_fmt} of {total_fmt} {unit}, {remaining} left{postfix}",
}
ROW = re.compile(r"\d+%\|")  # of a bar, tqdm's too

tqdm = partial(std.tqdm, **LOOK)
trange = partial(std.trange, **LOOK)


class Relay:
    """Shows the newest row of the bars in what a kernel writes to stderr, in one line that it overwrites.

    A file object for papermill. The rest of stderr stays in the notebook.
    """

    def __init__(self, terminal: TextIO) -> None:
        self.terminal = terminal

    def write(self, text: str) -> None:
        """Takes a piece of the kernel's stderr: rows of bars are between carriage returns."""
        rows = [row.strip() for row in re.split(r"[\r\n]", text)]
        newest = next((row for row in reversed(rows) if row), "")
        if not newest or ROW.search(newest):  # an empty row is a bar that vanishes
            self._show(newest)

    def flush(self) -> None:
        """Nothing is held back."""

    def _show(self, row: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        self.terminal.write(f"\r{'  ' + row if row else '':<{width}.{width}}\r")
        self.terminal.flush()

    def clear(self) -> None:
        """Empties the line."""
        self._show("")


@contextmanager
def relay() -> Iterator[Relay | None]:
    """A Relay to the terminal, whose line is empty in the end; None where stderr is no terminal."""
    if not (SHOWN and sys.stderr.isatty()):
        yield None
        return
    shown = Relay(sys.stderr)
    try:
        yield shown
    finally:
        shown.clear()
