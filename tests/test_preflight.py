import numpy as np
import pytest
from PIL import Image

from dc3.runs.checks import check_inputs
from dc3.runs.parameters import ParameterError, all_declared, check


@pytest.fixture
def folder(tmp_path):
    """train/ with classes of 3 and 1 images, test/ with one of each."""
    for split, counts in {"train": {"cat": 3, "dog": 1}, "test": {"cat": 1, "dog": 1}}.items():
        for name, count in counts.items():
            (tmp_path / split / name).mkdir(parents=True)
            for k in range(count):
                Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / split / name / f"{k}.png")
    return tmp_path


def params(**values):
    return check(values, all_declared())


def of_folder(folder, **values):
    return params(dataset="imagefolder", data_dir=str(folder), image_size=16, **values)


def test_the_defaults_and_a_small_folder_pass(folder):
    check_inputs(params())
    check_inputs(of_folder(folder, ipc=1, bins=50))


def test_more_images_per_class_than_the_smallest_class_has(folder):
    with pytest.raises(ParameterError, match=r"ipc = 2: expected 1 to 1, the size of the smallest class 'dog'"):
        check_inputs(of_folder(folder, ipc=2))


def test_more_crops_of_rded_than_the_smallest_class_has_images(folder):
    with pytest.raises(ParameterError, match=r"crops_per_side = 2: with ipc = 1 rded needs 4 images .*'dog' has 1"):
        check_inputs(of_folder(folder, ipc=1, crops_per_side=2))
    check_inputs(of_folder(folder, ipc=1, crops_per_side=2, compared=["random"]))


def test_no_data_at_data_dir(tmp_path):
    with pytest.raises(ParameterError, match=r"data_dir = .*nowhere"):
        check_inputs(of_folder(tmp_path / "nowhere"))


def test_data_dir_not_given():
    with pytest.raises(ParameterError, match="data_dir is not set"):
        check_inputs(params(dataset="imagefolder"))


def test_a_test_split_of_other_classes(folder):
    (folder / "test" / "dog").rename(folder / "test" / "wolf")
    with pytest.raises(ParameterError, match=r"differ.*dog.*wolf"):
        check_inputs(of_folder(folder, ipc=1))


@pytest.mark.parametrize("name", ["vae", "editor", "teacher"])
def test_a_missing_model_path(name):
    with pytest.raises(ParameterError, match=rf"{name} = './missing.pt': nothing there"):
        check_inputs(params(**{name: "./missing.pt"}))


def test_a_model_that_the_hub_does_not_give(monkeypatch):
    import huggingface_hub

    def refuse(self, name, revision=None, timeout=None):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    with pytest.raises(ParameterError, match=r"editor = 'nobody/nothing': neither a folder .*ConnectionError"):
        check_inputs(params(editor="nobody/nothing"))


@pytest.mark.parametrize(
    "values", [{"condensed_dir": "no/where"}, {"color_condensed_dirs": ["no/where"]}, {"feature_weights": "no/where"}]
)
def test_folders_and_weights_of_the_last_stages_are_looked_for_first(values):
    with pytest.raises(ParameterError, match=rf"{next(iter(values))} = 'no/where': nothing there"):
        check_inputs(params(**values))
