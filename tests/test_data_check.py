"""dc3 data check: what it sees of a folder, and that a run would do as it says."""

import os
import shlex

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from dc3 import cli
from dc3.cli import given, joined_pairs
from dc3.images import datasets
from dc3.machine.paths import REPOSITORY
from dc3.runs.data_check import CONDENSED, DATA_SET, look, report, suggestions, teacher_epochs
from dc3.runs.parameters import all_declared, check, read_file

COUNTS = {"train": {"cat": 4, "dog": 3}, "val": {"cat": 2, "dog": 2}}


def draw(path, size=(48, 36), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture
def folder(tmp_path):
    """train/ and val/ of cats and dogs, 48 by 36 pixels, in a folder whose name needs quotes."""
    root = tmp_path / "my pets"
    for split, classes in COUNTS.items():
        for name, count in classes.items():
            for k in range(count):
                draw(root / split / name / f"{k}.png")
    return root


def command(*arguments):
    return CliRunner().invoke(cli.app, ["data", "check", *map(str, arguments)])


def test_counts_sizes_and_modes_are_those_of_the_run(folder):
    draw(folder / "train/dog/grey.jpg", (64, 64), "L")
    (folder / "train/dog/notes.txt").write_text("not an image", encoding="utf-8")
    seen = look(folder)
    train = datasets.load("imagefolder", "train", data_dir=folder)
    assert seen.layout == DATA_SET and seen.ready and seen.decoded
    assert seen.files.loc[seen.files["split"] == "train", "source"].tolist() == list(train.sources)
    assert seen.counts().to_numpy().tolist() == [["cat", 4, 2], ["dog", 4, 2]]
    kinds = seen.kinds()[["width", "height", "mode", "format", "images"]].to_numpy().tolist()
    assert kinds == [[48, 36, "RGB", "PNG", 11], [64, 64, "L", "JPEG", 1]]
    text = report(seen)
    assert "images of mode L (1) are replicated" in text and "1 × .txt" in text
    assert "per class 2 (cat)" not in text and "2 per class" in text


@pytest.mark.parametrize("size, chosen", [((48, 36), (36, 36)), ((640, 480), (64, 224)), ((128, 128), (128, 128))])
def test_the_lines_it_suggests_are_ones_that_a_run_takes(tmp_path, size, chosen):
    folder = tmp_path / "my pets"
    for name in ("train/cat/1.png", "train/cat/2.png", "train/dog/1.png", "val/cat/1.png", "val/dog/1.png"):
        draw(folder / name, size)
    lines = suggestions(look(folder)).values()
    for line, image_size in zip(lines, chosen, strict=True):
        words = shlex.split(line)
        assert words[:2] == ["dc3", "run"]
        checked = check(read_file(REPOSITORY / words[2]) | given(joined_pairs(words[3:])[1::2]), all_declared())
        assert checked["run"] == "my_pets" and checked["ipc"] == 1 and checked["image_size"] == image_size
        train = datasets.load(checked["dataset"], "train", data_dir=checked["data_dir"])
        datasets.check_ipc(train, checked["ipc"])


def test_a_damaged_file_is_named_with_its_reason_and_the_exit_code_says_so(folder):
    truncate(folder / "train/dog/1.png")
    (folder / "val/cat/0.png").write_text("no image at all", encoding="utf-8")
    result = command(folder)
    assert result.exit_code == 1 and "not ready" in result.output
    assert "train/dog/1.png: image file is truncated" in result.output
    assert "val/cat/0.png: cannot identify image file" in result.output
    assert command(folder, "--headers").exit_code == 1, "a file without a header is seen by headers too"
    draw(folder / "val/cat/0.png")
    by_headers = command(folder, "--headers")
    assert by_headers.exit_code == 0 and "headers only" in by_headers.output


def test_grey_levels_without_a_white_are_refused_by_headers_too(folder):
    Image.fromarray(np.full((40, 40), 0.5, np.float32)).save(folder / "train/cat/height.tiff")
    assert "no defined white" in look(folder, decode=False).unreadable["problem"].iloc[0]


def test_classes_that_differ_between_train_and_test_are_listed(folder):
    draw(folder / "train/owl/0.png")
    (folder / "val/dog").rename(folder / "val/hound")
    result = command(folder)
    assert result.exit_code == 1
    assert "classes only in train (2): dog, owl" in result.output
    assert "classes only in test (1): hound" in result.output
    assert "the class folders of train and test differ" in result.output, "the words of the run"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda root: (root / "val").rename(root / "elsewhere"), "has no val/ or test/"),
        (lambda root: (root / "train/empty").mkdir(), "class folders without images .empty."),
        (lambda root: (root / "val/dog").rename(root / "dog"), "1 class folders, at least 2"),
    ],
)
def test_what_a_run_refuses_is_reported_in_its_words(folder, spoil, reason):
    spoil(folder)
    seen = look(folder)
    assert not seen.ready
    with pytest.raises((ValueError, OSError), match=reason) as refusal:
        for split in ("train", "test"):
            datasets.load("imagefolder", split, data_dir=folder)
    assert str(refusal.value) in "\n".join(seen.refused)
    assert "a run would refuse this folder" in report(seen)


def test_a_condensed_set_in_rdeds_form_is_not_taken_for_a_data_set(tmp_path):
    for label, count in enumerate((2, 2, 1)):
        for k in range(count):
            draw(tmp_path / f"{label:05d}" / f"{k:05d}.png", (32, 32))
    (tmp_path / "provenance.parquet").write_bytes(b"")
    seen = look(tmp_path)
    assert seen.layout == CONDENSED and seen.image_size == 32
    text = report(seen)
    assert "RDED's form" in text and "condensed_dir" in text and "would refuse it" in text
    assert "files that a run ignores" not in text


def test_folders_that_hold_neither_are_refused_by_name(tmp_path):
    for place, said in [(tmp_path / "nowhere", "is not a folder"), (tmp_path, "expected train/ and val/")]:
        result = command(place)
        assert result.exit_code == 2 and said in result.output and str(place) in result.output


def test_many_classes_are_cut_to_the_smallest_and_largest(tmp_path):
    for split in ("train", "val"):
        for k in range(30):
            draw(tmp_path / split / f"class{k:02d}" / "0.png", (8, 8))
    draw(tmp_path / "train/class17/1.png", (8, 8))
    text = report(look(tmp_path))
    assert "the 10 smallest and the 10 largest of 30 classes" in text
    assert "class00" in text and "class12" not in text and "class17" in text


@pytest.mark.parametrize("images, epochs", [(3, 5000), (720, 21), (2500, None), (50_000, None)])
def test_a_small_set_gets_as_long_a_teacher_as_the_demo(images, epochs):
    assert teacher_epochs(images) == epochs


@pytest.mark.parametrize("name", ["es\x1b[31mcape", os.fsdecode(b"caf\xe9")])
def test_a_folder_whose_path_no_parameter_takes_is_not_ready_and_printed_harmlessly(tmp_path, name):
    for image in ("train/cat/1.png", "train/dog/1.png", "val/cat/1.png", "val/dog/1.png"):
        draw(tmp_path / name / image)
    seen = look(tmp_path / name)
    text = report(seen)
    assert not seen.ready and "dc3 run" not in text and "rename the folder" in text
    assert "\x1b" not in text and "\x1b" not in report(look(tmp_path / name / "train"))
