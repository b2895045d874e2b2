"""Progress of a run on the terminal: the stages by number, the bars of a notebook, and silence where nobody looks."""

import io
import os
import pty

import nbformat
import pytest
from nbclient import NotebookClient
from workshop import COUNT, Workshop, write_notebook

from dc3.machine import progress
from dc3.machine.paths import HEADLESS
from dc3.machine.progress import Output, Relay

SLOW = COUNT[2] + (
    "\nimport sys, time\n"
    "from dc3.machine import progress\n"
    "for _ in progress.tqdm(range(20), desc='steps', unit='steps', delay=0, mininterval=0):\n"
    "    time.sleep(0.02)\n"
    "print('a warning', file=sys.stderr)"
)


class Handle:
    """IPython's handle of an output, which keeps what was shown."""

    def __init__(self, shown):
        self.shown = shown

    def update(self, row):
        self.shown.append(row.data)


def terminal(columns=60, monkeypatch=None):
    monkeypatch.setenv("COLUMNS", str(columns))
    return io.StringIO()


def lines_of(text):
    return [line.strip() for line in text.split("\r") if line.strip()]


def test_the_newest_row_of_a_bar_is_shown_within_the_terminals_width(monkeypatch):
    shown = Relay(terminal(30, monkeypatch))
    shown.write("\redits:  10%|██   | 1 of 10 images, 00:09 left\redits:  20%|████ | 2 of 10 images, 00:08 left")
    [line] = lines_of(shown.terminal.getvalue())
    assert line.startswith("edits:  20%|████ | 2 of 10") and len(line) < 30


def test_a_bar_that_vanishes_leaves_an_empty_line_and_warnings_are_not_shown(monkeypatch):
    shown = Relay(terminal(30, monkeypatch))
    shown.write("UserWarning: 100 of something\n")
    assert shown.terminal.getvalue() == ""
    shown.write("\redits:  10%|██   | 1 of 10 images, 00:09 left")
    shown.write("\r                \r")
    assert shown.terminal.getvalue().endswith("\r" + " " * 29 + "\r")


def test_the_time_left_is_by_the_mean_speed_and_short_work_has_no_bar(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: clock[0])
    drawn = io.StringIO()
    bar = progress.tqdm(total=10, desc="steps", unit="steps", file=drawn, disable=False)
    for seconds in (1, 1, 1, 1):
        clock[0] += seconds
        bar.update()
    assert drawn.getvalue() == "", "four seconds"
    clock[0] += 16  # one slow step: 20 seconds for 5
    bar.update()
    assert "5 of 10 steps, 00:20 left" in drawn.getvalue()


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    workshop = Workshop(tmp_path_factory.mktemp("slow"))
    write_notebook(workshop.notebooks, "00_count", [*COUNT[:2], SLOW])
    return workshop


@pytest.mark.process
def test_a_terminal_shows_the_bars_of_the_notebook_and_a_pipe_a_line_a_stage(workshop):
    master, slave = pty.openpty()
    process = workshop.begin("run", workshop.params, stdout=slave, stderr=slave)
    os.close(slave)
    drawn = b""
    while piece := read(master):
        drawn += piece
    assert process.wait() == 0
    shown = drawn.decode()
    assert "of 20 steps, 00:00 left" in shown and "a warning" not in shown
    assert "stage 1 of 2: 00_count" in shown and "stage 2 of 2: 01_total" in shown and " done in " in shown
    piped = workshop.dc3("run", workshop.params, "--force")
    stages = [line.split("  ")[0] for line in piped.stdout.splitlines() if line.startswith("stage")]
    assert stages == ["stage 1 of 2: 00_count", "stage 2 of 2: 01_total"] and "steps" not in piped.stdout + piped.stderr


def read(master):
    """What the terminal got; b"" when its other side is closed."""
    try:
        return os.read(master, 4096)
    except OSError:
        return b""


@pytest.mark.process
def test_a_bar_in_a_notebook_opened_by_hand_leaves_no_blank_text(monkeypatch):
    monkeypatch.delenv(HEADLESS, raising=False)
    monkeypatch.setenv("DC3_PROGRESS", "1")
    source = SLOW[SLOW.index("import sys") :].replace("print('a warning', file=sys.stderr)", "print('done')")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, kernel_name="python3").execute()
    bar, printed = notebook.cells[0].outputs
    assert bar.data["text/html"] == "" and printed.text == "done\n"


def test_the_rows_of_a_bar_are_shown_in_one_output(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda row, display_id: shown.append(row.data) or Handle(shown))
    for _ in progress.tqdm(range(3), desc="a <b>", unit="steps", file=Output(), delay=0, mininterval=0, disable=False):
        pass
    rows = [row for row in shown if row]
    assert rows[0].startswith("<pre>a &lt;b&gt;:   0%|") and "3 of 3 steps" in rows[-1] and shown[-1] == ""
