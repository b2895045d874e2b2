"""Fine-tuning on CIFAR-10 at IPC 10 and 50, from finished runs of params/cifar10_finetuning_ipc{10,50}.yaml.

Writes figures/cifar10/finetuning*: scores of both (table, figure) and images of the first seed of each.
"""

import numpy as np
import pandas as pd
import typer
from matplotlib.figure import Figure

from dc3 import figures
from dc3.figures import generation
from dc3.generators.study import IMAGES, summary
from dc3.machine import paths
from dc3.runs.notebook_stage import Settings

RUNS = {10: "cifar10_finetuning_ipc10", 50: "cifar10_finetuning_ipc50"}
GENERATED = {"full set": "DiT-full_set-0", "random": "DiT-random-0", "DC3": "DiT-dc3-0"}


def main() -> None:
    """Write the tables and figures of both runs."""
    out = paths.REPOSITORY / "figures" / "cifar10"
    table = pd.concat([scores(ipc) for ipc in RUNS], ignore_index=True)
    table = table.drop_duplicates(["generator", "set", "seed"])
    panels = [column for column in table if column.startswith(("FID", "IS"))] + ["taken for its class"]
    figures.save_table(summary(table), out / "finetuning")
    figures.save_table(table, out / "finetuning_by_seed")
    figures.save(generation.score_points(table, panels), out / "finetuning.png")
    for ipc, run in RUNS.items():
        figures.save(samples(ipc, run), out / f"finetuning_samples_ipc{ipc}.png")


def scores(ipc: int) -> pd.DataFrame:
    """The run's scores by seed; the names of sets other than the full set get their IPC."""
    table = pd.read_csv(paths.FIGURES / RUNS[ipc] / "finetuning_scores_by_seed.csv")
    table["set"] = [name if name == "full set" else f"{name}, IPC {ipc}" for name in table["set"]]
    return table


def samples(ipc: int, run: str) -> Figure:
    """Test images, then images by the DiT of the first seed on each training set."""
    test = Settings.of_run(run).image_set("test")
    first = test.first_per_class(3)
    rows = {"test images": (first.images(size=32), first.labels)}
    for name, folder in GENERATED.items():
        images = np.load(paths.RUNS / run / "07_finetuning" / folder / "generated" / IMAGES, mmap_mode="r")
        rows[name] = images, np.repeat(np.arange(len(test.classes)), len(images) // len(test.classes))
    return generation.sample_rows(rows, test.classes, title=f"DiT, IPC {ipc}")


if __name__ == "__main__":
    typer.run(main)
