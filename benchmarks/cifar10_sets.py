"""Packs condensed sets of finished runs for others: a zip of `dc3 export --to hf`, and the picks as a table.

    for ipc in 1 10; do for method in dc3 dc3_plain; do
      dc3 run params/cifar10_finetuning_ipc10.yaml --until 04 -p precision float32 -p ipc $ipc -p method $method \\
        -p run cifar10_${method}_ipc$ipc
    done; done
    dc3 run params/cifar10_finetuning_ipc10.yaml --until 04 -p precision float32 -p coloring gap \\
      -p run cifar10_dc3_gap_ipc10
    python benchmarks/cifar10_sets.py \\
      cifar10_dc3_ipc1 cifar10_dc3_ipc10 cifar10_dc3_plain_ipc1 cifar10_dc3_plain_ipc10 cifar10_dc3_gap_ipc10
"""

import tempfile
import zipfile
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from dc3.machine import paths
from dc3.machine.files import replacing
from dc3.runs.export import export
from dc3.runs.manifests import written
from dc3.runs.notebook_stage import Settings

EPOCH = (1980, 1, 1, 0, 0, 0)  # of every entry, so that equal sets are equal files


def main(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="finished to 04")],
    out: Path = paths.REPOSITORY / "sets",
) -> None:
    """Pack the runs."""
    for run in runs:
        pack(run, out / f"{run}.zip")
        table = picks(run)
        table.to_csv(out / f"{run}_picks.csv", index=False)
        print(f"{run}: {len(table)} images, {(out / f'{run}.zip').stat().st_size / 1000:.0f} kB")


def picks(run: str) -> pd.DataFrame:
    """The picks of a run: index in the training images, class, bin, rank, gain (empty where there is none), source."""
    table = pd.read_parquet(written(run, "03_sampling/selection.parquet"))
    train = Settings.of_run(run).image_set("train")
    table["class"] = [train.classes[label] for label in table["label"]]
    table["source"] = [train.source(index) for index in table["index"]]
    return table[["index", "class", "bin", "rank", "gain", "source"]].sort_values(["class", "rank"])


def pack(run: str, target: Path) -> None:
    """Writes the exported set of a run as a zip with one folder in it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, replacing(target) as partial:
        exported = export(run, "hf", Path(folder) / run)
        with zipfile.ZipFile(partial, "w") as archive:
            for path in sorted(path for path in exported.rglob("*") if path.is_file()):
                entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), EPOCH)
                archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED, compresslevel=9)


if __name__ == "__main__":
    typer.run(main)
