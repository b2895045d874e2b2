"""Finished work is kept, and made again after a kill, damage, or with another key."""

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from dc3.machine.keeping import AnotherTraining, kept, kept_folder, key_digest, read_undamaged

KEY = {"seed": 0, "sizes": (1, 2)}


class Work:
    """Numbers kept in a file, and how often they were computed."""

    def __init__(self, folder):
        self.file, self.done = folder / f"{key_digest(KEY)}.npy", 0

    def result(self):
        return kept(self.file, self._write, np.load).tolist()

    def _write(self, path):
        self.done += 1
        np.save(path, np.arange(1000))


@pytest.fixture
def work(tmp_path):
    work = Work(tmp_path / "cache")
    assert work.result() == work.result() == list(range(1000)) and work.done == 1
    return work


@pytest.mark.parametrize("size", [0, 5, 100, 4000])
def test_a_file_that_was_cut_short_is_made_again_with_a_warning(work, caplog, size):
    os.truncate(work.file, size)
    assert work.result() == work.result() == list(range(1000)) and work.done == 2
    assert f"{work.file} is damaged" in caplog.text and "will be made again" in caplog.text


KILLED = """
import os, signal, sys
from pathlib import Path
from dc3.machine.keeping import kept

def write(path):
    path.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)

kept(Path(sys.argv[1]), write, Path.read_text)
"""


def test_killed_between_write_and_rename_nothing_is_there_and_it_is_made(tmp_path):
    file = tmp_path / "result.txt"
    assert subprocess.run([sys.executable, "-c", KILLED, str(file)]).returncode == -9
    assert not file.exists() and len(list(tmp_path.iterdir())) == 1, "only what was half written"
    assert kept(file, lambda path: path.write_text("whole", encoding="utf-8"), type(file).read_text) == "whole"


def test_an_error_while_writing_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        kept(
            tmp_path / "result.txt",
            lambda path: path.write_text(str(1 / 0), encoding="utf-8"),
            type(tmp_path).read_text,
        )
    assert not list(tmp_path.iterdir())


def test_equal_keys_have_one_digest_and_others_another():
    assert key_digest({"b": 1, "a": [1, 2]}) == key_digest({"a": (1, 2), "b": 1})
    assert key_digest(KEY) != key_digest(KEY | {"seed": 1})


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError(), ImportError("pyarrow")])
def test_a_failing_disk_full_memory_or_a_missing_library_is_no_damage(tmp_path, error):
    def read(path):
        raise error

    (tmp_path / "weights").touch()
    with pytest.raises(type(error)):
        read_undamaged(tmp_path / "weights", read)
    assert (tmp_path / "weights").exists()


@pytest.mark.parametrize("error", [ValueError(), pickle.UnpicklingError(), RuntimeError("zip"), OSError("no pickle")])
def test_what_a_reader_refuses_is_damaged(tmp_path, error):
    def read(path):
        raise error

    (tmp_path / "weights").touch()
    assert read_undamaged(tmp_path / "weights", read) is None
    assert (tmp_path / "weights").exists(), "whoever makes it again replaces it; a reader removes nothing"


@pytest.fixture
def folder(tmp_path):
    kept_folder(tmp_path / "training", KEY)
    (tmp_path / "training/checkpoint").touch()
    return tmp_path / "training"


def content(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("remedy", ["", "remove it"])
def test_a_folder_of_the_same_key_is_kept(folder, remedy):
    kept_folder(folder, KEY, remedy)
    assert content(folder) == ["checkpoint", "key.json"]


DAMAGES = [
    lambda key: key.write_text(json.dumps({"seed": 1, "sizes": [1, 2]}), encoding="utf-8"),
    lambda key: key.write_text('{"seed": 0, "si', encoding="utf-8"),
    lambda key: key.write_bytes(b"\xff\xfe"),
    lambda key: key.write_text("[]", encoding="utf-8"),
    lambda key: key.unlink(),
]
IDS = ["changed", "cut", "not text", "no key", "missing"]


@pytest.mark.parametrize("damage", DAMAGES, ids=IDS)
def test_a_folder_of_another_key_or_of_an_unreadable_one_is_emptied(folder, damage):
    damage(folder / "key.json")
    kept_folder(folder, KEY)
    assert content(folder) == ["key.json"]
    (folder / "checkpoint").touch()
    kept_folder(folder, KEY)
    assert content(folder) == ["checkpoint", "key.json"]


@pytest.mark.parametrize("damage", DAMAGES, ids=IDS)
def test_a_folder_that_is_somebodys_own_is_refused_and_left_alone(folder, damage):
    damage(folder / "key.json")
    before = content(folder)
    message = r"training (comes from another training \(seed 1 → 0\)|is not empty).*remove it"
    with pytest.raises(AnotherTraining, match=message):
        kept_folder(folder, KEY, "remove it")
    assert content(folder) == before


def test_an_empty_folder_is_anybodys(tmp_path):
    kept_folder(tmp_path, KEY, "remove it")
    assert json.loads((tmp_path / "key.json").read_text(encoding="utf-8")) == {"seed": 0, "sizes": [1, 2]}
