import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dc3 import condensed
from dc3.compensation import copy
from dc3.images.image_set import in_memory

CLASSES = ("cat", "dog", "owl")


def write_set(folder, names, counts=(2, 2, 2), size=16):
    for name, count in zip(names, counts, strict=True):
        (folder / name).mkdir(parents=True)
        for k in range(count):
            Image.fromarray(np.full((size, size, 3), 40 * k, np.uint8)).save(folder / name / f"{k:05d}.png")
    return folder


@pytest.mark.parametrize("names", [CLASSES, ("00000", "00001", "00002")])
def test_a_set_from_elsewhere_loads_by_class_names_or_numbers(tmp_path, names):
    found = condensed.load(write_set(tmp_path, names), CLASSES)
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2] and found.images().shape == (6, 16, 16, 3)


@pytest.mark.parametrize(
    ("names", "counts", "size", "message"),
    [
        (("cat", "dog"), (2, 2), 16, r"no folder for owl \(2 folders for 3 classes\)"),
        (("00000", "00002"), (2, 2), 16, "no folder for 00001"),
        (("cat", "dog", "wolf"), (2, 2, 2), 16, "no folder for owl; folders without a class: wolf"),
        (CLASSES, (2, 2, 1), 16, "1 images of owl and 2 of cat"),
        (CLASSES, (2, 0, 2), 16, "class folders without images .dog"),
    ],
)
def test_a_set_that_does_not_fit_is_refused_with_the_difference(tmp_path, names, counts, size, message):
    with pytest.raises(ValueError, match=rf"(?s)condensed_dir.*{message}"):
        condensed.load(write_set(tmp_path, names, counts, size), CLASSES)


def test_unequal_ipc_can_be_allowed_and_a_missing_folder_is_named(tmp_path):
    found = condensed.load(write_set(tmp_path / "a", CLASSES, (1, 2, 3)), CLASSES, allow_unequal=True)
    assert found.counts().tolist() == [1, 2, 3]
    with pytest.raises(FileNotFoundError, match=r"condensed_dir = .*nowhere"):
        condensed.load(tmp_path / "nowhere", CLASSES)


def test_sets_from_elsewhere_are_named_by_their_folders(tmp_path):
    folders = [str(write_set(tmp_path / name, CLASSES, (1, 2, 1))) for name in ("distilled", "generated")]
    found = condensed.load_beside(folders, CLASSES, "color_condensed_dirs")
    assert {name: len(images) for name, images in found.items()} == {"distilled": 4, "generated": 4}
    with pytest.raises(ValueError, match=r"color_condensed_dirs = .*two folders are named 'distilled'"):
        condensed.load_beside([folders[0], folders[0]], CLASSES, "color_condensed_dirs")


def test_a_set_of_any_sizes_and_formats_keeps_each_image_as_it_is(tmp_path):
    folder = write_set(tmp_path, CLASSES, (1, 1, 1), 256)
    Image.new("RGB", (60, 40), "teal").save(folder / "cat/00001.jpg")
    for name in ("dog", "owl"):
        Image.new("RGB", (16, 16), "teal").save(folder / name / "00001.png")
    found = condensed.load(folder, CLASSES)
    assert found.own_sizes().tolist() == [[256, 256], [40, 60], [256, 256], [16, 16], [256, 256], [16, 16]]
    assert [image.shape[:2] for image in found.originals([1, 3])] == [(40, 60), (16, 16)]
    assert found.images(size=32).shape == (6, 32, 32, 3)
    with pytest.raises(ValueError, match="differ in size"):
        found.images()


def test_an_unreadable_file_of_a_set_from_elsewhere_is_named(tmp_path):
    (write_set(tmp_path, CLASSES) / "dog/00001.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"dog/00001\.png"):
        condensed.load(tmp_path, CLASSES)


@pytest.mark.parametrize("format", ["png", "jpeg"])
def test_bytes_are_those_of_the_files_without_their_histories(tmp_path, format):
    storage = condensed.Storage(16, format)
    images = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    train = in_memory("toys", "train", CLASSES, np.repeat([0, 1, 2], 2), images)
    picks = pd.DataFrame({"index": range(6), "label": train.labels, "bin": 0, "rank": [0, 1] * 3})
    copy(train, picks, tmp_path, storage)
    on_disk, beside = condensed.load(tmp_path, CLASSES), storage.in_memory("plain", CLASSES, images, train.labels)
    assert (on_disk.images() == beside.images()).all(), "a set beside it is what its files would hold"
    files = sorted(tmp_path.glob("*/*"))
    for file, image in zip(files, images, strict=True):
        assert condensed.without_history(file.read_bytes()) == storage.encoded(image)
        assert file.stat().st_size > len(storage.encoded(image)) and condensed.history(file)["index"] in range(6)
    first = on_disk.first_per_class(1)
    found = condensed.sizes({"files": on_disk, "memory": beside, "first": first})
    assert found["files"] == found["memory"] == (2, 512, sum(len(storage.encoded(image)) for image in images) / 3)
    assert found["first"].ipc == 1 and found["first"].stored_bytes < found["files"].stored_bytes
    (row, *_) = condensed.storage_table(found, classes=3, epochs=10).to_dict("records")
    assert row["bits per class"] == 8 * row["bytes per class"] and row["soft labels per class, if kept (bytes)"] == 120


def params(**changed):
    return {"stored_size": 0, "edit_size": 64, "stored_format": "png", "jpeg_quality": 95} | changed


def test_images_are_stored_at_the_editors_size_unless_told_otherwise():
    assert condensed.Storage.of(params(), 32, edits=True).size == 64
    assert condensed.Storage.of(params(), 32, edits=False).size == 32
    assert condensed.Storage.of(params(stored_size=48), 32, edits=True).size == 48
    for changed, named in (({"stored_size": 24}, "stored_size = 24"), ({"edit_size": 16}, "edit_size = 16")):
        with pytest.raises(ValueError, match=f"{named}: .*at least 32"):
            condensed.Storage.of(params(**changed), 32, edits=True)


def test_class_names_in_two_forms_of_unicode_are_the_same_names(tmp_path):
    for name in ("cafe\u0301", "the"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "1.png")
    for name in ("caf\xe9", "cafe\u0301"):
        assert condensed.load(tmp_path, (name, "the")).classes == ("caf\xe9", "the")


def test_an_exported_set_is_named_by_the_folder_above_train(tmp_path):
    one, other = (write_set(tmp_path / name / "train", CLASSES) for name in ("a", "b"))
    assert list(condensed.load_beside([str(one), str(other)], CLASSES, "color_condensed_dirs")) == ["a", "b"]
    assert condensed.set_name("sets/mine") == "mine" and condensed.set_name("train") == "train"
