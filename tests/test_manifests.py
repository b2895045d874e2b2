"""Records and files of finished stages that others have damaged, added to, or linked elsewhere."""

import json
import os

import pandas as pd
import pytest
from finished_runs import SIZE, image_set, make_run

from dc3.compensation import copy
from dc3.condensed import Storage
from dc3.machine.files import remove
from dc3.runs.manifests import NotAsWritten, StageMissing, read_manifest, written, written_folder
from dc3.runs.notebook_stage import NotebookStage
from dc3.runs.reproduction import reproduce

SET = "04_compensation/condensed"


@pytest.fixture
def run(home):
    return make_run("toy", until="04")


def own_set():
    """The condensed set as 05 asks for it."""
    stage = NotebookStage("05_validation", "toy", {"run": "toy", "method": "dc3_plain", "condensed_dir": ""}, "code")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NotebookStage, "train", type("Train", (), {"classes": ("cat", "dog", "owl")}))
        return stage.own_set()


def test_an_image_that_somebody_adds_to_every_class_of_a_condensed_set_is_refused_by_name(run):
    assert len(own_set()["DC3 picks, plain"]) == 6
    for label in range(3):
        image = run / SET / f"{label:05d}/00000.png"
        image.with_name("mine.png").write_bytes(image.read_bytes())
    with pytest.raises(NotAsWritten, match=r"3 files that 04_compensation did not write .*00000/mine\.png"):
        own_set()


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"other")])
def test_an_image_that_is_gone_or_another_is_refused_by_name(run, damage):
    for label in range(3):
        damage(run / SET / f"{label:05d}/00001.png")
    with pytest.raises(NotAsWritten, match=r"has changed .*00000/00001\.png"):
        own_set()


def test_hidden_files_of_systems_are_no_files_of_the_set(run):
    (run / SET / "00000/.DS_Store").touch()
    assert written_folder("toy", SET) == run / SET


def test_a_file_that_its_stage_did_not_write_is_not_read(run):
    assert written("toy", "00_teacher/settings.json") == run / "00_teacher/settings.json"
    (run / "00_teacher/settings.json").write_text("{}", encoding="utf-8")
    with pytest.raises(NotAsWritten, match=r"settings\.json is not what 00_teacher wrote"):
        written("toy", "00_teacher/settings.json")
    (run / "00_teacher/mine.json").touch()
    with pytest.raises(StageMissing):
        written("toy", "00_teacher/mine.json")


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a/../../b", "", "a\0b"])
@pytest.mark.parametrize("kind", ["outputs", "figures"])
def test_a_manifest_that_lists_files_elsewhere_is_damaged(run, kind, name):
    manifest = run / "00_teacher/manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    content[kind][name] = "0" * 64
    manifest.write_text(json.dumps(content), encoding="utf-8")
    assert read_manifest("toy", "00_teacher") is None


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"layout": "two"}', b"\xff\xfe", b"[" * 200_000, b"null"])
def test_what_has_not_the_form_of_a_manifest_is_damaged(run, content):
    (run / "00_teacher/manifest.json").write_bytes(content)
    assert read_manifest("toy", "00_teacher") is None


def test_removal_takes_a_link_and_leaves_what_it_leads_to(tmp_path):
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs/mine.png").touch()
    (tmp_path / "link").symlink_to(tmp_path / "photographs")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    for name in ("link", "broken", "nothing"):
        remove(tmp_path / name)
    assert os.listdir(tmp_path) == ["photographs"] and os.listdir(tmp_path / "photographs") == ["mine.png"]


def test_a_set_is_filled_again_beside_links_and_subfolders_and_their_files_stay(run, home):
    photographs = home / "photographs"
    photographs.mkdir()
    (photographs / "mine.png").touch()
    before = {path.name: path.read_bytes() for path in (run / SET / "00001").iterdir()}
    (run / SET / "00000").rename(home / "moved")
    (run / SET / "00000").symlink_to(photographs)
    (run / SET / "00001/deep").mkdir()
    (run / SET / "00001/deep/x.png").touch()
    (run / SET / "linked").symlink_to(photographs)
    (run / SET / ".ipynb_checkpoints").mkdir()
    picks = pd.read_parquet(written("toy", "03_sampling/selection.parquet"))
    copy(image_set(), picks, run / SET, Storage(SIZE))
    assert os.listdir(photographs) == ["mine.png"]
    assert sorted(path.name for path in (run / SET).iterdir()) == ["00000", "00001", "00002", "provenance.parquet"]
    assert {path.name: path.read_bytes() for path in (run / SET / "00001").iterdir()} == before


def test_images_of_a_linked_folder_are_files_that_the_stage_did_not_write(run, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.png").write_bytes((run / SET / "00000/00000.png").read_bytes())
    for label in range(3):
        (run / SET / f"{label:05d}/more").symlink_to(elsewhere)
    with pytest.raises(NotAsWritten, match=r"3 files that 04_compensation did not write .*00000/more/mine\.png"):
        own_set()


@pytest.mark.parametrize("folder", [".ipynb_checkpoints", "__MACOSX", "00000/@eaDir"])
def test_folders_that_systems_leave_hold_no_files_of_the_set(run, folder):
    (run / SET / folder).mkdir()
    (run / SET / folder / "x.png").touch()
    assert len(own_set()["DC3 picks, plain"]) == 6


def test_an_image_that_is_another_is_not_compared_with_the_one_made_again(run):
    provenance = pd.read_parquet(run / SET / "provenance.parquet")
    (run / SET / provenance["file"].iloc[0]).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0")
    with pytest.raises(NotAsWritten, match=r"00000\.png is not what 04_compensation wrote"):
        reproduce("toy", int(provenance["index"].iloc[0]))
