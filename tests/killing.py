"""Run by test_compensation: a compensation in child processes that are killed, over and over, at random moments.

    python killing.py EDITOR_FOLDER WORK_FOLDER KILLS

Prints one JSON line: {"kills": …, "finished": [digests of the folder, each time it was finished], "undisturbed": …}.
The children are forked from this process, which has imported everything, loaded the editor and computed nothing, so
that none of them spends its life on that.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dc3.compensation import Coloring, Compensator, compensate
from dc3.condensed import Storage
from dc3.images.image_set import in_memory
from dc3.machine.files import sha256
from dc3.models.editor import Editor, EditorSettings, load_editor

COLORING = Coloring(0, ["sunny", "sepia"], ["rainy", "snowy"], "Adjust the color hue to be {p}", "gradient")
PICKS = pd.DataFrame({"index": np.arange(14), "label": np.arange(14) // 7, "bin": 0, "rank": np.arange(14) % 7})


def compensation(editor: Editor, folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (14, 32, 32, 3), dtype=np.uint8)
    images = in_memory("noise", "train", ["a", "b"], np.repeat([0, 1], 7), pixels)
    compensate(images, PICKS, folder, Storage(2 * images.image_size), Compensator(COLORING, editor))


def child(editor: Editor, folder: Path) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            compensation(editor, folder)
            os._exit(0)
        finally:
            os._exit(1)
    return pid


def content(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def main(editor_folder: str, work: Path, wanted: int) -> None:
    torch.set_num_threads(1)
    used = EditorSettings(editor_folder, size=32, steps=2, guidance_scale=2.0, image_guidance_scale=1.2, batch_size=4)
    editor = load_editor(used)
    started = time.monotonic()
    assert os.waitstatus_to_exitcode(os.waitpid(child(editor, work / "undisturbed"), 0)[1]) == 0
    lasts = time.monotonic() - started
    draws, kills, finished, folder = random.Random(0), 0, [], work / "killed"
    while kills < wanted or folder.exists():
        pid = child(editor, folder)
        if kills < wanted:
            time.sleep(draws.uniform(0, lasts))
            os.kill(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code == 0:
            finished.append(content(folder))
            shutil.rmtree(folder)
        else:
            assert code == -signal.SIGKILL, code
            kills += 1
    print(json.dumps({"kills": kills, "finished": finished, "undisturbed": content(work / "undisturbed")}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
