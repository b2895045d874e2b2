"""dc3.strategies against brute force on small classes, and the promises of the selection table."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dc3 import strategies
from dc3.sampling import allocate_budget, gradient_kernel, select
from dc3.strategies import STRATEGIES, PickOptions, Pool, surest

NAMES = ["dc3", "submodular", "random", "herding", "kcenter", "dq"]


def image_set(n=180, classes=3, bins=4, seed=0):
    """Three classes of unequal size, mixed, with unequal bins."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, n, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    numbers = rng.choice(bins, n, p=np.arange(1, bins + 1) / np.arange(1, bins + 1).sum())
    logit_grad = rng.normal(size=(n, 5)).astype(np.float32)
    embedding = np.abs(rng.normal(size=(n, 8))).astype(np.float32)
    return {"labels": labels, "bins": numbers, "logit_grad": logit_grad, "embedding": embedding}


POOL = ("labels", "bins", "logit_grad", "embedding", "among", "device")


def choose(selection, **given):
    """The table of picks for what `Pool` and `PickOptions` take."""
    pool = Pool(**{name: given.pop(name) for name in POOL if name in given})
    return strategies.pick(selection, pool, PickOptions(**given))


def coverage(picks, **pool):
    return strategies.coverage(picks, Pool(**pool))


def members(images, label):
    return np.flatnonzero(images["labels"] == label)


def test_there_are_six_strategies():
    assert list(STRATEGIES) == NAMES


@pytest.mark.parametrize("selection", NAMES)
@pytest.mark.parametrize("ipc", [1, 3, 13, 25])
def test_every_strategy_gives_the_same_table(selection, ipc):
    images = image_set()
    table = choose(selection, ipc=ipc, **images)
    assert table.dtypes.astype(str).to_dict() == {
        "index": "int64",
        "label": "int64",
        "bin": "int64",
        "rank": "int64",
        "gain": "float64",
    }
    assert list(table.columns) == ["index", "label", "bin", "rank", "gain"]
    assert table["index"].is_unique
    assert (table["label"] == images["labels"][table["index"]]).all()
    assert (table["bin"] == images["bins"][table["index"]]).all()
    assert table["rank"].tolist() == list(range(ipc)) * 3
    assert table["label"].tolist() == sorted(table["label"])
    assert table["gain"].notna().all() if selection in ("dc3", "submodular") else table["gain"].isna().all()


@pytest.mark.parametrize("selection", NAMES)
def test_a_class_can_be_taken_whole(selection):
    images = image_set(60)
    smallest = np.bincount(images["labels"]).argmin()
    keep = members(images, smallest)
    images = {name: array[keep] for name, array in images.items()}
    assert sorted(choose(selection, ipc=len(keep), **images)["index"]) == list(range(len(keep)))


@pytest.mark.parametrize("selection", NAMES)
def test_the_picks_of_a_class_do_not_depend_on_other_classes(selection):
    images = image_set()
    alone = {name: array[members(images, 1)] for name, array in images.items()}
    together = choose(selection, ipc=6, seed=3, greedy="StochasticGreedy", **images).query("label == 1")
    apart = choose(selection, ipc=6, seed=3, greedy="StochasticGreedy", **alone)
    assert members(images, 1)[apart["index"]].tolist() == together["index"].tolist()


@pytest.mark.parametrize("selection", ["random", "kcenter", "dq"])
def test_draws_follow_the_seed_and_differ_between_classes(selection):
    images = image_set()
    tables = [choose(selection, ipc=5, seed=seed, **images)["index"].tolist() for seed in (0, 0, 1)]
    assert tables[0] == tables[1] != tables[2]
    twice = {name: np.concatenate([array, array]) for name, array in images.items()}
    twice["labels"] = np.repeat([0, 1], len(images["labels"]))
    positions = choose(selection, ipc=5, **twice)["index"] % len(images["labels"])
    assert positions[:5].tolist() != positions[5:].tolist()


def test_dc3_is_the_greedy_of_every_bin_in_turns():
    images = image_set()
    table = choose("dc3", ipc=11, function="FacilityLocation", **images)
    for label in range(3):
        rows, picks = members(images, label), table[table["label"] == label]
        bins = images["bins"][rows]
        numbers, sizes = np.unique(bins, return_counts=True)
        for number, share in zip(numbers, allocate_budget(sizes, 11), strict=True):
            bin_rows = rows[bins == number]
            kernel = gradient_kernel(images["logit_grad"][bin_rows], images["embedding"][bin_rows])
            expected = select(kernel, int(share), "FacilityLocation")
            of_bin = picks[picks["bin"] == number]
            assert of_bin["index"].tolist() == bin_rows[expected.indices].tolist()
            assert np.allclose(of_bin["gain"], expected.gains)
        turns = picks.groupby("bin").cumcount()
        assert turns.is_monotonic_increasing  # the second pick of a bin comes after the first of all


def test_dc3_with_equal_allocation_takes_equal_shares():
    table = choose("dc3", ipc=8, allocation="equal", **image_set())
    assert (table.groupby(["label", "bin"]).size() == 2).all()


def test_submodular_is_the_greedy_of_the_class():
    images = image_set()
    table = choose("submodular", ipc=7, lam=0.5, **images)
    for label in range(3):
        rows = members(images, label)
        expected = select(gradient_kernel(images["logit_grad"][rows], images["embedding"][rows]), 7, lam=0.5)
        assert table[table["label"] == label]["index"].tolist() == rows[expected.indices].tolist()


def test_random_takes_every_image_as_often():
    labels = np.zeros(10, dtype=int)
    picks = [choose("random", labels=labels, ipc=3, seed=seed)["index"] for seed in range(300)]
    counts = np.bincount(np.concatenate(picks), minlength=10)
    assert counts.min() > 50 and counts.max() < 130  # 90 expected, standard deviation 8


def test_herding_matches_the_mean_greedily():
    images = image_set()
    table = choose("herding", ipc=9, **images)
    for label in range(3):
        features = images["embedding"][members(images, label)].astype(np.float64)
        picks = []
        for _ in range(9):
            left = [x for x in range(len(features)) if x not in picks]
            means = [features[[*picks, x]].mean(0) for x in left]
            picks.append(left[int(np.argmin([np.linalg.norm(features.mean(0) - mean) for mean in means]))])
        assert table[table["label"] == label]["index"].tolist() == members(images, label)[picks].tolist()


def test_kcenter_takes_the_farthest_image():
    images = image_set()
    table = choose("kcenter", ipc=9, **images)
    for label in range(3):
        features = images["embedding"][members(images, label)].astype(np.float64)
        chosen = np.searchsorted(members(images, label), table[table["label"] == label]["index"])
        distances = np.linalg.norm(features[:, None] - features[None], axis=2)
        for rank in range(1, 9):
            nearest = distances[:, chosen[:rank]].min(1)
            assert nearest[chosen[rank]] == nearest.max()


def test_dq_draws_as_many_from_each_of_ten_graph_cut_bins():
    images = {name: array[:100] for name, array in image_set(100).items()} | {"labels": np.zeros(100, dtype=int)}
    left, bin_of = np.arange(100), np.empty(100, dtype=int)
    for number in range(10):
        kernel = gradient_kernel(images["logit_grad"][left], images["embedding"][left])
        taken = left[select(kernel, 10).indices]
        bin_of[taken], left = number, np.setdiff1d(left, taken)
    for ipc, expected in ((20, [2] * 10), (13, [2, 2, 2] + [1] * 7), (4, [1] * 4 + [0] * 6)):
        table = choose("dq", ipc=ipc, **images)
        assert np.bincount(bin_of[table["index"]], minlength=10).tolist() == expected


@pytest.mark.parametrize("selection", NAMES)
def test_equal_images_work(selection):
    n = 23
    images = {
        "labels": np.full(n, 7),
        "bins": np.repeat([0, 5], [1, n - 1]),  # a bin of one image
        "logit_grad": np.ones((n, 4), dtype=np.float32),
        "embedding": np.ones((n, 3), dtype=np.float32),
    }
    assert choose(selection, ipc=12, **images)["index"].is_unique


@given(st.integers(1, 40), st.integers(1, 6), st.sampled_from(NAMES), st.data())
@settings(deadline=None, max_examples=60)
def test_exactly_ipc_images_of_any_class(n, bins, selection, data):
    images = {name: array[:n] for name, array in image_set(40, bins=bins, seed=n).items()}
    images["labels"] = np.zeros(n, dtype=int)
    ipc = data.draw(st.integers(1, n))
    table = choose(selection, ipc=ipc, **images)
    assert len(table) == table["index"].nunique() == ipc


def test_memory_maps_and_tensors_give_the_same(tmp_path):
    images = image_set()
    expected = choose("dc3", ipc=5, **images)
    maps, tensors = dict(images), dict(images)
    for name in ("logit_grad", "embedding"):
        np.save(tmp_path / f"{name}.npy", images[name])
        maps[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
        tensors[name] = torch.from_numpy(images[name])
    pd.testing.assert_frame_equal(choose("dc3", ipc=5, **maps), expected)
    pd.testing.assert_frame_equal(choose("dc3", ipc=5, device="cpu", **tensors), expected)


def test_arrays_a_strategy_does_not_need_may_be_absent():
    images = image_set()
    assert (choose("random", labels=images["labels"], ipc=2)["bin"] == -1).all()
    factors = {name: images[name] for name in ("labels", "logit_grad", "embedding")}
    assert len(choose("submodular", ipc=2, **factors)) == 6


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"selection": "kmeans"}, "kmeans.*dc3, submodular, random, herding, kcenter, dq"),
        ({"ipc": 1000}, "ipc = 1000: .*class 0"),
        ({"ipc": 0}, "ipc = 0"),
        ({"bins": None}, "bins = None"),
        ({"embedding": None}, "embedding = None"),
        ({"logit_grad": np.ones((3, 5))}, "logit_grad = 3 rows: .* 180"),
        ({"bins": np.zeros(179, dtype=int)}, "bins = 179 rows"),
        ({"bins": np.zeros(180)}, "bins"),
        ({"labels": np.zeros(180)}, "labels"),
        ({"labels": np.full(180, -1)}, "labels"),
        ({"embedding": np.full((180, 8), np.nan)}, "embedding = NaN"),
        ({"seed": -1}, "seed"),
        ({"function": "MaxCut"}, "MaxCut"),
        ({"greedy": "Fast"}, "Fast"),
        ({"lam": np.inf}, "lam"),
        ({"allocation": "fair"}, "fair"),
    ],
)
def test_bad_input_is_refused(change, named):
    with pytest.raises(ValueError, match=named):
        choose(**{"selection": "dc3", "ipc": 4, **image_set(), **change})


def test_coverage_is_the_share_of_bins_and_the_mean_closest_similarity():
    images = image_set()
    table = choose("random", ipc=2, **images)
    covered = coverage(table, **images)
    assert list(covered.columns) == ["label", "bins", "similarity"]
    for row in covered.itertuples():
        rows = members(images, row.label)
        picks = table[table["label"] == row.label]["index"].to_numpy()
        kernel = gradient_kernel(images["logit_grad"][rows], images["embedding"][rows])
        closest = kernel[:, np.searchsorted(rows, picks)].max(1)
        assert abs(row.similarity - closest.mean()) < 1e-6
        expected = len(set(images["bins"][picks])) / len(set(images["bins"][rows]))
        assert abs(row.bins - expected) < 1e-12


def test_bins_make_a_selection_cover_every_bin():
    """What DC3's bins are for; and facility location is what the similarity of `coverage` measures."""
    images = image_set()
    assert (coverage(choose("dc3", ipc=4, allocation="equal", **images), **images)["bins"] == 1).all()
    best, other = (
        coverage(choose(name, ipc=6, function="FacilityLocation", **images), **images)["similarity"]
        for name in ("submodular", "random")
    )
    assert (best > other).all()


@pytest.mark.parametrize("selection", NAMES)
def test_picks_stay_among_the_images_that_may_be_picked(selection):
    images = image_set()
    losses = np.random.default_rng(3).random(len(images["labels"]))
    among = surest(losses, images["labels"], 0.4)
    picked = choose(selection, ipc=5, among=among, **images)["index"]
    assert among[picked].all() and len(picked) == 15
    alone = choose(selection, ipc=5, **{name: array[among] for name, array in images.items()})["index"]
    assert np.flatnonzero(among)[alone].tolist() == picked.tolist(), "as if the others were not there"


def test_the_surest_are_the_lowest_losses_of_each_class():
    labels, losses = np.array([0, 0, 0, 0, 1, 1]), np.array([3.0, 1.0, 2.0, 1.0, 9.0, 8.0])
    assert surest(losses, labels, 0.5).tolist() == [False, True, False, True, False, True]
    assert surest(losses, labels, 0.01).tolist() == [False, True, False, False, False, True], "never none"
    assert surest(losses, labels, 1).all()
    with pytest.raises(ValueError, match="sure_share = 0"):
        surest(losses, labels, 0)
    with pytest.raises(ValueError, match=r"ipc = 3: .* class 1 to pick from"):
        choose("random", labels=labels, ipc=3, among=surest(losses, labels, 1))
