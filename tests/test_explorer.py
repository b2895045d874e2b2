import io
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
import torch
from PIL import Image

from dc3 import panels
from dc3.compensation import Coloring, Compensator
from dc3.machine.paths import HEADLESS

CLASSES = ["cat", "dog"]
COLORING = Coloring(0, ["sunny", "sepia"], ["rainy", "snowy"], "Adjust the color hue to be {p}", "gradient")


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)


def shown(panel):
    return np.asarray(Image.open(io.BytesIO(panel.picture.value)))


def test_the_panel_shows_the_edit_of_its_present_choices(images, random_editor):
    panel = panels.EditPanel(images, CLASSES, Compensator(COLORING, random_editor))
    before = shown(panel)
    assert before.shape == (160, 4 * 160 + 3 * 4, 3)
    assert (before[::5, :160:5] == images[0]).all(), "the source comes first"
    panel.warm.value, panel.seed.value = "sepia", 3
    assert (shown(panel) == before).all(), "an edit takes seconds: nothing happens before the button is pressed"
    panel.image.value = 1
    assert (shown(panel)[::5, ::5] == images[1]).all() and panel.caption.value == "image 1 (dog): press edit"
    panel.button.click()
    after = shown(panel)
    assert (after[::5, :160:5] == images[1]).all() and "sepia" in panel.caption.value
    panel.guidance.value = 6
    panel.button.click()
    assert (shown(panel) != after).any()


def test_the_panel_begins_with_the_runs_own_guidance(images, random_editor):
    mild = random_editor.using(guidance_scale=1.02)
    assert panels.EditPanel(images, CLASSES, Compensator(COLORING, mild)).guidance.value == 1.02


def test_a_failed_edit_is_shown_and_the_button_works_again(images, random_editor, monkeypatch):
    panel = panels.EditPanel(images, CLASSES, Compensator(COLORING, random_editor))

    def out_of_memory(*_, **__):
        assert panel.button.disabled, "grey while it works"
        raise torch.OutOfMemoryError("no memory left\nand a page of advice")

    with monkeypatch.context() as patched:
        patched.setattr(Compensator, "edits_of", out_of_memory)
        panel.button.click()
    assert panel.caption.value == "this edit failed: OutOfMemoryError: no memory left" and not panel.picture.value
    assert not panel.button.disabled
    panel.button.click()
    assert panel.picture.value and "seed 0" in panel.caption.value


def test_without_a_screen_there_is_no_panel(images, random_editor, monkeypatch):
    monkeypatch.setenv(HEADLESS, "1")
    assert panels.edit_panel(images, CLASSES, Compensator(COLORING, random_editor)) is None
    monkeypatch.delenv(HEADLESS)
    assert panels.edit_panel(images, CLASSES, Compensator(COLORING, random_editor)) is not None


def test_a_prompt_with_dollar_signs_or_markup_is_shown_as_it_is(images, random_editor):
    odd = "$1 vs $5 <b>x</b> & a|b"
    panel = panels.EditPanel(images, CLASSES, Compensator(replace(COLORING, warm_prompts=[odd]), random_editor))
    assert panel.caption._view_name == "HTMLView", "a Label would take what is between the dollars for a formula"
    assert odd in unescape(panel.caption.value) and "<" not in panel.caption.value
