"""Bad input, through the command and the real notebooks: one clear message, the right exit code, nothing lost.

Exit code 2: refused before anything ran; 1: a stage failed, those finished before it stay. Without bad input, the whole
chain on what people have: grey, transparent and 16-bit images, a class of one image, more bins than images, a file name
that is not UTF-8, a data folder that nobody may write to. The quick tests execute the notebooks in the command's own
process (in_one_process.py), the slow ones in kernels, as nbval and the tests of the runner do.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from workshop import command, home_at, stages_run

from dc3.machine.files import sha256
from dc3.runs.parameters import notebook_names

pytestmark = pytest.mark.process

REFUSED, FAILED = 2, 1
TRAIN = {"cat": 8, "dog": 1}
QUICK = {
    "run": "tiny",
    "dataset": "imagefolder",
    "image_size": 16,
    "teacher_width": 8,
    "teacher_epochs": 1,
    "teacher_min_accuracy": 0,
    "encode_size": 192,  # so that the latents are larger than all else
    "encode_batch_size": 3,
    "bins": 50,
    "ipc": 1,
    "edit_size": 16,
    "edit_steps": 1,
    "stored_size": 32,
    "stored_format": "jpeg",
    "equal_bytes": True,
    "student_width": 8,
    "student_epochs": 2,
    "student_seeds": [0],
    "smaller_ipcs": [],
    "generators": ["dit"],
    "dit_width": 12,
    "dit_depth": 1,
    "dit_steps": 2,
    "images_generated": 1,
    "dit_generate_steps": 2,
}
IN_ONE_PROCESS = Path(__file__).with_name("in_one_process.py")
LAST = "04"  # the stage after which the chain of the quick tests ends
SMALL, ROOMY = "500k", "64m"  # a disk on which 00_teacher has room and the latents have not, and one with room for all


class Home:
    """A folder that runs write to, and the command on the images of `data_dir`."""

    def __init__(self, folder, data_dir):
        self.folder, self.data_dir = folder, data_dir
        self.params = data_dir.with_name(f"{data_dir.name}.yaml")
        self.params.write_text(yaml.dump(QUICK | {"data_dir": str(data_dir)}), encoding="utf-8")

    def run(self, *arguments):
        """The command without kernels, which would import torch and diffusers once a notebook."""
        return self._process(IN_ONE_PROCESS, "run", self.params, *arguments)

    def run_in_kernels(self, *arguments):
        return self._process("-m", "dc3.cli", "run", self.params, *arguments)

    def _process(self, *arguments):
        environment = os.environ | {"DC3_HOME": str(self.folder), "OMP_NUM_THREADS": "1", "DC3_PROGRESS": "0"}
        environment.pop("DC3_NOTEBOOKS", None)
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, env=environment, cwd=self.folder, capture_output=True, text=True)

    def here(self, *arguments):
        """The command in this process, for what executes no notebook."""
        with home_at(self.folder):
            return command(*arguments)

    def files(self, *stages):
        """SHA-256 of every file that the stages wrote, figures apart."""
        folders = [self.folder / "runs" / "tiny" / stage for stage in stages]
        found = (path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file())
        return {str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


class Disk:
    """A folder, with a small file system of its own in memory where mounting is permitted."""

    def __init__(self, folder, size=SMALL):
        self.folder = folder
        self.is_small = self._mount(f"size={size}")

    def _mount(self, options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        return bool(shutil.which("mount")) and subprocess.run(command, capture_output=True).returncode == 0

    def enlarge(self):
        assert not self.is_small or self._mount(f"remount,size={ROOMY}")

    def close(self):
        if self.is_small:
            subprocess.run(["umount", str(self.folder)], check=True)


def write_image(path, *shape, bits=8):
    dtype = {8: np.uint8, 16: np.uint16}[bits]
    seed = int(hashlib.sha256(str(path.parts[-3:]).encode()).hexdigest()[:8], 16)
    Image.fromarray(np.random.default_rng(seed).integers(0, 2**bits, shape, dtype)).save(path)


def write_images(root):
    """train/ of a class with grey, RGBA and 16-bit images and a class of one image; test/ of three images each."""
    for split, counts in {"train": TRAIN, "test": {"cat": 3, "dog": 3}}.items():
        for name, count in counts.items():
            (root / split / name).mkdir(parents=True)
            for k in range(count):
                write_image(root / split / name / f"{k}.png", 20, 20, 3)
    write_image(root / "train/cat/0.png", 20, 20)
    write_image(root / "train/cat/1.png", 20, 20, 4)
    write_image(root / "train/cat/2.png", 20, 20, bits=16)
    if sys.platform == "linux":  # where file names are bytes
        os.rename(root / "train/cat/7.png", os.fsencode(root / "train/cat") + b"/7\xe9.png")
    return root


@contextmanager
def read_only(folder):
    """The folder, which nobody, or (where mounting is not permitted) nobody but root, can write to."""
    bind = ["mount", "--bind", folder, folder]
    is_mounted = bool(shutil.which("mount")) and subprocess.run(bind, capture_output=True).returncode == 0
    if is_mounted:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
    else:
        folder.chmod(0o555)
    try:
        yield folder
    finally:
        if is_mounted:
            subprocess.run(["umount", folder], check=True)
        else:
            folder.chmod(0o755)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    with read_only(write_images(tmp_path_factory.mktemp("images"))) as folder:
        yield folder


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    disk = Disk(tmp_path_factory.mktemp("disk"))
    yield disk
    disk.close()


@pytest.fixture(scope="module")
def chain(images, disk):
    """The chain up to LAST. Where mounting is permitted, its disk is full at first, and the run is started again."""
    home = Home(disk.folder, images)
    home.full = home.run("--until", "01") if disk.is_small else None
    home.kept = home.files("00_teacher")
    disk.enlarge()
    home.finished = home.run("--until", LAST)
    return home


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["-p", "data_dir", "./nowhere"], "nowhere"),
        (["-p", "ipc", "2"], "the smallest class 'dog'"),
        (["-p", "vae", "./no/vae"], "vae = './no/vae'"),
        (["-p", "editor", "./no/editor"], "editor = './no/editor'"),
        (["-p", "teacher", "no.safetensors"], "teacher = 'no.safetensors'"),
    ],
    ids=lambda value: value[1] if isinstance(value, list) else "",
)
def test_refused_in_one_line_before_anything_runs(images, tmp_path, arguments, named):
    home = Home(tmp_path, images)
    result = home.here("run", home.params, *arguments)
    assert result.exit_code == REFUSED
    heading, message = result.stderr.splitlines()
    assert heading == "refused, nothing was run:" and named in message
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert not result.stdout and not written


def test_a_full_disk_is_named_and_the_finished_stage_stays(chain):
    if chain.full is None:
        pytest.skip("mounting a small file system is not permitted here")
    assert chain.full.returncode == FAILED
    last = chain.full.stderr.splitlines()[-1]
    assert last.startswith("01_features.ipynb, cell [") and "free some space on this disk" in last
    assert "[Errno 28]" in last and "latents" in last
    assert "runs/tiny/00_teacher/manifest.json" in chain.kept
    assert chain.files("00_teacher") == chain.kept, "kept by the run that found room"


@pytest.mark.slow
def test_a_disk_without_room_for_the_executed_notebook(images, tmp_path):
    disk = Disk(tmp_path, size="4k")
    if not disk.is_small:
        pytest.skip("mounting a small file system is not permitted here")
    try:
        result = Home(tmp_path, images).run_in_kernels()
    finally:
        disk.close()
    assert result.returncode == FAILED and "Traceback" not in result.stderr
    assert "runs/tiny/notebooks/00_teacher.ipynb" in result.stderr and "[Errno 28]" in result.stderr


def up_to_last():
    return [name for name in notebook_names() if name[:2] <= LAST]


def test_a_run_with_room_again_goes_on(chain):
    assert chain.finished.returncode == 0, chain.finished.stderr
    assert stages_run(chain.finished) == up_to_last()[bool(chain.full) :]
    assert "figures/tiny/sampling_tsne.png" in chain.finished.stdout


def test_odd_images_a_class_of_one_and_more_bins_than_images_go_through(chain):
    assert chain.finished.returncode == 0, chain.finished.stderr
    stages = chain.folder / "runs" / "tiny"
    bins = pd.read_parquet(stages / "02_binning/bins.parquet")
    assert bins["label"].value_counts().to_dict() == {0: TRAIN["cat"], 1: TRAIN["dog"]}
    assert bins.groupby("label")["bin"].nunique().to_dict() == {0: TRAIN["cat"], 1: TRAIN["dog"]}
    picks = pd.read_parquet(stages / "03_sampling/selection.parquet")
    assert sorted(picks["label"]) == [0, 1]


def check_tables(home, *names):
    """Tables of figures have finite numbers."""
    for name in names:
        table = pd.read_csv(home.folder / f"figures/tiny/{name}.csv")
        assert np.isfinite(table.filter(regex="mean|images|FID").to_numpy()).all(), name


@pytest.mark.slow
def test_odd_images_go_through_the_last_stages_too(chain, tmp_path):
    home = Home(shutil.copytree(chain.folder, tmp_path / "home"), chain.data_dir)
    result = home.run_in_kernels()
    assert result.returncode == 0, result.stderr
    assert stages_run(result) == [name for name in notebook_names() if name[:2] > LAST]
    check_tables(home, "validation_accuracy", "color_and_fid_colors", "color_and_fid_distances", "finetuning_scores")


def test_a_read_only_data_folder_and_a_name_that_is_not_utf8_are_as_good_as_others(chain):
    assert chain.finished.returncode == 0, chain.finished.stderr
    table = pd.read_parquet(chain.folder / "runs/tiny/02_binning/bins.parquet")
    assert len(table) == sum(TRAIN.values())
    again = chain.run("--until", LAST)
    assert again.returncode == 0 and stages_run(again) == []
    if os.access(chain.data_dir, os.W_OK):
        pytest.skip("root may write everywhere, and mounting is not permitted here: nothing was read-only")


def test_a_condensed_image_is_made_again_to_the_same_bytes(chain, tmp_path):
    again = chain.here("reproduce", "tiny", "8")
    assert again.exit_code == 0 and "00001/00000.jpg" in again.stdout and "the bytes agree" in again.stdout
    unknown = chain.here("reproduce", "tiny", "9")
    assert unknown.exit_code == REFUSED and "INDEX = 9" in unknown.stderr
    home = Home(shutil.copytree(chain.folder, tmp_path / "home"), chain.data_dir)
    provenance = home.folder / "runs/tiny/04_compensation/condensed/provenance.parquet"
    pd.read_parquet(provenance).assign(sha256="0" * 64).to_parquet(provenance)
    refused = home.here("reproduce", "tiny", "8")
    assert refused.exit_code == REFUSED, "the table is not what the stage wrote"
    manifest = home.folder / "runs/tiny/04_compensation/manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    content["outputs"]["condensed/provenance.parquet"] = sha256(provenance)
    manifest.write_text(json.dumps(content), encoding="utf-8")
    differing = home.here("reproduce", "tiny", "8")
    assert differing.exit_code == FAILED and "the bytes differ, pixels by up to 0 of 255" in differing.stdout


def test_an_unreadable_image_is_named_and_other_stages_stay(chain, tmp_path):
    broken = write_images(tmp_path / "images")
    file = broken / "train/cat/3.png"
    file.write_bytes(file.read_bytes()[:200])
    home = Home(shutil.copytree(chain.folder, tmp_path / "home"), broken)
    others = notebook_names()[1:]
    before = home.files(*others)
    result = home.run("--until", "00")
    assert result.returncode == FAILED and stages_run(result) == ["00_teacher"]
    last = result.stderr.splitlines()[-1]
    assert last.startswith("00_teacher.ipynb, cell [") and f"UnreadableImage: cannot read image {file} (" in last
    assert last.endswith("replace or remove the file, then run again")
    assert before and home.files(*others) == before
