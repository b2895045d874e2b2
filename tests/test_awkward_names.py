"""A run of all notebooks over ten classes with awkward names: it ends, with figures, tables, a report and an export."""

import os
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image
from workshop import home_at

from dc3.runs.export import export
from dc3.runs.report import write_report

pytestmark = [pytest.mark.slow, pytest.mark.process]

CLASSES = ["$1_vs_$5", "$5_bill$^", "a|b", "猫", "🐱 cat", "café", "-o rm *", "x" * 200, 'it\'s "quoted"', "[b] <b>"]
QUICK = {
    **{"run": "odd", "dataset": "imagefolder", "image_size": 16, "encode_size": 16, "edit_size": 16},
    **{"teacher_width": 8, "teacher_epochs": 1, "teacher_min_accuracy": 0, "bins": 2, "map_images": 6},
    **{"ipc": 2, "compared": ["random"], "edit_steps": 1, "student_network": "conv3", "student_width": 8},
    **{"student_epochs": 1, "student_seeds": [0], "cross_networks": [], "smaller_ipcs": [], "ranking_scores": False},
    **{"dit_steps": 2, "lora_steps": 1, "images_generated": 2, "dit_generate_steps": 1, "lora_generate_steps": 1},
    **{"dit_width": 12, "dit_depth": 1, "lora_rank": 1, "nearest": 1},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The home of a run from 00 to 07: six training images and two test images of each class."""
    folder = tmp_path_factory.mktemp("odd")
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for name in CLASSES:
            (folder / "set" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "set" / split / name / f"$ {number}|.png")
    (folder / "odd.yaml").write_text(yaml.dump(QUICK | {"data_dir": str(folder / "set")}), encoding="utf-8")
    environment = os.environ | {"DC3_HOME": str(folder), "DC3_PROGRESS": "0"}
    command = [sys.executable, "-m", "dc3.cli", "run", str(folder / "odd.yaml")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return folder


def test_every_stage_has_its_figures(finished):
    pictures = {path.name for path in (finished / "figures/odd").glob("*.png")}
    assert {"teacher_samples.png", "teacher_confusion.png", "binning_tsne.png", "validation_classes.png"} <= pictures
    assert {"color_and_fid_moves.png", "finetuning_samples_dit.png"} <= pictures


def test_tables_show_the_names_literally(finished):
    text = (finished / "figures/odd/validation_classes.md").read_text(encoding="utf-8")
    assert all(name in text for name in (r"\$1_vs\_\$5", r"a\|b", "猫", r"-o rm \*", r"[b] \<b\>"))


def test_report_and_export_end(finished):
    with home_at(finished):
        assert "10 classes" in write_report("odd").read_text(encoding="utf-8")
        assert "CLASSES = " in (export("odd", "hf") / "README.md").read_text(encoding="utf-8")
