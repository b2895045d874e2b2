"""A colour compensation that fills gaps: what is chosen, that it covers no less than the picks, and its bytes."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import rgb2lab

from dc3 import color, condensed, gaps
from dc3.compensation import Coloring, Compensator, EditFailed, compensate
from dc3.condensed import Storage
from dc3.gaps import Filling, choices, choose, class_colors, coverage, fill_gaps, similarity
from dc3.images.image_set import in_memory
from dc3.models import networks

COLORING = Coloring(0, ["sunny", "sepia"], ["rainy"], "Adjust the color hue to be {p}", "gradient")
PICKS = pd.DataFrame({"index": [0, 2, 1, 3], "label": [0, 0, 1, 1], "bin": 0, "rank": [0, 1, 0, 1]})
STORAGE = Storage(32)


@pytest.fixture
def images():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 1, 1, 3)).repeat(16, 1).repeat(16, 2).astype(np.uint8)
    return in_memory("plain", "train", ["a", "b"], np.arange(40) % 2, pixels)


@pytest.fixture
def filling():
    return Filling(networks.create("conv3", 2, 16, 4, seed=0).eval(), 16, margin=10.0)


def test_a_description_is_the_mean_spread_and_soft_hues_of_an_image():
    red = np.full((1, 8, 8, 3), (200, 30, 30), np.uint8)
    lightness, a, b = rgb2lab(red[0])[0, 0]
    (found,) = color.description(red, hues=4)
    angle, chroma = np.arctan2(b, a) / (np.pi / 2), np.hypot(a, b)
    expected = [lightness, a, b, 0, 0, 0, chroma * (1 - angle), chroma * angle, 0, 0]
    assert np.allclose(found, expected, atol=1e-9)
    grey = color.description(np.full((1, 4, 4, 3), 90, np.uint8))
    assert np.abs(grey[0, 1:]).max() < 1e-2


def test_a_small_change_of_hue_is_a_small_change_of_the_description():
    angles = np.linspace(0, 2 * np.pi, 200)
    colors = 128 + 40 * np.stack([np.cos(angles), np.cos(angles - 2), np.cos(angles + 2)], 1)
    found = color.description(np.rint(colors).astype(np.uint8)[:, None, None])
    assert np.linalg.norm(np.diff(found, axis=0), axis=1).max() < 6, "the circle of hues is 250 units long"


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 6), st.floats(0, 1))
def test_one_of_each_is_chosen_and_covers_no_less_than_the_sources(seed, picks, each, share):
    rng = np.random.default_rng(seed)
    similar, pick = rng.random((30, picks * each)), np.arange(picks).repeat(each)
    allowed, sources = rng.random(picks * each) < share, np.arange(picks) * each
    chosen = choose(similar, pick, allowed)
    assert (pick[chosen] == np.arange(picks)).all()
    assert (allowed[chosen] | np.isin(chosen, sources)).all()
    assert coverage(similar[:, chosen]) >= coverage(similar[:, sources])


def test_the_greedy_covers_at_least_half_of_the_best():
    rng = np.random.default_rng(3)
    similar, pick = rng.random((12, 6)) ** 8, np.array([0, 0, 1, 1, 2, 2])
    every = [coverage(similar[:, [a, 2 + b, 4 + c]]) for a in (0, 1) for b in (0, 1) for c in (0, 1)]
    assert coverage(similar[:, choose(similar, pick, np.ones(6, bool))]) >= max(every) / 2


def test_a_missing_colour_is_filled():
    red, blue = np.array([[50.0, 60, 40]]), np.array([[30.0, 40, -80]])
    similar = similarity(np.concatenate([red.repeat(10, 0), blue.repeat(10, 0)]), np.concatenate([red, red, red, blue]))
    assert choose(similar, np.array([0, 1, 1, 1]), np.ones(4, bool)).tolist() == [0, 3]
    assert choose(similar, np.array([0, 1, 1, 1]), np.array([True, True, True, False])).tolist() == [0, 1]


def filled(images, picks, folder, compensator, filling):
    chosen = choices(images, picks, compensator, filling, class_colors(images, folder), folder / "keep")
    return chosen, fill_gaps(images, picks, folder / "set", STORAGE, compensator, chosen)


def test_a_filled_set_covers_its_classes_no_less_than_its_picks(images, random_editor, filling, tmp_path):
    chosen, provenance = filled(images, PICKS, tmp_path, Compensator(COLORING, random_editor), filling)
    made = condensed.load(tmp_path / "set", images.classes)
    picked = images.images(PICKS["index"]), PICKS["label"].to_numpy()
    sets = {"picks": picked, "filled": gaps.parts(made, provenance)}
    table = gaps.measured(class_colors(images, tmp_path), sets).set_index("set")
    assert table.loc["filled", "coverage"] >= table.loc["picks", "coverage"] - 1e-3, "up to rounding when filed"
    assert (chosen["loss"] <= chosen["source_loss"] + filling.margin).all()
    assert set(chosen["strength"]) <= {0.0, *gaps.STRENGTHS} and list(chosen["index"]) == list(PICKS["index"])
    assert provenance["prompts"].map(list).tolist() == [[prompt] if prompt else [] for prompt in chosen["prompt"]]


def test_the_edits_of_a_class_and_of_a_set_fill_whole_batches(images, random_editor, filling, tmp_path, monkeypatch):
    tool, passes = random_editor.using(batch_size=6), []
    unet, forward = tool.pipeline.unet, tool.pipeline.unet.forward
    monkeypatch.setattr(unet, "forward", lambda *of, **options: passes.append(1) or forward(*of, **options))
    chosen, _ = filled(images, PICKS, tmp_path, Compensator(COLORING, tool), filling)
    batches = 2 + bool((chosen["prompt"] != "").any())  # two picks under three prompts a class; the set
    assert len(passes) == batches * tool.settings.steps


def test_without_room_for_the_teachers_loss_only_candidates_that_it_likes_better_are_chosen(
    images, random_editor, filling, tmp_path
):
    strict = replace(filling, margin=0.0)
    colors = class_colors(images, tmp_path)
    chosen = choices(images, PICKS, Compensator(COLORING, random_editor), strict, colors, tmp_path)
    assert (chosen["loss"] <= chosen["source_loss"]).all()
    with pytest.raises(ValueError, match="gap_margin = -1"):
        replace(filling, margin=-1)


def test_one_image_alone_is_made_to_the_same_bytes_and_kept_choices_are_read(
    images, random_editor, filling, tmp_path, monkeypatch
):
    compensator = Compensator(COLORING, random_editor)
    chosen, provenance = filled(images, PICKS, tmp_path, compensator, filling)
    again = fill_gaps(images, PICKS[PICKS["index"] == 2], tmp_path / "again", STORAGE, compensator, chosen)
    assert again["sha256"].tolist() == provenance.loc[provenance["index"] == 2, "sha256"].tolist()
    monkeypatch.setattr(gaps, "candidates", None)
    colors = class_colors(images, tmp_path)
    assert choices(images, PICKS, compensator, filling, colors, tmp_path / "keep").equals(chosen)


def test_an_edit_that_failed_is_not_filed_and_the_other_images_are_kept(images, random_editor, tmp_path, monkeypatch):
    edits_under = Compensator.edits_under

    def second_fails(self, *arguments):
        edits = edits_under(self, *arguments)
        edits[1] = np.nan
        return edits

    monkeypatch.setattr(Compensator, "edits_under", second_fails)
    chosen = PICKS.assign(prompt=["sunny", "rainy", "", "sepia"], strength=1.0, edit_seed=5)
    with pytest.raises(EditFailed, match=rf"NaN or black .* {images.source(2)};"):
        fill_gaps(images, PICKS, tmp_path, STORAGE, Compensator(COLORING, random_editor), chosen)
    made = {path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("*/*.png")}
    assert made == {"00000/00000.png", "00001/00000.png", "00001/00001.png"}


def test_the_colours_of_classes_are_described_once_and_again_for_other_images(images, tmp_path, monkeypatch):
    colors = class_colors(images, tmp_path)
    assert [len(of_class) for of_class in colors] == [20, 20]
    assert (colors[1] == color.description(images.images(images.class_indices(1), gaps.DESCRIBED))).all()
    with monkeypatch.context() as patch:
        patch.setattr(color, "description", None)
        again = class_colors(images, tmp_path)
    assert all((one == other).all() for one, other in zip(again, colors, strict=True))
    other = replace(images, pixels=255 - images.pixels)
    assert not (class_colors(other, tmp_path)[0] == colors[0]).all()


def test_both_halves_of_a_blend_count(images, random_editor, tmp_path):
    provenance = compensate(images, PICKS, tmp_path, STORAGE, Compensator(COLORING, random_editor))
    halves, labels = gaps.parts(condensed.load(tmp_path, images.classes), provenance)
    assert len(halves) == 2 * len(PICKS) and labels.tolist() == [0] * 4 + [1] * 4
