import typing

import numpy as np
import pandas as pd
import pytest
from finished_runs import image_set, make_run, record

from dc3 import condensed, strategies
from dc3.compensation import condense
from dc3.images.image_set import in_memory
from dc3.models import networks
from dc3.rded import Crops, pick_crops
from dc3.runs import parameters
from dc3.runs.checks import check_inputs
from dc3.runs.notebook_stage import Settings
from dc3.runs.reproduction import reproduce
from dc3.strategies import PickOptions, Pool


@pytest.fixture(scope="module")
def images():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    return in_memory("noise", "train", ["a", "b"], np.repeat([0, 1], 20), pixels)


@pytest.fixture(scope="module")
def teacher():
    return networks.create("conv3", 2, 16, width=8).eval()


def pick(picked_by, images, teacher, ipc=3):
    rng = np.random.default_rng(1)
    factors = {"logit_grad": rng.normal(size=(40, 2)), "embedding": rng.normal(size=(40, 5))}
    factors = {name: array.astype(np.float32) for name, array in factors.items()}
    pool = Pool(images.labels, np.arange(40) % 4, **factors, images=images, teacher=teacher)
    return strategies.pick(picked_by, pool, PickOptions(ipc, crops=Crops(factor=2, num_crop=3, mipc=20)))


def test_the_parameter_names_the_table():
    assert typing.get_args(parameters.Method) == tuple(strategies.METHODS)
    assert typing.get_args(parameters.Rival) == tuple(m.picked_by for m in strategies.METHODS.values() if m.picked_by)
    assert typing.get_args(parameters.Baseline) == tuple(name for name, m in strategies.METHODS.items() if not m.edits)


@pytest.mark.parametrize("method", [name for name, m in strategies.METHODS.items() if not m.edits])
def test_every_baseline_writes_the_same_layout_with_provenance(method, images, teacher, tmp_path):
    picks = pick(strategies.METHODS[method].picked_by or "dc3", images, teacher)
    provenance = condense(images, picks, tmp_path, condensed.Storage(16))
    made = condensed.load(tmp_path, images.classes)
    assert made.counts().tolist() == [3, 3]
    expected, labels = strategies.plain_images(images, picks, 16)
    assert (made.images() == expected).all() and (made.labels == labels).all()
    assert {"index", "source", "source_sha256", "label", "bin", "rank", "file", "sha256"} <= set(provenance.columns)
    assert (images.labels[provenance["index"]] == provenance["label"]).all()


def test_an_rded_image_records_all_its_crops(images, teacher, tmp_path):
    picks = pick("rded", images, teacher)
    provenance = condense(images, picks, tmp_path, condensed.Storage(16))
    assert len(provenance) == 6 and all(len(tiles["index"]) == 4 for tiles in provenance["tiles"])
    assert sorted(np.concatenate([tiles["index"] for tiles in provenance["tiles"]])) == sorted(picks["index"])


def test_an_rded_image_alone_is_made_again_to_the_bytes_that_it_has_in_its_run(home, monkeypatch):
    toys = image_set()
    monkeypatch.setattr(Settings, "image_set", lambda settings, split: toys)
    run = make_run("toy", until="04", method="rded")
    picks = pick_crops(toys, networks.create("conv3", 3, 16, width=8).eval(), 2, 0, Crops(factor=2, num_crop=2, mipc=8))
    (run / "03_sampling/compared").mkdir()
    picks.to_parquet(run / "03_sampling/compared/rded.parquet")
    made = condense(toys, picks, run / "04_compensation/condensed", condensed.Storage(16))
    for stage in ("03_sampling", "04_compensation"):
        record(run / stage)
    again = reproduce("toy", int(made["index"].iloc[-1]))
    assert again.again == again.on_disk and again.largest_difference == 0


def test_mosaics_of_other_crops_are_made_again(images, teacher, tmp_path):
    picks = pick("rded", images, teacher)
    other = picks.assign(side=picks["side"].clip(upper=5))
    condense(images, other, tmp_path, condensed.Storage(16))
    condense(images, picks, tmp_path, condensed.Storage(16))
    assert (condensed.load(tmp_path, images.classes).images() == strategies.plain_images(images, picks, 16)[0]).all()


def test_a_source_that_changed_is_condensed_again(images, teacher, tmp_path):
    picks = pick("random", images, teacher)
    condense(images, picks, tmp_path, condensed.Storage(16))
    inverted = in_memory("noise", "train", ["a", "b"], images.labels, 255 - images.pixels)
    condense(inverted, picks, tmp_path, condensed.Storage(16))
    assert (condensed.load(tmp_path, images.classes).images() == inverted.images(picks["index"])).all()


def test_each_method_has_its_picks_file():
    assert strategies.METHODS["dc3"].picks_file == strategies.METHODS["dc3_plain"].picks_file == "selection.parquet"
    assert strategies.METHODS["rded"].picks_file == "compared/rded.parquet"


@pytest.mark.parametrize(("key", "value"), [("method", "rded"), ("baselines", ["random", "dq"])])
def test_a_method_that_03_does_not_pick_for_is_refused_before_anything_runs(key, value):
    values = {"compared": ["random"], key: value}
    checked = parameters.check(values, parameters.all_declared())
    with pytest.raises(parameters.ParameterError, match=rf"{key} = .*: add .* to compared"):
        check_inputs(checked)


def test_more_crops_than_rded_draws_are_refused_before_anything_runs():
    checked = parameters.check({"ipc": 80, "crops_per_side": 2}, parameters.all_declared())
    with pytest.raises(parameters.ParameterError, match=r"crops_per_side = 2: .*needs 320 images .*crop_images = 100"):
        check_inputs(checked)
    check_inputs(checked | {"compared": ["random"]})


def test_selection_tables_survive_parquet(images, teacher, tmp_path):
    picks = pick("rded", images, teacher)
    picks.to_parquet(tmp_path / "rded.parquet")
    again = pd.read_parquet(tmp_path / "rded.parquet")
    assert (strategies.plain_images(images, again, 16)[0] == strategies.plain_images(images, picks, 16)[0]).all()
