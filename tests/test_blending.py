import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dc3.blending import IMAGES_NEEDED, blend

MODES = sorted(IMAGES_NEEDED)


def noise(height: int, width: int, count: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def published_gradient_weight(vertical: bool) -> np.ndarray:
    """Halves of a 256-pixel image joined by a linear ramp of 20 pixels across the middle."""
    profile = np.concatenate([np.zeros(118), np.linspace(0, 1, 20), np.ones(118)])
    return profile[:, None, None] if vertical else profile[None, :, None]


def test_gradient_at_256_pixels_is_the_published_formula_in_both_directions():
    first, second = noise(256, 256, 2)
    seen = set()
    for seed in range(20):
        result = blend([first, second], "gradient", np.random.default_rng(seed)).astype(int)
        errors = []
        for vertical in (False, True):
            weight = published_gradient_weight(vertical)
            errors.append(np.abs(np.rint((1 - weight) * first + weight * second) - result).max())
        assert min(errors) == 0
        seen.add(int(np.argmin(errors)))
    assert seen == {0, 1}


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(MODES), st.integers(2, 41), st.integers(2, 41), st.integers(0, 2**32))
def test_every_mode_works_at_every_size(mode, height, width, seed):
    images = noise(height, width, IMAGES_NEEDED[mode], seed)
    result = blend(images, mode, np.random.default_rng(seed))
    assert result.shape == (height, width, 3) and result.dtype == np.uint8
    again = blend(images, mode, np.random.default_rng(seed))
    assert (result == again).all()


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(["gradient", "random", "grid"]), st.integers(2, 33), st.integers(0, 2**32))
def test_every_pixel_lies_between_its_two_sources(mode, size, seed):
    first, second = noise(size, size + 1, 2, seed)
    result = blend([first, second], mode, np.random.default_rng(seed))
    assert (np.minimum(first, second) <= result).all() and (result <= np.maximum(first, second)).all()


def test_random_tosses_a_coin_for_every_channel_and_grid_one_for_every_cell():
    black, white = np.zeros((256, 256, 3), np.uint8), np.full((256, 256, 3), 255, np.uint8)
    coins = blend([black, white], "random", np.random.default_rng(0)) > 0
    assert 0.49 < coins.mean() < 0.51
    assert 0.4 < (coins[..., 0] != coins[..., 1]).mean() < 0.6
    cells = blend([black, white], "grid", np.random.default_rng(0)).reshape(32, 8, 32, 8, 3)
    assert (cells == cells[:, :1, :, :1, :1]).all()
    assert 0.4 < (cells > 0).mean() < 0.6


def test_fourfold_view_puts_each_image_into_its_quadrant():
    shades = [np.full((7, 9, 3), value, np.uint8) for value in (10, 60, 120, 250)]
    result = blend(shades, "fourfold_view", np.random.default_rng(0))
    assert (result[:3, :4] == 10).all() and (result[:3, 4:] == 60).all()
    assert (result[3:, :4] == 120).all() and (result[3:, 4:] == 250).all()


def test_ramp_and_cell_are_parameters():
    black, white = np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 200, np.uint8)
    wide = blend([black, white], "gradient", np.random.default_rng(0), ramp=1.0)
    assert len(np.unique(wide)) == 64
    one_cell = blend([black, white], "grid", np.random.default_rng(0), cell=1.0)
    assert len(np.unique(one_cell)) == 1


@pytest.mark.parametrize(
    ("images", "mode", "options", "named"),
    [
        (noise(8, 8, 2), "mosaic", {}, "mosaic"),
        (noise(8, 8, 2), "fourfold_view", {}, "images = 2 images: mode fourfold_view takes 4"),
        ([*noise(8, 8, 1), *noise(8, 9, 1)], "gradient", {}, "one shape"),
        ([image.astype(float) for image in noise(8, 8, 2)], "grid", {}, "float64"),
        (noise(8, 8, 2), "gradient", {"ramp": 0.0}, "ramp = 0.0"),
        (noise(8, 8, 2), "grid", {"cell": 1.5}, "cell = 1.5"),
    ],
)
def test_refusals_name_what_is_wrong(images, mode, options, named):
    with pytest.raises(ValueError, match=named):
        blend(images, mode, np.random.default_rng(0), **options)
