"""The benchmarks of the editor in their small forms: real size, the GPU hour, and the comparison of samplers."""

import os
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from test_documentation import rows, section

from dc3.compensation import EditFailed
from dc3.machine import paths
from dc3.machine.paths import REPOSITORY

FOLDER = REPOSITORY / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))


def run(script, *arguments, **environment):
    pytest.importorskip("open_clip")
    known = {"OMP_NUM_THREADS": "1", "DC3_PROGRESS": "0", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(FOLDER / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | known | environment)


def test_the_tokenizer_of_the_real_size_is_clips(benchmarks):
    pytest.importorskip("open_clip")
    from real_size import VOCABULARY, clip_tokenizer

    tokenizer = clip_tokenizer()
    assert len(tokenizer) == VOCABULARY and tokenizer.model_max_length == 77
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]


def test_edits_that_failed_are_not_measured(benchmarks):
    from editor import edit

    black = SimpleNamespace(settings=SimpleNamespace(batch_size=2), edit=lambda images, *_: images * np.float32("nan"))
    with pytest.raises(EditFailed, match="3 of 3 edits are NaN"):
        edit(black, np.ones((3, 8, 8, 3), np.uint8), ["sunny"] * 3, seed=0)


@pytest.mark.slow
@pytest.mark.process
def test_the_small_gpu_hour_goes_on_where_it_stopped(tmp_path):
    table = tmp_path / "gpu.csv"
    first = run("gpu.py", "--only", "edits", "--out", table)
    assert first.returncode == 0, first.stderr
    assert "No GPU" in first.stdout
    rows = pd.read_csv(table)
    assert rows["finite"].all() and rows["done"].all() and (rows["device"] == "cpu").all()
    edits = rows[rows["what"] == "edit"]
    assert set(edits["sampler"]) == {"euler_a", "dpmpp_2m", "unipc"} and set(edits["batch"]) == {1, 2}
    assert (edits["peak GB"] > 0).all() and edits["share outside the U-Net"].between(0, 1).all()
    kept = table.read_bytes()
    assert run("gpu.py", "--only", "edits", "--out", table).returncode == 0
    assert table.read_bytes() == kept, "nothing is measured twice"
    assert run("gpu.py", "--minutes", "0", "--only", "student", "--out", table).stdout.count("call again") == 1
    assert table.read_bytes() == kept


@pytest.mark.slow
def test_the_clock_of_a_compiled_network_is_not_compiled(benchmarks):
    from compensation import watch

    graphs, network = [], torch.nn.Linear(2, 2)
    network.compile(backend=lambda graph, _: graphs.append(graph) or graph.forward)
    network(torch.ones(1, 2))
    parts = {"unet": network, "vae": SimpleNamespace(encode=None, decode=None), "text_encoder": torch.nn.Identity()}
    with watch(SimpleNamespace(device=torch.device("cpu"), pipeline=SimpleNamespace(**parts))) as clock:
        for _ in range(3):
            network(torch.ones(1, 2))
    assert len(graphs) == 1 and clock.seconds["U-Net"] > 0


@pytest.fixture
def class_folders(tmp_path):
    rng = np.random.default_rng(0)
    for split, label, k in ((s, c, k) for s in ("train", "test") for c in "ab" for k in range(3)):
        file = tmp_path / "data" / split / label / f"{k}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(file)
    return tmp_path / "data"


def test_the_packed_file_has_all_test_images_and_whole_rounds_of_classes(
    benchmarks, class_folders, tmp_path, monkeypatch
):
    from gpu import pack, unpacked

    one = next(class_folders.glob("test/*/*")).stat().st_size + 300
    assert pack(class_folders, tmp_path / "all.zip") == 12
    pack(class_folders, tmp_path / "few.zip", limit=9 * one)
    names = zipfile.ZipFile(tmp_path / "few.zip").namelist()
    assert sum(name.startswith("test/") for name in names) == 6
    assert (tmp_path / "few.zip").stat().st_size <= 9 * one
    assert {"train/a/0.png", "train/b/0.png"} <= set(names) and "train/a/2.png" not in names
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    folder = unpacked(tmp_path / "all.zip")
    assert sorted(p.relative_to(folder) for p in folder.rglob("*.png")) == sorted(
        p.relative_to(class_folders) for p in class_folders.rglob("*.png")
    )
    assert unpacked(class_folders) == class_folders and list((tmp_path / "runs").iterdir()) == [folder]


def test_a_setting_passes_if_no_measure_is_worse_than_the_seeds_deviate(benchmarks):
    from samplers import REFERENCE, verdicts

    def rows_of(setting, values):
        keys = {"data": "d", "size": 32, "images": 100} | dict(zip(("sampler", "steps", "until"), setting, strict=True))
        return [keys | {"seed": seed, "named": named, "fid": fid, "cpu_seconds": s} for seed, named, fid, s in values]

    table = rows_of(REFERENCE, [(0, 0.80, 5.0, 100), (1, 0.82, 5.0, 100)])
    table += rows_of(("dpmpp_2m", 20, 1.0), [(0, 0.79, 5.0, 20), (1, 0.80, 5.2, 20)])
    table += rows_of(("unipc", 10, 0.4), [(0, 0.70, 9.0, 5), (1, 0.70, 9.1, 5)])
    table += rows_of(("unipc", 20, 0.4), [(0, 0.9, 1.0, 5)])  # one seed only
    found = verdicts(pd.DataFrame(table)).set_index(["sampler", "steps"])
    assert found["worse in"].to_dict() == {("euler_a", 100): "–", ("dpmpp_2m", 20): "–", ("unipc", 10): "named, fid"}
    assert found["ratio"].tolist() == [1, 5, 20]


@pytest.mark.parametrize(("data", "heading"), [("cifar10", "Samplers"), ("tiny_imagenet_ten", "Samplers at 64 px")])
def test_the_tables_of_samplers_are_those_of_the_committed_rows(benchmarks, data, heading):
    from samplers import verdicts

    found = verdicts(pd.read_csv(REPOSITORY / "figures/benchmarks/samplers.csv").query(f"data == {data!r}"))
    assert len(found) > 1
    for of in found.itertuples():
        cells = [f"{of.passes:.0f}", f"{of.ratio:.1f}×", f"{100 * of.named:.1f} %", f"{of.ssim:.3f}"]
        cells += [f"{100 * of.accuracy:.1f} %", f"{of.shift:.1f}", f"{1000 * of.fid:.1f}", f"{1e6 * of.kid:.0f}"]
        worse_in = found.loc[of.Index, "worse in"]
        name = f"{of.sampler}, {of.steps} steps, guidance until {of.until:g}"
        assert rows(section("editing.md", heading), name) == [[*cells, worse_in]], name


def test_the_short_table_of_samplers_is_that_of_the_committed_rows(benchmarks):
    from samplers import verdicts

    found = verdicts(pd.read_csv(REPOSITORY / "figures/benchmarks/samplers.csv")).sort_values("size")
    page, shown = section("performance.md", "Compensation"), 0
    for (sampler, steps, until), sizes in found.groupby(["sampler", "steps", "until"]):
        cells = [(f"{of.ratio:.1f}×", f"{of.ssim:.3f}", f"{100 * of.accuracy:.1f} %") for of in sizes.itertuples()]
        for row in rows(page, f"{sampler}, {steps} steps, guidance until {until:g}"):
            assert row == [cell for of_size in cells for cell in of_size]
            shown += 1
    assert shown == 4


@pytest.mark.slow
@pytest.mark.process
def test_samplers_are_compared_part_by_part(class_folders, tmp_path, random_editor_folder):
    options = ["--data-dir", class_folders, "--images", "20", "--teacher", "", "--few", "1", "--batch-size", "6"]
    options += ["--editor", random_editor_folder, "--out", tmp_path / "rows.csv", "--cache", tmp_path / "cache"]
    for k in range(24):
        Image.new("RGB", (32, 32), (k * 10, 90, 200 - k)).save(class_folders / "test" / "a" / f"more{k}.png")
    first = run("samplers.py", *options)
    assert first.returncode == 0, first.stderr
    table = pd.read_csv(tmp_path / "rows.csv")
    assert table["seed"].tolist() == [0, 1] * 2 and table["passes"].tolist() == [300] * 2 + [30] * 2
    kept = table.iloc[:3].to_csv(index=False)
    (tmp_path / "rows.csv").write_text(kept, encoding="utf-8")
    again = run("samplers.py", *options)
    assert again.returncode == 0 and "dpmpp_2m" in again.stdout
    assert (tmp_path / "rows.csv").read_text(encoding="utf-8").startswith(kept)
    assert np.allclose(pd.read_csv(tmp_path / "rows.csv")["ssim"], table["ssim"])
