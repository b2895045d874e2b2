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
from dc3.models.augmentation import cutmix, epoch_generator, mix_seed
from dc3.students import Protocol
from dc3.validation import StudentResult, train_student, validate

CLASSES = 4


def colours(ipc, seed=0, side=32):
    """Noise, tinted by class: red, green, blue or grey."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(CLASSES), ipc)
    tint = 70 * np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
    images = rng.integers(0, 150, (len(labels), side, side, 3)) + tint[labels, None, None]
    return images.astype(np.uint8), labels


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


@pytest.fixture
def settings():
    test_images, test_labels = colours(20, seed=9)
    return {
        "network": "conv3",
        "width": 16,
        "epochs": 12,
        "test_images": test_images,
        "test_labels": test_labels,
    }


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
    assert students.batch_size(classes, ipc) == expected


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
    x = torch.randn(40, 3, 8, 8)
    y = students.augment(x, 1, torch.Generator().manual_seed(0))
    assert all(torch.equal(b, a) or torch.equal(b, a.flip(-1)) for a, b in zip(x, y, strict=True))
    z = students.augment(x, 2, torch.Generator().manual_seed(0))
    assert sum(torch.equal(b, a) or torch.equal(b, a.flip(-1)) for a, b in zip(x, z, strict=True)) < 20


def naive_training(images, labels, teacher, epochs, seed, soft):
    """The protocol written out for one full batch with CutMix at factor 1: each step from its formula."""
    from dc3.images.image_set import normalise

    student = networks.create("conv3", CLASSES, 32, 16, seed=mix_seed(seed, "student"))
    decaying = [p for p in student.parameters() if p.ndim > 1]
    free = [p for p in student.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW([{"params": decaying, "weight_decay": 0.01}, {"params": free, "weight_decay": 0}])
    for epoch in range(epochs):
        student.train()
        with epoch_generator(seed, epoch) as generator:
            order = torch.randperm(len(labels), generator=generator)
            x = students.augment(normalise(images[order.numpy()], "cpu"), 1, generator)
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
def test_training_is_the_protocol_written_out(settings, soft):
    images, labels = colours(3)
    settings |= {"epochs": 3, "soft": soft, "seed": 5, "batch_size": 12}
    result = train_student(images, labels, Oracle(), **settings)
    expected = naive_training(images, labels, Oracle(), 3, 5, soft)
    for (name, ours), theirs in zip(result.model.named_parameters(), expected.parameters(), strict=True):
        if not name.endswith(
            ".0.bias"
        ):  # before a batch norm its gradient is rounding noise, which AdamW makes steps of
            torch.testing.assert_close(ours, theirs, atol=5e-5, rtol=0, msg=name)


def test_student_learns_colours(settings):
    result = train_student(*colours(10), Oracle(), seed=0, **settings)
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
        {"amp": True},
    ],
)
def test_options_train(settings, changed):
    result = train_student(*colours(10), Oracle(), seed=0, **settings | {"epochs": 20, "evaluate_every": 0} | changed)
    assert result.final.top1 > 0.45
    assert sum("top1" in row for row in result.history) == 1


def test_hard_labels_need_no_teacher(settings):
    result = train_student(*colours(10), None, seed=0, soft=False, **settings)
    assert result.final.top1 > 0.6


def test_same_seed_same_bits(settings):
    settings |= {"epochs": 2, "factor": 2, "evaluate_every": 0}
    torch.manual_seed(1)
    first = train_student(*colours(10), Oracle(), seed=3, **settings)
    torch.manual_seed(2)
    again = train_student(*colours(10), Oracle(), seed=3, **settings)
    other = train_student(*colours(10), Oracle(), seed=4, **settings)
    assert torch.equal(weights(first.model), weights(again.model))
    assert not torch.equal(weights(first.model), weights(other.model))
    assert first.history == again.history


def test_a_student_never_starts_from_its_teachers_start(settings, monkeypatch):
    """Not even with the same seed and network: it would imitate more easily, whatever the images are worth."""
    starts, create = [], networks.create

    def recorded(*arguments, **options):
        model = create(*arguments, **options)
        starts.append(networks.last_linear(model).weight.detach().clone())
        return model

    monkeypatch.setattr(networks, "create", recorded)
    images, labels = colours(2)
    trained, _ = teacher.train(images, labels, network="conv3", width=16, epochs=1, seed=0, device="cpu")
    train_student(images, labels, trained, seed=0, **settings | {"epochs": 1})
    assert starts[0].shape == starts[1].shape
    assert not torch.equal(*starts)


def test_one_teacher_and_one_student_forward_a_step(settings, monkeypatch):
    oracle, forwards = Oracle(), []
    build = networks.NETWORKS["conv3"].build

    def counted(*arguments):
        model = build(*arguments)
        model.register_forward_hook(lambda module, *_: forwards.append(module.training))
        return model

    monkeypatch.setitem(networks.NETWORKS, "conv3", networks.Network(counted, 1e-3))
    train_student(*colours(10), oracle, seed=0, **settings | {"epochs": 2, "batch_size": 20})
    assert sum(forwards) == 2 * 2
    assert oracle.forwards == 2 * 2 + 1, "one look at the image size, then one forward a step"


def test_bad_sets_are_refused_before_training(settings, monkeypatch):
    monkeypatch.setattr(students._Student, "fit", lambda *_: pytest.fail("training began"))
    images, labels = colours(5)
    for case in [
        (images[5:], labels[5:], Oracle(), {}, r"no image of 1 classes: \[0\]"),
        (images[1:], labels[1:], Oracle(), {}, r"4 images of class 0 and 5 of class 1.*allow_unequal"),
        (images, labels, Oracle(3), {}, r"within 0 … 2"),
        (images, labels[:-1], Oracle(), {"allow_unequal": True}, r"each of 20 images"),
        (*colours(5, side=16), Oracle(), {}, r"16 px, the test images 32 px"),
        (images, labels, networks.create("conv3", 4, 16, 8), {}, r"the teacher does not take image_size 32"),
        (images, labels, networks.create("conv3", 9, 32, 8), {}, r"no image of 5 classes"),
        (images, labels, None, {}, r"soft=True needs a teacher"),
        (images, labels, Oracle(), {"network": "conv9"}, r"conv9.*allowed: conv3"),
        (images, labels, Oracle(), {"network": "conv6"}, r"conv6.*≥ 64"),
        (images, labels, Oracle(), {"mix": "blend"}, r"'blend'; allowed: cutmix, mixup, none"),
        (images, labels, Oracle(), {"epochs": 0}, r"epochs is 0"),
        (images, labels, Oracle(), {"lr": -1.0}, r"lr is -1.0"),
        (images, labels, Oracle(), {"ema": 1.0}, r"ema is 1.0"),
        (images, labels, Oracle(), {"test_labels": settings["test_labels"] + 1}, r"test_labels go up to 4"),
    ]:
        *arguments, changed, message = case
        with pytest.raises(ValueError, match=message):
            train_student(*arguments, seed=0, **settings | changed)


def test_unequal_sets_train_when_allowed(settings):
    images, labels = colours(5)
    settings |= {"epochs": 1, "allow_unequal": True}
    assert isinstance(train_student(images[1:], labels[1:], Oracle(), seed=0, **settings), StudentResult)


def test_validate_gives_a_tidy_table_and_its_summary(settings):
    sets = {"second": colours(2, seed=1), "first": colours(2, seed=2)}
    table = validate(sets, Oracle(), seeds=[7, 8], **settings | {"epochs": 4, "evaluate_every": 2})
    assert len(table) == 2 * 2 * 4
    assert list(table.columns) == ["method", "network", "seed", "epoch", "loss", "lr", "top1", "top5", "per_class"]
    last = table[table.epoch == 4]
    assert np.allclose([np.mean(row) for row in last.per_class], last.top1) and table.per_class.count() == len(last)
    assert table[table.top1.notna()].epoch.unique().tolist() == [2, 4]
    out = validation.summary(table)
    assert out.method.tolist() == ["second", "first"]
    assert out.seeds.tolist() == [2, 2]
    finals = table[(table.method == "first") & (table.epoch == 4)].top1
    assert out.top1_mean[1] == pytest.approx(finals.mean())
    assert out.top1_std[1] == pytest.approx(finals.std(ddof=1))


def test_kept_students_are_not_trained_again_and_others_are(settings, tmp_path, monkeypatch):
    sets, teacher = {"one": colours(2, seed=1)}, Oracle()
    kept = {"keep": tmp_path, **settings, "epochs": 3}
    first = validate(sets, teacher, seeds=[7], **kept)
    trained = []
    monkeypatch.setattr(
        validation, "train_student", lambda *a, **k: trained.append(k["seed"]) or train_student(*a, **k)
    )
    again = validate(sets, teacher, seeds=[7, 8], **kept)
    assert trained == [8]
    pd.testing.assert_frame_equal(again[again.seed == 7], first, check_like=True)
    validate(sets, teacher, seeds=[7], **kept | {"mix": "none"})
    validate({"one": colours(2, seed=2)}, teacher, seeds=[7], **kept)
    assert trained == [8, 7, 7], "another protocol or other images are another student"
    validate(sets, teacher, seeds=[7], **kept | {"test_images": 255 - settings["test_images"]})
    assert trained == [8, 7, 7, 7], "it was tested on other images"
    as_set = in_memory("test", "test", "abcd", settings["test_labels"], settings["test_images"])
    for test_images in (as_set, as_set, replace(as_set, pixels=255 - as_set.pixels)):
        validate(sets, teacher, seeds=[7], **kept | {"test_images": test_images})
    assert len(trained) == 6


def test_ranking_holds_both_sets_to_the_same_treatment(settings, tmp_path):
    condensed, random = colours(4, seed=1), colours(4, seed=2)
    scores = validation.ranking(
        condensed, random, Oracle(), real_hard=0.9, seeds=[0], keep=tmp_path, **settings | {"epochs": 2}
    )
    assert scores["HLR"] == pytest.approx(0.9 - scores["hard labels"])
    assert len(list(tmp_path.iterdir())) == 5, "both sets with and without augmentation, one with hard labels"
    same = validation.ranking(
        condensed, condensed, Oracle(), real_hard=0.9, seeds=[0], keep=tmp_path, **settings | {"epochs": 2}
    )
    assert same["IOR"] == 0 and same["ARS"] == pytest.approx((1 - math.exp(-1)) / (math.e - math.exp(-1)))


def test_without_flip_and_factor_nothing_is_augmented():
    x = torch.rand(4, 3, 8, 8)
    assert (students.augment(x, 1, torch.Generator().manual_seed(0), flip=False) == x).all()
    assert (students.augment(x, 1, torch.Generator().manual_seed(0)) != x).any()


def test_summary_by_hand():
    rows = [("a", 0, 1, 0.9), ("a", 0, 2, 0.5), ("a", 1, 1, 0.1), ("a", 1, 2, 0.7), ("b", 0, 1, 0.2), ("b", 0, 2, 0.3)]
    table = pd.DataFrame(rows, columns=["method", "seed", "epoch", "top1"]).assign(top5=1.0, network="conv3")
    out = validation.summary(table).set_index("method")
    assert out.loc["a", "top1_mean"] == pytest.approx(0.6)
    assert out.loc["a", "top1_std"] == pytest.approx(math.sqrt(2 * 0.1**2))
    assert out.loc["a", "best_top1_mean"] == pytest.approx(0.8)
    assert out.loc["b", "top1_mean"] == pytest.approx(0.3)
    assert math.isnan(out.loc["b", "top1_std"]), "one seed has no spread"


def test_protocol_defaults_are_the_published_ones():
    protocol = Protocol("resnet18", 300)
    assert (protocol.mix, protocol.soft, protocol.factor, protocol.weight_decay) == ("cutmix", True, 1, 0.01)
    resolved = protocol.resolved(10, 100)
    assert (resolved.temperature, resolved.lr, resolved.batch_size, resolved.evaluate_every) == (20, 0.001, 50, 30)
    resolved = Protocol("vgg11", 5, mix="mixup", lr=0.1, batch_size=7).resolved(10, 100)
    assert (resolved.temperature, resolved.lr, resolved.batch_size, resolved.evaluate_every) == (4, 0.1, 7, 1)


def test_a_smaller_set_is_the_first_images_of_each_class():
    images = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    labels = np.array([0, 0, 0, 1, 1, 1])
    images_, labels_ = validation.smaller({"a": (images, labels)}, 2)["a"]
    assert images_[:, 0, 0, 0].tolist() == [0, 1, 3, 4] and labels_.tolist() == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="smaller_ipcs: 4 images of each class of a are asked for, one has 3"):
        validation.smaller({"a": (images, labels)}, 4)
