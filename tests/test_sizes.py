"""Three sizes through the method: what the editor sees, what is stored, what networks see."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageOps
from torch import nn

from dc3 import condensed, strategies
from dc3.compensation import Coloring, Compensator, condense
from dc3.condensed import Storage
from dc3.images import datasets
from dc3.images.image_set import in_memory
from dc3.machine.paths import REPOSITORY
from dc3.models import networks
from dc3.rded import Crops, mosaic, pick_crops
from dc3.runs import notebook_stage
from dc3.runs.notebook_stage import NotebookStage
from dc3.strategies import PickOptions, Pool
from dc3.students import Protocol, dc3_batch, train_student

CLASSES = ("cat", "dog")
PICKS = pd.DataFrame({"index": [0, 1], "label": [0, 1], "bin": 0, "rank": 0})
COLORING = Coloring(0, ["sunny"], ["rainy"], "Adjust the color hue to be {p}", "gradient")


def pictures(count=2, width=300, height=200, seed=0):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return in_memory("noise", "train", CLASSES, np.arange(count) % 2, pixels)


@pytest.fixture
def class_folder(tmp_path):
    for split in ("train", "test"):
        for name, image in zip(CLASSES, pictures(2, 64, 64).images(), strict=True):
            (tmp_path / split / name).mkdir(parents=True)
            for k in range(2):
                Image.fromarray(image[:: (-1) ** k]).save(tmp_path / split / name / f"{k}.png")
    return tmp_path


def stored(folder):
    return [np.asarray(Image.open(path)) for path in sorted(folder.glob("*/*.*g"))]


@pytest.mark.parametrize("framing", ["crop", "squash"])
def test_without_an_edit_the_stored_image_is_the_original_at_the_stored_size(random_editor, tmp_path, framing):
    images = replace(pictures(), framing=framing)
    compensator = Compensator(replace(COLORING, blend_mode="none"), random_editor.using(size=64))
    condense(images, PICKS, tmp_path, Storage(64), compensator)
    for original, found in zip(images.originals(), stored(tmp_path), strict=True):
        picture = Image.fromarray(original)
        fit = ImageOps.fit(picture, (64, 64), Image.Resampling.BILINEAR)
        squashed = picture.resize((64, 64), Image.Resampling.BILINEAR)
        assert (found == np.asarray(fit if framing == "crop" else squashed)).all()


def test_an_edit_is_of_the_original_at_the_editors_size_and_blended_before_it_is_resized(random_editor, tmp_path):
    images, compensator = pictures(), Compensator(COLORING, random_editor.using(size=64))
    at_64, at_32 = tmp_path / "64", tmp_path / "32"
    table = condense(images, PICKS, at_64, Storage(64), compensator)
    condense(images, PICKS, at_32, Storage(32), compensator)
    own = condense(images.at(64), PICKS, tmp_path / "framed", Storage(64), compensator)
    assert [found.shape for found in stored(at_64)] == [(64, 64, 3)] * 2
    assert (np.stack(stored(at_64)) == np.stack(stored(tmp_path / "framed"))).all() and len(own) == 2
    for large, small in zip(stored(at_64), stored(at_32), strict=True):
        assert (small == np.asarray(Image.fromarray(large).resize((32, 32), Image.Resampling.BILINEAR))).all()
    assert (table["stored_size"] == 64).all() and (table["framing"] == "crop").all() and (table["size"] == 64).all()


def test_a_set_stored_otherwise_is_made_again(random_editor, tmp_path):
    images, compensator = pictures(), Compensator(COLORING, random_editor.using(size=32))
    first = condense(images, PICKS, tmp_path, Storage(32), compensator)
    again = condense(images, PICKS, tmp_path, Storage(48), compensator)
    jpeg = condense(images, PICKS, tmp_path, Storage(48, "jpeg", 75), compensator)
    assert [path.suffix for path in sorted(tmp_path.glob("*/*"))] == [".jpg", ".jpg"], "the PNGs are gone"
    assert len({table["sha256"].iloc[0] for table in (first, again, jpeg)}) == 3
    assert (jpeg["jpeg_quality"] == 75).all() and condensed.load(tmp_path, CLASSES).side == 48


def test_rdeds_tiles_are_cut_from_the_originals_at_the_stored_size():
    images = pictures(40, 96, 96)
    teacher = networks.create("conv3", 2, 16, 4, seed=0)
    picks = pick_crops(images.at(16), teacher, 1, 0, Crops(factor=2, num_crop=2, mipc=8))
    rows = picks[picks["label"] == 0]
    small, large = mosaic(images, rows, 16), mosaic(images, rows, 96)
    assert (large.shape, small.shape) == ((96, 96, 3), (16, 16, 3))
    row = rows[rows["tile"] == 0].iloc[0]
    top, left, side = (int(row[name] * 96 / 16) for name in ("top", "left", "side"))
    piece = Image.fromarray(images.originals([int(row["index"])])[0][top : top + side, left : left + side])
    assert (large[:48, :48] == np.asarray(piece.resize((48, 48), Image.Resampling.BILINEAR))).all()


def test_sets_beside_are_read_from_the_originals_and_kept_as_the_own_one():
    images = pictures(4)
    pixels, labels = strategies.plain_images(images, pd.DataFrame({"index": [2, 3], "label": [0, 1]}), 128)
    assert (pixels == images.images([2, 3], 128)).all()
    kept = Storage(128, "jpeg", 75).in_memory("plain", CLASSES, pixels, labels)
    assert 0 < np.abs(kept.images().astype(int) - pixels).mean() < 40, "as a JPEG's reader sees it"


@pytest.mark.parametrize("method", ["random", "rded"])
def test_every_student_but_the_first_has_another_draw_of_random_images_and_crops(method, monkeypatch):
    stage = NotebookStage("05_validation", "tiny", {}, "code")
    stage.train, stage.storage = pictures(20), Storage(16)
    stage.settings = SimpleNamespace(seed=3, image_size=16)
    stage.teacher = SimpleNamespace(model=networks.create("conv3", 2, 16, 4, seed=0).eval())
    crops = {"crops_per_side": 2, "crop_tries": 2, "crop_images": 9}
    monkeypatch.setattr(notebook_stage, "read_manifest", lambda run, name: {"03_sampling": {"params": crops}}[name])
    picked = strategies.pick(method, Pool(stage.train.labels, images=stage.train.at(16), teacher=stage.teacher.model),
                             PickOptions(2, 3, crops=Crops.of(crops)))  # fmt: skip
    first = stage.storage.in_memory(method, CLASSES, *strategies.plain_images(stage.train, picked, 16))
    name = strategies.METHODS[method].name
    (draws,) = stage.redrawn({"DC3": first, name: first}, [0, 1, 2]).values()
    assert draws[0] is first and [len(draw) for draw in draws] == [4, 4, 4]
    assert len({draw.pixels_digest() for draw in draws}) == 3
    again = stage.redrawn({name: first}, [5, 6, 7])[name]
    assert [draw.pixels_digest() for draw in again] == [draw.pixels_digest() for draw in draws]
    assert stage.redrawn({"DC3": first}, [0, 1]) == {}


def test_random_images_of_equal_bytes_are_drawn_anew_for_every_student_and_kept_alike():
    stage = NotebookStage("05_validation", "tiny", {}, "code")
    stage.train, stage.storage = pictures(40), Storage(32)
    stage.settings = SimpleNamespace(seed=3, image_size=16)
    own = stage.storage.in_memory("DC3", CLASSES, pictures(4, 32, 32).images(), np.array([0, 0, 1, 1]))
    sets = stage.of_equal_bytes(own)
    (draws,) = stage.redrawn(sets, [0, 1, 2]).values()
    assert draws[0] is next(iter(sets.values())) and len({draw.pixels_digest() for draw in draws}) == 3
    assert {(len(draw), draw.side) for draw in draws} == {(len(draws[0]), 16)} and len(draws[0]) > len(own)


@pytest.fixture(scope="module")
def judged():
    """A teacher for 64 px and test images as it sees them."""
    test = pictures(8, 64, 64, seed=9).as_tested(64).cached()
    return networks.create("conv4", 2, 64, 8, seed=1), test


def test_a_foreign_set_of_256_px_trains_a_network_for_64_px(judged, tmp_path):
    for name in CLASSES:
        (tmp_path / name).mkdir()
        for k in range(2):
            Image.new("RGB", (256, 256), (90 * k, 200, 30)).save(tmp_path / name / f"{k}.jpg")
    train, (teacher, test) = condensed.load(tmp_path, CLASSES), judged
    result = train_student(train, teacher, test, Protocol("conv4", 2, factor=2, width=8), seed=0)
    assert np.isfinite(result.history[-1]["loss"]) and 0 <= result.final.top1 <= 1


def test_images_of_mixed_sizes_train_and_each_is_cropped_from_its_own(judged):
    sizes = [(256, 256), (64, 64), (200, 300), (64, 64)]
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    train, (teacher, test) = in_memory("mixed", "train", CLASSES, np.array([0, 0, 1, 1]), pixels), judged
    seen = []
    teacher.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    one, other = (
        train_student(train, teacher, test, Protocol("conv4", 2, factor=2, width=8, batch_size=4), seed=0)
        for _ in range(2)
    )
    assert set(seen) == {(1, 3, 64, 64), (4, 3, 64, 64)}
    assert [row["loss"] for row in one.history] == [row["loss"] for row in other.history]


def test_a_batch_in_parts_teaches_what_the_whole_batch_teaches(monkeypatch):
    def linear(classes, size, width):
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, classes))

    monkeypatch.setitem(networks.NETWORKS, "conv3", networks.Network(linear, 1e-3))
    images = pictures(8, 16, 16)
    protocol = Protocol("conv3", 3, soft=False, batch_size=8)
    whole, parts = (
        train_student(images, None, images.as_tested(16), replace(protocol, accumulate=n), seed=0) for n in (1, 3)
    )
    assert [row["loss"] for row in parts.history] == pytest.approx([row["loss"] for row in whole.history], rel=1e-4)
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("classes", "ipc", "size"),
    [(10, 1, 10), (10, 10, 100), (10, 50, 500), (100, 1, 50), (100, 10, 200), (100, 50, 1000), (200, 1, 100),
     (200, 10, 500), (200, 50, 2500), (1000, 1, 1000), (1000, 10, 2000), (1000, 50, 2000), (20, 10, 50),
     (10, 30, 300), (2, 120, 240)],
)  # fmt: skip
def test_dc3s_batch_rule_is_the_published_one(classes, ipc, size):
    assert dc3_batch(classes, ipc) == size
    assert Protocol("conv3", 1, batch_rule="dc3").resolved(classes, classes * ipc).batch_size == size


def test_real_files_are_read_once_at_each_size(tmp_path):
    for split in ("train", "val"):
        for name in CLASSES:
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (300, 200), "teal").save(tmp_path / split / name / "0.jpg")
    images = datasets.load("imagefolder", "train", data_dir=tmp_path, framing="squash", resampling="bicubic")
    assert images.own_sizes().tolist() == [[200, 300]] * 2
    assert images.at(512, "nearest").images().shape == (2, 512, 512, 3) and images.at(64).frame.resampling == "bicubic"
    assert images.as_tested(64).frame.framing == "test", "networks see test images by their own rule"


def test_a_size_between_original_and_student_costs_sharpness_which_the_benchmark_measures(class_folder, monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    import sharpness

    sharpness.main(str(class_folder), per_class=2, image_size=64, output=class_folder / "sharpness.csv")
    table = pd.read_csv(class_folder / "sharpness.csv").set_index(["stored_size", "resampling"])
    assert table.loc[64, "contrast"].eq(1).all() and table.loc[64, "difference"].eq(0).all()
    assert (table.loc[128, "contrast"] < 0.9).all() and (table.loc[128, "difference"] > 1).all()
