"""Where compensation takes images: on a line where every answer is known."""

import numpy as np
import pandas as pd
import pytest

from dc3 import displacement
from dc3.displacement import Places
from dc3.fidelity import Embedded
from dc3.images.image_set import in_memory

REAL = np.array([[0.0], [1], [2], [10], [11], [12]], np.float32)  # two classes of three
LABELS, BINS = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 1, 0, 1, 1])


def measured(made, sources):
    return displacement.measure(Places(REAL, LABELS, BINS, np.array(made, np.float32)[:, None], np.array(sources)))


def test_displacements_on_a_line(monkeypatch):
    monkeypatch.setattr(displacement, "ROWS", 3)
    table = measured([0.2, 1.2, 2.9, 9.0], [0, 0, 1, 2])
    assert table["distance"].tolist() == pytest.approx([0.2, 1.2, 1.9, 7.0])
    assert table["relative"].tolist() == pytest.approx([0.2 / 1.5, 1.2 / 1.5, 1.9 / 1, 7.0 / 1.5])
    assert table["nearest is its source"].tolist() == [True, False, False, False]
    assert table["nearest is of its bin"].tolist() == [True, True, False, False]
    assert table["nearest is of its class"].tolist() == [True, True, True, False]
    assert table["nearer than the source"].tolist() == [0, 2, 1, 3]


def test_an_image_that_did_not_change_did_not_move():
    table = measured(REAL[:, 0], range(6))
    assert (table["distance"] == 0).all() and table["nearest is its source"].all()


def test_a_class_of_one_image_has_no_spread_to_measure_by():
    labels = np.array([7, 0, 0, 0, 0, 0])
    table = displacement.measure(Places(REAL, labels, BINS, np.array([[0.2], [2.0]], np.float32), np.array([0, 1])))
    assert np.isnan(table["relative"][0]) and table["relative"][1] == pytest.approx(1 / 9.5)
    assert table["distance"][0] == pytest.approx(0.2)


def test_a_summary_has_one_row_per_class_and_one_for_all():
    summary = displacement.by_class(measured([0.2, 1.2, 9.0, 12.0], [0, 0, 2, 5]), ["cat", "dog"])
    assert summary["class"].tolist() == ["cat", "dog", "all"] and summary["images"].tolist() == [3, 1, 4]
    assert summary["nearest is of its class"].tolist() == pytest.approx([2 / 3, 1, 3 / 4])
    assert summary["relative"].iloc[0] == pytest.approx(1.2 / 1.5)


def test_compared_with_has_the_first_of_each_class_and_all_sources():
    labels = np.array([0, 1, 0, 1, 0, 2])
    assert displacement.compared_with(labels, np.array([4, 1]), 1).tolist() == [0, 1, 4]


def test_a_map_has_arrows_from_the_sources_only():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(30, 5)).astype(np.float32)
    labels, bins = np.zeros(30, int), np.arange(30) % 3
    table = displacement.maps(Places(features, labels, bins, features[[3, 7]] + 0.01, np.array([3, 7])), seed=0)
    assert np.flatnonzero(table["to_x"].notna()).tolist() == [3, 7]
    assert table["bin"].tolist() == bins.tolist() and (table["label"] == 0).all()
    ends, starts = table.loc[[3, 7], ["to_x", "to_y"]].to_numpy(), table.loc[[3, 7], ["x", "y"]].to_numpy()
    spread = np.ptp(table["x"]) + np.ptp(table["y"])
    assert np.linalg.norm(ends - starts, axis=1).max() < 0.2 * spread, "a copy lies beside its original"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"made": np.zeros((1, 2))}, r"made = \(1, 2\): expected as many features"),
        ({"labels": LABELS[:5]}, "labels, bins = 5, 6 values: expected one for each of 6 images"),
        ({"sources": np.array([6])}, r"sources = .*: expected a row of real, 0 … 5"),
        ({"sources": np.array([0, 1])}, "for each of 1 images"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, message):
    good = {"real": REAL, "labels": LABELS, "bins": BINS, "made": np.zeros((1, 1)), "sources": np.array([0])}
    with pytest.raises(ValueError, match=message):
        Places(**good | change)


def test_places_are_found_by_the_provenance():
    pixels = np.arange(8, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    train = in_memory("toys", "train", ("a", "b"), np.repeat([0, 1], 4), pixels)
    condensed = in_memory("made", "train", ("a", "b"), np.array([0, 1]), pixels[[7, 0]])
    provenance = pd.DataFrame({"index": [3, 4]}, index=[0, 1])

    def embed(images):
        return Embedded(images.mean(axis=(1, 2)), images.mean(axis=(1, 2)))

    places = displacement.locate(train, condensed, provenance, np.arange(8), embed, per_class=2)
    assert places.real[:, 0].tolist() == [0, 1, 3, 4, 5] and places.bins.tolist() == [0, 1, 3, 4, 5]
    assert places.labels.tolist() == [0, 0, 0, 1, 1] and places.sources.tolist() == [2, 3]
    assert places.made[:, 0].tolist() == [7, 0]
