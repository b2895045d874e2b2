import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dc3 import condensed
from dc3.compensation import (
    Coloring,
    Compensator,
    EditFailed,
    compensate,
    compensated,
    copy,
    draw_for,
    recorded_pairs,
)
from dc3.condensed import Storage
from dc3.images.datasets import image_folder
from dc3.images.image_set import in_memory
from dc3.machine.files import replacing, sha256
from dc3.machine.paths import SHIPPED_EDITOR
from dc3.models.editor import EditorSettings, load_editor
from dc3.runs.parameters import declared

STORAGE = Storage(32)
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
    return compensate(images, picks, folder, STORAGE, Compensator(COLORING, random_editor)), folder


def digests(folder):
    return {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.glob("*/*.png"))}


def test_a_set_has_one_file_per_pick_in_class_folders_and_a_provenance(undisturbed, images):
    provenance, folder = undisturbed
    assert provenance["file"].tolist() == [
        "00000/00000.png", "00000/00001.png", "00001/00000.png", "00001/00001.png", "00001/00002.png",
    ]  # fmt: skip
    assert dict(zip(provenance["file"], provenance["sha256"], strict=True)) == digests(folder)
    assert provenance["source"].tolist() == [images.source(k) for k in (4, 1, 7, 10, 6)]
    assert all(warm in COLORING.warm_prompts and cold in COLORING.cold_prompts for warm, cold in provenance["prompts"])
    made = image_folder(folder, name="c", split="condensed")
    assert made.labels.tolist() == [0, 0, 1, 1, 1]
    filed = pd.read_parquet(folder / "provenance.parquet")
    assert filed.drop(columns=["prompts", "edit_seeds"]).equals(provenance.drop(columns=["prompts", "edit_seeds"]))


def test_the_provenance_says_what_made_each_image(undisturbed, images, random_editor):
    row = undisturbed[0].set_index("index").loc[7]
    drawn = draw_for(7, COLORING)
    assert list(row["prompts"]) == drawn.prompts and list(row["edit_seeds"]) == drawn.edit_seeds
    assert row["source_sha256"] == hashlib.sha256(images.images([7])).hexdigest()
    assert (row["class"], row["label"], row["bin"], row["rank"]) == ("b", 1, 0, 0)
    assert (row["blend_mode"], row["guidance_scale"], row["image_guidance_scale"]) == ("gradient", 2.0, 1.2)
    assert (row["sampler"], row["guidance_from"], row["guidance_until"]) == ("euler_a", 0.0, 1.0)
    assert (row["steps"], row["editor"], len(row["editor_sha256"])) == (2, random_editor.settings.name, 64)


def test_a_set_of_another_sampler_or_interval_is_made_again(undisturbed, images, picks, random_editor, tmp_path):
    picks, seen = picks[picks["index"] == 10], [digests(undisturbed[1])["00001/00001.png"]]
    for changes in ({"guidance_until": 0.5}, {"sampler": "dpmpp_2m"}, {"sampler": "unipc", "guidance_from": 0.5}):
        found = compensate(images, picks, tmp_path, STORAGE, Compensator(COLORING, random_editor.using(**changes)))
        assert all(found[name].tolist() == [value] for name, value in changes.items())
        assert condensed.history(tmp_path / "00001/00001.png")["set"].items() >= changes.items()
        seen += digests(tmp_path).values()
    assert len(set(seen)) == 4


def test_an_image_from_a_file_is_known_by_the_files_hash(random_editor, tmp_path):
    for label in "ab":
        (tmp_path / "in" / label).mkdir(parents=True)
        Image.new("RGB", (32, 32), "teal").save(tmp_path / "in" / label / "x.png")
    images = image_folder(tmp_path / "in", name="files", split="train")
    picks = pd.DataFrame({"index": [0, 1], "label": [0, 1], "bin": 0, "rank": 0})
    provenance = copy(images, picks, tmp_path / "out", STORAGE)
    assert provenance["source"].tolist() == ["in/a/x.png", "in/b/x.png"]
    assert provenance["source_sha256"].tolist() == [sha256(tmp_path / "in" / label / "x.png") for label in "ab"]


def test_an_image_has_the_same_bytes_alone_and_in_a_batch(undisturbed, images, picks, random_editor, tmp_path):
    _, folder = undisturbed
    alone = picks[picks["index"] == 10]
    compensate(images, alone, tmp_path, STORAGE, Compensator(COLORING, random_editor))
    assert digests(tmp_path) == {"00001/00001.png": digests(folder)["00001/00001.png"]}


def test_a_run_stopped_in_the_middle_ends_in_the_same_bytes(
    undisturbed, images, picks, random_editor, tmp_path, monkeypatch
):
    def write_three(target):
        if len(list(tmp_path.glob("*/*.png"))) == 3:
            raise KeyboardInterrupt
        return replacing(target)

    with monkeypatch.context() as patch:
        patch.setattr(condensed, "replacing", write_three)
        with pytest.raises(KeyboardInterrupt):
            compensate(images, picks, tmp_path, STORAGE, Compensator(COLORING, random_editor))
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.png")}
    provenance = compensate(images, picks, tmp_path, STORAGE, Compensator(COLORING, random_editor))
    assert digests(tmp_path) == digests(undisturbed[1])
    assert provenance.equals(undisturbed[0])
    assert len(kept) == 3 and all(path.stat().st_mtime_ns == time for path, time in kept.items())


def test_a_run_killed_while_it_wrote_the_provenance_leaves_no_part_of_it(
    undisturbed, images, picks, random_editor, tmp_path
):
    writing = (
        "import os, sys; from dc3.machine.files import replacing\n"
        "with replacing(sys.argv[1]) as partial: partial.write_bytes(b'half'); os._exit(9)"
    )
    command = [sys.executable, "-c", writing, str(tmp_path / "provenance.parquet")]
    assert subprocess.run(command).returncode == 9 and len(list(tmp_path.iterdir())) == 1
    provenance = compensate(images, picks, tmp_path, STORAGE, Compensator(COLORING, random_editor))
    assert {path.name for path in tmp_path.iterdir()} == {"00000", "00001", "provenance.parquet"}
    assert provenance.equals(undisturbed[0])


@pytest.mark.process
@pytest.mark.parametrize("kills", [2, pytest.param(24, marks=pytest.mark.slow)])
def test_killed_at_random_moments_the_set_ends_in_the_bytes_of_an_undisturbed_run(
    random_editor_folder, tmp_path, kills
):
    script = Path(__file__).with_name("killing.py")
    command = [sys.executable, str(script), str(random_editor_folder), str(tmp_path), str(kills)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["kills"] == kills and len(told["undisturbed"]) == 14 + 1
    assert told["finished"] and all(content == told["undisturbed"] for content in told["finished"])


def test_a_damaged_image_is_made_again(undisturbed, images, picks, random_editor, tmp_path):
    compensate(images, picks, tmp_path, STORAGE, Compensator(COLORING, random_editor))
    damaged = tmp_path / "00001/00002.png"
    damaged.write_bytes(damaged.read_bytes()[:-60])
    compensate(images, picks, tmp_path, STORAGE, Compensator(COLORING, random_editor))
    assert digests(tmp_path) == digests(undisturbed[1])


def test_across_batch_sizes_hardly_a_pixel_differs_and_none_by_more_than_one(record_property):
    """With the shipped editor: sums of another batch shape differ in the last bits, which rounding mostly hides."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    instructions = [f"Adjust the color hue to be {p} and preserve all details and content" for p in ("sunny", "rainy")]
    edits = {}
    for batch_size in (1, 3, 4):
        editor = load_editor(EditorSettings(SHIPPED_EDITOR.name, 32, 3, 2.0, 1.2, batch_size))
        edited = editor.edit(pixels, instructions * 2, list(range(4)))
        edits[batch_size] = np.rint(edited * 255).astype(int)
    for batch_size in (1, 3):
        differences = np.abs(edits[batch_size] - edits[4])
        record_property(f"values that differ, batch {batch_size} against 4", int((differences > 0).sum()))
        assert differences.max() <= 1
        assert (differences > 0).mean() < 0.01


def test_images_of_other_settings_are_made_again_and_other_files_removed(
    undisturbed, images, picks, random_editor, tmp_path
):
    warm = replace(COLORING, blend_mode="warm")
    compensate(images, picks, tmp_path, STORAGE, Compensator(warm, random_editor))
    assert not set(digests(tmp_path).values()) & set(digests(undisturbed[1]).values())
    compensate(images, picks[picks["label"] == 0], tmp_path, STORAGE, Compensator(COLORING, random_editor))
    expected = {file: digest for file, digest in digests(undisturbed[1]).items() if file.startswith("00000")}
    assert digests(tmp_path) == expected


class BreaksOn:
    """The editor, but edits with the first-attempt seeds of some images come out as NaN."""

    def __init__(self, editor, indices, attempts):
        self.editor = editor
        self.seeds = {s for i in indices for a in range(attempts) for s in draw_for(i, COLORING, a).edit_seeds}

    def __getattr__(self, name):
        return getattr(self.editor, name)

    def edit(self, images, instructions, seeds, sources):
        edits = self.editor.edit(images, instructions, seeds, sources)
        edits[[seed in self.seeds for seed in seeds]] = np.nan
        return edits


def test_a_failed_edit_is_retried_with_another_draw_and_the_retry_is_recorded(
    undisturbed, images, picks, random_editor, tmp_path
):
    provenance = compensate(images, picks, tmp_path, STORAGE, Compensator(COLORING, BreaksOn(random_editor, [7], 1)))
    assert provenance.set_index("index")["attempt"].to_dict() == {4: 0, 1: 0, 7: 1, 10: 0, 6: 0}
    differing = [file for file, digest in digests(undisturbed[1]).items() if digests(tmp_path)[file] != digest]
    assert differing == ["00001/00000.png"]


def test_an_image_that_fails_twice_stops_the_run_with_its_name_and_keeps_the_others(
    images, picks, random_editor, tmp_path
):
    with pytest.raises(EditFailed, match=images.source(7)):
        compensate(images, picks, tmp_path, STORAGE, Compensator(COLORING, BreaksOn(random_editor, [7], 2)))
    assert "00000/00000.png" in digests(tmp_path) and "00001/00000.png" not in digests(tmp_path)


def test_fourfold_view_draws_two_warm_and_two_cold_prompts():
    drawn = draw_for(3, replace(COLORING, blend_mode="fourfold_view"))
    assert [prompt in COLORING.warm_prompts for prompt in drawn.prompts] == [True, False, True, False]
    assert len(set(drawn.edit_seeds)) == 4


def test_mode_none_files_the_picks_themselves(images, picks, random_editor, tmp_path):
    compensate(images, picks, tmp_path, STORAGE, Compensator(replace(COLORING, blend_mode="none"), random_editor))
    saved = np.asarray(Image.open(tmp_path / "00001/00000.png"))
    assert (saved == images.images([7])[0]).all()


def test_draws_depend_on_the_run_seed_and_the_index():
    assert draw_for(5, COLORING) == draw_for(5, COLORING)
    assert draw_for(5, COLORING) != draw_for(6, COLORING)
    assert draw_for(5, COLORING) != draw_for(5, replace(COLORING, seed=1))


@pytest.mark.parametrize(("field", "value"), [("instruction", "make it warm"), ("blend_mode", "mosaic")])
def test_refusals_name_the_parameter(field, value):
    with pytest.raises(ValueError, match=field):
        replace(COLORING, **{field: value})


def test_a_mild_edit_lies_between_the_pick_and_its_edit():
    source = np.full((8, 8, 3), 100, np.uint8)
    edits = np.stack([np.full((8, 8, 3), 180 / 255), np.full((8, 8, 3), 20 / 255)]).astype(np.float32)
    for strength, value in ((1.0, 180), (0.5, 140), (0.25, 120)):
        coloring = replace(COLORING, blend_mode="warm", edit_strength=strength)
        assert (compensated(source, edits, draw_for(0, coloring), coloring) == value).all()
    with pytest.raises(ValueError, match="edit_strength = 0"):
        replace(COLORING, edit_strength=0)


def test_the_shown_edits_are_those_of_the_condensed_image(images, picks, random_editor, tmp_path):
    kept = compensate(images, picks, tmp_path / "kept", STORAGE, Compensator(COLORING, BreaksOn(random_editor, [7], 1)))
    sources, draws = images.images(kept["index"]), recorded_pairs(kept, COLORING)
    edits = Compensator(COLORING, random_editor).edits_of(sources, draws)
    again = [compensated(*parts, COLORING) for parts in zip(sources, edits, draws, strict=True)]
    filed = np.stack([np.asarray(Image.open(tmp_path / "kept" / name)) for name in kept["file"]])
    assert np.abs(np.stack(again).astype(int) - filed).max() <= 1
    plain = copy(images, picks, tmp_path / "plain", STORAGE)
    assert [len(drawn.prompts) for drawn in recorded_pairs(plain, COLORING)] == [2] * len(plain)


def test_draws_and_histories_are_those_of_earlier_versions(images, picks, undisturbed):
    """A condensed set keeps its bytes: the draws of image 7, and the keys of its history in their order."""
    drawn = draw_for(7, COLORING)
    assert drawn.prompts == ["sepia", "rainy"] and drawn.blend_seed == 2197499804361925096
    assert drawn.edit_seeds == [3583867920954890687, 3685517640310069395]
    history = condensed.history(undisturbed[1] / "00001/00000.png")
    assert list(history["draw"]) == ["prompts", "edit_seeds", "blend_seed", "attempt", "candidate"]
    assert list(history["set"])[8:11] == ["edit_strength", "edit_candidates", "editor"]


@pytest.mark.parametrize("storage", [STORAGE, Storage(48, "jpeg", 75)], ids=["png", "jpeg"])
def test_the_parameters_of_a_set_make_its_bytes_again(images, picks, random_editor_folder, tmp_path, storage):
    """As `dc3 reproduce` does, with an editor that is loaded again, and one image alone."""
    params = {name: parameter.default for name, parameter in declared("04_compensation").items()}
    params |= {"editor": str(random_editor_folder), "sampler": "dpmpp_2m", "edit_steps": 4, "guidance_until": 0.5}
    params |= {"edit_batch_size": 4}
    first, later = (Compensator.of(params, 3, "cpu") for _ in range(2))
    made = compensate(images, picks, tmp_path / "set", storage, first).set_index("index")
    again = compensate(images, picks[picks["index"] == 7], tmp_path / "again", storage, later)
    assert again["sha256"].tolist() == [made.loc[7, "sha256"]]


def test_a_compensator_comes_from_the_parameters_and_only_for_methods_that_edit(random_editor_folder):
    params = {name: parameter.default for name, parameter in declared("04_compensation").items()}
    made = Compensator.of(params | {"editor": str(random_editor_folder)}, 3, "cpu")
    assert made.coloring.seed == 3 and made.editor.settings.size == params["edit_size"]
    assert Compensator.of(params | {"method": "random"}, 3, "cpu") is None
