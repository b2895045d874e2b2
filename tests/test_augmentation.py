import itertools

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from dc3.models.augmentation import (
    color_jitter,
    crop_boxes,
    cutmix,
    epoch_generator,
    mixup,
    pad_crop_flip,
    random_flip,
    shuffled_crops,
    shuffled_pixels,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=8, side=16, seed=1):
    return torch.randn(n, 3, side, side, generator=generator(seed))


def numbered(n, side):
    """Every pixel of every image has its own number."""
    return torch.arange(n * side * side, dtype=torch.float32).view(n, 1, side, side)


def stored(n=8, height=16, width=None, seed=1):
    return torch.randint(0, 256, (n, height, width or height, 3), dtype=torch.uint8, generator=generator(seed))


@pytest.mark.parametrize(
    ("height", "width", "size"), [(32, 32, 32), (64, 64, 32), (256, 256, 32), (256, 256, 224), (90, 140, 64)]
)
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_crops_are_torchvisions_antialiased_ones_of_the_shuffled_images(height, width, size, factor):
    x = stored(6, height, width)
    ours = shuffled_crops(x, factor, size, generator(3)) / 255
    again = generator(3)
    shuffled = shuffled_patches(x, factor, again).permute(0, 3, 1, 2).float() / 255
    boxes = crop_boxes(6, height, width, again, (1 / factor, 1.0)).tolist()
    pairs = zip(shuffled, boxes, strict=True)
    loop = [tv.resized_crop(image, *box, [size, size], antialias=True) for image, box in pairs]
    torch.testing.assert_close(ours, torch.stack(loop), atol=2e-5, rtol=0)


def shuffled_patches(x, factor, draws):
    """Rows and columns of patches in the drawn orders, image by image."""
    rows, columns = (shuffled_pixels(len(x), side, factor, draws) for side in x.shape[1:3])
    return torch.stack([image[r][:, c] for image, r, c in zip(x, rows, columns, strict=True)])


class RefusesFloat64(TorchDispatchMode):
    """No float64 outside the CPU, as on Apple's GPUs; "meta" stands for the device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.device.type != "cpu":
                assert tensor.dtype != torch.float64, f"{function} makes float64"
        return out


def test_crops_need_no_float64_on_the_device():
    with RefusesFloat64():
        cropped = shuffled_crops(stored().to("meta"), 2, 8, generator())
    assert cropped.shape == (8, 3, 8, 8) and cropped.dtype == torch.float32


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32), st.floats(0.02, 1), st.integers(1, 80), st.integers(1, 80))
def test_boxes_lie_inside_the_image(seed, low, height, width):
    top, left, h, w = crop_boxes(32, height, width, generator(seed), (low, 1.0)).unbind(1)
    assert (h > 0).all() and (w > 0).all()
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + h <= height).all() and (left + w <= width).all()


def test_boxes_have_torchvisions_distribution():
    from torchvision.transforms import RandomResizedCrop

    n, scale = 4000, (0.25, 1.0)
    ours = crop_boxes(n, 64, 64, generator(), scale).double()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = torch.tensor(
            [RandomResizedCrop.get_params(torch.empty(3, 64, 64), scale, (3 / 4, 4 / 3)) for _ in range(n)]
        )
    for quantile in (0.05, 0.25, 0.5, 0.75, 0.95):
        difference = ours.quantile(quantile, dim=0) - theirs.double().quantile(quantile, dim=0)
        assert difference.abs().max() <= 2, f"quantile {quantile} of top, left, height, width: {difference}"


def test_without_a_fitting_try_the_central_box_is_taken():
    boxes = crop_boxes(50, 10, 1000, generator(), (1.0, 1.0))
    assert boxes.tolist() == [[0, (1000 - 13) // 2, 10, 13]] * 50  # ratio 4/3 at full height
    boxes = crop_boxes(50, 1000, 10, generator(), (1.0, 1.0))
    assert boxes.tolist() == [[(1000 - 13) // 2, 0, 13, 10]] * 50  # ratio 3/4 at full width


@pytest.mark.parametrize("scale", [(0.0, 1.0), (0.5, 0.2), (0.5, 1.5)])
def test_impossible_scales_are_refused(scale):
    with pytest.raises(ValueError, match="scale"):
        crop_boxes(8, 16, 16, generator(), scale)


def test_flip_mirrors_about_half_of_the_images():
    x = images(400, 4)
    y = random_flip(x, generator())
    kept = (y == x).flatten(1).all(1)
    mirrored = (y == x.flip(-1)).flatten(1).all(1)
    assert (kept ^ mirrored).all()
    assert 150 < mirrored.sum() < 250


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(5, 17))
def test_shuffling_permutes_whole_patches_and_the_last_has_the_rest(seed, factor, side):
    for order in shuffled_pixels(3, side, factor, generator(seed)).tolist():
        assert sorted(order) == list(range(side))
        starts = [k * (side // factor) for k in range(factor)] + [side]
        patches = [list(range(*ends)) for ends in itertools.pairwise(starts)]
        while order:
            (patch,) = [patch for patch in patches if order[: len(patch)] == patch]
            order = order[len(patch) :]


def test_shuffling_gives_the_published_arrangements_equally_often():
    x = numbered(1, 4).permute(0, 2, 3, 1).expand(2000, -1, -1, -1)
    corners = shuffled_patches(x, 2, generator())[:, ::2, ::2, 0].flatten(1).int().tolist()
    expected = {(0, 2, 8, 10), (2, 0, 10, 8), (8, 10, 0, 2), (10, 8, 2, 0)}
    counts = {arrangement: corners.count(list(arrangement)) for arrangement in expected}
    assert sum(counts.values()) == 2000
    assert min(counts.values()) > 400
    with pytest.raises(ValueError, match="factor = 5"):
        shuffled_crops(x, 5, 4, generator())


def test_factor_1_resizes_the_whole_image():
    x = stored(3, 40)
    small = tv.resize(x.permute(0, 3, 1, 2).float(), [16, 16], antialias=True)
    torch.testing.assert_close(shuffled_crops(x, 1, 16, generator()), small, atol=5e-3, rtol=0)


def test_pad_crop_flip_is_a_window_of_the_reflected_image():
    x = images(200, 8)
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")
    windows = [padded[:, :, top : top + 8, left : left + 8] for top, left in itertools.product(range(3), range(3))]
    windows += [window.flip(-1) for window in windows]
    y = pad_crop_flip(x, generator())  # 4 · 8 // 32 = 1 px
    matches = torch.stack([(window == y).flatten(1).all(1) for window in windows])
    assert matches.any(0).all()
    assert matches.any(1).all(), "some of the 18 windows was never drawn"


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(2, 40))
def test_cutmix_fills_one_box_from_the_partners(seed, side):
    x = numbered(6, side)
    mixed, partner, lam, (top, left, bottom, right) = cutmix(x, generator(seed))
    inside = torch.zeros(side, side, dtype=torch.bool)
    inside[top:bottom, left:right] = True
    assert torch.equal(mixed, torch.where(inside, x[partner], x))
    assert lam == pytest.approx(1 - inside.float().mean().item(), abs=1e-6)
    assert partner.sort().values.tolist() == list(range(6))


def test_cutmix_boxes_have_the_area_of_one_minus_lambda():
    """Before clipping the side is ⌊S·sqrt(1 − λ)⌋ with λ uniform: boxes off the border show it."""
    side, areas = 1000, []
    for seed in range(800):
        _, _, lam, (top, left, bottom, right) = cutmix(torch.empty(2, 0, side, side), generator(seed))
        if top > 0 and left > 0 and bottom < side and right < side:
            assert bottom - top == right - left
            areas.append(1 - lam)
    sides = np.sqrt(areas)
    # a box of side s stays inside with probability (1 − s)²; the density of s is 2s for uniform λ, so E[s] = 2/5
    assert len(areas) == pytest.approx(800 / 6, rel=0.35)
    assert sides.mean() == pytest.approx(0.4, abs=0.05)


def test_mixup_is_the_convex_combination():
    x = images()
    mixed, partner, lam = mixup(x, generator(4))
    assert 0 <= lam <= 1
    torch.testing.assert_close(mixed, lam * x + (1 - lam) * x[partner])
    draws = [mixup(x[:2, :, :1, :1], generator(seed))[2] for seed in range(2000)]
    assert np.mean(draws) == pytest.approx(0.5, abs=0.03)
    assert np.var(draws) == pytest.approx(1 / (4 * (2 * 0.8 + 1)), rel=0.1)  # of Beta(α, α)


def test_all_draws_come_from_the_generator():
    x = images(8, 16)
    state = torch.get_rng_state()
    for augment in (
        lambda g: shuffled_crops(stored(), 4, 8, g),
        lambda g: random_flip(x, g),
        lambda g: pad_crop_flip(x, g),
        lambda g: cutmix(x, g)[0],
        lambda g: mixup(x, g)[0],
    ):
        assert torch.equal(augment(generator(1)), augment(generator(1)))
        assert any(not torch.equal(augment(generator(1)), augment(generator(seed))) for seed in range(2, 6))
    assert torch.equal(torch.get_rng_state(), state)


def test_epochs_are_seeded_by_seed_and_number():
    def draws(seed, epoch):
        with epoch_generator(seed, epoch) as local:
            return torch.cat([torch.rand(2, generator=local), torch.rand(2)]).tolist()

    state = torch.get_rng_state()
    assert draws(1, 2) == draws(1, 2)
    assert len({tuple(draws(seed, epoch)) for seed in range(4) for epoch in range(4)}) == 16
    assert torch.equal(torch.get_rng_state(), state)


def test_an_epoch_on_one_device_leaves_the_others_alone(monkeypatch, recwarn):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: saved.append(device) or torch.zeros(1))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: restored.append(device))
    gpu, saved, restored = torch.device("cuda:1"), [], []
    with epoch_generator(0, 0, torch.device("cpu")):
        pass
    assert saved == restored == []
    with epoch_generator(0, 0, gpu):
        pass
    assert saved == restored == [gpu] and not recwarn.list


def test_color_jitter_is_torchvisions_after_another_white_balance():
    pixels = 255 * torch.rand(6, 3, 8, 8, generator=generator(2))
    jittered = color_jitter(pixels, 0.6, generator(4))
    factors = 1 + 0.6 * (2 * torch.rand((6, 6), generator=generator(4)) - 1)
    for k, image in enumerate(pixels / 255):
        balanced = (image * (1 + factors[3:, k, None, None]) / 2).clamp(0, 1)
        expected = tv.adjust_brightness(balanced, float(factors[0, k]))
        expected = tv.adjust_contrast(expected, float(factors[1, k]))
        expected = tv.adjust_saturation(expected, float(factors[2, k]))
        assert (jittered[k] / 255 - expected).abs().max() < 1e-4
    assert torch.allclose(color_jitter(pixels, 0.0, generator()), pixels, atol=1e-3)
