import errno
import io
import os
import pickle

import numpy as np
import pytest

from dc3.machine import arrays


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_row_file_has_the_bytes_of_np_save(tmp_path, dtype):
    rows = np.random.default_rng(0).normal(size=(11, 7)).astype(dtype)
    with arrays.RowFile(tmp_path / "rows.npy", rows.shape, dtype, "rows") as file:
        for start in (0, 4, 8):
            part = rows[start : start + 4]
            file.put(np.arange(start, start + len(part)), part)
    np.save(expected := io.BytesIO(), rows)
    assert (tmp_path / "rows.npy").read_bytes() == expected.getvalue()


def test_rows_that_do_not_fit_and_rows_that_are_missing_are_refused(tmp_path):
    def write(rows):
        with arrays.RowFile(tmp_path / "rows.npy", (2, 2), "float32", "rows") as file:
            file.put(np.arange(len(rows)), rows)

    with pytest.raises(ValueError, match=r"rows of shape \(3, 2\) do not fit: 0 rows of \(2, 2\)"):
        write(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="1 of 2 rows were written"):
        write(np.zeros((1, 2)))


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="space is reserved by posix_fallocate")
def test_a_full_disk_is_said_before_the_first_row(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"no room for 4\.000 GB of rows \(No space left"):
        arrays.RowFile(tmp_path / "rows.npy", (10**6, 1000), "float32", "rows")


def resident_file_pages():
    """Kilobytes of mapped files that count as this process's own."""
    with open("/proc/self/status", encoding="utf-8") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssFile"))


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is read from /proc")
def test_reading_all_of_a_memory_map_leaves_none_of_it_in_memory(tmp_path):
    np.save(tmp_path / "big.npy", np.arange(2**24, dtype=np.float32).reshape(2**14, 2**10))  # 64 MB
    mapped = np.load(tmp_path / "big.npy", mmap_mode="r")
    before = resident_file_pages()
    assert sum(float(block[:, 0].sum()) for block in arrays.blocks(mapped)) == 1024 * (2**14 - 1) * 2**13
    assert arrays.is_finite(mapped)
    assert resident_file_pages() - before < 8 * 1024
    assert mapped[:].sum() > 0 and resident_file_pages() - before > 48 * 1024, "a test that can fail"


def test_read_rows_is_a_copy_also_of_a_slice_of_a_memory_map(tmp_path):
    np.save(tmp_path / "rows.npy", np.arange(12.0).reshape(6, 2))
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    for rows in (np.array([4, 1]), slice(2, 4)):
        copy = arrays.read_rows(mapped, rows)
        assert (copy == mapped[rows]).all() and not np.shares_memory(copy, mapped)


def test_a_value_that_is_not_finite_is_found_in_any_block():
    rows = np.zeros((2 * arrays.BLOCK_ROWS + 1, 2), np.float16)
    assert arrays.is_finite(rows)
    rows[-1, 1] = np.inf
    assert not arrays.is_finite(rows)


def test_groups_are_the_positions_of_each_label():
    labels = np.array([2, 0, 2, 5, 0])
    found = {int(label): members.tolist() for label, members in arrays.groups(labels)}
    assert found == {0: [1, 4], 2: [0, 2], 5: [3]}
    assert list(arrays.groups(labels[:0])) == []


def test_rows_that_come_in_any_order_give_the_bytes_of_those_in_order(tmp_path):
    array = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    np.save(tmp_path / "expected.npy", array)
    with arrays.RowFile(tmp_path / "rows.npy", array.shape, np.float32, "rows") as file:
        for positions in ([7, 8, 9], [0, 1, 5, 6], [3, 2], [4]):
            file.put(np.array(positions), array[positions])
        with pytest.raises(ValueError, match=r"do not fit: 10 rows of \(10, 3\) are written"):
            file.put(np.array([0]), array[:1])
    assert (tmp_path / "rows.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()


def test_a_memory_map_travels_by_its_path_and_what_is_in_memory_as_it_is(tmp_path):
    array = np.arange(12).reshape(6, 2)
    np.save(tmp_path / "a.npy", array)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    there = pickle.loads(pickle.dumps(arrays.portable(mapped)))
    assert len(pickle.dumps(there)) < 1000 and len(there) == 6
    assert (arrays.read_rows(there, np.array([4, 1])) == array[[4, 1]]).all()
    assert arrays.portable(array) is array and arrays.portable(mapped[1:]) is not None
    assert (arrays.read_rows(arrays.portable(mapped[1:]), np.array([0])) == array[[1]]).all()
