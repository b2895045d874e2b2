"""One engine gives the bytes of the other: the stages' work here, and in the actors and tasks of a Ray of our own."""

import os
import socket
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from squares import Squares

from dc3 import condensed, features, gradients, strategies
from dc3.compensation import Coloring, Compensator, compensate
from dc3.condensed import Storage
from dc3.generators.tiny_editor import build_autoencoder
from dc3.images import datasets
from dc3.images.decoding import UnreadableImage
from dc3.images.image_set import in_memory
from dc3.machine import engine, paths
from dc3.machine.engine import LOCAL, Engine, EngineFailed, chunks
from dc3.machine.files import sha256
from dc3.machine.fingerprints import notebook_fingerprint
from dc3.models import networks
from dc3.runs import stage as runs
from dc3.runs.checks import check_inputs
from dc3.runs.parameters import ParameterError, all_declared, check

COLORING = Coloring(0, ["sunny", "sepia"], ["rainy", "snowy"], "Adjust the color hue to be {p}", "gradient")
PICKS = pd.DataFrame({"index": [4, 1, 17, 20, 16], "label": [0, 0, 1, 1, 1], "bin": 0, "rank": [0, 1, 0, 1, 2]})


@pytest.fixture(scope="module")
def images():
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    return in_memory("noise", "train", ["a", "b"], np.repeat([0, 1], 12), pixels)


@pytest.fixture(scope="module")
def on_ray():
    """The engine, on a Ray of its own that ends with the tests."""
    pytest.importorskip("ray", reason="pip install 'dc3[ray]'")
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_worker_niceness", "0")  # else its processes come after all else that this machine does
    patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    where = Engine("ray", actors=2)
    list(where.map(Squares(), chunks(1, 1), "to start it"))
    yield where
    where.stop()
    patch.undo()


def test_chunks_are_all_positions_in_order():
    assert [part.tolist() for part in chunks(7, 3)] == [[0, 1, 2], [3, 4, 5], [6]]


def test_the_local_engine_goes_through_the_chunks():
    blocks = list(LOCAL.map(Squares(), chunks(7, 3), "squares"))
    assert [block["square"].tolist() for block in blocks] == [[0, 1, 4], [9, 16, 25], [36]]


def refused(**params):
    with pytest.raises(ParameterError) as caught:
        check_inputs(check(params, all_declared()))
    return str(caught.value)


def test_refused_before_anything_runs_where_ray_is_not_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = refused(engine="ray")
    assert "engine = 'ray'" in message and "pip install 'dc3[ray]'" in message


def test_refused_before_anything_runs_where_no_cluster_answers():
    pytest.importorskip("ray", reason="pip install 'dc3[ray]'")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        assert f"ray_address = '{address}': nothing answers there" in refused(engine="ray", ray_address=address)


def test_nothing_is_redone_for_another_engine(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(paths, "FIGURES", tmp_path / "figures")
    params = {"run": "tiny", "encode_size": 32, "engine": "local", "ray_actors": 1}
    stage = runs.Stage("01_features", "tiny", params, notebook_fingerprint("01_features"))
    stage.folder.mkdir(parents=True)
    stage.finish()
    assert runs.why_not_current("tiny", stage.name, params | {"engine": "ray", "ray_actors": 8}) is None
    other = params | {"engine": "ray", "encode_size": 64}
    assert runs.why_not_current("tiny", stage.name, other) == "changed: encode_size"


def test_an_actors_share_of_a_gpu_counts_on_a_gpu_only():
    params = {"engine": "ray", "ray_address": "head:6379", "ray_actors": 8, "ray_gpus": 0.5}
    assert engine.engine_of(params, torch.device("cuda")) == Engine("ray", "head:6379", 8, 0.5)
    assert engine.engine_of(params, torch.device("cpu")) == Engine("ray", "head:6379", 8, 0.0)


def test_more_actors_than_the_cluster_has_room_for_are_refused():
    nodes = [{"Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0}}, {"Alive": False, "Resources": {"CPU": 99.0}}]
    Engine("ray", gpus=0.5).check_room(nodes, threads=2, wanted=4)
    with pytest.raises(EngineFailed, match=r"ray_actors = 5: the 1 machine\(s\) of the Ray cluster have room for 4"):
        Engine("ray", gpus=0.5).check_room(nodes, threads=2, wanted=5)


def test_a_failure_of_ray_without_a_message_is_told_by_its_kind():
    assert str(engine._own_error(TimeoutError())).startswith("Ray gave up (TimeoutError: TimeoutError)")


@pytest.mark.parametrize(
    ("gpus", "share", "room"),
    [(1, 0.2, 5), (8, 0.2, 40), (1, 0.4, 2), (8, 0.4, 16), (8, 0.1, 80), (2, 0.5, 4), (8, 1, 8), (8, 2, 4), (3, 2, 1)],
)
def test_the_room_for_shares_of_a_gpu_is_what_ray_gives(gpus, share, room):
    nodes = [{"Alive": True, "Resources": {"CPU": 99.0, "GPU": float(gpus)}}]
    Engine("ray", gpus=share).check_room(nodes, threads=1, wanted=room)
    with pytest.raises(EngineFailed, match=rf"have room for {room}, "):
        Engine("ray", gpus=share).check_room(nodes, threads=1, wanted=room + 1)


@pytest.mark.process
@pytest.mark.ray
@pytest.mark.slow
def test_work_that_kills_every_actor_is_given_up_and_said(on_ray, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "RETRIES", 1)
    (trace := tmp_path / "deaths").touch()
    fatal = Squares(trace, 1000)
    with pytest.raises(EngineFailed, match=r"Ray gave up .*lacks memory: set fewer ray_actors"):
        list(replace(on_ray, actors=1).map(fatal, chunks(12, 3), "squares"))
    assert len(trace.read_text(encoding="utf-8")) == 2


@pytest.mark.process
@pytest.mark.ray
def test_latents_have_the_same_bytes(on_ray, images, tmp_path):
    torch.manual_seed(0)
    vae = build_autoencoder().eval()
    for name, where in (("local", LOCAL), ("ray", replace(on_ray, actors=1))):
        features.encode(vae, images, tmp_path / name, size=32, batch_size=5, engine=where)
    assert sha256(tmp_path / "local") == sha256(tmp_path / "ray")


@pytest.mark.process
@pytest.mark.ray
def test_a_corrupt_image_is_named_and_no_latents_are_left(on_ray, tmp_path):
    for number, label in enumerate("aabb"):
        (tmp_path / "in" / "train" / label).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), "teal").save(tmp_path / "in" / "train" / label / f"{number}.png")
    broken = tmp_path / "in/train/b/2.png"
    broken.write_bytes(broken.read_bytes()[:50])
    images = datasets.load("imagefolder", "train", data_dir=tmp_path / "in")
    one = replace(on_ray, actors=1)
    with pytest.raises(UnreadableImage, match=rf"^cannot read image {broken} \(.*\): replace or remove the file, then"):
        features.encode(build_autoencoder(), images, tmp_path / "out" / "x.npy", size=32, batch_size=1, engine=one)
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


@pytest.mark.process
@pytest.mark.ray
def test_gradients_and_picks_are_the_same(on_ray, images, tmp_path):
    teacher = networks.create("conv3", 2, 32, width=8, seed=0).eval()
    tables = {}
    for name, where in (("local", LOCAL), ("ray", on_ray)):
        files = [tmp_path / f"{kind}_{name}.npy" for kind in ("logit_grad", "embedding")]
        found = gradients.to_disk(*files, teacher, images, images.labels, batch_size=5, engine=where)
        pool, options = strategies.Pool(images.labels, np.arange(24) % 3, *found), strategies.PickOptions(4, seed=1)
        tables[name] = [strategies.pick(selection, pool, options, where) for selection in ("dc3", "random")]
        for selection, table in zip(("dc3", "random"), tables[name], strict=True):
            table.to_parquet(tmp_path / f"{selection}_{name}.parquet")
    for kind in ("logit_grad.npy", "embedding.npy", "dc3.parquet", "random.parquet"):
        stem, suffix = kind.split(".")
        assert sha256(tmp_path / f"{stem}_local.{suffix}") == sha256(tmp_path / f"{stem}_ray.{suffix}"), kind


@pytest.mark.process
@pytest.mark.ray
def test_a_condensed_set_and_its_provenance_have_the_same_bytes(on_ray, images, random_editor, tmp_path):
    made = {}
    for name, where in (("local", LOCAL), ("ray", replace(on_ray, actors=1))):
        folder = tmp_path / name
        compensate(images, PICKS, folder, Storage(48, "jpeg"), Compensator(COLORING, random_editor), where)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        made[name] = {path.relative_to(folder).as_posix(): sha256(path) for path in files}
    assert len(made["local"]) == len(PICKS) + 1 and condensed.PROVENANCE in made["local"]
    assert made["local"] == made["ray"]


@pytest.mark.parametrize("usual", ["", "a" * 120])
def test_rays_sockets_go_to_a_short_folder_where_tmpdir_is_long(usual, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    (tmp_path / usual).mkdir(exist_ok=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / usual) if usual else "/var/tmp")
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    given = {}
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: given.update(options))
    Engine("ray")._started()
    assert given["_temp_dir"] == ("/tmp/ray" if usual else "/var/tmp/ray")
