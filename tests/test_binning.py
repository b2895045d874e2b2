"""Bins of one class and of all: who goes where, at every size, whatever the images."""

import logging
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_limits

from dc3.binning import bin_all, bin_class, bin_table, embed_2d


def blobs(n=120, groups=4, dimension=30, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 10, (groups, dimension))
    truth = np.arange(n) % groups
    return (centres[truth] + rng.normal(size=(n, dimension))).astype(np.float16), truth


@pytest.mark.parametrize("pca", ["auto", "full", "randomized"])
@pytest.mark.parametrize("kmeans", ["full", "minibatch"])
def test_separate_groups_become_bins(pca, kmeans):
    latents, truth = blobs()
    bins = bin_class(latents, components=8, bins=4, seed=42, pca=pca, kmeans=kmeans)
    assert adjusted_rand_score(truth, bins.labels) == 1
    assert bins.bins_used == 4 and bins.components_used == 8
    assert bins.projected.shape == (120, 8)


def test_it_is_pca_then_kmeans_of_scikit_learn():
    latents = np.random.default_rng(1).normal(size=(200, 40)).astype(np.float32)
    projected = PCA(20, svd_solver="full", random_state=42).fit_transform(latents)
    oracle = KMeans(10, random_state=42).fit(projected)
    bins = bin_class(latents, components=20, bins=10, seed=42, pca="full")
    assert adjusted_rand_score(oracle.labels_, bins.labels) == 1
    assert bins.inertia == pytest.approx(oracle.inertia_, rel=1e-5)
    assert np.abs(bins.projected - projected).max() < 1e-4


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 25), st.integers(1, 12), st.integers(1, 12), st.integers(1, 30), st.booleans())
def test_every_size_works_without_warnings(n, dimension, bins, components, few_values):
    rng = np.random.default_rng(n * 1000 + dimension)
    latents = rng.integers(0, 2, (n, dimension)) if few_values else rng.normal(size=(n, dimension))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = bin_class(latents.astype(np.float32), components=components, bins=bins, seed=0)
    distinct = len(np.unique(latents, axis=0))
    assert result.bins_used == min(bins, distinct)
    assert sorted(set(result.labels.tolist())) == list(range(result.bins_used))
    for row in range(n):
        same = (latents == latents[row]).all(axis=1)
        assert len(set(result.labels[same].tolist())) == 1


def test_identical_images_share_one_bin():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = bin_class(np.full((12, 6), 0.3, np.float16), seed=0)
        assert embed_2d(np.full((12, 6), 0.3, np.float16), seed=0).shape == (12, 2)
    assert result.labels.tolist() == [0] * 12
    assert (result.components_used, result.bins_used, result.inertia) == (0, 1, 0.0)


def test_copies_of_an_image_have_the_same_projection():
    latents = np.random.default_rng(0).normal(size=(501, 333)).astype(np.float32)
    latents[-5:] = latents[:5]  # matrix products round rows differently, by their place in a block
    result = bin_class(latents, seed=0)
    np.testing.assert_array_equal(result.projected[-5:], result.projected[:5])
    np.testing.assert_array_equal(result.labels[-5:], result.labels[:5])


def test_a_reduction_is_logged(caplog):
    with caplog.at_level(logging.INFO, "dc3.binning"):
        bin_class(blobs(n=4)[0], bins=10, seed=0)
    assert "bins = 10 reduced to 4 for a class of 4 images" in caplog.text
    assert "components = 50 reduced to 3 for a class of 4 images" in caplog.text


def test_bin_all_bins_each_class_on_its_own(tmp_path):
    latents, _ = blobs(n=90)
    labels = np.random.default_rng(0).integers(0, 3, 90)
    np.save(tmp_path / "latents.npy", latents)
    on_disk = np.load(tmp_path / "latents.npy", mmap_mode="r")
    bins = bin_all(on_disk, labels, components=8, bins=5, seed=7)
    for label in range(3):
        alone = bin_class(latents[labels == label], components=8, bins=5, seed=7)
        np.testing.assert_array_equal(bins[labels == label], alone.labels)
    table = bin_table(labels, bins)
    assert table.columns.tolist() == ["index", "label", "bin"]
    assert table["index"].tolist() == list(range(90))
    assert table["bin"].tolist() == bins.tolist()


def test_a_class_of_one_image_works():
    latents, _ = blobs(n=6)
    assert bin_all(latents, np.array([0, 0, 1, 0, 0, 0]), seed=0)[2] == 0


def test_the_seed_decides():
    latents = np.random.default_rng(0).normal(size=(150, 20))
    first, again, other = (bin_class(latents, seed=seed).labels for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("n", [1, 2, 3, 12])
def test_embedding_in_the_plane_at_every_size(n):
    points = embed_2d(np.random.default_rng(0).normal(size=(n, 5)), seed=0)
    assert points.shape == (n, 2)
    assert np.isfinite(points).all()


def test_embedding_keeps_groups_apart():
    latents, truth = blobs(n=60, groups=3)
    points = embed_2d(latents, seed=0)
    found = KMeans(3, random_state=0).fit(points).labels_
    assert adjusted_rand_score(truth, found) == 1


def test_a_map_does_not_depend_on_the_number_of_threads():
    latents = blobs(n=250, dimension=1024)[0]
    with threadpool_limits(1):
        alone = embed_2d(latents, seed=0)
    with threadpool_limits(4):
        np.testing.assert_array_equal(embed_2d(latents, seed=0), alone)


def test_bad_input_is_refused():
    good = blobs(n=8)[0]
    spoilt = good.copy()
    spoilt[3, 3] = np.nan
    for latents, options, named in (
        (spoilt, {}, "NaN"),
        (good[0], {}, "latents"),
        (good[:0], {}, "latents"),
        (good, {"bins": 0}, "bins = 0"),
        (good, {"components": 0}, "components = 0"),
        (good, {"pca": "sparse"}, "pca = 'sparse'"),
        (good, {"kmeans": "fast"}, "kmeans = 'fast'"),
    ):
        with pytest.raises(ValueError, match=named):
            bin_class(latents, **({"seed": 0} | options))
    with pytest.raises(ValueError, match="labels"):
        bin_all(good, np.zeros(7, int), seed=0)
