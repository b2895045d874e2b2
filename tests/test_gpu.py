"""The stages on every device that is here, with small models: what only a GPU can show, its first user finds here.

The CPU always runs, so that the tests themselves are known to work.
"""

import copy

import numpy as np
import pytest
import torch

from dc3 import features, fidelity, gradients, strategies, students, teacher
from dc3.generators import training_loop
from dc3.generators.tiny_editor import build_autoencoder
from dc3.images.image_set import in_memory
from dc3.models import networks
from dc3.models.editor import EditorSettings, load_editor
from dc3.models.feature_networks import classifier_network
from dc3.rded import Crops, pick_crops

THERE = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
SMALL = teacher.TeacherRecipe("conv3", epochs=2, seed=3, width=8, batch_size=16)


@pytest.fixture(
    params=[pytest.param(kind, marks=pytest.mark.skipif(not there, reason="none")) for kind, there in THERE.items()]
)
def device(request):
    return torch.device(request.param)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    labels = np.arange(36) % 3
    pixels = rng.integers(0, 150, (36, 32, 32, 3), np.uint8)
    pixels[np.arange(36), :, :, labels] += 80
    return in_memory("colours", "train", "rgb", labels, pixels)


@pytest.fixture
def model(device):
    return networks.create("conv3", 3, 32, width=8, seed=0).to(device).eval()


@pytest.mark.parametrize("amp", [None, False])
def test_factors_losses_and_picks(device, model, images, amp, tmp_path):
    """In float32 (TF32, on new GPUs) those of the CPU, in half precision near them."""
    on_cpu = copy.deepcopy(model).cpu()
    expected = gradients.to_disk(tmp_path / "g.npy", tmp_path / "h.npy", on_cpu, images, images.labels)
    found = gradients.to_disk(tmp_path / "a.npy", tmp_path / "b.npy", model, images, images.labels, amp=amp)
    tolerance = 1e-2 if amp is False else 0.1
    for ours, theirs in zip(found, expected, strict=True):
        assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()
    losses = gradients.class_losses(model, found[1], images.labels)
    assert np.abs(losses - gradients.class_losses(on_cpu, expected[1], images.labels)).max() < 0.1
    pool = strategies.Pool(images.labels, images.labels, *found, device=device)
    table = strategies.pick("dc3", pool, strategies.PickOptions(ipc=2))
    assert table["index"].is_unique and len(table) == 6


@pytest.mark.parametrize("amp", [None, False])
def test_latents(device, images, amp, tmp_path):
    torch.manual_seed(0)
    vae = build_autoencoder().eval()
    expected = features.encode(vae, images, tmp_path / "cpu.npy", size=32, dtype=np.float32)
    found = features.encode(vae.to(device), images, tmp_path / "x.npy", size=32, dtype=np.float32, amp=amp)
    assert np.abs(found - expected).max() <= (1e-2 if amp is False else 0.02) * np.abs(expected).max()
    assert features.reconstruct(vae, images.images([0, 1], 32)).shape == (2, 32, 32, 3)


def test_a_batch_of_edits(device, random_editor_folder, images):
    editor = load_editor(EditorSettings(str(random_editor_folder), 32, 1, 2.0, 1.2, 2), device)
    edited = editor.edit(images.images([0, 1]), ["sunny", "rainy"], [5, 6])
    assert edited.shape == (2, 32, 32, 3) and np.isfinite(edited).all()


def test_a_teacher_trains_stops_and_goes_on(device, images, tmp_path, monkeypatch):
    options = {"device": device, "checkpoint_path": tmp_path / "checkpoint.pt"}

    def killed(self, epoch, train_epoch=teacher._Run.train_epoch):
        if epoch == 1:
            raise KeyboardInterrupt
        return train_epoch(self, epoch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(teacher._Run, "train_epoch", killed)
        teacher.train(images, SMALL, **options)
    trained, history = teacher.train(images, SMALL, **options)
    assert [row["epoch"] for row in history] == [1, 2]
    assert next(trained.parameters()).device.type == device.type


def test_a_student_trains(device, model, images):
    protocol = students.Protocol("conv3", epochs=1, width=8, batch_size=18, factor=2, ema=0.9)
    result = students.train_student(images, model, images, protocol, seed=0)
    assert 0 <= result.final.top1 <= 1


def test_a_checkpoint_of_the_cpu_goes_on(device, tmp_path):
    def train(steps, where):
        torch.manual_seed(0)
        network = torch.nn.Linear(3, 1).to(where)
        ones = torch.ones(2, 3, device=where)
        options = {"learning_rate": 0.1, "warmup": 1, "save_every": 1}
        return training_loop.fit(
            network, lambda _: network(ones).pow(2).mean(), tmp_path / "x.pt", steps=steps, **options
        )

    first = train(2, torch.device("cpu"))
    losses = train(4, device)
    assert losses[:2] == first and losses[3] < losses[0]
    assert train(5, torch.device("cpu"))[:4] == losses


def test_crops_of_rded_are_those_of_the_cpu(model, images):
    """Ranked in float32; equal but for crops that are as good as each other."""
    crops = Crops(factor=2, num_crop=2, mipc=12)
    found = pick_crops(images, model, 2, 0, crops)
    expected = pick_crops(images, copy.deepcopy(model).cpu(), 2, 0, crops)
    assert np.abs(found["gain"] - expected["gain"]).max() < 1e-2


def test_features_of_a_set(model, images):
    network = classifier_network(model, "teacher")
    expected = fidelity.embed(images, classifier_network(copy.deepcopy(model).cpu(), "teacher"))
    found = fidelity.embed(images, network)
    assert np.abs(found.features - expected.features).max() < 1e-2 * np.abs(expected.features).max()
