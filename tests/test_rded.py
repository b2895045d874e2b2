"""dc3.rded against a naive image-by-image RDED, and the promises of its table and mosaics."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resized_crop

from dc3.images.image_set import ImageSet, in_memory
from dc3.models.augmentation import IMAGENET_MEAN, IMAGENET_STD
from dc3.models.networks import create
from dc3.rded import Crops, crop_losses, mosaic, pick_crops, random_crops

CLASSES = ("ant", "bee", "cat")


def image_set(size=16, sizes=(20, 26, 17), seed=0):
    """Random images of three mixed classes of unequal size."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(range(3), sizes))
    pixels = rng.integers(256, size=(len(labels), size, size, 3), dtype=np.uint8)
    return in_memory("noise", "train", CLASSES, labels, pixels)


def teacher(size=16, classes=3):
    """A random conv3 with statistics of its own in its batch norms, which sees differences between images of noise."""
    model = create("conv3", classes, size, 8, seed=1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(0.05)
            module.running_mean.normal_(0, 0.1, generator=torch.Generator().manual_seed(2))
    return model.eval()


class ByHand(nn.Module):
    """A teacher whose logits are `class_0` of the normalised images, 0, 0."""

    def __init__(self, class_0):
        super().__init__()
        self.class_0, self.place = class_0, nn.Parameter(torch.zeros(()))

    def forward(self, x):
        logits = self.class_0(x)
        return torch.stack([logits, 0 * logits, 0 * logits], 1)


def cropped(image, box, height, width):
    top, left, side = map(int, box)
    crop = resized_crop(Image.fromarray(image), top, left, side, side, [height, width], InterpolationMode.BILINEAR)
    return np.asarray(crop)


def naive_loss(model, crop, label, size):
    canvas = np.zeros((size, size, 3))
    start = (size - len(crop)) // 2
    for y in range(len(crop)):
        for x in range(len(crop)):
            canvas[start + y, start + x] = (crop[y, x] / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    with torch.no_grad():
        logits = model(torch.from_numpy(canvas.transpose(2, 0, 1)[None]).float())[0].double().numpy()
    return np.log(np.exp(logits - logits[label]).sum())


def draw_class(images, label, num_crop=5, mipc=300, seed=0):
    return random_crops(images, label, seed, Crops(num_crop=num_crop, mipc=mipc))


def choose(images, model, *, ipc, seed, **crops):
    return pick_crops(images, model, ipc, seed, Crops(**crops))


def naive_choose(images, model, ipc, factor, num_crop, mipc, seed):
    """Rows (label, rank, tile, index, top, left, side, loss), a list."""
    rows, size = [], images.image_size
    shown = size // factor
    for label in range(3):
        best_of_images = []
        for index, boxes in zip(*draw_class(images, label, num_crop, mipc, seed), strict=True):
            crops = [cropped(images.pixels[index], box, shown, shown) for box in boxes]
            losses = [naive_loss(model, crop, label, size) for crop in crops]
            k = losses.index(min(losses))
            best_of_images.append((losses[k], index, boxes[k]))
        best_of_images.sort(key=lambda crop: crop[:2])
        for rank in range(ipc):
            for tile in range(factor**2):
                loss, index, box = best_of_images[rank + tile * ipc]
                rows.append((label, rank, tile, index, *box, loss))
    return rows


RED = ByHand(lambda x: (x[:, 0, 8, 8] > 0).float())  # two losses only: ties
SURE = ByHand(lambda x: 20 + x.mean((1, 2, 3)))  # the losses of class 0 are 0 in float32


@pytest.mark.parametrize(
    ("size", "model", "ipc", "factor", "num_crop", "mipc"),
    [
        (16, None, 3, 1, 5, 300),
        (16, None, 2, 2, 3, 300),
        (16, None, 3, 2, 4, 14),
        (17, None, 2, 2, 3, 300),
        (18, None, 1, 4, 2, 300),
        (16, RED, 3, 2, 2, 300),
        (16, SURE, 5, 1, 1, 300),
    ],
)
def test_it_is_the_naive_rded(size, model, ipc, factor, num_crop, mipc):
    """Ties go to the first crop and image, as in the stable sort and the `index` of the naive one."""
    images, model = image_set(size), model or teacher(size)
    table = choose(images, model, ipc=ipc, factor=factor, num_crop=num_crop, mipc=mipc, seed=4)
    expected = naive_choose(images, model, ipc, factor, num_crop, mipc, 4)
    columns = ["label", "rank", "tile", "index", "top", "left", "side"]
    assert table[columns].to_numpy().tolist() == [[int(value) for value in row[:7]] for row in expected]
    losses = np.array([row[7] for row in expected])
    assert np.abs(table["gain"] + losses).max() < 1e-5
    assert model is RED or losses.std() > 1e-3, "a teacher that sees no difference tests nothing"


@pytest.mark.parametrize(("ipc", "factor"), [(1, 1), (3, 1), (1, 2), (4, 2)])
def test_the_table_has_the_documented_columns_and_order(ipc, factor):
    images = image_set(sizes=(16, 17, 18))
    table = choose(images, teacher(), ipc=ipc, factor=factor, num_crop=2, mipc=16, seed=0)
    assert list(table.columns) == [
        "index", "label", "bin", "rank", "gain", "tile", "top", "left", "side", "picture",
    ]  # fmt: skip
    assert (table.drop(columns="gain").dtypes == "int64").all() and table["gain"].dtype == "float64"
    assert table["label"].tolist() == np.repeat(range(3), ipc * factor**2).tolist()
    assert table["rank"].tolist() == np.repeat(range(ipc), factor**2).tolist() * 3
    assert table["tile"].tolist() == list(range(factor**2)) * ipc * 3
    assert (table["label"] == images.labels[table["index"]]).all() and table["index"].is_unique
    assert (table["bin"] == -1).all() and table["side"].nunique() > 1
    assert table.sort_values(["tile", "rank"]).groupby("label")["gain"].is_monotonic_decreasing.all()


def test_draws_depend_on_seed_class_and_position_only():
    images = image_set()
    indices, boxes = draw_class(images, 1)
    assert indices.tolist() == images.class_indices(1).tolist() and boxes.shape == (26, 5, 3)
    alone = draw_class(images.take(indices), 1)
    assert alone[0].tolist() == list(range(26)) and (alone[1] == boxes).all()
    assert (draw_class(images.take(indices[:9]), 1)[1] == boxes[:9]).all()
    some, theirs = draw_class(images, 1, mipc=9)
    assert len(set(some)) == 9 and set(some) < set(indices) and (theirs == boxes[np.isin(indices, some)]).all()
    assert set(some) < set(draw_class(images, 1, mipc=15)[0])
    assert (draw_class(images, 1, seed=1)[1] != boxes).any()
    assert (draw_class(images, 0)[1] != boxes[:20]).any()
    assert set(draw_class(images, 1, mipc=9, seed=1)[0]) != set(some)


def test_crops_are_those_of_random_resized_crop():
    """Areas uniform in 8 to 100 %, sides rounded, every place equally likely: each (top, left, side) in closed form."""
    images = image_set(6, sizes=(300, 0, 0))
    _, boxes = draw_class(images, 0, num_crop=200)
    counts = np.zeros((5, 5, 7))
    np.add.at(counts, tuple(boxes.reshape(-1, 3).T), 1)
    expected = np.zeros_like(counts)
    for side in range(2, 7):
        low, high = (np.clip(((side + half) / 6) ** 2, 0.08, 1) for half in (-0.5, 0.5))
        places = 7 - side
        expected[:places, :places, side] = 60_000 * (high - low) / 0.92 / places**2
    assert (counts[expected == 0] == 0).all()
    scores = (counts - expected)[expected > 0] / np.sqrt(expected[expected > 0])
    assert np.abs(scores).max() < 4


@pytest.mark.parametrize("batch_size", [1, 7, 20, 64])
def test_a_batch_of_pixels_is_read_at_a_time_and_changes_no_pick(batch_size):
    asked = []

    class Counted(ImageSet):
        def images(self, indices=None, size=None):
            asked.append(len(indices))
            return images.images(indices)

    images, model, options = image_set(), teacher(), {"ipc": 3, "factor": 2, "num_crop": 3, "mipc": 14, "seed": 5}
    expected = choose(images, model, **options)
    counted = Counted(**{**vars(images), "pixels": None, "root": Path("not there")}).at(images.image_size)
    table = choose(counted, model, batch_size=batch_size, **options)
    assert max(asked) == min(max(batch_size // 3, 1), 14) and sum(asked) == 3 * 14
    pd.testing.assert_frame_equal(table.drop(columns="gain"), expected.drop(columns="gain"))
    assert np.abs(table["gain"] - expected["gain"]).max() < 1e-5
    assert choose(images, model, **{**options, "seed": 6})["index"].tolist() != expected["index"].tolist()


def test_the_teacher_is_used_in_eval_mode_and_left_as_it_was():
    images, model = image_set(), teacher()
    expected = choose(images, model, ipc=2, factor=2, seed=0)
    before = {name: value.clone() for name, value in model.train().state_dict().items()}
    state = torch.random.get_rng_state()
    pd.testing.assert_frame_equal(choose(images, model, ipc=2, factor=2, seed=0), expected)
    assert model.training and all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_crops_are_ranked_in_float32_whatever_the_precision_around():
    indices, boxes = draw_class(image_set(), 0)
    expected = crop_losses(image_set(), indices, boxes, teacher(), Crops())
    with torch.autocast("cpu", torch.bfloat16):
        assert (crop_losses(image_set(), indices, boxes, teacher(), Crops()) == expected).all()


@pytest.mark.parametrize(
    ("size", "factor", "tiles"), [(16, 1, [16]), (16, 2, [8, 8]), (16, 4, [4] * 4), (19, 4, [5, 5, 5, 4])]
)
def test_a_mosaic_holds_the_very_pixels_that_were_scored(size, factor, tiles):
    """Without a remainder; with one, the first tiles are larger by a pixel. One grey level from the authors' floats."""
    images, model = image_set(size), teacher(size)
    table, ends = choose(images, model, ipc=1, factor=factor, num_crop=3, seed=2), np.cumsum(tiles)
    for _, rows in table.groupby(["label", "rank"]):
        made = mosaic(images, rows, images.image_size)
        assert made.shape == (size, size, 3) and made.dtype == np.uint8
        assert (mosaic(images, rows.iloc[::-1], images.image_size) == made).all()
        for row in rows.itertuples():
            y, x = divmod(row.tile, factor)
            tile = made[ends[y] - tiles[y] : ends[y], ends[x] - tiles[x] : ends[x]]
            source, box = images.pixels[row.index], (row.top, row.left, row.side)
            assert (tile == cropped(source, box, tiles[y], tiles[x])).all()
            floats = torch.from_numpy(source).permute(2, 0, 1) / 255
            authors = resized_crop(floats, *box, row.side, [tiles[y], tiles[x]], antialias=True).permute(1, 2, 0)
            assert np.abs(tile - 255 * authors.numpy()).max() < 1.01
            if size % factor == 0:
                assert abs(naive_loss(model, tile, row.label, size) + row.gain) < 1e-5


def test_a_mosaic_of_other_rows_is_refused():
    images = image_set()
    rows = choose(images, teacher(), ipc=2, factor=2, num_crop=1, seed=0).query("label == 0")
    for broken in (rows, rows[:3], rows.iloc[[0, 1, 2, 2]]):
        with pytest.raises(ValueError, match=r"rows = tiles .*: expected tiles 0 to"):
            mosaic(images, broken, images.image_size)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        *(({name: 0}, f"{name} = 0: an integer") for name in ("ipc", "factor", "num_crop", "mipc", "batch_size")),
        ({"ipc": 1.0}, "ipc = 1.0"),
        ({"mipc": True}, "mipc = True"),
        ({"seed": -1}, "seed = -1"),
        ({"factor": 5}, "factor = 5: at image_size 16 rded takes 1 to 4"),
        ({"ipc": 5, "factor": 2}, "factor = 2: with ipc = 5 rded needs 20 images .*'cat' has 17"),
        ({"ipc": 3, "factor": 2, "mipc": 11}, "factor = 2: with ipc = 3 rded needs 12 .*mipc = 11"),
    ],
)
def test_bad_input_is_refused(change, named):
    with pytest.raises(ValueError, match=named):
        choose(image_set(), teacher(), **{"ipc": 1, "seed": 0, **change})


def test_a_teacher_that_does_not_fit_is_refused():
    images, broken = image_set(), teacher()
    with pytest.raises(ValueError, match="teacher: has 5 classes, 3 are needed"):
        choose(images, teacher(classes=5), ipc=1, seed=0)
    with pytest.raises(ValueError, match="teacher: does not accept image_size 16"):
        choose(images, teacher(32), ipc=1, seed=0)
    nn.init.constant_(list(broken.parameters())[-1], torch.nan)
    with pytest.raises(ValueError, match=r"teacher: the loss of noise/train/ant/\d+ is not finite"):
        choose(images, broken, ipc=1, seed=0)
