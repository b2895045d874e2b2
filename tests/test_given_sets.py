"""The condensed sets of CIFAR-10 that the repository gives: whole, small, and what their tables say."""

import zipfile

import numpy as np
import pandas as pd
import pytest

from dc3 import condensed
from dc3.machine.files import sha256
from dc3.machine.paths import REPOSITORY
from dc3.runs.results import accuracy

FOLDER = REPOSITORY / "sets"
ARCHIVES = sorted(FOLDER.glob("*.zip"))
LARGEST = 2e6  # bytes of all together
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def test_there_are_sets_at_both_sizes_and_they_are_small():
    names = {path.stem for path in ARCHIVES}
    both = {f"cifar10_{method}_ipc{ipc}" for method in ("dc3", "dc3_plain") for ipc in (1, 10)}
    assert names == both | {"cifar10_dc3_gap_ipc10"}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < LARGEST


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.stem)
def test_a_set_is_read_as_it_is_given_and_its_picks_are_those_of_its_table(archive, tmp_path):
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path)
    train = tmp_path / archive.stem / "train"
    table = pd.read_json(train / "metadata.jsonl", lines=True)
    assert [sha256(train / name) for name in table["file_name"]] == table["sha256"].to_list()
    read = condensed.load(train, CLASSES)
    ipc = int(archive.stem.rsplit("ipc", 1)[1])
    assert read.counts().tolist() == [ipc] * 10 and read.own_sizes().tolist() == [[32, 32]] * 10 * ipc
    picks = pd.read_csv(FOLDER / f"{archive.stem}_picks.csv")
    same = ["index", "class", "bin", "rank", "source"]
    expected = table.sort_values(["class", "rank"])[same].reset_index(drop=True)
    pd.testing.assert_frame_equal(picks[same], expected, check_dtype=False)
    assert np.isfinite(picks["gain"]).all()


def test_the_page_has_a_row_for_each_set_with_the_accuracy_of_its_committed_students():
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    students = pd.read_csv(REPOSITORY / "figures/cifar10/sets.csv").groupby("set")["top1"].agg(["mean", "std"])
    for archive in ARCHIVES:
        (row,) = (line for line in page.splitlines() if f"({archive.name})" in line)
        ipc, kilobytes, _, top1 = (cell.strip() for cell in row.split("|")[2:6])
        assert ipc == archive.stem.rsplit("ipc", 1)[1]
        assert kilobytes == f"{archive.stat().st_size / 1000:.0f}"
        assert top1 == accuracy(*students.loc[archive.stem])
