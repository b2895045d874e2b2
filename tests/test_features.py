"""Latents on disk: the right numbers, in order, independent of company, complete or absent."""

import errno
import os
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from dc3 import features
from dc3.images import datasets
from dc3.images.decoding import UnreadableImage
from dc3.images.image_set import ImageSet


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory):
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32),
        latent_channels=4,
        norm_num_groups=8,
        layers_per_block=1,
    )
    folder = tmp_path_factory.mktemp("model")
    vae.save_pretrained(folder / "vae")
    return folder


@pytest.fixture(scope="module")
def vae(vae_folder):
    return features.load_vae(vae_folder)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), dtype=np.uint8)


def naive(vae, images, size, resampling=Image.Resampling.BILINEAR):
    rows = []
    for image in images:
        resized = np.array(Image.fromarray(image).resize((size, size), resampling))
        x = torch.from_numpy(resized).permute(2, 0, 1)[None].float() / 127.5 - 1
        rows.append(vae.encode(x).latent_dist.mean.flatten().numpy())
    return np.stack(rows)


def test_a_pipeline_folder_and_a_vae_folder_give_the_same_model(vae_folder):
    pipeline, alone = features.load_vae(vae_folder), features.load_vae(str(vae_folder / "vae"))
    assert not pipeline.training
    assert not any(parameter.requires_grad for parameter in pipeline.parameters())
    for ours, theirs in zip(pipeline.parameters(), alone.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_missing_vae_names_the_parameter(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in (tmp_path / "nowhere", tmp_path, "no/such-model"):
        with pytest.raises(FileNotFoundError, match=r"vae = .*expected a folder in diffusers format"):
            features.load_vae(name)


def test_a_vae_that_cannot_be_read_is_named_where_its_error_says_nothing(vae_folder, monkeypatch):
    monkeypatch.setattr(AutoencoderKL, "from_pretrained", Mock(side_effect=OSError))
    with pytest.raises(FileNotFoundError, match=r"cannot be loaded \(OSError\)"):
        features.load_vae(vae_folder)


def test_amp_sets_the_precision_of_the_latents(vae, images, tmp_path):
    auto, exact, half = (
        features.encode(vae, images, tmp_path / f"{amp}.npy", size=16, batch_size=4, dtype=np.float32, amp=amp)
        for amp in (None, False, True)
    )
    assert (auto == exact).all(), "on a CPU"
    assert 0 < np.abs(exact - half).max() < 0.1 * np.abs(exact).max()


@pytest.mark.parametrize(("size", "resampling"), [(16, "nearest"), (32, "nearest"), (8, "bilinear"), (32, "bicubic")])
def test_encode_is_the_posterior_mean_of_each_image(vae, images, tmp_path, size, resampling):
    options = {"size": size, "batch_size": 3, "dtype": np.float32, "resampling": resampling}
    out = features.encode(vae, images, tmp_path / "latents.npy", **options)
    expected = naive(vae, images, size, Image.Resampling[resampling.upper()])
    assert out.shape == (7, 4 * (size // 2) ** 2)
    assert np.abs(out - expected).max() < 1e-5


def test_half_precision_is_the_default_on_disk(vae, images, tmp_path):
    out = features.encode(vae, images, tmp_path / "latents.npy", size=16, batch_size=4)
    assert out.dtype == np.float16
    assert isinstance(out, np.memmap)
    assert np.abs(out - naive(vae, images, 16)).max() < 1e-2


def test_a_row_does_not_depend_on_its_batch(vae, images, tmp_path):
    def encode(chosen, name):
        return features.encode(vae, chosen, tmp_path / name, size=16, batch_size=4, dtype=np.float32)

    everything = encode(images, "all.npy")
    np.testing.assert_array_equal(encode(images[:5], "five.npy"), everything[:5])
    np.testing.assert_array_equal(encode(images[6:], "last.npy")[0], everything[6])
    np.testing.assert_array_equal(encode(images[::-1], "turned.npy"), everything[::-1])


def test_every_batch_has_one_shape(vae, images, tmp_path, monkeypatch):
    """Sums of floating-point numbers depend on the shape on some processors: the last batch is padded."""
    shapes, original = [], vae.encode
    monkeypatch.setattr(vae, "encode", lambda x: (shapes.append(tuple(x.shape)), original(x))[1])
    features.encode(vae, images, tmp_path / "latents.npy", size=16, batch_size=4)
    assert shapes == [(4, 3, 16, 16)] * 2


def test_image_sets_are_decoded_as_they_are_encoded(vae, images, tmp_path):
    for c, members in (("a", images[:3]), ("b", images[3:])):
        (tmp_path / "train" / c).mkdir(parents=True)
        for i, image in enumerate(members):
            Image.fromarray(image).save(tmp_path / "train" / c / f"{i}.png")
    image_set = datasets.load("imagefolder", "train", data_dir=tmp_path)
    from_files = features.encode(vae, image_set, tmp_path / "files.npy", size=16, batch_size=2)
    np.testing.assert_array_equal(from_files, features.encode(vae, images, tmp_path / "x.npy", size=16, batch_size=2))


def test_latents_that_are_not_finite_are_refused_and_leave_no_file(images, vae_folder, tmp_path):
    broken = features.load_vae(vae_folder)
    broken.encoder.conv_out.weight.mul_(1e9)
    with pytest.raises(ValueError, match=r"vae: the latents of image 0 are not finite in float16"):
        features.encode(broken, images, tmp_path / "latents.npy", size=16, batch_size=4)
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_image_leaves_the_older_file_alone(vae, images, tmp_path):
    out = tmp_path / "latents.npy"
    before = features.encode(vae, images, out, size=16, batch_size=4).copy()
    image_set = ImageSet("x", "train", ("a",), np.zeros(1, int), ["missing.png"], root=tmp_path)
    with pytest.raises(UnreadableImage):
        features.encode(vae, image_set, out, size=16, batch_size=4)
    np.testing.assert_array_equal(np.load(out), before)
    assert [path.name for path in tmp_path.iterdir()] == ["latents.npy"]


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="space is reserved by posix_fallocate")
def test_a_full_disk_raises_before_the_work(vae, images, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"no room for .* GB of latents") as caught:
        features.encode(vae, images, tmp_path / "latents.npy", size=16, batch_size=4)
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_bad_arguments_are_refused(vae, images, tmp_path):
    faults = {"size": (0, "size"), "batch_size": (0, "batch_size")}.items()
    wrong = [({name: value}, named) for name, (value, named) in faults] + [({"size": 15}, "size = 15: a multiple of 2")]
    for options, named in wrong:
        with pytest.raises(ValueError, match=named):
            features.encode(vae, images, tmp_path / "x.npy", **({"size": 16, "batch_size": 2} | options))
    with pytest.raises(ValueError, match="images"):
        features.encode(vae, images[:0], tmp_path / "x.npy", size=16)


def test_how_many_images_are_enlarged_is_said(vae, tmp_path, caplog):
    wide = np.zeros((3, 20, 40, 3), np.uint8)
    features.encode(vae, wide, tmp_path / "x.npy", size=16, batch_size=2)
    assert not caplog.messages
    features.encode(vae, wide, tmp_path / "x.npy", size=32, batch_size=2)
    assert "3 of 3 images are smaller than 32 px" in caplog.text
