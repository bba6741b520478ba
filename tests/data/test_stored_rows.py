"""Rows of files are those of the array, whichever are asked for, and are checked."""

from __future__ import annotations

import os
import resource
import tempfile
from pathlib import Path

import numpy as np
import pytest

from convexcnn.data.rows import RowView, held_bytes, row_blocks, take_rows, view_rows
from convexcnn.data.stored_rows import FileRows, StoredRows, allocate_rows, stored_copy
from convexcnn.errors import DataError, RunError

ARRAY = np.random.default_rng(0).integers(0, 256, (23, 3, 4, 5), np.uint8)

INDICES = {
    "all": slice(None),
    "a part": slice(3, 9),
    "beyond the end": slice(20, 99),
    "every third, backwards": slice(None, None, -3),
    "nothing": slice(5, 5),
    "one row": 7,
    "the last row": -1,
    "scattered": np.array([4, 4, 22, 0, 1, 2, -3]),
    "none": np.array([], np.int64),
    "chosen": np.arange(23) % 4 == 1,
    "a list": [1, 2, 5],
}


def stored(array=ARRAY) -> StoredRows:
    rows = StoredRows(array.shape, array.dtype, "some images", "or use fewer")
    for start in range(0, len(array), 10):
        rows[start : start + 10] = array[start : start + 10]
    return rows


@pytest.mark.parametrize("index", INDICES)
def test_rows_are_those_of_the_array(index):
    np.testing.assert_array_equal(stored()[INDICES[index]], ARRAY[INDICES[index]])


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32])
def test_numbers_of_every_type_come_back(dtype):
    rows = stored(ARRAY.astype(dtype))
    assert (rows.shape, rows.dtype, len(rows)) == (ARRAY.shape, dtype, len(ARRAY))
    np.testing.assert_array_equal(np.asarray(rows), ARRAY.astype(dtype))


def test_a_row_that_there_is_not_is_refused():
    with pytest.raises(IndexError, match="has 23 rows"):
        stored()[np.array([23])]


def test_the_file_has_no_name_that_could_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows = stored()
    assert not list(tmp_path.iterdir())
    assert str(tmp_path) in rows.name


def test_every_changed_byte_is_found_when_its_row_is_read_for_the_first_time():
    rows = stored()
    for at in (0, 59, 60, ARRAY.size - 1):
        rows.checked[:] = False
        before = os.pread(rows.descriptor, 1, at)
        os.pwrite(rows.descriptor, bytes([before[0] ^ 4]), at)
        sound = np.delete(np.arange(23), at // 60)
        np.testing.assert_array_equal(rows[sound], ARRAY[sound])
        with pytest.raises(RunError, match=rf"some images in .* has changed: row {at // 60} is"):
            rows[:]
        os.pwrite(rows.descriptor, before, at)
    np.testing.assert_array_equal(rows[:], ARRAY)


def test_rows_that_were_never_written_are_not_taken_for_zeros():
    rows = StoredRows((4, 2), np.float32, "features", "or use fewer")
    rows[0:2] = np.ones((2, 2))
    assert rows[0:2].all()
    with pytest.raises(RunError, match="row 2 is not what was written"):
        rows[1:3]


def test_a_file_that_has_become_shorter_is_named():
    rows = stored()
    os.ftruncate(rows.descriptor, 100)
    with pytest.raises(RunError, match=r"some images in .* has become shorter"):
        rows[5:]


def test_a_disk_without_room_is_named_before_any_work():
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(RunError, match=r"cannot hold maps, .* GB .*set TMPDIR to a larger"):
            allocate_rows((100, 100), np.uint8, in_memory=False, what="maps", advice="or so")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_what_no_disk_holds_is_refused_without_filling_one(monkeypatch):
    taken = []
    monkeypatch.setattr(os, "posix_fallocate", lambda *arguments: taken.append(arguments))
    with pytest.raises(RunError, match=r"cannot hold maps, 1e\+06 GB .No space left on device"):
        allocate_rows((10**9, 10**6), np.uint8, in_memory=False, what="maps", advice="or so")
    assert not taken


def test_a_disk_that_fails_later_is_named(monkeypatch):
    rows = stored()

    def broken(*arguments):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pwrite", broken)
    with pytest.raises(RunError, match=r"some images in .* cannot be written .Input/output error"):
        rows[0:1] = ARRAY[:1]
    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(RunError, match=r"some images in .* cannot be read .Input/output error"):
        rows[0:1]


def test_a_part_of_a_file_is_an_array(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"heading" + ARRAY.tobytes())
    with path.open("rb") as file:
        rows = FileRows(file, ARRAY.shape, np.uint8, 7, "a file")
    np.testing.assert_array_equal(rows[4:9], ARRAY[4:9])


@pytest.mark.parametrize("source", [ARRAY, stored()], ids=["memory", "file"])
def test_views_of_views_read_only_their_rows(source):
    view = view_rows(view_rows(source, slice(2, 20)), np.array([0, 3, 5]))
    assert isinstance(view, RowView)
    assert view.source is source
    assert (view.shape, view.dtype, len(view)) == ((3, 3, 4, 5), np.uint8, 3)
    np.testing.assert_array_equal(view[1:], ARRAY[[5, 7]])
    np.testing.assert_array_equal(np.asarray(view, np.float32), ARRAY[[2, 5, 7]])


def test_a_view_may_have_its_axes_in_another_order():
    view = RowView(stored(), np.arange(23), (0, 3, 1, 2))
    assert view.shape == (23, 5, 3, 4)
    np.testing.assert_array_equal(view[4:6], ARRAY[4:6].transpose(0, 3, 1, 2))


def test_rows_are_taken_from_memory_and_left_in_files():
    assert isinstance(take_rows(ARRAY, slice(3)), np.ndarray)
    assert isinstance(take_rows(stored(), slice(3)), RowView)
    assert held_bytes(ARRAY) == ARRAY.nbytes
    assert held_bytes(view_rows(ARRAY, slice(3))) == ARRAY.nbytes
    assert held_bytes(stored()) == 0


def test_blocks_hold_a_bounded_number_of_numbers():
    blocks = {rows.start: block for rows, block in row_blocks(ARRAY, 10)}
    assert {start: len(block) for start, block in blocks.items()} == {0: 10, 10: 10, 20: 3}
    large = np.broadcast_to(np.uint8(0), (3, 2**22, 2))
    assert [len(block) for _, block in row_blocks(large)] == [1, 1, 1]


def test_a_copy_in_a_file_is_made_of_arrays_only():
    copy = stored_copy(ARRAY)
    assert isinstance(copy, StoredRows)
    np.testing.assert_array_equal(copy[:], ARRAY)
    assert stored_copy(copy) is copy


def test_errors_of_files_that_are_not_ours_are_of_their_own_class(tmp_path: Path):
    class Foreign(FileRows):
        error = DataError

    path = tmp_path / "file"
    path.write_bytes(b"12345")
    with path.open("rb") as file:
        rows = Foreign(file, (3, 2), np.uint8, 0, "a file")
    with pytest.raises(DataError, match="a file has become shorter"):
        rows[:]


def test_a_file_is_closed_with_its_rows():
    rows = stored()
    descriptor = rows.descriptor
    del rows
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
