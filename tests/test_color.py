"""Colour statistics against explicit formulas, scipy and scikit-image, and on sets whose answer is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import ConvexHull
from scipy.stats import gaussian_kde
from skimage.color import rgb2lab

from dc3 import color


def noise(n=5, height=8, width=9, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def solid(*rgb, n=1):
    return np.full((n, 6, 6, 3), rgb, np.uint8)


def whole_gamut(images):
    return color.gamut_area_of_equal_sets(images, len(images), seed=0, draws=1).value


def naive_colorfulness(image):
    red, green, blue = (image[..., c].astype(float).ravel() for c in range(3))
    rg, yb = red - green, 0.5 * (red + green) - blue
    return np.sqrt(np.std(rg) ** 2 + np.std(yb) ** 2) + 0.3 * np.sqrt(np.mean(rg) ** 2 + np.mean(yb) ** 2)


def test_colorfulness_is_hasler_and_suesstrunks(monkeypatch):
    images = noise(50)
    expected = [naive_colorfulness(image) for image in images]
    monkeypatch.setattr(color, "CHUNK_PIXELS", 300)  # several chunks, the last one short
    measured = color.colorfulness(images)
    assert measured.dtype == np.float64 and measured.shape == (50,)
    assert np.abs(measured - expected).max() < 1e-10


def test_colorfulness_of_known_images():
    assert color.colorfulness(solid(77, 77, 77))[0] == 0
    assert color.colorfulness(solid(255, 0, 0))[0] == pytest.approx(0.3 * np.hypot(255, 127.5))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 60))
def test_colorfulness_ignores_brightness_and_the_order_of_pixels(seed, shift):
    images = noise(2, seed=seed) // 2
    np.testing.assert_allclose(color.colorfulness(images + np.uint8(shift)), color.colorfulness(images), atol=1e-9)
    backwards = color.colorfulness(images.reshape(2, -1, 3)[:, ::-1].reshape(images.shape))
    np.testing.assert_allclose(backwards, color.colorfulness(images), atol=1e-9)


def test_mean_lab_is_scikit_images():
    images = noise()
    expected = np.stack([rgb2lab(image).reshape(-1, 3).mean(axis=0) for image in images])
    assert np.abs(color.mean_lab(images) - expected).max() < 1e-10
    assert color.mean_lab(solid(255, 255, 255))[0] == pytest.approx([100, 0, 0], abs=0.02)


def test_one_hue_has_no_entropy_and_opposite_hues_one_bit():
    red, cyan = solid(255, 0, 0), solid(0, 255, 255)
    assert color.hue_entropy(color.hue_histogram(red)) == 0
    both = color.hue_histogram(np.concatenate([red, cyan]), bins=12)
    assert both.shape == (2, 12)
    assert (both > 0).sum() == 2
    expected = both.sum(axis=1) / both.sum()
    assert color.hue_entropy(both) == pytest.approx(-(expected * np.log2(expected)).sum())
    assert color.hue_entropy(np.ones((4, 16))) == pytest.approx(4)


def test_hue_is_weighted_by_chroma_and_grey_has_none():
    assert color.hue_histogram(solid(90, 90, 90)).sum() == 0
    assert color.hue_entropy(color.hue_histogram(solid(90, 90, 90))) == 0
    lab = rgb2lab(np.array([[[200, 60, 60]]], np.uint8))[0, 0]
    histogram = color.hue_histogram(solid(200, 60, 60), bins=36)[0]
    assert histogram.sum() == pytest.approx(np.hypot(*lab[1:]))
    assert histogram.argmax() == int(np.degrees(np.arctan2(lab[2], lab[1])) % 360 // 10)


def test_rgb_density_is_scipys_kernel_density():
    images = noise(40, 16, 16)
    positions, density = color.rgb_density(images, grid=50)
    for channel in range(3):
        values = images[..., channel].ravel() / 255
        assert np.abs(density[channel] - gaussian_kde(values)(positions)).max() < 1e-3  # ddof of the deviation
    flat = color.rgb_density(solid(128, 128, 128), grid=2001)
    assert np.trapezoid(flat[1], flat[0], axis=1) == pytest.approx(1, abs=1e-6)
    assert flat[0][flat[1][0].argmax()] == pytest.approx(128 / 255, abs=1e-3)


def test_gamut_area_of_a_known_triangle():
    corners = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    a, b = rgb2lab(corners[None])[0, :, 1:].T
    expected = abs((a[1] - a[0]) * (b[2] - b[0]) - (a[2] - a[0]) * (b[1] - b[0])) / 2
    images = corners[np.array([0, 1, 2, 0])].reshape(1, 2, 2, 3)
    assert whole_gamut(images) == pytest.approx(expected)
    assert whole_gamut(np.concatenate([images, solid(200, 100, 100).reshape(-1, 2, 2, 3)])) == pytest.approx(expected)


def test_gamut_of_one_color_and_of_greys_is_empty():
    assert whole_gamut(solid(1, 2, 3)) == 0
    greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1).reshape(1, 16, 16, 3)
    assert whole_gamut(greys) == 0


def test_gamut_of_a_whole_set_is_its_area_and_has_no_range():
    images = noise(6)
    interval = color.gamut_area_of_equal_sets(images, 6, seed=0, draws=5)
    assert interval == pytest.approx((ConvexHull(rgb2lab(images).reshape(-1, 3)[:, 1:]).volume,) * 3)


def test_gamut_of_equal_sets_does_not_grow_with_the_set():
    """Copies of a set hold no new colour, but more images: the area of all grows or stays, that of ten does not."""
    rng = np.random.default_rng(0)
    hues = rng.integers(0, 256, (300, 1, 1, 3), dtype=np.uint8)
    images = np.clip(hues.astype(int) + rng.integers(-9, 10, (300, 4, 4, 3)), 0, 255).astype(np.uint8)
    assert whole_gamut(images) > 1.5 * whole_gamut(images[:20])
    few, many = (color.gamut_area_of_equal_sets(part, 10, seed=0) for part in (images[:150], images))
    assert few.value == pytest.approx(many.value, rel=0.1)
    assert few.low < few.value < few.high


def test_gamut_of_equal_sets_of_greys_and_of_bad_sizes():
    assert color.gamut_area_of_equal_sets(np.concatenate([solid(1, 1, 1), solid(9, 9, 9)]), 2, seed=0).high == 0
    for size in (0, 6):
        with pytest.raises(ValueError, match=rf"size = {size}: expected 1 … 5"):
            color.gamut_area_of_equal_sets(noise(5), size, seed=0)


def test_an_interval_is_three_columns_of_a_table():
    assert color.Interval(2.0, 1.0, 3.0).columns("M") == {"M": 2.0, "M, low": 1.0, "M, high": 3.0}


def test_statistics_have_one_row_per_set_and_gamuts_of_equal_sets():
    sets = {"few": noise(4), "many": noise(9, seed=1)}
    table = color.statistics(sets, seed=3).set_index("set")
    assert table["images"].to_dict() == {"few": 4, "many": 9}
    for name, images in sets.items():
        expected = {
            "colourfulness M": color.bootstrap_ci(color.colorfulness(images), seed=3),
            "hue entropy (bits)": color.bootstrap_ci(color.hue_histogram(images), color.hue_entropy, seed=3),
            "gamut of 2 images (a*b*)": color.gamut_area_of_equal_sets(images, 2, seed=3),
        }
        for column, interval in expected.items():
            assert tuple(table.loc[name, [column, f"{column}, low", f"{column}, high"]]) == interval


def test_palette_finds_the_main_colors():
    images = np.concatenate([solid(200, 30, 30, n=6), solid(20, 40, 180, n=2)])
    colors, share = color.palette(images, colors=2, seed=0)
    assert np.abs(colors.astype(int) - [[200, 30, 30], [20, 40, 180]]).max() <= 1
    assert share == pytest.approx([0.75, 0.25], abs=0.02)
    assert len(color.palette(images, colors=6, seed=0)[0]) == 2


def test_bootstrap_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(0).normal(3, 2, 400)
    interval = color.bootstrap_ci(values, seed=0, resamples=4000)
    half = 1.96 * values.std() / 20
    assert interval.value == values.mean()
    assert interval.low == pytest.approx(values.mean() - half, abs=0.02)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.02)
    assert color.bootstrap_ci(values, seed=0) == color.bootstrap_ci(values, seed=0)
    assert color.bootstrap_ci(values, seed=0) != color.bootstrap_ci(values, seed=1)


def test_bootstrap_takes_statistics_of_sets():
    histograms = color.hue_histogram(noise(30))
    interval = color.bootstrap_ci(histograms, color.hue_entropy, seed=0, resamples=50)
    assert interval.value == color.hue_entropy(histograms)
    assert interval.low <= interval.high <= np.log2(36)
    narrow = color.bootstrap_ci(histograms, color.hue_entropy, level=0.5, seed=0, resamples=50)
    assert narrow.high - narrow.low < interval.high - interval.low


@pytest.mark.parametrize(
    "function",
    [
        color.colorfulness,
        color.mean_lab,
        color.hue_histogram,
        color.rgb_density,
        lambda images: color.palette(images, seed=0),
        lambda images: color.gamut_area_of_equal_sets(images, 1, seed=0),
    ],
)
def test_bad_images_are_refused(function):
    for images, named in (
        (np.full((1, 4, 4, 3), np.nan), "float64"),
        (np.zeros((1, 4, 4, 3)), "uint8"),
        (np.zeros((4, 4, 3), np.uint8), r"uint8 \(4, 4, 3\)"),
        (np.zeros((1, 3, 4, 4), np.uint8), r"uint8 \(1, 3, 4, 4\)"),
        (np.zeros((0, 4, 4, 3), np.uint8), "at least one image"),
    ):
        with pytest.raises(ValueError, match=named):
            function(images)


def test_bad_bootstraps_are_refused():
    for values, level, named in (
        ([], 0.9, "values"),
        ([1.0], 0.9, "at least two"),
        ([1.0, np.nan], 0.9, "NaN"),
        ([1.0, 2.0], 95, "level = 95"),
    ):
        with pytest.raises(ValueError, match=named):
            color.bootstrap_ci(np.array(values), level=level, seed=0)
