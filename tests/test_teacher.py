import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from dc3 import teacher
from dc3.images import datasets
from dc3.images.image_set import ImageSet, in_memory
from dc3.machine import paths
from dc3.machine.keeping import AnotherTraining
from dc3.models import checkpoints, evaluation, networks
from dc3.teacher import TeacherRecipe

CLASSES = ["red", "green", "blue"]
CPU = torch.device("cpu")
SMALL = TeacherRecipe("conv3", epochs=6, seed=3, width=8, batch_size=16)


def colours(n=60, side=16, seed=0):
    """Noise, tinted by class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    images = rng.integers(0, 150, (n, side, side, 3), np.uint8)
    images[np.arange(n), :, :, labels] += 80
    return images, labels


def image_set(n=60, side=16, seed=0):
    images, labels = colours(n, side, seed)
    return in_memory("colours", "train", CLASSES, labels, images)


class Streamed:
    """A set that hands out batches, as files on a disk would."""

    def __init__(self, images, labels=()):
        self.stored, self.labels, self.classes, self.asked = images, labels, CLASSES, 0

    def __len__(self):
        return len(self.stored)

    def images(self, indices):
        self.asked += 1
        return self.stored[np.asarray(indices)]


def weights(model):
    return torch.cat([t.detach().double().flatten() for t in model.state_dict().values()])


@pytest.fixture(scope="module")
def trained():
    return teacher.train(image_set(), SMALL, test=image_set(seed=1), evaluate_every=2, device="cpu")


def test_training_learns_and_returns_its_history(trained):
    model, history = trained
    assert not model.training
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5, 6]
    assert [row["epoch"] for row in history if "test_accuracy" in row] == [2, 4, 6]
    assert history[-1]["test_accuracy"] > 0.8
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[-1]["lr"] < 0.01 * max(row["lr"] for row in history)
    assert evaluation.accuracy(model, *colours(seed=1)) == history[-1]["test_accuracy"]


def test_training_is_the_same_bits_again_and_streamed(trained):
    images, labels = colours()
    streamed = Streamed(images, labels)
    again, _ = teacher.train(streamed, SMALL, device="cpu")
    assert streamed.asked >= 6 * 4
    assert torch.equal(weights(again), weights(trained[0]))
    other, _ = teacher.train(image_set(), replace(SMALL, seed=4), device="cpu")
    assert not torch.equal(weights(other), weights(trained[0]))


def with_dropout(classes, size, width):
    """Draws from torch's global generator in every forward pass."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, 8), nn.Dropout(), nn.Linear(8, classes))


@pytest.mark.parametrize(("network", "jitter"), [("conv3", 0.0), ("conv3", 0.4), ("with_dropout", 0.0)])
def test_a_killed_training_resumes_to_the_same_weights(network, jitter, tmp_path, monkeypatch):
    monkeypatch.setitem(networks.NETWORKS, "with_dropout", networks.Network(with_dropout, 1e-3))
    images, recipe = image_set(34), replace(SMALL, network=network, epochs=4, lr=0.02, jitter=jitter)
    undisturbed, expected_history = teacher.train(images, recipe, device="cpu")

    def killed(self, epoch, train_epoch=teacher._Run.train_epoch):
        if epoch == 3:
            raise KeyboardInterrupt
        return train_epoch(self, epoch)

    path = tmp_path / "checkpoint.pt"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(teacher._Run, "train_epoch", killed)
        teacher.train(images, recipe, device="cpu", checkpoint_path=path)
    torch.manual_seed(99)
    resumed, history = teacher.train(images, recipe, device="cpu", checkpoint_path=path)
    assert torch.equal(weights(resumed), weights(undisturbed))
    assert history == expected_history
    finished, history = teacher.train(images, recipe, device="cpu", checkpoint_path=path)
    assert torch.equal(weights(finished), weights(undisturbed))
    assert len(history) == 4
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"], "temporary files were left behind"


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    images, path = image_set(20), tmp_path / "checkpoint.pt"
    recipe, options = replace(SMALL, epochs=1), {"device": "cpu", "checkpoint_path": path}
    teacher.train(images, recipe, **options)
    with pytest.raises(ValueError, match=r"another training \(epochs 1 → 2, seed 3 → 5\)"):
        teacher.train(images, replace(recipe, epochs=2, seed=5), **options)
    with pytest.raises(ValueError, match="labels"):
        teacher.train(replace(images, labels=(images.labels + 1) % 3), recipe, **options)
    changed = replace(images, pixels=images.pixels.copy())
    changed.pixels[7, 3, 2, 1] ^= 1
    with pytest.raises(AnotherTraining, match=r"another training \(images '\w+' → '\w+'\): remove it"):
        teacher.train(changed, recipe, **options)
    with pytest.raises(AnotherTraining, match="images"):
        teacher.train(Streamed(changed.pixels, changed.labels), recipe, **options)


def test_a_set_has_one_digest_whether_it_lies_in_memory_or_is_streamed(monkeypatch):
    monkeypatch.setattr(evaluation, "DIGEST_BATCH", 7)
    images, _ = colours(20)
    assert evaluation.images_digest(Streamed(images)) == evaluation.images_digest(images)
    other = images.copy()
    other[19, 15, 15, 2] ^= 1
    digests = [evaluation.images_digest(each) for each in (images, other, images[:19], images.reshape(5, 32, 32, 3))]
    assert len(set(digests)) == 4


def test_the_runs_teacher_is_trained_anew_when_its_images_have_changed(tmp_path):
    first, recipe = image_set(30), replace(SMALL, epochs=2)
    common = {"device": CPU, "checkpoint_path": tmp_path / "checkpoint.pt", "min_accuracy": 0.0}
    before, _ = teacher.obtain("train", first, first, recipe, **common)
    again, _ = teacher.obtain("train", first, first, recipe, **common)
    assert torch.equal(weights(again), weights(before))
    changed = replace(first, pixels=255 - first.pixels)
    after, history = teacher.obtain("train", changed, first, recipe, **common)
    assert not torch.equal(weights(after), weights(before)) and len(history) == 2


def test_a_lone_last_image_joins_a_batch():
    assert [len(b) for b in evaluation.batches(torch.arange(33), 16)] == [16, 17]
    assert [len(b) for b in evaluation.batches(torch.arange(34), 16)] == [16, 16, 2]
    assert [len(b) for b in evaluation.batches(torch.arange(1), 16)] == [1]
    assert torch.cat(evaluation.batches(torch.arange(33), 16)).tolist() == list(range(33))


def test_bad_training_input_is_refused():
    images = image_set(20)
    for changed, message in [
        ({"pixels": images.pixels.astype(np.float32)}, "uint8"),
        ({"pixels": images.pixels[:, :8]}, "uint8"),
        ({"labels": images.labels - 1}, r"labels = -1 … 1: expected class numbers 0 … 2"),
        ({"classes": tuple(CLASSES[:2])}, r"labels = 0 … 2: expected class numbers 0 … 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            teacher.train(replace(images, **changed), SMALL, device="cpu")
    with pytest.raises(ValueError, match=r"integer per image, 20"):
        teacher.train(Streamed(images.pixels, images.labels[:-1]), SMALL, device="cpu")
    with pytest.raises(FloatingPointError, match="lower lr"):
        teacher.train(images, replace(SMALL, epochs=9, lr=1e20), device="cpu")


def test_jitter_changes_the_images_that_a_teacher_is_trained_on_and_it_learns_all_the_same():
    plain, jittered = (
        teacher.train(image_set(40), replace(SMALL, jitter=jitter), test=image_set(20), device="cpu")[1]
        for jitter in (0.0, 0.3)
    )
    assert jittered[0]["loss"] != plain[0]["loss"]
    assert jittered[-1]["test_accuracy"] > 0.5, "chance is a third"


def test_scores_by_hand(trained):
    images, _ = colours(12)
    logits = evaluation.predict(trained[0], images, batch_size=5)
    order = logits.argsort(dim=1, descending=True)
    labels = order[:, 0].clone()
    labels[:3] = order[:3, 1]  # three of twelve are second guesses
    result = evaluation.evaluate(trained[0], images, labels.numpy(), batch_size=5)
    assert result.top1 == pytest.approx(9 / 12)
    assert result.top5 == 1.0, "three classes: all of them are within the first five"
    naive = [np.mean([order[i, 0] == c for i in range(12) if labels[i] == c] or [np.nan]) for c in range(3)]
    np.testing.assert_allclose(result.per_class, naive, atol=1e-12)
    with pytest.raises(ValueError, match="labels = 3 … 3: expected class numbers 0 … 2"):
        evaluation.evaluate(trained[0], images, np.full(12, 3))


def test_saved_teachers_come_back(trained, tmp_path):
    path = tmp_path / "teacher.safetensors"
    checkpoints.save(trained[0], path, network="conv3", classes=CLASSES, image_size=16, accuracy=0.9)
    loaded = checkpoints.load(path)
    assert (loaded.network, loaded.classes, loaded.image_size, loaded.accuracy) == ("conv3", CLASSES, 16, 0.9)
    assert not loaded.model.training
    images, _ = colours(9)
    assert torch.equal(evaluation.predict(loaded.model, images), evaluation.predict(trained[0], images))
    with pytest.raises(FileNotFoundError, match="no teacher at"):
        checkpoints.load(tmp_path / "none.safetensors")
    torch.save(trained[0].state_dict(), tmp_path / "plain.pt")
    with pytest.raises(ValueError, match="not a safetensors file"):
        checkpoints.load(tmp_path / "plain.pt")


@pytest.mark.parametrize(("network", "image_size"), [("mobilenet_v2", 32), ("swin_v2_t", 64)])
def test_teachers_from_torchvisions_weights_come_back_in_their_layout(network, image_size, tmp_path, monkeypatch):
    """mobilenet_v2 loads into our layout for small images too, and is another network there; swin_v2_t does not."""
    get_model = torchvision.models.get_model
    with monkeypatch.context() as offline:
        offline.setattr(torchvision.models, "get_model", lambda name, weights: get_model(name, weights=None))
        model = networks.create(network, 3, image_size, weights="IMAGENET1K_V1").eval()
    path = tmp_path / "teacher.safetensors"
    checkpoints.save(model, path, network=network, classes=CLASSES, image_size=image_size)
    loaded = checkpoints.load(path).model
    images, _ = colours(3, side=image_size)
    assert torch.equal(evaluation.predict(loaded, images), evaluation.predict(model, images))
    checkpoints.save(loaded, path, network=network, classes=CLASSES, image_size=image_size)
    assert checkpoints.load(path).model.layout == "torchvision", "also when it is saved again, as 00_teacher does"


def test_teachers_saved_before_layouts_were_kept_are_ours(trained, tmp_path):
    path = tmp_path / "teacher.safetensors"
    checkpoints.save(trained[0], path, network="conv3", classes=CLASSES, image_size=16)
    with safetensors.safe_open(path, "pt") as file:
        about = json.loads(file.metadata()[checkpoints.METADATA])
    assert about.pop("layout") == "dc3"
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, {checkpoints.METADATA: json.dumps(about)})
    images, _ = colours(9)
    assert torch.equal(evaluation.predict(checkpoints.load(path).model, images), evaluation.predict(trained[0], images))


def rded_names(model):
    names = {"0": "conv", "1": "norm"}
    state = {}
    for name, tensor in model.state_dict().items():
        block, *rest = name.split(".")
        own = f"classifier.{rest[0]}" if len(rest) == 1 else f"layers.{names[rest[0]]}.{block}.{rest[1]}"
        state[own] = tensor
    return state


@pytest.mark.parametrize("wrap", ["plain", "model", "module", "rded", "safetensors"])
def test_foreign_checkpoints_load(trained, tmp_path, wrap):
    state, path = trained[0].state_dict(), tmp_path / f"foreign.{'safetensors' if wrap == 'safetensors' else 'pth'}"
    if wrap == "safetensors":
        checkpoints.save(trained[0], path, network="conv3", classes=CLASSES, image_size=16)
    else:
        module = {f"module.{name}": tensor for name, tensor in state.items()}
        wrapped = {
            "plain": state,
            "model": {"model": state, "epoch": 3},
            "module": {"state_dict": module, "optimizer": {}},
            "rded": {"model": rded_names(trained[0])},
        }
        torch.save(wrapped[wrap], path)
    model = checkpoints.load_foreign(path, "conv3", 3, 16, width=8)
    images, _ = colours(9)
    assert torch.equal(evaluation.predict(model, images), evaluation.predict(trained[0], images))


def test_checkpoints_that_do_not_fit_are_refused_with_the_difference(trained, tmp_path):
    path = tmp_path / "foreign.pth"
    state = dict(trained[0].state_dict())
    head = next(name for name in state if name.startswith("4.") and name.endswith("weight"))
    torch.save(state, path)
    with pytest.raises(ValueError, match=rf"{head} \(3, 32\) instead of \(10, 32\)"):
        checkpoints.load_foreign(path, "conv3", 10, 16, width=8)
    state["surplus"] = state.pop(head)
    torch.save(state, path)
    with pytest.raises(ValueError, match=rf"1 missing \({head}\); 1 left over \(surplus\)"):
        checkpoints.load_foreign(path, "conv3", 3, 16, width=8)
    path.write_bytes(pickle.dumps(Streamed(None), protocol=2))
    with pytest.raises(ValueError, match="weights only"):
        checkpoints.load_foreign(path, "conv3", 3, 16, width=8)
    with pytest.raises(FileNotFoundError):
        checkpoints.load_foreign(tmp_path / "none", "conv3", 3, 16)


def test_class_orders_are_compared():
    checkpoints.check_classes(CLASSES, tuple(CLASSES))
    checkpoints.check_classes(["cafe\u0301", "the"], ["caf\xe9", "the"])
    with pytest.raises(ValueError, match=r"another order: its output 1 is 'green', the data's class 1 is 'blue'"):
        checkpoints.check_classes(CLASSES, ["red", "blue", "green"])
    with pytest.raises(ValueError, match=r"1 only in the data \(pink\), 1 only in the teacher \(red\)"):
        checkpoints.check_classes(CLASSES, ["pink", "green", "blue"])
    with pytest.raises(ValueError, match="other classes"):
        checkpoints.check_classes(["red", "red"], ["red"])


def test_bfloat16_on_request_stays_close(trained):
    images, _ = colours(9)
    full, half = (evaluation.predict(trained[0], images, amp=amp) for amp in (False, True))
    assert half.dtype == torch.float32
    assert 0 < (full - half).abs().max() < 0.1 * full.abs().max()


def test_a_teacher_below_the_minimum_accuracy_is_refused_with_advice(trained, tmp_path):
    images, labels = colours(n=30, seed=5)
    test = ImageSet("colours", "test", tuple(CLASSES), labels, [f"{i}" for i in range(30)], images)
    recipe, common = replace(SMALL, epochs=1), {"device": CPU, "checkpoint_path": tmp_path / "checkpoint.pt"}
    with pytest.raises(ValueError, match=r"less than teacher_min_accuracy = 100.0%.*teacher_epochs = 1.*or lower"):
        teacher.obtain("train", test, replace(test, labels=(labels + 1) % 3), recipe, min_accuracy=1.0, **common)
    model, _ = trained
    file = tmp_path / "teacher.pt"
    torch.save({f"module.{name}": value for name, value in model.state_dict().items()}, file)
    turned = replace(test, labels=(labels + 1) % 3)
    with pytest.raises(ValueError, match=r"are its classes in the order .'red', 'green', 'blue'"):
        teacher.obtain(str(file), turned, turned, recipe, min_accuracy=0.5, **common)


@pytest.mark.parametrize("steps", range(1, 12))
def test_a_teacher_of_any_number_of_steps_is_trained(steps):
    recipe = TeacherRecipe("conv3", epochs=1, seed=0, width=4, batch_size=4)
    _, history = teacher.train(image_set(n=4 * steps, side=8), recipe, device="cpu")
    assert np.isfinite(history[0]["loss"]) and history[0]["lr"] >= 0


@pytest.mark.parametrize("file", teacher.SHIPPED)
def test_a_shipped_teacher_knows_the_images_that_it_was_trained_for(file):
    made, shipped = teacher.SHIPPED[file], checkpoints.load(paths.REPOSITORY / file)
    assert (shipped.network, shipped.image_size) == (made["teacher_network"], made["image_size"])
    test = datasets.load(made["dataset"], "test").as_tested(made["image_size"])
    assert shipped.classes == list(test.classes)
    measured = evaluation.accuracy(shipped.model, test, test.labels)
    assert measured == pytest.approx(shipped.accuracy, abs=0.01) and measured > 0.85


def test_auto_is_a_shipped_teacher_where_it_fits_and_else_training():
    (file, made), *_ = teacher.SHIPPED.items()
    assert teacher.chosen(made | {"teacher": "auto"}) == file
    others = {"dataset": "imagefolder", "images_per_class": 40, "image_size": 64, "teacher_width": 32}
    for name, value in others.items():
        assert teacher.chosen(made | {"teacher": "auto", name: value}) == "train", name
    assert teacher.chosen(made | {"teacher": "train"}) == "train"
