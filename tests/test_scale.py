"""The benchmark of scale on sets that are quickly made: that it measures, and that the stages keep its two promises."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from dc3.machine.paths import REPOSITORY

SCRIPT = REPOSITORY / "benchmarks" / "scale.py"


def run(folder, *arguments):
    command = [sys.executable, str(SCRIPT), "--out", str(folder), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DC3_PROGRESS": "0"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


pytestmark = pytest.mark.process


@pytest.mark.slow
def test_eight_times_the_images_take_hardly_more_memory(tmp_path):
    assert "features ms/image" in run(tmp_path, "--sizes", "1000,8000")
    table = pd.read_csv(tmp_path / "scale.csv")
    assert table["images"].tolist() == [1000, 8000] and table["picks"].tolist() == [100, 800]
    assert (table.filter(like="ms/image") > 0).all(axis=None)
    small, large = table["peak MB"]
    written = table["disk MB"].iloc[1]
    assert written > 60, "well above the resident set's own jitter of about 30 MB"
    assert large - small < written, "less than what was written: it was not kept"


def test_generated_images_have_the_size_of_their_frame(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from scale import Generated

    images = Generated("generated", "train", ("a",), np.zeros(2, np.int64), sources=range(2), drawn_side=64)
    assert images.side is None and images.own_sizes().tolist() == [[64, 64]] * 2
    framed = images.at(32)
    assert framed.image_size == 32 and framed.images([1]).shape == (1, 32, 32, 3)


@pytest.mark.slow
def test_larger_images_have_their_own_table(tmp_path):
    run(tmp_path, "--sizes", "100", "--side", "64", "--batch-size", "8")
    table = pd.read_csv(tmp_path / "scale_64.csv")
    latents, factors = 100 * 4096 * 2 / 1e6, 100 * 1000 * 4 / 1e6
    assert table["disk MB"].item() > latents + factors, "at 64 px latents have 4,096 values, at 32 px 1,024"


@pytest.mark.slow
def test_synthetic_latents_are_binned_and_selected_from(tmp_path):
    run(tmp_path, "--latents", "--classes", "3", "--class-size", "60")
    assert pd.read_csv(tmp_path / "scale_latents.csv")[["images", "picks"]].to_numpy().tolist() == [[180, 30]]


@pytest.mark.slow
def test_sizes_that_are_no_multiples_of_a_class_are_refused(tmp_path):
    result = subprocess.run(
        [sys.executable, str(SCRIPT), "--sizes", "150", "--out", str(tmp_path)], capture_output=True, text=True
    )
    assert result.returncode == 2 and "150" in result.stderr and not list(tmp_path.iterdir())
