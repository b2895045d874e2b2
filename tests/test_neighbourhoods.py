"""Precision, recall, density and coverage against their definitions, written out."""

import numpy as np
import pytest

from dc3 import fidelity
from dc3.fidelity import neighbourhoods


def gaussian(n, d=4, shift=0.0, seed=0):
    return (np.random.default_rng(seed).normal(size=(n, d)) + shift).astype(np.float32)


def naive(real, fake, k):
    def radius(points):
        return [sorted(np.linalg.norm(points - p, axis=1))[min(k, len(points) - 1)] for p in points]

    real_radius, fake_radius = radius(real), radius(fake)
    distance = np.linalg.norm(fake[:, None].astype(float) - real, axis=2)
    in_real = distance <= np.array(real_radius)
    in_fake = distance <= np.array(fake_radius)[:, None]
    density = in_real.sum() / (min(k, len(real) - 1) * len(fake))
    return in_real.any(1).mean(), in_fake.any(0).mean(), density, in_real.any(0).mean()


@pytest.mark.parametrize("k", [1, 3, 5])
def test_scores_are_their_definitions(k, monkeypatch):
    monkeypatch.setattr(fidelity, "ROWS", 17)  # several chunks, the last one short
    real, fake = gaussian(60), gaussian(40, shift=0.8, seed=1)
    assert neighbourhoods(real, fake, k) == pytest.approx(naive(real, fake, k), abs=1e-12)
    assert neighbourhoods(fake, real, k).precision == neighbourhoods(real, fake, k).recall


def test_scores_of_known_sets():
    real = np.concatenate([gaussian(50), gaussian(50, seed=1) + 100])
    same = neighbourhoods(real, real)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    half = neighbourhoods(real, real[:50])
    assert (half.precision, half.recall, half.coverage) == (1, 0.5, 0.5), "a mode is missing"
    assert neighbourhoods(real, real + 1000) == (0, 0, 0, 0)


def test_equal_distributions_have_density_one():
    assert neighbourhoods(gaussian(800), gaussian(800, seed=1)).density == pytest.approx(1, abs=0.1)


def test_neighbours_are_at_most_all_others():
    real, fake = gaussian(9), gaussian(5, seed=1)
    assert neighbourhoods(real, fake, 10**6) == pytest.approx(naive(real, fake, 10**6))


def test_bad_sets_are_refused():
    good = gaussian(20)
    for real, fake, k, named in (
        (good, good, 0, "neighbours = 0: at least 1"),
        (good, good[:1], 5, "fake = 1 images: expected at least 2"),
        (good[:1], good, 5, "real = 1 images: expected at least 2"),
        (good, good[:, :3], 5, "one network"),
        (good, good * np.nan, 5, "fake = NaN"),
    ):
        with pytest.raises(ValueError, match=named):
            neighbourhoods(real, fake, k)
