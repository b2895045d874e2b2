import errno
import os
from types import SimpleNamespace

import pytest

from dc3.machine import files


def test_the_target_appears_whole_and_nothing_else_stays(tmp_path):
    target = tmp_path / "deep" / "table.txt"
    with files.replacing(target) as partial:
        partial.write_text("half", encoding="utf-8")
        assert not target.exists()
    assert target.read_text(encoding="utf-8") == "half"
    assert list(target.parent.iterdir()) == [target]


def test_a_new_folder_is_on_the_disk_with_all_in_it(tmp_path, monkeypatch):
    flushed = set()
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.add(os.fstat(descriptor).st_ino))
    with files.new_folder(tmp_path / "set") as partial:
        (partial / "cat").mkdir()
        (partial / "cat" / "0.png").touch()
    written = [tmp_path, tmp_path / "set", *(tmp_path / "set").rglob("*")]
    assert len(written) == 4 and {path.stat().st_ino for path in written} <= flushed


def test_an_error_leaves_the_old_content(tmp_path):
    target = tmp_path / "table.txt"
    target.write_text("old", encoding="utf-8")
    with pytest.raises(RuntimeError), files.replacing(target) as partial:
        partial.write_text("new", encoding="utf-8")
        raise RuntimeError
    assert target.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_while_flushing_leaves_the_old_content(tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = tmp_path / "table.txt"
    target.write_text("old", encoding="utf-8")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"), files.replacing(target) as partial:
        partial.write_text("new", encoding="utf-8")
    assert target.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_writer_that_does_not_say_so_failed_for_want_of_room(tmp_path, monkeypatch):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(OSError, match=r"No space left.*weights\.pt"), files.replacing(tmp_path / "weights.pt"):
        raise RuntimeError("unexpected pos 704 vs 598")
    with pytest.raises(OSError, match="no room for the latents"), files.replacing(tmp_path / "weights.pt"):
        raise OSError(errno.ENOSPC, "no room for the latents")
    with pytest.raises(OSError, match=r"No space left.*'.*report\.html'"), files.replacing(tmp_path / "report.html"):
        raise OSError(errno.ENOSPC, "No space left on device")  # as a write says it, without a name


def test_sha256_of_a_known_text(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert files.sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
