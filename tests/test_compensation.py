from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dc3 import compensation
from dc3.compensation import Coloring, EditFailed, compensate, draw
from dc3.data import image_folder, in_memory
from dc3.files import sha256

COLORING = Coloring(0, ["sunny", "sepia"], ["rainy", "snowy"], "Adjust the color hue to be {p}", "gradient")


@pytest.fixture(scope="module")
def images():
    pixels = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    return in_memory("noise", "train", ["a", "b"], np.repeat([0, 1], 6), pixels)


@pytest.fixture(scope="module")
def picks():
    return pd.DataFrame({"index": [4, 1, 7, 10, 6], "label": [0, 0, 1, 1, 1], "bin": 0, "rank": [0, 1, 0, 1, 2]})


@pytest.fixture(scope="module")
def undisturbed(images, picks, random_editor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return compensate(images, picks, COLORING, random_editor, folder), folder


def digests(folder):
    return {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.glob("*/*.png"))}


def test_the_set_is_one_file_a_pick_in_class_folders_with_its_provenance(undisturbed, images):
    provenance, folder = undisturbed
    assert provenance["file"].tolist() == [
        "00000/00000.png", "00000/00001.png", "00001/00000.png", "00001/00001.png", "00001/00002.png",
    ]  # fmt: skip
    assert dict(zip(provenance["file"], provenance["sha256"], strict=True)) == digests(folder)
    assert provenance["source"].tolist() == [images.source(k) for k in (4, 1, 7, 10, 6)]
    assert all(warm in COLORING.warm_prompts and cold in COLORING.cold_prompts for warm, cold in provenance["prompts"])
    condensed = image_folder(folder, name="c", split="condensed", image_size=32)
    assert condensed.labels.tolist() == [0, 0, 1, 1, 1]


def test_an_image_has_the_same_bytes_alone_as_in_company(undisturbed, images, picks, random_editor, tmp_path):
    _, folder = undisturbed
    alone = picks[picks["index"] == 10]
    compensate(images, alone, COLORING, random_editor, tmp_path)
    assert digests(tmp_path) == {"00001/00001.png": digests(folder)["00001/00001.png"]}


def test_a_run_stopped_in_the_middle_ends_in_the_same_bytes(
    undisturbed, images, picks, random_editor, tmp_path, monkeypatch
):
    written = compensation._write

    def write_three(target, image, history):
        if len(list(tmp_path.glob("*/*.png"))) == 3:
            raise KeyboardInterrupt
        written(target, image, history)

    monkeypatch.setattr(compensation, "_write", write_three)
    with pytest.raises(KeyboardInterrupt):
        compensate(images, picks, COLORING, random_editor, tmp_path)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.png")}
    monkeypatch.setattr(compensation, "_write", written)
    provenance = compensate(images, picks, COLORING, random_editor, tmp_path)
    assert digests(tmp_path) == digests(undisturbed[1])
    assert provenance.equals(undisturbed[0])
    assert len(kept) == 3 and all(path.stat().st_mtime_ns == time for path, time in kept.items())


def test_what_another_setting_made_is_redone_and_strangers_are_removed(
    undisturbed, images, picks, random_editor, tmp_path
):
    warm = replace(COLORING, blend_mode="warm")
    compensate(images, picks, warm, random_editor, tmp_path)
    assert not set(digests(tmp_path).values()) & set(digests(undisturbed[1]).values())
    compensate(images, picks[picks["label"] == 0], COLORING, random_editor, tmp_path)
    expected = {file: digest for file, digest in digests(undisturbed[1]).items() if file.startswith("00000")}
    assert digests(tmp_path) == expected


class BreaksOn:
    """The editor, but edits with the first-attempt seeds of some images come out as NaN."""

    def __init__(self, editor, indices, attempts):
        self.editor = editor
        self.seeds = {s for i in indices for a in range(attempts) for s in draw(i, COLORING, a).edit_seeds}

    def __getattr__(self, name):
        return getattr(self.editor, name)

    def edit(self, images, instructions, seeds):
        edits = self.editor.edit(images, instructions, seeds)
        edits[[seed in self.seeds for seed in seeds]] = np.nan
        return edits


def test_a_failed_edit_is_retried_with_another_draw_and_the_retry_is_recorded(
    undisturbed, images, picks, random_editor, tmp_path
):
    provenance = compensate(images, picks, COLORING, BreaksOn(random_editor, [7], 1), tmp_path)
    assert provenance.set_index("index")["attempt"].to_dict() == {4: 0, 1: 0, 7: 1, 10: 0, 6: 0}
    differing = [file for file, digest in digests(undisturbed[1]).items() if digests(tmp_path)[file] != digest]
    assert differing == ["00001/00000.png"]


def test_an_edit_that_fails_twice_ends_the_run_with_its_name_and_keeps_the_rest(images, picks, random_editor, tmp_path):
    with pytest.raises(EditFailed, match=images.source(7)):
        compensate(images, picks, COLORING, BreaksOn(random_editor, [7], 2), tmp_path)
    assert "00000/00000.png" in digests(tmp_path) and "00001/00000.png" not in digests(tmp_path)


def test_fourfold_view_draws_two_warm_and_two_cold_prompts():
    drawn = draw(3, replace(COLORING, blend_mode="fourfold_view"))
    assert [prompt in COLORING.warm_prompts for prompt in drawn.prompts] == [True, False, True, False]
    assert len(set(drawn.edit_seeds)) == 4


def test_mode_none_files_the_picks_themselves(images, picks, random_editor, tmp_path):
    compensate(images, picks, replace(COLORING, blend_mode="none"), random_editor, tmp_path)
    saved = np.asarray(Image.open(tmp_path / "00001/00000.png"))
    assert (saved == images.images([7])[0]).all()


def test_draws_depend_on_the_run_seed_and_the_index():
    assert draw(5, COLORING) == draw(5, COLORING)
    assert draw(5, COLORING) != draw(6, COLORING)
    assert draw(5, COLORING) != draw(5, replace(COLORING, seed=1))


@pytest.mark.parametrize(("field", "value"), [("instruction", "make it warm"), ("blend_mode", "mosaic")])
def test_refusals_name_the_parameter(field, value):
    with pytest.raises(ValueError, match=field):
        replace(COLORING, **{field: value})
