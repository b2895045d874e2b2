"""Folders as people have them: other names of splits, wrappers, what systems leave, Unicode, copies."""

import shutil
import unicodedata
import zlib

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from dc3 import cli, condensed
from dc3.images import datasets
from dc3.machine.fingerprints import path_fingerprint
from dc3.runs.data_check import CONDENSED, DATA_SET, UNSPLIT, look, report

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def draw(path, shade=None, **options):
    """An image of its own pixels, or of one shade."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32(str(path).encode())
    noise = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    (Image.fromarray(noise) if shade is None else Image.new("RGB", (12, 8), (shade,) * 3)).save(path, **options)
    return path


def make(root, train="train", test="val", classes=("cat", "dog")):
    """A data set of two images of each class in train and one in val."""
    for name in classes:
        for k in (0, 1):
            draw(root / train / name / f"train{k}.png")
        draw(root / test / name / "val.png")
    return root


def check(*arguments):
    return CliRunner().invoke(cli.app, ["data", "check", *map(str, arguments)])


def refusal_of_a_run(folder):
    with pytest.raises((ValueError, OSError)) as caught:
        for split in ("train", "test"):
            datasets.load("imagefolder", split, data_dir=folder)
    return str(caught.value)


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        ("Train", "Val", "found Train and Val: rename to train and val"),
        ("training", "testing", "found testing and training: rename to test and train"),
        ("TRAIN", "validation", "found TRAIN and validation: rename to train and val"),
        ("train", "Valid", "found Valid: rename to val"),
    ],
)
def test_splits_in_other_spellings_are_named_by_run_and_check(tmp_path, train, test, said):
    folder = make(tmp_path / "pets", train, test)
    result = check(folder)
    assert result.exit_code == 1 and "a data set" in result.output and "not ready" in result.output
    assert said in result.output and said in refusal_of_a_run(folder)


@pytest.mark.parametrize("beside", [[], ["__MACOSX/pets/._train"], [".DS_Store"]])
def test_the_wrapper_folder_of_an_archive_is_named(tmp_path, beside):
    inner = make(tmp_path / "unpacked/pets")
    for name in beside:
        (tmp_path / "unpacked" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "unpacked" / name).write_bytes(b"\0\5\26\7")
    result = check(tmp_path / "unpacked")
    assert result.exit_code == 1 and f"give data_dir = {str(inner)!r}" in result.output
    assert f"give data_dir = {str(inner)!r}" in refusal_of_a_run(tmp_path / "unpacked")
    assert "__MACOSX" not in result.output
    assert look(inner).ready


def test_classes_without_splits_are_not_ready_and_it_says_what_to_do(tmp_path):
    for name in ("cat", "dog"):
        draw(tmp_path / name / "0.png")
    seen = look(tmp_path)
    assert seen.layout == UNSPLIT and not seen.ready and seen.counts()["images"].tolist() == [1, 1]
    result = check(tmp_path)
    assert result.exit_code == 1 and "classes without splits" in result.output and "into val/" in result.output
    assert "--condensed" in result.output and check("--condensed", tmp_path).exit_code == 0
    assert "classes without splits" in refusal_of_a_run(tmp_path)


def test_a_class_called_train_is_no_split_without_class_folders(tmp_path):
    for name in ("bus", "train"):
        draw(tmp_path / name / "0.png")
    assert not look(tmp_path).ready
    result = check(tmp_path)
    assert result.exit_code == 1 and "has 0 class folders" in result.output
    assert "has 0 class folders" in refusal_of_a_run(tmp_path)


@pytest.mark.parametrize("proof", ["provenance.parquet", "--condensed"])
def test_a_condensed_set_may_have_a_class_called_train(tmp_path, proof):
    for name in ("ship", "train"):
        draw(tmp_path / name / "0.png")
    if not proof.startswith("-"):
        (tmp_path / proof).touch()
    seen = look(tmp_path, condensed=proof.startswith("-"))
    assert seen.layout == CONDENSED and seen.ready and seen.splits["condensed"].classes == ("ship", "train")
    assert condensed.load(tmp_path, ("ship", "train")).classes == ("ship", "train")


def test_a_data_set_may_have_a_class_called_train(tmp_path):
    seen = look(make(tmp_path, classes=("ship", "train")))
    assert seen.layout == DATA_SET and seen.ready


def test_splits_without_class_folders_are_a_data_set_that_a_run_refuses(tmp_path):
    for name in ("train", "val"):
        draw(tmp_path / name / "0.png")
    seen = look(tmp_path)
    assert seen.layout == DATA_SET and not seen.ready and "0 class folders" in report(seen)


@pytest.fixture
def littered(tmp_path):
    """A data set, and its copy with what systems leave behind."""
    clean = make(tmp_path / "clean")
    folder = shutil.copytree(clean, tmp_path / "littered")
    for name in ("train/.ipynb_checkpoints", "val/.ipynb_checkpoints", "train/cat/.ipynb_checkpoints", "train/@eaDir"):
        draw(folder / name / "left.png")
    draw(folder / "train/cat/hidden.png").rename(folder / "train/cat/._train0.png")
    (folder / "train/.DS_Store").touch()
    return clean, folder


def test_what_systems_leave_is_neither_class_nor_image_and_is_named(littered):
    clean, folder = littered
    for split in ("train", "test"):
        expected, found = (datasets.load("imagefolder", split, data_dir=root) for root in (clean, folder))
        assert found.classes == expected.classes and list(found.sources) == list(expected.sources)
    assert path_fingerprint(clean) == path_fingerprint(folder), "a stage is not made again for it"
    seen = look(folder)
    assert seen.ready and seen.layout == DATA_SET
    assert set(seen.hidden["train"]) == {
        ".DS_Store",
        ".ipynb_checkpoints",
        "@eaDir",
        "cat/.ipynb_checkpoints",
        "cat/._train0.png",
    }
    text = report(seen)
    assert "which a run ignores: " in text and ".ipynb_checkpoints (1)" in text and "cat/._train0.png (1)" in text


def test_a_condensed_set_is_read_without_what_systems_leave(tmp_path):
    for name in ("cat", "dog", ".ipynb_checkpoints", "cat/.ipynb_checkpoints", "__MACOSX"):
        draw(tmp_path / name / "0.png")
    assert list(condensed.load(tmp_path, ("cat", "dog")).counts()) == [1, 1]


def test_one_name_in_two_forms_of_unicode_is_one_class(tmp_path):
    make(tmp_path, classes=(COMPOSED, "dog"))
    (tmp_path / "val" / COMPOSED).rename(tmp_path / "val" / DECOMPOSED)
    train, test = (datasets.load("imagefolder", split, data_dir=tmp_path) for split in ("train", "test"))
    assert train.classes == test.classes == (COMPOSED, "dog")
    assert test.images(size=8).shape == (2, 8, 8, 3), "read from the folder as it is named"
    assert look(tmp_path).ready


def test_two_folders_of_one_name_in_two_forms_are_refused_and_told_apart(tmp_path):
    make(tmp_path, classes=(COMPOSED, DECOMPOSED, "dog"))
    if len(list((tmp_path / "train").iterdir())) < 3:
        pytest.skip("this file system keeps one form only")
    with pytest.raises(ValueError, match="two forms of Unicode") as caught:
        datasets.load("imagefolder", "train", data_dir=tmp_path)
    assert ascii(COMPOSED) in str(caught.value) and ascii(DECOMPOSED) in str(caught.value)


def test_equal_files_and_test_images_that_are_in_train_are_counted(tmp_path):
    folder = make(tmp_path / "pets")
    for copy in ("train/cat/copy1.png", "train/cat/copy2.png", "train/dog/copy.png", "val/dog/copy.png"):
        shutil.copy(folder / "train/cat/train0.png", folder / copy)
    found = look(folder).duplicates
    assert found.equal_within("train") == 3 and found.across_classes("train") == 4 and found.equal_within("test") == 0
    assert found.shared("test", "train")["source"].tolist() == ["val/dog/copy.png"]
    text = report(look(folder))
    assert "3 of 7 images in train repeat another" in text and "4 lie in more than one class" in text
    assert "1 of 3 test images are also in train (val/dog/copy.png)" in text
    assert "not looked for" in report(look(folder, decode=False))


def test_files_of_equal_size_are_not_taken_for_copies(tmp_path):
    folder = make(tmp_path)
    for k, name in enumerate(("train/cat/a.bmp", "train/cat/b.bmp", "val/cat/a.bmp")):
        draw(folder / name, shade=k)
    assert len(look(folder).duplicates.files) == 0 and "equal files" not in report(look(folder))


def test_images_that_are_turned_are_counted(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    draw(make(tmp_path) / "train/cat/turned.jpg", exif=exif)
    seen = look(tmp_path)
    assert (seen.files["orientation"] == 6).sum() == 1
    assert "EXIF orientation (1)" in report(seen)
    assert (8, 12) in set(zip(seen.files["width"], seen.files["height"], strict=True)), "its size as a run sees it"
