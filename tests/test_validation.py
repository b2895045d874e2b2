import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from dc3 import students, teacher, validation
from dc3.images.image_set import in_memory
from dc3.models import networks
from dc3.models.augmentation import cutmix, epoch_generator, mix_seed, normalise
from dc3.runs.parameters import declared
from dc3.students import Protocol, train_student
from dc3.validation import validate

CLASSES = 4


def colours(ipc, seed=0, side=32):
    """Noise, tinted by class: red, green, blue or grey."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(CLASSES), ipc)
    tint = 70 * np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
    images = rng.integers(0, 150, (len(labels), side, side, 3)) + tint[labels, None, None]
    return images.astype(np.uint8), labels


def image_set(ipc, seed=0, side=32):
    images, labels = colours(ipc, seed, side)
    return in_memory("colours", "train", "rgbw", labels, images)


TEST = image_set(20, seed=9)
PROTOCOL = Protocol("conv3", epochs=12, width=16)


class Oracle(nn.Module):
    """A teacher that reads the mean colour."""

    def __init__(self, classes=CLASSES):
        super().__init__()
        self.head = nn.Linear(3, classes)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[2.0, -1, -1], [-1, 2, -1], [-1, -1, 2], [1, 1, 1]])[:classes] * 20)
            self.head.bias.zero_()
        self.forwards = 0

    def forward(self, x):
        assert not self.training and not torch.is_grad_enabled(), "the teacher is not frozen"
        self.forwards += 1
        return self.head(x.mean((2, 3)))


def weights(model):
    return torch.cat([t.detach().double().flatten() for t in model.state_dict().values()])


def test_learning_rate_falls_along_half_a_cosine_to_half():
    assert students.lr_factor(0, 300) == 1
    assert students.lr_factor(150, 300) == pytest.approx(0.5 * (1 + math.sqrt(0.5)))
    assert students.lr_factor(300, 300) == pytest.approx(0.5)
    # LambdaLR's shape by hand for epochs = 3: cos 0°, 30°, 60°
    assert [students.lr_factor(e, 3) for e in range(3)] == pytest.approx([1, 0.9330127, 0.75])


@pytest.mark.parametrize(
    ("classes", "ipc", "expected"),
    [
        (10, 1, 10), (10, 10, 50), (10, 50, 100), (10, 20, 50), (10, 100, 100),
        (100, 1, 20), (100, 10, 100), (100, 50, 200), (1000, 10, 100), (1000, 50, 200),
        (200, 1, 100), (200, 10, 100), (200, 50, 100), (3, 1, 3), (4, 10, 40),
    ],
)  # fmt: skip
def test_batch_size_rule(classes, ipc, expected):
    assert students.rded_batch(classes, ipc) == expected


@pytest.mark.parametrize("name", ["conv3", "vit_b_16"])
def test_only_weights_of_more_than_one_dimension_decay(name):
    with torch.device("meta"):
        model = networks.NETWORKS[name].build(10, 32, 16)
    decaying, free = students.parameter_groups(model, 0.01)
    assert (decaying["weight_decay"], free["weight_decay"]) == (0.01, 0.0)
    names = {id(p): n for n, p in model.named_parameters()}
    assert len(names) == len(decaying["params"]) + len(free["params"])
    assert all(p.ndim > 1 and "weight" in names[id(p)] for p in decaying["params"])
    modules = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert {id(m.weight) for m in modules} <= {id(p) for p in decaying["params"]}
    if name == "vit_b_16":
        assert {"class_token", "encoder.pos_embedding"} <= {names[id(p)] for p in free["params"]}


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_distillation_loss_is_the_kullback_leibler_divergence(temperature):
    student, teacher = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64) * 9
    p = np.exp(teacher.numpy() / temperature)
    q = np.exp(student.numpy() / temperature)
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    expected = (p * np.log(p / q)).sum() / 6
    assert students.distillation_loss(student, teacher, temperature).item() == pytest.approx(expected, abs=1e-12)


def test_temperatures_go_with_the_mix():
    assert students.TEMPERATURE["cutmix"] == 20
    assert students.TEMPERATURE["mixup"] == 4


def test_augmentation_with_factor_1_only_flips():
    stored = torch.randint(0, 256, (40, 8, 8, 3), dtype=torch.uint8)
    x = normalise(stored)
    y = students.augment(stored, 1, 8, torch.Generator().manual_seed(0))
    assert all(torch.equal(b, a) or torch.equal(b, a.flip(-1)) for a, b in zip(x, y, strict=True))
    z = students.augment(stored, 2, 8, torch.Generator().manual_seed(0))
    assert sum(torch.equal(b, a) or torch.equal(b, a.flip(-1)) for a, b in zip(x, z, strict=True)) < 20


def naive_training(images, labels, teacher, epochs, seed, soft):
    """The protocol written out for one full batch with CutMix at factor 1: each step from its formula."""
    student = networks.create("conv3", CLASSES, 32, 16, seed=mix_seed(seed, "student"))
    decaying = [p for p in student.parameters() if p.ndim > 1]
    free = [p for p in student.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW([{"params": decaying, "weight_decay": 0.01}, {"params": free, "weight_decay": 0}])
    for epoch in range(epochs):
        student.train()
        with epoch_generator(seed, epoch) as generator:
            order = torch.randperm(len(labels), generator=generator)
            x = students.augment(torch.tensor(images[order.numpy()]), 1, 32, generator)
            x, partner, lam = cutmix(x, generator)[:3]
        z, y = student(x), torch.tensor(labels)[order]
        if soft:
            with torch.no_grad():
                p = (teacher.eval()(x) / 20).softmax(1)
            loss = (p * (p.log() - (z / 20).softmax(1).log())).sum(1).mean()
        else:
            picked = -(z.softmax(1).log())
            loss = (lam * picked.gather(1, y[:, None]) + (1 - lam) * picked.gather(1, y[partner][:, None])).mean()
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * epoch / (2 * epochs)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return student


@pytest.mark.parametrize("soft", [True, False])
def test_training_is_the_protocol_written_out(soft):
    images, labels = colours(3)
    written = replace(PROTOCOL, epochs=3, soft=soft, batch_size=12)
    result = train_student(image_set(3), Oracle(), TEST, written, seed=5)
    expected = naive_training(images, labels, Oracle(), 3, 5, soft)
    for (name, ours), theirs in zip(result.model.named_parameters(), expected.parameters(), strict=True):
        if not name.endswith(
            ".0.bias"
        ):  # before a batch norm its gradient is rounding noise, which AdamW makes steps of
            torch.testing.assert_close(ours, theirs, atol=5e-5, rtol=0, msg=name)


def test_student_learns_colours():
    result = train_student(image_set(10), Oracle(), TEST, PROTOCOL, seed=0)
    assert result.final.top1 > 0.6, "chance is 0.25"
    assert result.final.top1 == result.history[-1]["top1"]
    assert result.final.per_class.mean() == pytest.approx(result.final.top1)
    assert not result.model.training
    assert [row["epoch"] for row in result.history] == list(range(1, 13))
    assert [row["lr"] for row in result.history] == [1e-3 * students.lr_factor(e, 12) for e in range(12)]


@pytest.mark.parametrize(
    "changed",
    [
        {"mix": "mixup"},
        {"mix": "none", "soft": False},
        {"factor": 2},
        {"ema": 0.9, "lr": 0.01},
        {"hard_share": 0.2},
        {"amp": True},
    ],
)
def test_options_train(changed):
    protocol = replace(PROTOCOL, epochs=20, evaluate_every=0, **changed)
    result = train_student(image_set(10), Oracle(), TEST, protocol, seed=0)
    assert result.final.top1 > 0.45
    assert sum("top1" in row for row in result.history) == 1


@pytest.mark.parametrize(
    ("epochs", "share", "hard"), [(10, 0.0, []), (10, 0.2, [4, 5]), (5, 0.2, [2]), (3, 0.1, []), (10, 0.9, range(9))]
)
def test_hard_epochs_are_a_share_in_the_middle(epochs, share, hard):
    assert list(replace(PROTOCOL, epochs=epochs, hard_share=share).hard_epochs) == list(hard)


def test_epochs_with_hard_labels_do_not_ask_the_teacher():
    """The first two of five epochs are as with soft labels alone; the third saves a pass of the teacher."""
    runs = {}
    for share in (0.0, 0.2):
        oracle = Oracle()
        protocol = replace(PROTOCOL, epochs=5, hard_share=share, evaluate_every=0)
        runs[share] = [row["loss"] for row in train_student(image_set(10), oracle, TEST, protocol, seed=0).history]
        runs[share, "asked"] = oracle.forwards
    assert runs[0.0][:2] == runs[0.2][:2] and runs[0.0][2] != runs[0.2][2]
    assert runs[0.2, "asked"] == runs[0.0, "asked"] - 1


def test_hard_labels_need_no_teacher():
    result = train_student(image_set(10), None, TEST, replace(PROTOCOL, soft=False), seed=0)
    assert result.final.top1 > 0.6


def test_same_seed_same_bits():
    protocol = replace(PROTOCOL, epochs=2, factor=2, evaluate_every=0)
    torch.manual_seed(1)
    first = train_student(image_set(10), Oracle(), TEST, protocol, seed=3)
    torch.manual_seed(2)
    again = train_student(image_set(10), Oracle(), TEST, protocol, seed=3)
    other = train_student(image_set(10), Oracle(), TEST, protocol, seed=4)
    assert torch.equal(weights(first.model), weights(again.model))
    assert not torch.equal(weights(first.model), weights(other.model))
    assert first.history == again.history


def test_a_student_never_starts_from_its_teachers_start(monkeypatch):
    """Not even with the same seed and network: it would imitate more easily, whatever the images are worth."""
    starts, create = [], networks.create

    def recorded(*arguments, **options):
        model = create(*arguments, **options)
        starts.append(networks.last_linear(model).weight.detach().clone())
        return model

    monkeypatch.setattr(networks, "create", recorded)
    images, recipe = image_set(2), teacher.TeacherRecipe("conv3", epochs=1, seed=0, width=16)
    trained, _ = teacher.train(images, recipe, device="cpu")
    train_student(images, trained, TEST, replace(PROTOCOL, epochs=1), seed=0)
    assert starts[0].shape == starts[1].shape
    assert not torch.equal(*starts)


def test_one_teacher_and_one_student_forward_a_step(monkeypatch):
    oracle, forwards = Oracle(), []
    build = networks.NETWORKS["conv3"].build

    def counted(*arguments):
        model = build(*arguments)
        model.register_forward_hook(lambda module, *_: forwards.append(module.training))
        return model

    monkeypatch.setitem(networks.NETWORKS, "conv3", networks.Network(counted, 1e-3))
    train_student(image_set(10), oracle, TEST, replace(PROTOCOL, epochs=2, batch_size=20), seed=0)
    assert sum(forwards) == 2 * 2
    assert oracle.forwards == 2 * 2 + 1, "one look at the image size, then one forward a step"


def test_bad_sets_are_refused_before_training(monkeypatch):
    monkeypatch.setattr(students._Student, "fit", lambda *_: pytest.fail("training began"))
    images = image_set(5)
    for train, oracle, test, message in [
        (images.take(range(5, 20)), Oracle(), TEST, r"no images of 1 classes: \[0\]"),
        (images.take(range(1, 20)), Oracle(), TEST, r"4 images of class 0 and 5 of class 1.*equally many"),
        (images, Oracle(3), TEST, r"labels = 0 … 3: expected class numbers 0 … 2"),
        (images, networks.create("conv3", 4, 16, 8), TEST, r"teacher: does not accept image_size 32"),
        (images, networks.create("conv3", 9, 32, 8), TEST, r"no images of 5 classes"),
        (images, None, TEST, r"soft = True: needs a teacher"),
        (images, Oracle(), replace(TEST, labels=TEST.labels + 1), r"test labels = 1 … 4: expected"),
    ]:
        with pytest.raises(ValueError, match=message):
            train_student(train, oracle, test, PROTOCOL, seed=0)
    with pytest.raises(ValueError, match=r"conv6.*≥ 64"):
        train_student(images, Oracle(), TEST, replace(PROTOCOL, network="conv6"), seed=0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"network": "conv9"}, r"network = 'conv9': choose one of conv3"),
        ({"mix": "blend"}, r"mix = 'blend': choose one of cutmix, mixup, none"),
        ({"epochs": 0}, r"epochs = 0: at least 1"),
        ({"lr": -1.0}, r"lr = -1.0: a finite number above 0"),
        ({"ema": 1.0}, r"ema = 1.0: a decay"),
        ({"hard_share": 1.0}, r"hard_share = 1.0: from 0 to below 1"),
        ({"hard_share": 0.2, "soft": False}, r"hard_share = 0.2: .* only where soft_labels is true"),
    ],
)
def test_a_protocol_of_bad_values_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        replace(PROTOCOL, **changed)


def test_a_batch_in_more_parts_than_it_has_images_has_a_loss():
    small = replace(PROTOCOL, epochs=2, batch_size=3, accumulate=9)  # the last of 20 images are a batch of two
    history = train_student(image_set(5), Oracle(), TEST, small, seed=0).history
    assert np.isfinite([row["loss"] for row in history]).all()


def test_a_student_whose_loss_is_not_finite_is_no_result():
    diverging = replace(PROTOCOL, lr=1e30)
    with pytest.raises(FloatingPointError, match=r"student_lr = 1e\+30: the loss of conv3 is nan in epoch \d+; lower"):
        train_student(image_set(10), Oracle(), TEST, diverging, seed=0)


def test_the_teachers_view_of_sets_and_of_their_sources():
    sure = image_set(5)
    grey = replace(sure, pixels=np.full_like(sure.images(), 128))
    view = validation.teachers_view({"sure": sure, "grey": grey}, Oracle(), 32, {"grey": sure}).set_index("method")
    assert view.loc["sure", "recognised"] == 1 and np.isnan(view.loc["sure", "agreement"])
    assert view.loc["sure", "entropy"] < view.loc["grey", "entropy"] <= 2, "bits of four classes"
    assert view.loc["grey", "recognised"] == view.loc["grey", "agreement"] == 0.25, "one answer for all"
    assert view["ipc"].tolist() == [5, 5]


def test_validate_gives_a_tidy_table():
    sets = {"second": image_set(2, seed=1), "first": image_set(2, seed=2)}
    table = validate(sets, Oracle(), TEST, replace(PROTOCOL, epochs=4, evaluate_every=2), seeds=[7, 8])
    assert len(table) == 2 * 2 * 4
    assert list(table.columns) == ["method", "network", "seed", "epoch", "loss", "lr", "top1", "top5", "per_class"]
    last = table[table.epoch == 4]
    assert np.allclose([np.mean(row) for row in last.per_class], last.top1) and table.per_class.count() == len(last)
    assert table[table.top1.notna()].epoch.unique().tolist() == [2, 4]


def test_each_student_of_a_redrawn_set_has_its_own_draw():
    draws, protocol = [image_set(2, seed=1), image_set(2, seed=2)], replace(PROTOCOL, epochs=2)
    table = validate({"random": draws[0]}, Oracle(), TEST, protocol, seeds=[7, 8], redrawn={"random": draws})
    for seed, images in zip([7, 8], draws, strict=True):
        alone = validate({"random": images}, Oracle(), TEST, protocol, seeds=[seed])
        pd.testing.assert_frame_equal(table[table.seed == seed].reset_index(drop=True), alone)
    with pytest.raises(ValueError, match="redrawn: has 2 sets for random; give one for each of 1 seeds"):
        validate({"random": draws[0]}, Oracle(), TEST, protocol, seeds=[7], redrawn={"random": draws})


@pytest.mark.parametrize("changed", [{}, {"ema": 0.9}, {"hard_share": 0.5}, {"network": "resnet18_modified"}])
def test_a_killed_student_continues_to_the_same_student_from_its_checkpoint(changed, tmp_path, monkeypatch):
    sets, oracle, protocol = {"one": image_set(2, seed=1)}, Oracle(), replace(PROTOCOL, epochs=4, **changed)
    undisturbed = validate(sets, oracle, TEST, protocol, seeds=[7])
    trained = []

    def epoch(self, number, *data, killed=3, one=students._Student._epoch):
        if number == killed and killed not in trained:
            trained.append(number)
            raise KeyboardInterrupt
        trained.append(number)
        return one(self, number, *data)

    monkeypatch.setattr(students._Student, "_epoch", epoch)
    monkeypatch.setattr(students, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        validate(sets, oracle, TEST, protocol, seeds=[7], keep=tmp_path)
    assert [file.suffix for file in tmp_path.iterdir()] == [".pt"]
    torch.manual_seed(99)
    continued = validate(sets, oracle, TEST, protocol, seeds=[7], keep=tmp_path)
    assert trained == [0, 1, 2, 3, 3]
    pd.testing.assert_frame_equal(continued, undisturbed, check_exact=True, check_like=True)
    assert [file.suffix for file in tmp_path.iterdir()] == [".parquet"], "a finished student needs no checkpoint"


def test_a_killed_student_leaves_its_checkpoint_only_until_another_is_trained(tmp_path, monkeypatch):
    sets, oracle, protocol = {"one": image_set(2, seed=1)}, Oracle(), replace(PROTOCOL, epochs=2)

    def killed_after_a_checkpoint(*_, checkpoint_path, **__):
        checkpoint_path.write_bytes(b"half a training")
        raise KeyboardInterrupt

    validate(sets, oracle, TEST, protocol, seeds=[7], keep=tmp_path)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(validation, "train_student", killed_after_a_checkpoint)
        validate(sets, oracle, TEST, protocol, seeds=[8], keep=tmp_path)
    validate(sets, oracle, TEST, protocol, seeds=[7], keep=tmp_path)
    assert len(list(tmp_path.glob("*.pt"))) == 1, "a student that is kept leaves it"
    validate(sets, oracle, TEST, replace(protocol, mix="none"), seeds=[7], keep=tmp_path)
    assert not list(tmp_path.glob("*.pt"))


def test_kept_students_are_not_trained_again_and_others_are(tmp_path, monkeypatch):
    sets, oracle, protocol = {"one": image_set(2, seed=1)}, Oracle(), replace(PROTOCOL, epochs=3)
    first = validate(sets, oracle, TEST, protocol, seeds=[7], keep=tmp_path)
    trained = []
    monkeypatch.setattr(
        validation, "train_student", lambda *a, **k: trained.append(k["seed"]) or train_student(*a, **k)
    )
    again = validate(sets, oracle, TEST, protocol, seeds=[7, 8], keep=tmp_path)
    assert trained == [8]
    pd.testing.assert_frame_equal(again[again.seed == 7], first, check_like=True)
    validate({"another name": sets["one"]}, oracle, TEST, protocol, seeds=[7], keep=tmp_path)
    assert trained == [8], "it is the same set"
    validate(sets, oracle, TEST, replace(protocol, mix="none"), seeds=[7], keep=tmp_path)
    validate({"one": image_set(2, seed=2)}, oracle, TEST, protocol, seeds=[7], keep=tmp_path)
    assert trained == [8, 7, 7], "another protocol or other images are another student"
    for _ in range(2):
        validate(sets, oracle, replace(TEST, pixels=255 - TEST.pixels), protocol, seeds=[7], keep=tmp_path)
    assert trained == [8, 7, 7, 7], "it was tested on other images"


def test_ranking_trains_both_sets_in_the_same_ways(tmp_path):
    condensed, random = image_set(4, seed=1), image_set(4, seed=2)
    options = {"real_hard": 0.9, "seeds": [0], "keep": tmp_path}
    common = Oracle(), TEST, replace(PROTOCOL, epochs=2)
    scores = validation.ranking(condensed, random, *common, **options)
    assert scores["HLR"] == pytest.approx(0.9 - scores["hard labels"])
    assert len(list(tmp_path.iterdir())) == 5, "both sets with and without augmentation, one with hard labels"
    mixed = replace(PROTOCOL, epochs=2, hard_share=0.5)
    assert validation.ranking(condensed, random, *common[:2], mixed, **options | {"keep": None}).keys() == scores.keys()
    same = validation.ranking(condensed, condensed, *common, **options)
    assert same["IOR"] == 0 and same["ARS"] == pytest.approx((1 - math.exp(-1)) / (math.e - math.exp(-1)))


def test_without_flip_and_factor_nothing_is_augmented():
    stored = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    plain = students.augment(stored, 1, 8, torch.Generator().manual_seed(0), flip=False)
    assert (plain == normalise(stored)).all()
    assert (students.augment(stored, 1, 8, torch.Generator().manual_seed(0)) != plain).any()


def test_protocol_defaults_are_the_published_ones():
    protocol = Protocol("resnet18", 300)
    assert (protocol.mix, protocol.soft, protocol.factor, protocol.weight_decay) == ("cutmix", True, 1, 0.01)
    resolved = protocol.resolved(10, 100)
    assert (resolved.temperature, resolved.lr, resolved.batch_size, resolved.evaluate_every) == (20, 0.001, 50, 30)
    resolved = Protocol("vgg11", 5, mix="mixup", lr=0.1, batch_size=7).resolved(10, 100)
    assert (resolved.temperature, resolved.lr, resolved.batch_size, resolved.evaluate_every) == (4, 0.1, 7, 1)


def test_a_protocol_is_made_of_the_parameters_where_0_stands_for_the_published_value():
    params = {name: parameter.default for name, parameter in declared("05_validation").items()}
    protocol = Protocol.of(
        params | {"student_network": "vgg11", "student_lr": 0.0, "student_ema": 0.5, "factor": 2}, amp=True
    )
    assert (protocol.network, protocol.epochs, protocol.width) == ("vgg11", 30, 32)
    assert (protocol.lr, protocol.batch_size, protocol.temperature) == (None, None, None)
    assert (protocol.ema, protocol.factor, protocol.soft, protocol.amp) == (0.5, 2, True, True)
    assert Protocol.of(params, None).ema is None


def test_a_smaller_set_is_the_first_images_of_each_class():
    images = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    sets = {"a": in_memory("a", "train", "xy", np.array([0, 0, 0, 1, 1, 1]), images)}
    smaller = validation.smaller(sets, 2)["a"]
    assert smaller.images()[:, 0, 0, 0].tolist() == [0, 1, 3, 4] and smaller.labels.tolist() == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="smaller_ipcs = 4: a has a class of 3 images"):
        validation.smaller(sets, 4)
