"""Teacher files that are damaged, odd or no files: one error that names the file, before the run."""

import json
import os
import pickle

import pytest
import safetensors.torch
import torch

from dc3.images.scenes import CLASSES
from dc3.models import checkpoints, networks
from dc3.runs import checks
from dc3.runs.parameters import ParameterError, all_declared


def weights():
    return networks.create("conv3", 10, 16, width=8, seed=0).state_dict()


def ours(about):
    """A function that writes a teacher of dc3 with other metadata."""
    text = about if isinstance(about, str) else json.dumps(ABOUT | about)
    return lambda path: safetensors.torch.save_file(weights(), path, metadata={"dc3.teacher": text})


ABOUT = {"network": "conv3", "classes": list(CLASSES), "image_size": 16, "accuracy": 0.5, "width": 8, "layout": "dc3"}


def not_finite(path):
    model = networks.create("conv3", 10, 16, width=8, seed=0)
    model[0][0].weight.data[0] = float("nan")
    checkpoints.save(model, path, network="conv3", classes=CLASSES, image_size=16)


def containing_itself(path):
    state = {"epoch": 3}
    state["model"] = state
    torch.save(state, path)


FILES = {
    "garbage.safetensors": lambda path: path.write_bytes(os.urandom(1000)),
    "empty.safetensors": lambda path: path.touch(),
    "cut.safetensors": lambda path: (not_finite(path), os.truncate(path, 2000)),
    "list.safetensors": ours("[]"),
    "brackets.safetensors": ours("[" * 100_000),
    "no classes.safetensors": ours({"classes": None}),
    "numbers.safetensors": ours({"classes": [1, 2, 3]}),
    "other network.safetensors": ours({"network": "resnet9000"}),
    "odd size.safetensors": ours({"image_size": "large"}),
    "negative.safetensors": ours({"width": -8}),
    "text width.safetensors": ours({"width": "8"}),
    "nan.safetensors": not_finite,
    "foreign nan.pth": lambda path: torch.save({k: v * float("nan") for k, v in weights().items()}, path),
    "empty.pth": lambda path: path.touch(),
    "text.pth": lambda path: path.write_text("the teacher is in the other folder", encoding="utf-8"),
    "list.pth": lambda path: torch.save([1, 2, 3], path),
    "pickle.pth": lambda path: path.write_bytes(pickle.dumps({"a": 1})),
    "itself.pth": containing_itself,
    "other shapes.pth": lambda path: torch.save({k: v[:1] if v.ndim else v for k, v in weights().items()}, path),
    "folder": lambda path: path.mkdir(),
    "pipe.pth": os.mkfifo,
}


def check(teacher, **changed):
    params = {name: parameter.default for name, parameter in all_declared().items()}
    chosen = {"dataset": "scenes10", "image_size": 16, "teacher": str(teacher), "teacher_width": 8, "ipc": 1}
    keys = ("data_dir", "images_per_class", "framing", "resampling", "teacher_network", "allow_pickle")
    checks.check_inputs({key: params[key] for key in keys if key in params} | chosen | changed)


@pytest.mark.parametrize("name", FILES)
def test_a_teacher_that_cannot_be_one_is_named_before_the_run(tmp_path, name):
    FILES[name](tmp_path / name)
    with pytest.raises(ParameterError, match="teacher = ") as refused:
        check(tmp_path / name)
    said = str(refused.value)
    assert name in said and "\n" not in said
    assert ("not finite" in said) == ("nan" in name) and ("another shape" in said) == (name == "other shapes.pth")


def test_a_sound_teacher_is_accepted(tmp_path):
    ours({})(tmp_path / "teacher.safetensors")
    torch.save(weights(), tmp_path / "teacher.pth")
    for name in ("teacher.safetensors", "teacher.pth"):
        check(tmp_path / name)


@pytest.mark.parametrize("teacher", ["/tmp", "/dev/zero", "IMAGENET1K_V9", "teachers"])
def test_a_folder_a_device_and_unknown_weights_are_named_before_the_run(teacher):
    with pytest.raises(ParameterError, match=f"teacher = '{teacher}'"):
        check(teacher)


def test_weights_of_imagenets_classes_are_refused_for_other_classes():
    with pytest.raises(ParameterError, match="teacher = 'IMAGENET1K_V1': they know 1000 classes, the data set has 10"):
        check("IMAGENET1K_V1", teacher_network="resnet18", image_size=64)


def test_a_teacher_of_other_classes_is_refused_before_the_run(tmp_path):
    model = networks.create("conv3", 10, 16, width=8, seed=0)
    checkpoints.save(model, tmp_path / "t.safetensors", network="conv3", classes=list("abcdefghij"), image_size=16)
    with pytest.raises(ParameterError, match=r"t\.safetensors.*other classes"):
        check(tmp_path / "t.safetensors")


def test_a_teacher_of_another_network_is_refused_before_the_run(tmp_path):
    model = networks.create("conv4", 10, 16, width=8, seed=0)
    checkpoints.save(model, tmp_path / "t.safetensors", network="conv4", classes=CLASSES, image_size=16)
    with pytest.raises(ParameterError, match=r"t\.safetensors is a conv4 and teacher_network = 'conv3': set .* conv4"):
        check(tmp_path / "t.safetensors")


def test_a_teacher_of_another_size_is_refused_before_the_run(tmp_path):
    model = networks.create("conv3", 10, 32, width=8, seed=0)
    checkpoints.save(model, tmp_path / "t.safetensors", network="conv3", classes=CLASSES, image_size=32)
    with pytest.raises(ParameterError, match=r"t\.safetensors, made for image_size 32: does not accept image_size 16"):
        check(tmp_path / "t.safetensors")


def test_a_pickle_that_may_run_code_is_left_to_the_stage(tmp_path):
    torch.save({"model": weights(), "args": print}, tmp_path / "old.pth")
    with pytest.raises(ParameterError, match="allow_pickle"):
        check(tmp_path / "old.pth")
    check(tmp_path / "old.pth", allow_pickle=True)


def test_a_checkpoint_in_wrappers_is_read(tmp_path):
    wrapped = {"state_dict": {f"module.{name}": tensor for name, tensor in weights().items()}}
    torch.save({"epoch": 3, "model": wrapped}, tmp_path / "w.pth")
    loaded = checkpoints.load_foreign(tmp_path / "w.pth", "conv3", 10, 16, width=8)
    assert all(torch.equal(tensor, weights()[name]) for name, tensor in loaded.state_dict().items())
