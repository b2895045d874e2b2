import errno
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dc3 import gradients
from dc3.images.image_set import ImageSet, in_memory
from dc3.models import networks
from dc3.models.evaluation import predict


@pytest.fixture(scope="module")
def teacher():
    return networks.create("conv3", 5, 16, width=8, seed=0).eval()


def factors(*arguments, **options):
    """The factors of all batches."""
    return tuple(map(np.concatenate, zip(*gradients.factor_batches(*arguments, **options), strict=True)))


LABELS = np.arange(11) % 5


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (11, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def images(pixels):
    return in_memory("noise", "train", "abcde", LABELS, pixels)


def test_the_files_have_the_bytes_of_the_factors_in_memory(teacher, images, tmp_path):
    paths = tmp_path / "logit_grad.npy", tmp_path / "embedding.npy"
    mapped = gradients.to_disk(*paths, teacher, images, LABELS, batch_size=4)
    held = factors(teacher, images.pixels, LABELS, batch_size=4)
    for path, on_disk, array in zip(paths, mapped, held, strict=True):
        np.save(tmp_path / "expected.npy", array)
        assert path.read_bytes() == (tmp_path / "expected.npy").read_bytes()
        assert isinstance(on_disk, np.memmap) and (on_disk == array).all()


def test_amp_sets_the_precision_of_the_files(teacher, images, tmp_path):
    paths = tmp_path / "logit_grad.npy", tmp_path / "embedding.npy"
    for amp in (False, True):
        mapped = gradients.to_disk(*paths, teacher, images, LABELS, batch_size=11, amp=amp)
        held = factors(teacher, images.pixels, LABELS, amp=amp)
        for on_disk, array in zip(mapped, held, strict=True):
            assert (on_disk == array).all()
    assert (mapped[1] != factors(teacher, images.pixels, LABELS)[1]).any()


def test_too_few_images_leave_no_file(teacher, images, tmp_path):
    with pytest.raises(ValueError, match=r"labels = int64 \(11,\): expected one integer per image, 4"):
        gradients.to_disk(tmp_path / "a.npy", tmp_path / "b.npy", teacher, images.take(range(4)), LABELS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="space is reserved by posix_fallocate")
def test_a_full_disk_raises_before_the_first_batch(teacher, images, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(ImageSet, "images", lambda *_: pytest.fail("it computed"))
    with pytest.raises(OSError, match=r"no room for .* GB of gradients"):
        gradients.to_disk(tmp_path / "a.npy", tmp_path / "b.npy", teacher, images, LABELS)
    assert list(tmp_path.iterdir()) == []


def test_class_losses_are_the_teachers_losses_on_the_images(teacher, pixels, monkeypatch):
    monkeypatch.setattr(gradients, "ROWS", 4)
    _, embedding = factors(teacher, pixels, LABELS)
    losses = gradients.class_losses(teacher, embedding, LABELS)
    logits = predict(teacher, pixels, amp=False).double()
    expected = F.cross_entropy(logits, torch.from_numpy(LABELS), reduction="none").numpy()
    assert np.abs(losses - expected).max() < 1e-5
