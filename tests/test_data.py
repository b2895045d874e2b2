"""Image sets: what a file becomes, in which order, and what bad data says."""

import zipfile
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from dc3.images import datasets, scenes
from dc3.images.decoding import UnreadableImage, read_image, resized
from dc3.images.framing import Frame
from dc3.images.image_set import in_memory
from dc3.models.augmentation import IMAGENET_MEAN, IMAGENET_STD, normalise

SHARED_CIFAR = Path(__file__).parents[1].parent / "shared" / "data" / "cifar10.zip"


@pytest.fixture
def folder(tmp_path):
    """train/ and val/ with classes cat (3, 2 images) and dog (2, 1), of several sizes and formats."""
    rng = np.random.default_rng(0)
    for split, counts in {"train": {"cat": 3, "dog": 2}, "val": {"cat": 2, "dog": 1}}.items():
        for name, count in counts.items():
            (tmp_path / split / name / "nested").mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (20 + i, 31, 3), dtype=np.uint8)
                place = "nested/" if i == 1 else ""
                suffix = ".JPEG" if i == 0 else ".png"
                Image.fromarray(pixels).save(tmp_path / split / name / f"{place}{i}{suffix}")
    return tmp_path


def saved(tmp_path, image, name="image.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def test_normalise_is_torchvisions():
    images = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
    oracle = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)])
    expected = oracle(torch.from_numpy(images).permute(0, 3, 1, 2))
    for given_images in (images, torch.from_numpy(images), np.broadcast_to(images, images.shape)):
        normalised = normalise(given_images)
        assert normalised.dtype == torch.float32
        assert normalised.is_contiguous(memory_format=torch.channels_last)
        assert (normalised - expected).abs().max() < 1e-6
    with pytest.raises(ValueError, match="images"):
        normalise(images.astype(np.float32))
    with pytest.raises(ValueError, match="images"):
        normalise(images[0])


def test_imagefolder_has_the_order_of_torchvision(folder):
    ours = datasets.load("imagefolder", "train", data_dir=folder).at(16)
    theirs = torchvision.datasets.ImageFolder(folder / "train")
    assert [str(folder / source) for source in ours.sources] == [path for path, _ in theirs.samples]
    assert ours.labels.tolist() == theirs.targets
    assert list(ours.classes) == theirs.classes
    assert ours.images().shape == (5, 16, 16, 3)
    assert ours.counts().tolist() == [3, 2]
    assert ours.class_indices(1).tolist() == [3, 4]
    assert ours.source(3) == "train/dog/0.JPEG"


def test_images_come_in_the_order_asked_for(folder):
    image_set = datasets.load("imagefolder", "train", data_dir=folder).at(16)
    everything = image_set.images()
    for indices in ([4, 0, 4], np.array([2]), 3, np.array([True, False, False, True, False])):
        np.testing.assert_array_equal(image_set.images(indices), everything[np.atleast_1d(np.arange(5)[indices])])
    assert image_set.images([]).shape == (0, 16, 16, 3)
    subset = image_set.take([4, 1])
    np.testing.assert_array_equal(subset.images(), everything[[4, 1]])
    assert [subset.source(0), subset.source(1)] == [image_set.source(4), image_set.source(1)]
    with pytest.raises(IndexError):
        image_set.images([5])


def test_images_per_class_keeps_the_first(folder):
    everything = datasets.load("imagefolder", "train", data_dir=folder)
    assert datasets.load("imagefolder", "train", data_dir=folder, images_per_class=2).sources == [
        everything.source(i) for i in (0, 1, 3, 4)
    ]
    one = datasets.load("imagefolder", "train", data_dir=folder, images_per_class=1)
    assert one.counts().tolist() == [1, 1]
    mixed = in_memory("mixed", "train", "ab", np.array([1, 0, 1, 0, 1]), np.zeros((5, 2, 2, 3), np.uint8))
    assert mixed.first_per_class(2).labels.tolist() == [1, 0, 1, 0]


def test_fingerprint_follows_the_files(folder):
    def fingerprint(**options):
        return datasets.load("imagefolder", "train", data_dir=folder, **options).fingerprint()

    first = fingerprint()
    assert fingerprint() == first
    assert fingerprint(framing="squash") != first and fingerprint(resampling="bicubic") != first
    Image.new("RGB", (9, 9)).save(folder / "train" / "cat" / "2.png")
    assert fingerprint() != first


def test_fingerprint_follows_the_pixels():
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    before = in_memory("x", "train", ("a", "b"), np.array([0, 1]), pixels.copy()).fingerprint()
    pixels[1, 0, 0, 0] = 1
    assert in_memory("x", "train", ("a", "b"), np.array([0, 1]), pixels).fingerprint() != before


def test_right_sized_image_is_not_resampled(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(read_image(saved(tmp_path, Image.fromarray(pixels)), Frame(32)), pixels)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (33, 32), (7, 500)])
def test_any_aspect_ratio_becomes_a_square(tmp_path, shape):
    path = saved(tmp_path, Image.new("RGB", shape, (10, 20, 30)))
    assert (read_image(path, Frame(32)) == [10, 20, 30]).all()


def test_pixel_formats(tmp_path):
    ramp = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)
    rgb = np.stack([ramp, ramp.T, 255 - ramp], axis=-1)
    image = Image.fromarray(rgb)

    def read(picture, name="image.png", **options):
        return read_image(saved(tmp_path, picture, name, **options), Frame(8)).astype(int)

    np.testing.assert_array_equal(read(Image.fromarray(ramp)), np.repeat(ramp[..., None], 3, axis=2))
    palette = image.quantize(8)
    np.testing.assert_array_equal(read(palette), np.asarray(palette.convert("RGB")))
    np.testing.assert_array_equal(read(image.convert("CMYK"), "image.tif"), rgb)
    one_bit = Image.fromarray(ramp).convert("1")
    assert set(np.unique(read(one_bit))) == {0, 255}


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    levels = np.linspace(0, 65535, 64).reshape(8, 8)
    expected = np.rint(levels.astype(np.uint16) / 257)
    for name in ("image.png", "image.tif", "image.pgm"):
        path = saved(tmp_path, Image.fromarray(levels.astype(np.uint16)), name)
        assert np.abs(read_image(path, Frame(8))[..., 0] - expected).max() == 0, name


def test_transparency_is_composited_over_white(tmp_path):
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[:, 4:] = (200, 0, 0, 255)
    rgba[:4, :4] = (0, 0, 0, 128)
    read = read_image(saved(tmp_path, Image.fromarray(rgba)), Frame(8))
    assert (read[4:, :4] == 255).all()
    assert (read[:, 4:] == [200, 0, 0]).all()
    assert np.abs(read[:4, :4].astype(int) - 127).max() <= 1
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    assert (read_image(saved(tmp_path, palette, transparency=1), Frame(8)) == 255).all()


def test_unreadable_images_are_named(tmp_path, monkeypatch):
    whole = saved(tmp_path, scenes.photograph("rocket"), "whole.jpg")
    (tmp_path / "truncated.jpg").write_bytes(whole.read_bytes()[:2000])
    (tmp_path / "text.png").write_text("not an image", encoding="utf-8")
    (tmp_path / "empty.png").touch()
    saved(tmp_path, Image.fromarray(np.zeros((4, 4), np.float32)), "float.tif")
    for name in ("truncated.jpg", "text.png", "empty.png", "missing.png", "float.tif"):
        with pytest.raises(UnreadableImage, match=name):
            read_image(tmp_path / name, Frame(8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableImage, match=r"whole\.jpg.*pixels"):
        read_image(whole, Frame(8))


def test_an_unreadable_image_in_a_batch_is_named(folder):
    (folder / "train" / "cat" / "2.png").write_text("broken", encoding="utf-8")
    image_set = datasets.load("imagefolder", "train", data_dir=folder)
    with pytest.raises(UnreadableImage, match=r"2\.png"):
        image_set.images(size=32)
    assert image_set.images([0, 2], 32).shape == (2, 32, 32, 3)


def test_bad_folders_are_refused(folder, tmp_path):
    def message(split="train", **options):
        with pytest.raises((ValueError, FileNotFoundError)) as caught:
            datasets.load("imagefolder", split, **options)
        return str(caught.value)

    assert "data_dir is not set" in message()
    assert "/nowhere" in message(data_dir="/nowhere")
    (tmp_path / "hollow").mkdir()
    assert "nothing" in message(data_dir=tmp_path / "hollow")
    assert "has no train/ (it holds cat, dog)" in message(data_dir=folder / "train")
    (folder / "val" / "emu").mkdir()
    assert "differ (emu)" in message("test", data_dir=folder)
    (folder / "train" / "emu").mkdir()
    assert "emu" in message(data_dir=folder)
    for split in ("train", "val"):
        (folder / split / "emu").rmdir()
    (tmp_path / "single" / "train" / "cat").mkdir(parents=True)
    assert "1 class folders" in message(data_dir=tmp_path / "single")


def test_bad_parameters_are_refused(folder):
    for options, named in (
        ({"dataset": "mnist"}, "dataset = 'mnist'"),
        ({"split": "val"}, "split = 'val'"),
        ({"framing": "fit"}, "framing = 'fit'"),
        ({"resampling": "lanczos"}, "resampling = 'lanczos'"),
        ({"images_per_class": -1}, "images_per_class = -1"),
    ):
        arguments = {"dataset": "imagefolder", "split": "train", "data_dir": folder} | options
        with pytest.raises(ValueError, match=named):
            datasets.load(**arguments)


def test_cifar_without_data_names_the_parameter(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="data_dir is not set"):
        datasets.load("cifar10", "train")
    monkeypatch.setattr("torchvision.datasets.CIFAR100.download", Mock(side_effect=OSError("no network")))
    with pytest.raises(FileNotFoundError, match=r"data_dir = .*\(no network\): put cifar-100-python\.tar\.gz there"):
        datasets.load("cifar100", "test", data_dir=tmp_path)


def test_check_ipc_names_the_smallest_class(folder):
    image_set = datasets.load("imagefolder", "train", data_dir=folder)
    datasets.check_ipc(image_set, 2)
    for ipc in (0, 3):
        with pytest.raises(ValueError, match=f"ipc = {ipc}: expected 1 to 2, .*'dog'"):
            datasets.check_ipc(image_set, ipc)


def test_in_memory_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="pixels"):
        in_memory("x", "train", "ab", np.zeros(2, int), np.zeros((2, 4, 5), np.uint8))
    with pytest.raises(ValueError, match="pixels"):
        in_memory("x", "train", "ab", np.zeros(2, int), [np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5, 3))])
    with pytest.raises(ValueError, match="labels"):
        in_memory("x", "train", "ab", np.zeros(3), np.zeros((2, 4, 4, 3), np.uint8))


def test_scenes_has_the_promised_size_and_names():
    train, test = (datasets.load("scenes10", split) for split in ("train", "test"))
    assert (len(train), len(test)) == (2500, 1000)
    assert set(train.own_sizes().ravel()) <= set(range(32, 97))
    assert train.counts().tolist() == [250] * 10
    assert train.classes == test.classes == tuple(sorted(train.classes))
    assert train.source(12) == "scenes10/train/astronaut/00012"
    assert train.images(size=32).std(axis=(1, 2)).mean() > 10  # photographs, not flat tiles


def test_scenes_are_deterministic_and_a_prefix_of_more():
    few = datasets.load("scenes10", "train", images_per_class=3)
    many = datasets.load("scenes10", "train", images_per_class=7)
    np.testing.assert_array_equal(few.images(size=32), many.first_per_class(3).images(size=32))
    assert few.fingerprint() == datasets.load("scenes10", "train", images_per_class=3).fingerprint()


@settings(deadline=None, max_examples=200)
@given(
    st.tuples(st.integers(192, 1500), st.integers(192, 1500)),
    st.integers(0, 9),
    st.integers(0, 10**6),
    st.sampled_from(["train", "test"]),
)
def test_scene_crops_lie_in_one_tile_of_their_split(size, class_number, index, split):
    left, top, right, bottom = scenes.crop_box(*size, class_number, split, index)
    row, column = top // 96, left // 96
    assert ((bottom - 1) // 96, (right - 1) // 96) == (row, column)
    assert (row + column) % 2 == (split == "test")
    assert 32 <= right - left == bottom - top <= 96
    assert right <= size[0] and bottom <= size[1]


@pytest.mark.parametrize("split", ["train", "test"])
def test_scene_crops_do_not_see_the_other_splits_pixels(monkeypatch, split):
    """Inverts every pixel of the other split's tiles: nothing may change, resampling included."""
    def framed():
        return in_memory("scenes", split, scenes.CLASSES, *scenes.crops(split, 20)[::-1]).images(size=48)

    untouched = framed()
    original = scenes.photograph

    def with_other_tiles_inverted(name):
        pixels = np.array(original(name))
        rows, columns = np.indices(pixels.shape[:2]) // 96
        other = (rows + columns) % 2 != scenes.SPLIT_PARITY[split]
        pixels[other] = 255 - pixels[other]
        return Image.fromarray(pixels)

    monkeypatch.setattr(scenes, "photograph", with_other_tiles_inverted)
    np.testing.assert_array_equal(framed(), untouched)


@pytest.mark.skipif(not SHARED_CIFAR.exists(), reason=f"real CIFAR-10 is not at {SHARED_CIFAR}")
def test_real_cifar10_loads(tmp_path):
    with zipfile.ZipFile(SHARED_CIFAR) as archive:
        names = [name for name in archive.namelist() if name.endswith(("0001.jpg", "0002.jpg"))]
        archive.extractall(tmp_path, names)
    root = next(path.parent for path in tmp_path.rglob("train"))
    image_set = datasets.load("imagefolder", "train", data_dir=root)
    assert len(image_set.classes) == 10
    assert (image_set.own_sizes() == 32).all()


def test_one_resizer_for_bytes_and_floats():
    image = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    small = resized(image, 5, 7)
    assert (small == np.asarray(Image.fromarray(image).resize((7, 5), Image.Resampling.BILINEAR))).all()
    floats = resized(image.astype(np.float32), 5, 7)
    assert floats.dtype == np.float32 and np.abs(floats - small).max() <= 1
    assert resized(image, 12, 16) is image
