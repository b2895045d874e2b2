import errno
import os

import numpy as np
import pytest

from dc3 import factors, networks, sampling
from dc3.evaluation import image_losses


@pytest.fixture(scope="module")
def teacher():
    return networks.create("conv3", 5, 16, width=8, seed=0).eval()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (11, 16, 16, 3), dtype=np.uint8)


LABELS = np.arange(11) % 5


def test_the_files_have_the_bytes_of_the_factors_in_memory(teacher, images, tmp_path):
    paths = tmp_path / "logit_grad.npy", tmp_path / "embedding.npy"
    batches = [images[:4], images[4:8], images[8:]]
    mapped = factors.to_disk(*paths, teacher, batches, LABELS)
    for path, on_disk, array in zip(paths, mapped, sampling.gradient_factors(teacher, batches, LABELS), strict=True):
        np.save(tmp_path / "expected.npy", array)
        assert path.read_bytes() == (tmp_path / "expected.npy").read_bytes()
        assert isinstance(on_disk, np.memmap) and (on_disk == array).all()


def test_images_that_run_out_leave_no_file(teacher, images, tmp_path):
    with pytest.raises(ValueError, match="images: 4 given for 11 labels"):
        factors.to_disk(tmp_path / "a.npy", tmp_path / "b.npy", teacher, [images[:4]], LABELS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="space is reserved by posix_fallocate")
def test_a_full_disk_is_said_before_the_first_batch(teacher, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def batches():
        pytest.fail("it computed")
        yield

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"no room for .* GB of gradients"):
        factors.to_disk(tmp_path / "a.npy", tmp_path / "b.npy", teacher, batches(), LABELS)
    assert list(tmp_path.iterdir()) == []


def test_the_losses_are_those_of_the_teacher_without_another_look_at_the_images(teacher, images, monkeypatch):
    monkeypatch.setattr(factors, "ROWS", 4)
    _, embedding = sampling.gradient_factors(teacher, images, LABELS)
    losses = factors.class_losses(teacher, embedding, LABELS)
    assert np.abs(losses - image_losses(teacher, images, LABELS)).max() < 1e-5
