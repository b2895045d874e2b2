"""A student's steps and tests with small and with large memory pages, both in one run: python benchmarks/pages.py

`dc3` asks torch for pages of 2 MB (THP_MEM_ALLOC_ENABLE). The sides take turns, each in its own process and on one
thread. Seconds are those of the process, so that other work disturbs little; the median over the rounds.

Prints the table as markdown; writes its rows to pages.csv.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import typer

OUTPUT = Path(__file__).parents[1] / "figures" / "benchmarks" / "pages.csv"
VARIABLE = "THP_MEM_ALLOC_ENABLE"
STEPS, BATCH, SIDE = 10, 100, 32


def seconds(work: Callable[[], object]) -> float:
    """Seconds of the process for STEPS calls, after two to warm up."""
    for _ in range(2):
        work()
    start = time.process_time()
    for _ in range(STEPS):
        work()
    return time.process_time() - start


def side() -> None:
    """Prints the seconds of STEPS steps of a conv3 of 128 channels with soft labels, and of as many tested batches."""
    import torch

    from dc3.models import networks
    from dc3.students import distillation_loss

    torch.set_num_threads(1)
    student, teacher = (networks.create("conv3", 10, SIDE, 128, seed=seed) for seed in (0, 1))
    student, teacher = (model.to(memory_format=torch.channels_last) for model in (student, teacher.eval()))
    optimizer = torch.optim.AdamW(student.parameters(), 1e-3)
    images = torch.randn(BATCH, 3, SIDE, SIDE).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def test() -> torch.Tensor:
        return teacher(images)

    def step() -> None:
        loss = distillation_loss(student(images), test(), 20.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    print(seconds(step), seconds(test))


def main(rounds: int = 3) -> None:
    """Print and write the table."""
    found: dict[str, list[list[float]]] = {"0": [], "1": []}
    for _ in range(rounds):
        for value, runs in found.items():
            command = [sys.executable, __file__, "side"]
            printed = subprocess.run(command, env=os.environ | {VARIABLE: value}, text=True, stdout=-1, check=True)
            runs.append([float(number) for number in printed.stdout.split()])
    small, large = (np.median(runs, axis=0) for runs in found.values())
    rows = pd.DataFrame({"work": [f"{STEPS} steps", f"{STEPS} batches tested"], "small_s": small, "large_s": large})
    rows = rows.assign(ratio=small / large).round(3)
    rows.to_csv(OUTPUT, index=False)
    print(rows.to_markdown(index=False))


if __name__ == "__main__":
    side() if sys.argv[1:] == ["side"] else typer.run(main)
