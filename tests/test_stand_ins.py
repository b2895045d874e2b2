"""What takes the editor's place for ablation: plain colour grades, and the VAE's round trip."""

import numpy as np
import pandas as pd
import pytest
import torch

from dc3 import condensed
from dc3.compensation import Coloring, Compensator, compensate, to_uint8
from dc3.condensed import Storage
from dc3.images.image_set import in_memory
from dc3.models.editor import EditorSettings, load_editor
from dc3.models.grading import grade
from dc3.models.stand_ins import Grading, RoundTrip
from dc3.runs.checks import check_values
from dc3.runs.parameters import ParameterError, all_declared, check

COLORING = Coloring(0, ["sunny", "sepia"], ["rainy", "snowy"], "Adjust the color hue to be {p}", "gradient")
INSTRUCTIONS = COLORING.instructions(["sunny", "rainy", "snowy"])


@pytest.fixture(scope="module")
def settings(random_editor_folder):
    return EditorSettings(str(random_editor_folder), 32, 2, 2.0, 1.2, 4)


@pytest.fixture(scope="module")
def images():
    smooth = np.linspace(0, 255, 32)[None, :, None, None] * np.linspace(0.2, 1, 32)[None, None, :, None]
    return (smooth * np.random.default_rng(0).uniform(0.3, 1, (3, 1, 1, 3))).astype(np.uint8)


def test_graded_edits_are_the_grades_of_their_prompts(settings, images):
    editor = load_editor(settings, kind=Grading)
    edits = editor.edit(images, INSTRUCTIONS, [5, 6, 7], sources=[0, 0, 2])
    expected = [(0, "sunny", 5), (0, "rainy", 6), (2, "snowy", 7)]
    for edit, (row, prompt, seed) in zip(edits, expected, strict=True):
        assert (to_uint8(edit) == grade(images[row][None], [prompt], np.random.default_rng(seed))[0]).all()
    with pytest.raises(ValueError, match=r"edit_by = 'grading': no colour grade for 'make it purple'; .*sunny"):
        editor.edit(images[:1], ["make it purple"], [0])


def test_a_round_trip_is_what_the_vae_decodes_for_every_prompt_and_seed(settings, images):
    editor = load_editor(settings, kind=RoundTrip)
    edits = editor.edit(images, INSTRUCTIONS, [5, 6, 7], sources=[1, 1, 2])
    assert (edits[0] == edits[1]).all() and not (edits[1] == edits[2]).all()
    vae = editor.pipeline.vae
    pixels = torch.from_numpy(images[1:3]).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
    expected = (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert np.abs(edits[1:] - expected).max() < 1e-4


@pytest.mark.parametrize("edit_by", ["grading", "vae"])
def test_a_set_says_what_edited_it_and_is_made_anew_for_another_editor(edit_by, settings, images, tmp_path):
    train = in_memory("smooth", "train", ["a", "b", "c"], np.arange(3), images)
    picks = pd.DataFrame({"index": [0, 1, 2], "label": [0, 1, 2], "bin": 0, "rank": 0})
    parameters = {name: parameter.default for name, parameter in all_declared().items()}
    parameters |= {"editor": settings.name, "edit_batch_size": 4, "edit_steps": 2}
    made = {}
    for kind in (edit_by, "editor", edit_by):
        compensator = Compensator.of(parameters | {"edit_by": kind}, 0, torch.device("cpu"))
        made[kind] = compensate(train, picks, tmp_path, Storage(32), compensator)
        history = condensed.history(tmp_path / "00001/00000.png")["set"]
        assert history.get("edited_by", "editor") == kind
    assert set(made["editor"]["sha256"]).isdisjoint(made[edit_by]["sha256"])
    earlier = {key: value for key, value in parameters.items() if key != "edit_by"}
    assert Compensator.of(earlier, 0, torch.device("cpu")).editor.edited_by == "editor"


def test_prompts_without_a_grade_are_refused_before_anything_runs():
    values = {"edit_by": "grading", "warm_prompts": ["sunny", "candle light"]}
    with pytest.raises(ParameterError, match=r"no colour grade for 'candle light'; prompts with one: sunny, "):
        check_values(check(values, all_declared()))
    with pytest.raises(ParameterError, match=r"edit_by = 'filter' is not allowed: must be 'editor', 'gra"):
        check({"edit_by": "filter"}, all_declared())
