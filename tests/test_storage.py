"""Image folders by URL: the same set as from a folder here; and condensed sets that are published by URL."""

import pickle
import subprocess
import sys

import fsspec
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dc3 import condensed, features
from dc3.compensation import copy
from dc3.generators.tiny_editor import build_autoencoder
from dc3.images import datasets
from dc3.images.decoding import UnreadableImage
from dc3.machine import paths
from dc3.machine.files import sha256
from dc3.machine.fingerprints import is_unchanged
from dc3.machine.paths import files_below, place
from dc3.runs.checks import check_inputs
from dc3.runs.notebook_stage import NotebookStage
from dc3.runs.parameters import ParameterError, all_declared, check

LOAD = {"dataset": "imagefolder", "images_per_class": 0}


@pytest.fixture
def folder(tmp_path):
    """train/ and val/ of two classes; one has a folder in its folder, and a file that is no image."""
    for split in ("train", "val"):
        for shade, name in enumerate(("cat", "dog")):
            for k, file in enumerate(("b.png", "a.PNG", "more/c.png")):
                (path := tmp_path / "images" / split / name / file).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((10, 9, 3), 60 * shade + k, np.uint8)).save(path, format="PNG")
    (tmp_path / "images/train/cat/notes.txt").write_text("not an image", encoding="utf-8")
    return tmp_path / "images"


@pytest.fixture
def memory(folder):
    """The same folder in fsspec's file system in memory, by its URL."""
    system = fsspec.filesystem("memory")
    for path in folder.rglob("*"):
        if path.is_file():
            system.pipe_file(f"/bucket/{path.relative_to(folder)}", path.read_bytes())
    yield "memory://bucket"
    system.rm("/", recursive=True)
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def load(data_dir, split="train"):
    return datasets.load(split=split, data_dir=data_dir, **LOAD).at(8)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_set_by_url_is_the_set_of_the_folder(folder, memory, split):
    here = load(folder, split)
    assert len(here) == 6
    for url in (f"file://{folder}", memory):
        there = load(url, split)
        assert there.classes == here.classes and list(there.sources) == list(here.sources)
        assert (there.labels == here.labels).all() and (there.images() == here.images()).all()
        hashes = [condensed.source_sha256(each, 2) for each in (there, here)]
        assert hashes[0] == hashes[1]
    assert load(f"file://{folder}", split).fingerprint() == here.fingerprint()


def test_a_set_by_url_travels_to_other_processes(memory):
    there = load(memory)
    assert (pickle.loads(pickle.dumps(there)).images([1]) == there.images([1])).all()


def test_the_fingerprint_of_a_remote_set_tells_a_changed_and_a_vanished_file(memory):
    images = load(memory)
    before = images.fingerprint()
    assert load(memory).fingerprint() == before == images.take(range(6)).fingerprint()
    system = fsspec.filesystem("memory")
    system.pipe_file("/bucket/train/cat/b.png", system.cat_file("/bucket/train/cat/b.png") + b" ")
    changed = images.fingerprint()
    system.rm_file("/bucket/train/cat/b.png")
    assert len({before, changed, images.fingerprint()}) == 3


def test_a_stage_knows_when_what_it_read_by_url_has_changed(memory, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    params = {"seed": 0, "device": "cpu", "precision": "auto", "data_dir": memory, "image_size": 8}
    params |= {"framing": "crop", "resampling": "bilinear", "exif_orientation": True} | LOAD
    stage = NotebookStage("00_teacher", "tiny", params, "code")
    stage.settle()
    settings = stage.settings
    assert settings.load["data_dir"] == memory and len(settings.image_set("train")) == 6
    ((place_of, digest),) = stage.external.items()
    assert place_of == memory and is_unchanged(place(place_of), digest)
    fsspec.filesystem("memory").pipe_file("/bucket/train/dog/b.png", b"other")
    assert not is_unchanged(place(place_of), digest)
    with pytest.raises(ValueError, match=r"the train images of .* have changed since 00_teacher ran"):
        settings.image_set("train")


def test_a_corrupt_image_elsewhere_is_named_by_its_url(memory):
    system = fsspec.filesystem("memory")
    system.pipe_file("/bucket/train/dog/b.png", system.cat_file("/bucket/train/dog/b.png")[:40])
    with pytest.raises(UnreadableImage, match=r"cannot read image memory://bucket/train/dog/b.png \(.*: replace"):
        load(memory).images()


@pytest.fixture
def fetched(memory, monkeypatch):
    """The names of the files that were fetched, one for each time."""
    names, read = [], type(place(memory)).read_bytes
    monkeypatch.setattr(type(place(memory)), "read_bytes", lambda file: names.append(file.name) or read(file))
    return names


def test_latents_fetch_each_image_once(memory, fetched, tmp_path):
    images = load(memory)
    features.encode(build_autoencoder(), images, tmp_path / "latents.npy", size=32, batch_size=4)
    assert sorted(fetched) == sorted(source.rsplit("/")[-1] for source in images.sources)


@pytest.mark.parametrize("limit", [2e9, 600])
def test_a_condensed_set_is_fetched_once_and_kept_in_memory_if_it_fits(memory, fetched, monkeypatch, limit):
    monkeypatch.setattr(condensed, "CACHE_BYTES", limit)
    found = condensed.load(place(f"{memory}/train"), ("cat", "dog"))
    assert len(fetched) == len(found) == 6
    assert (found.stored_bytes == [len(found.file(k).read_bytes()) for k in range(6)]).all()
    fetched.clear()
    assert (found.images([4], 8) == 60).all() and len(fetched) == (limit == 600)


@pytest.mark.parametrize(
    ("params", "named"),
    [
        (
            {"data_dir": "nowhere://bucket"},
            "'nowhere://bucket' cannot be opened (Unsupported filesystem: 'nowhere'): give a path",
        ),
        ({"data_dir": "memory://nobody/home"}, "data_dir = 'memory://nobody/home' is not a folder"),
        ({"data_dir": "memory://bucket/train"}, "has no val/ or test/ (it holds cat, dog)"),
        ({"dataset": "cifar10", "data_dir": "memory://bucket"}, "is a URL: dataset = 'cifar10' needs a local folder"),
        ({"data_dir": "s3://bucket"}, "'s3://bucket' cannot be opened (Install s3fs to access S3)"),
        ({"condensed_out": "nowhere://bucket"}, "'nowhere://bucket' cannot be opened"),
        ({"condensed_out": "memory://bucket"}, "condensed_out = 'memory://bucket': holds other images"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value.values()).replace("/", ""),
)
def test_urls_that_lead_nowhere_are_refused_before_anything_runs(memory, params, named):
    params = {"dataset": "imagefolder", "data_dir": memory, "ipc": 1} | params
    with pytest.raises(ParameterError) as caught:
        check_inputs(check(params, all_declared()))
    assert named in str(caught.value)


class NoCredentials(Exception):
    """A store's own kind of exception: neither OSError nor ValueError."""


@pytest.mark.parametrize(
    "params", [{}, {"dataset": "scenes10", "data_dir": "", "condensed_out": "memory://bucket/set"}]
)
def test_a_store_that_cannot_be_reached_is_named_by_its_url(memory, monkeypatch, params):
    def refuse(*_, **__):
        raise NoCredentials("unable to locate credentials")

    params = check({"dataset": "imagefolder", "data_dir": memory, "ipc": 1} | params, all_declared())
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "isdir", refuse)
    with pytest.raises(ParameterError, match=r"memory://bucket.* cannot be reached .NoCredentials: unable to locate"):
        check_inputs(params)


def test_a_url_that_can_be_read_goes_through(memory):
    params = {"dataset": "imagefolder", "data_dir": memory, "ipc": 1, "condensed_out": "memory://elsewhere/set"}
    check_inputs(check(params, all_declared()))


@pytest.fixture
def condensed_set(folder, tmp_path):
    picks = pd.DataFrame({"index": [0, 1, 3, 4], "label": [0, 0, 1, 1], "bin": 0, "rank": [0, 1, 0, 1]})
    copy(load(folder), picks, tmp_path / "condensed", condensed.Storage(8))
    return tmp_path / "condensed"


def contents(target):
    return {name: (target / name).read_bytes() for name in files_below(target)}


@pytest.fixture(params=["file", "memory"])
def target(request, tmp_path, memory):
    return place(f"file://{tmp_path}/published" if request.param == "file" else "memory://bucket/published/set")


def test_a_published_set_has_the_bytes_of_the_condensed_one(condensed_set, target):
    for _ in range(2):
        assert condensed.publish(condensed_set, target) == 4
        assert contents(target) == contents(condensed_set)
    provenance = pd.read_parquet(condensed_set / condensed.PROVENANCE)
    assert all(sha256(condensed_set / row.file) == row.sha256 for row in provenance.itertuples())


def test_a_set_whose_publishing_was_interrupted_has_no_provenance_and_is_completed_by_the_next(
    condensed_set, target, monkeypatch
):
    condensed.publish(condensed_set, target)
    copied = []

    def two_files(names, **_):
        for name in names[:2]:
            copied.append(name)
            yield name
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(condensed, "tqdm", two_files)
        with pytest.raises(KeyboardInterrupt):
            condensed.publish(condensed_set, target)
    assert len(copied) == 2 and condensed.PROVENANCE not in contents(target)
    condensed.publish(condensed_set, target)
    assert contents(target) == contents(condensed_set)


def test_nothing_is_published_among_the_images_of_another_set(condensed_set, target):
    (condensed_set / "00000/00001.png").rename(condensed_set / "00000/00007.png")
    condensed.publish(condensed_set, target)
    (condensed_set / "00000/00007.png").rename(condensed_set / "00000/00001.png")
    before = contents(target)
    with pytest.raises(ValueError, match=r"holds other images \(00000/00007.png\); empty it, or give another place"):
        condensed.publish(condensed_set, target)
    assert contents(target) == before


def test_the_command_line_imports_no_file_systems():
    code = "import sys, dc3.cli; print({'fsspec', 'upath'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
