"""What lies outside a run: how it is known, and that a stage is redone, from nothing, when it has changed."""

import os
import shutil

import pytest

from dc3.machine import files, fingerprints, paths
from dc3.machine.fingerprints import is_unchanged, path_fingerprint
from dc3.runs import stage as runs
from dc3.runs.parameters import declared

STAGE = "01_features"


@pytest.fixture
def weights(tmp_path):
    folder = tmp_path / "weights"
    (folder / "vae").mkdir(parents=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "vae/model.bin").write_bytes(bytes(100))
    return folder


def change_unseen(file):
    """Other bytes, of the same number and the same time."""
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    file.write_bytes(b"1" * file.stat().st_size)
    os.utime(file, ns=times)


def test_a_small_folder_is_known_by_its_content_wherever_it_lies(weights, tmp_path):
    known = path_fingerprint(weights)
    os.utime(weights / "config.json", (1, 1))
    assert is_unchanged(weights, known) and path_fingerprint(shutil.copytree(weights, tmp_path / "clone")) == known
    change_unseen(weights / "vae/model.bin")
    assert not is_unchanged(weights, known)
    change_unseen(tmp_path / "clone/config.json")
    assert path_fingerprint(tmp_path / "clone/config.json") != path_fingerprint(weights / "config.json")


def test_of_a_large_folder_names_sizes_and_times_are_asked_for(weights, monkeypatch):
    monkeypatch.setattr(fingerprints, "SMALL", 50)
    monkeypatch.setattr(fingerprints, "sha256", None)  # nothing is read
    known = path_fingerprint(weights)
    change_unseen(weights / "vae/model.bin")
    assert is_unchanged(weights, known)
    os.utime(weights / "vae/model.bin", (1, 1))
    assert not is_unchanged(weights, known)


def begin():
    return runs.begin(STAGE, {key: p.default for key, p in declared(STAGE).items()} | {"run": "tiny"})


@pytest.fixture
def stage(home, monkeypatch):
    """A stage under way."""
    monkeypatch.setattr(runs, "notebook_fingerprint", lambda name: "the code")
    stage = begin()
    stage.output("latents.npy").write_text("half", encoding="utf-8")
    yield stage
    files.release_lock(runs.stage_lock("tiny", STAGE))


def test_a_stage_depends_on_a_model_that_lies_here_and_on_no_name_of_a_hub(stage, home, weights, monkeypatch):
    monkeypatch.setattr(paths, "WORKSPACE", home)
    for elsewhere in ("stabilityai/sd-vae-ft-mse", "IMAGENET1K_V1", "", "/no/such.pt"):
        assert stage.use_model(elsewhere) == elsewhere
    assert not stage.external
    assert stage.use_model("weights") == stage.use_model(str(weights)) == str(weights)
    assert stage.use_model(paths.SHIPPED_EDITOR.name) == str(paths.SHIPPED_EDITOR)
    assert list(stage.external) == ["weights", str(paths.SHIPPED_EDITOR)], "in the repository, as every clone has it"


@pytest.mark.parametrize("used", ["vae/model.bin", "vae"])
def test_weights_that_are_others_now_have_the_stage_redone(stage, weights, used):
    stage.use_model(str(weights / used))
    stage.finish()
    os.utime(weights / "vae/model.bin", (1, 1))
    assert runs.why_not_current("tiny", STAGE, stage.params) is None
    change_unseen(weights / "vae/model.bin")
    assert runs.why_not_current("tiny", STAGE, stage.params) == f"{weights / used} changed"


@pytest.mark.parametrize("is_finished", [False, True])
def test_a_stage_goes_on_from_what_the_same_weights_made_only(stage, weights, is_finished):
    stage.use_model(str(weights))
    if is_finished:
        stage.finish()
    assert begin().output("latents.npy").exists()
    change_unseen(weights / "vae/model.bin")
    assert not begin().output("latents.npy").exists()
