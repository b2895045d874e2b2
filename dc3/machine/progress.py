"""Progress bars of what takes longer than five seconds; they vanish when done.

DC3_PROGRESS=0 turns them off, for outputs that are compared. They are text, not tqdm's widget, which becomes an error
message in a notebook that is saved and opened again. In a notebook that the runner executes, a `Relay` brings them to
the terminal; in one that is opened by hand, an `Output` shows them in the page.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any, TextIO

from tqdm import std

from dc3.machine.paths import is_headless

SHOWN = os.environ.get("DC3_PROGRESS", "1") != "0"
SECONDS = 5
LOOK = {
    **{"leave": False, "disable": not SHOWN, "delay": SECONDS, "mininterval": 0.5},
    "smoothing": 0,  # the time left is by the speed since the start: that of the last steps jumps
    "bar_format": "{desc}: {percentage:3.0f}%|{bar:20}| {n_fmt} of {total_fmt} {unit}, {remaining} left{postfix}",
}
ROW = re.compile(r"\d+%\|")  # of a bar, tqdm's too



def tqdm(*arguments: Any, **options: Any) -> std.tqdm:
    """A bar with the look of all; arguments as tqdm's."""
    return std.tqdm(*arguments, **LOOK | {"file": _place_of_bars()} | options)


def trange(*arguments: int, **options: Any) -> std.tqdm:
    """A bar over a range."""
    return tqdm(range(*arguments), **options)


class Output:
    """A file object for a bar in a page: it shows the newest row, and stays as an empty output, not as blank text."""

    encoding = "utf-8"  # without one, tqdm draws with #

    def __init__(self) -> None:
        self.handle: Any = None

    def write(self, text: str) -> None:
        """Shows a row of a bar; an empty one is a bar that vanishes."""
        from IPython.display import HTML, display

        row = HTML(f"<pre>{escape(text.strip())}</pre>" if text.strip() else "")
        if self.handle is None:
            self.handle = display(row, display_id=True)
        elif text != "\r":
            self.handle.update(row)

    def flush(self) -> None:
        """Nothing is held back."""


def _place_of_bars() -> Output | None:
    """An output of the page in a notebook that is opened by hand; None, which is stderr for tqdm, elsewhere."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return Output() if hasattr(shell, "kernel") and not is_headless() else None


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
