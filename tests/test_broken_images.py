"""Image folders that break under way: named, nothing half-made left, and mended they give the bytes of a whole one."""

import os
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from dc3 import features
from dc3.compensation import copy
from dc3.condensed import Storage
from dc3.generators.tiny_editor import build_autoencoder
from dc3.images import datasets
from dc3.images.decoding import UnreadableImage
from dc3.runs.notebook_stage import NotebookStage

SIZE = 8


@pytest.fixture
def many(tmp_path, count):
    """train/ of so many images in two classes."""
    root = tmp_path / "many"
    pixels = np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
    for index, image in enumerate(pixels):
        folder = root / "train" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index:05d}.png", compress_level=0)
    return root


@pytest.mark.parametrize("count", [600, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_corrupt_image_in_the_middle_of_many(many, count, tmp_path):
    torch.manual_seed(0)
    out = tmp_path / "out"
    vae = build_autoencoder().eval()

    def encode(name):
        images = datasets.load("imagefolder", "train", data_dir=many)
        return features.encode(vae, images, out / name, size=SIZE, batch_size=250, dtype=np.float32)

    broken = many / f"train/a/{count // 2 - 2:05d}.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableImage, match=r"cannot read image .*train/a/\d+8\.png .*: replace or remove the file"):
        encode("latents.npy")
    assert not out.exists() or list(out.iterdir()) == []
    broken.write_bytes(whole)
    assert len(encode("latents.npy")) == count
    encode("again.npy")
    assert (out / "latents.npy").read_bytes() == (out / "again.npy").read_bytes()


@pytest.fixture
def settled(home):
    """A run that 00_teacher settled on three class folders of two images, and these folders."""
    images = home / "images"
    for split in ("train", "val"):
        for shade, name in enumerate(("cat", "dog", "emu")):
            (images / split / name).mkdir(parents=True)
            for k in range(2):
                Image.new("RGB", (SIZE, SIZE), (shade, k, 0)).save(images / split / name / f"{k}.png")
    params = {"seed": 0, "device": "cpu", "precision": "auto"}
    params |= {"dataset": "imagefolder", "data_dir": str(images), "image_size": SIZE, "images_per_class": 0}
    params |= {"framing": "crop", "resampling": "bilinear", "exif_orientation": True}
    stage = NotebookStage("00_teacher", "tiny", params, "code")
    stage.settle()
    return stage.settings, images


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes there")
def test_a_file_name_that_is_not_utf8_comes_through_to_the_provenance(settled, tmp_path):
    settings, images = settled
    os.rename(images / "train/dog/1.png", os.fsencode(images / "train/dog") + b"/1\xe9.png")
    train = datasets.load("imagefolder", "train", data_dir=images)
    picks = pd.DataFrame({"index": [3, 0], "label": [1, 0], "bin": 0, "rank": 0})
    copy(train, picks, tmp_path / "condensed", Storage(SIZE))
    table = pd.read_parquet(tmp_path / "condensed/provenance.parquet")
    assert table["source"].tolist() == ["train/cat/0.png", r"train/dog/1\xe9.png"]
    assert len(settings.classes) == 3 and len(train.fingerprint()) == 64


def test_a_class_folder_that_vanishes_between_stages_is_named_and_put_back_all_is_as_before(settled, tmp_path):
    settings, images = settled
    before = settings.image_set("train")
    (images / "train/dog").rename(tmp_path / "dog")
    with pytest.raises(ValueError, match=r"class folders of train have changed .*\(dog is gone\): restore"):
        settings.image_set("train")
    (tmp_path / "dog").rename(images / "train/dog")
    after = settings.image_set("train")
    assert after.fingerprint() == before.fingerprint() and (after.images(size=SIZE) == before.images(size=SIZE)).all()


def test_an_image_that_vanishes_between_stages_is_noticed(settled):
    settings, images = settled
    (images / "train/dog/1.png").unlink()
    with pytest.raises(ValueError, match=r"the train images of .* have changed since 00_teacher ran: run it again"):
        settings.image_set("train")


def test_an_image_folder_that_is_gone_altogether(settled, tmp_path):
    settings, images = settled
    images.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"data_dir = .*images' is not a folder: expected a folder with train/"):
        settings.image_set("train")


@pytest.mark.parametrize("turned", [True, False])
def test_the_stage_hands_exif_orientation_to_the_images_of_every_later_stage(settled, turned):
    settings, _ = settled
    params = {"seed": 0, "device": "cpu", "precision": "auto", "image_size": SIZE, **settings.load}
    stage = NotebookStage("00_teacher", "tiny", params | {"exif_orientation": turned}, "code")
    stage.settle()
    assert stage.train.exif_orientation == stage.test.exif_orientation == turned
