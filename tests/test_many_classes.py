"""More classes than a page has room for, through the real notebooks: nothing that grows with them ends a run."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from dc3.figures.style import LIMIT

pytestmark = pytest.mark.slow

CLASSES = 300
QUICK = {
    "run": "many",
    "dataset": "imagefolder",
    "image_size": 16,
    "teacher_width": 8,
    "teacher_epochs": 1,
    "teacher_min_accuracy": 0,
    "encode_size": 16,
    "ipc": 1,
    "compared": ["random"],
    "method": "dc3",
    "edit_size": 16,
    "edit_steps": 1,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 300 classes, two training images and one test image each, from 00 to 04."""
    folder = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(0)
    for split, count in (("train", 2), ("val", 1)):
        for label in range(CLASSES):
            of_class = folder / "set" / split / f"class_{label:03d}"
            of_class.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(of_class / f"{number}.png")
    params = folder / "many.yaml"
    params.write_text(yaml.dump(QUICK | {"data_dir": str(folder / "set")}), encoding="utf-8")
    environment = os.environ | {"DC3_HOME": str(folder), "DC3_PROGRESS": "0"}
    command = [sys.executable, "-m", "dc3.cli", "run", str(params), "--until", "04"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return folder


def test_the_chain_ends_with_an_image_of_every_class(finished):
    table = pd.read_parquet(finished / "runs/many/04_compensation/condensed/provenance.parquet")
    assert table["label"].tolist() == list(range(CLASSES))


def test_every_picture_is_there_and_small(finished):
    pictures = sorted((finished / "figures/many").glob("*.p??"))
    assert {"teacher_confusion.png", "teacher_confusion.pdf", "compensation_set.pdf"} <= {p.name for p in pictures}
    assert [path.name for path in pictures if path.stat().st_size > LIMIT] == []
