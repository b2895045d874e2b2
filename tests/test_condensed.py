import numpy as np
import pytest
from PIL import Image

from dc3 import condensed

CLASSES = ("cat", "dog", "owl")


def write_set(folder, names, counts=(2, 2, 2), size=16):
    for name, count in zip(names, counts, strict=True):
        (folder / name).mkdir(parents=True)
        for k in range(count):
            Image.fromarray(np.full((size, size, 3), 40 * k, np.uint8)).save(folder / name / f"{k:05d}.png")
    return folder


@pytest.mark.parametrize("names", [CLASSES, ("00000", "00001", "00002")])
def test_a_set_from_elsewhere_loads_by_class_names_or_numbers(tmp_path, names):
    found = condensed.load(write_set(tmp_path, names), CLASSES, 16)
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2] and found.images().shape == (6, 16, 16, 3)


@pytest.mark.parametrize(
    ("names", "counts", "size", "message"),
    [
        (("cat", "dog"), (2, 2), 16, r"no folder for owl \(2 folders for 3 classes\)"),
        (("00000", "00002"), (2, 2), 16, "no folder for 00001"),
        (("cat", "dog", "wolf"), (2, 2, 2), 16, "no folder for owl; folders without a class: wolf"),
        (CLASSES, (2, 2, 1), 16, "1 images of owl and 2 of cat"),
        (CLASSES, (2, 0, 2), 16, "class folders without images .dog"),
        (CLASSES, (2, 2, 2), 32, r"cat/00000.png is 32×32 px, the data set's images are 16×16 px"),
    ],
)
def test_a_set_that_does_not_fit_is_refused_with_the_difference(tmp_path, names, counts, size, message):
    with pytest.raises(ValueError, match=rf"(?s)condensed_dir.*{message}"):
        condensed.load(write_set(tmp_path, names, counts, size), CLASSES, 16)


def test_unequal_ipc_can_be_allowed_and_a_missing_folder_is_named(tmp_path):
    found = condensed.load(write_set(tmp_path / "a", CLASSES, (1, 2, 3)), CLASSES, 16, allow_unequal=True)
    assert found.counts().tolist() == [1, 2, 3]
    with pytest.raises(FileNotFoundError, match=r"condensed_dir = .*nowhere"):
        condensed.load(tmp_path / "nowhere", CLASSES, 16)


def test_sets_from_elsewhere_are_named_by_their_folders(tmp_path):
    folders = [str(write_set(tmp_path / name, CLASSES, (1, 2, 1))) for name in ("distilled", "generated")]
    found = condensed.load_beside(folders, CLASSES, 16, "color_condensed_dirs")
    assert {name: len(images) for name, images in found.items()} == {"distilled": 4, "generated": 4}
    with pytest.raises(ValueError, match=r"color_condensed_dirs = .*two folders are named 'distilled'"):
        condensed.load_beside([folders[0], folders[0]], CLASSES, 16, "color_condensed_dirs")
    with pytest.raises(ValueError, match=r"color_condensed_dirs = .*16×16 px, the data set's images are 32×32 px"):
        condensed.load_beside(folders, CLASSES, 32, "color_condensed_dirs")


def test_storage_counts_images_soft_labels_and_the_full_set(tmp_path):
    made = condensed.load(write_set(tmp_path / "made", CLASSES), CLASSES, 16)
    full = condensed.load(write_set(tmp_path / "full", CLASSES, (5, 5, 5)), CLASSES, 16)
    ipc, stored_bytes = condensed.sizes({"made": made})["made"]
    found = condensed.storage(ipc, stored_bytes, full, epochs=10)
    assert found["images"] == round(3 * stored_bytes) > 0
    assert found["soft labels, if kept"] == 2 * 6 * 10 * 3
    assert found["full training set, uncompressed"] == 3 * 15 * 16**2
