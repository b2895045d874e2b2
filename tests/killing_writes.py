"""Run by test_interruptions: a process that keeps writing a table, an array and a picture, killed over and over.

    python killing_writes.py WORK_FOLDER KILLS

Prints one JSON line: {"kills": …, "cut_short": kills that left a half-written file beside its target, "damaged":
[what a target held after a kill where that is not one of the two contents written]}. The children are forked from this
process, which has imported everything.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from dc3.machine.files import replacing, sha256

VALUES = [np.random.default_rng(k).integers(0, 256, (256, 256, 3), dtype=np.uint8) for k in range(2)]


def save(target: Path, values: np.ndarray) -> None:
    with replacing(target) as partial:
        if target.suffix == ".npy":
            np.save(partial, values)
        elif target.suffix == ".png":
            Image.fromarray(values).save(partial)
        else:
            pd.DataFrame(values.reshape(-1, 8)).rename(columns=str).to_parquet(partial)


def write_forever(targets: list[Path]) -> None:
    while True:
        for values in VALUES:
            for target in targets:
                save(target, values)


def main(work: Path, kills: int) -> None:
    targets = [work / f"target{suffix}" for suffix in (".parquet", ".npy", ".png")]
    known = {}
    for values in VALUES:
        for target in targets:
            save(target, values)
            known.setdefault(target, []).append(sha256(target))
    draws, cut_short, damaged = random.Random(0), 0, []
    for _ in range(kills):
        pid = os.fork()
        if pid == 0:
            write_forever(targets)
        time.sleep(draws.uniform(0.02, 0.2))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        halves = list(work.glob(".target.*.partial*"))
        cut_short += bool(halves)
        for path in halves:
            path.unlink()
        damaged += [target.name for target in targets if sha256(target) not in known[target]]
    print(json.dumps({"kills": kills, "cut_short": cut_short, "damaged": damaged}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
