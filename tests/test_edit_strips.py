"""dc3.edit_strips: every cell of a strip is the edit that its row and heading say."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from dc3 import edit_strips
from dc3.blending import blend
from dc3.compensation import Coloring, Compensator, compensate, draw_for, to_uint8
from dc3.condensed import Storage, load
from dc3.images.image_set import in_memory

COLORING = Coloring(0, ["sunny", "sepia"], ["rainy"], "Adjust the color hue to be {p}", "gradient")


@pytest.fixture(scope="module")
def images():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    return in_memory("noise", "train", ["a", "b"], np.repeat([0, 1], 4), pixels)


@pytest.fixture(scope="module")
def compensator(random_editor):
    return Compensator(COLORING, random_editor)


@pytest.fixture(scope="module")
def filed(images, compensator, tmp_path_factory):
    """The provenance and the images of a condensed set of two picks a class."""
    folder = tmp_path_factory.mktemp("condensed")
    picks = pd.DataFrame({"index": [2, 0, 5, 7], "label": [0, 0, 1, 1], "bin": 0, "rank": [0, 1, 0, 1]})
    return compensate(images, picks, folder, Storage(32), compensator), load(folder, images.classes)


def edit(compensator, source, prompt, seed=0, **settings):
    """One edit by itself, in batches of the size that strips have."""
    editor = compensator.editor.using(batch_size=edit_strips.BATCH, **settings)
    return to_uint8(editor.variations(source, COLORING.instructions([prompt]), [seed]))[0]


def test_each_pick_has_its_edits_and_its_condensed_image(images, compensator, filed):
    provenance, made = filed
    strips = edit_strips.picks_and_edits(compensator, images, made, provenance[provenance["rank"] == 0])
    assert list(strips.rows) == ["source", "warm", "cold", "blended"]
    assert (strips.rows["source"] == images.images([2, 5])).all()
    assert (strips.rows["blended"] == made.images([0, 2])).all()
    drawn = draw_for(5, COLORING)
    assert strips.headings[1] == ", ".join(drawn.prompts)
    for row, prompt, seed in zip(("warm", "cold"), drawn.prompts, drawn.edit_seeds, strict=True):
        assert (strips.rows[row][1] == edit(compensator, images.images([5])[0], prompt, seed)).all()


def test_every_blend_of_the_four_edits_of_an_image(images, compensator):
    source = images.images([3])[0]
    rows, headings = edit_strips.blends(compensator, "a", source, 3)
    drawn = draw_for(3, replace(COLORING, blend_mode="fourfold_view"))
    assert headings == ["source", *drawn.prompts, "gradient", "random", "grid", "fourfold view"]
    assert (rows["a"][0] == source).all() and len(rows["a"]) == 9
    grid = blend(list(rows["a"][1:3]), "grid", np.random.default_rng(drawn.blend_seed))
    assert (rows["a"][7] == grid).all()


def test_prompts_seeds_and_guidances_are_single_edits(images, compensator):
    source = images.images([1])[0]
    prompts = edit_strips.prompts(compensator, {"a": source})
    assert prompts.headings == ["sunny", "sepia", "rainy"]
    assert (prompts.rows["a"][2] == edit(compensator, source, "rainy")).all()
    seeds = edit_strips.seeds(compensator, source, ["sepia"], count=3)
    assert seeds.headings == ["seed 0", "seed 1", "seed 2"]
    assert (seeds.rows["sepia"][2] == edit(compensator, source, "sepia", 2)).all()
    guided = edit_strips.guidances(compensator, source, [1.25, 4.0])
    assert list(guided.rows) == ["guidance 1.25", "guidance 4"] and guided.headings == prompts.headings
    assert (guided.rows["guidance 4"][0] == edit(compensator, source, "sunny", guidance_scale=4.0)).all()


def test_a_prompt_that_is_given_twice_has_one_column(images, compensator):
    twice = replace(compensator, coloring=replace(COLORING, warm_prompts=["sunny", "sepia", "sunny"]))
    source = images.images([1])[0]
    for strip in (edit_strips.prompts(twice, {"a": source}), edit_strips.guidances(twice, source, [4.0])):
        assert strip.headings == ["sunny", "sepia", "rainy"]


def test_the_steps_of_a_class_are_of_that_class(images, compensator, filed, monkeypatch):
    monkeypatch.setattr(edit_strips, "PICKS", 1)
    provenance, made = filed
    table = pd.DataFrame({"index": range(8), "label": images.labels, "bin": 0, "x": 0.0, "y": 0.0})
    of_class = provenance[provenance["label"] == 1]
    steps = edit_strips.class_steps(compensator, images, made, of_class, table)
    assert (steps.crowd == images.images([4, 5, 6, 7])).all() and steps.bin_map["index"].tolist() == [4, 5, 6, 7]
    assert steps.picked.tolist() == [5, 7] and (steps.picks == images.images([5])).all()
    assert (steps.condensed == made.images([2])).all() and steps.warm.shape == steps.cold.shape == (1, 32, 32, 3)
