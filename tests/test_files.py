"""Files that are written whole or not at all, and text that tells whether it has been damaged."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from convexcnn.errors import RunError
from convexcnn.files import file_checksum, read_sealed, sealed, write_text, write_together

DESCRIPTION = {"beta": 0.25, "path": [1, 2], "name": "ü"}


def test_a_file_is_replaced_as_a_whole_and_nothing_else_stays(tmp_path: Path) -> None:
    for text in ("before", "after"):
        write_text(tmp_path / "file", text)
        assert (tmp_path / "file").read_text("utf-8") == text
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_failure_keeps_what_was_there(
    step: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_text(tmp_path / "file", "before")

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(
        *{
            "write": (Path, "write_text", fail),
            "fsync": (os, "fsync", fail),
            "replace": (Path, "replace", fail),
        }[step]
    )
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "file", "after")
    monkeypatch.undo()
    assert (tmp_path / "file").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RunError, match="pipe is no regular file, and is not replaced"):
        write_text(tmp_path / "pipe", "text")
    assert (tmp_path / "pipe").is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_of_files_that_belong_together_none_changes_before_all_are_written(tmp_path: Path) -> None:
    first, last = tmp_path / "tensors", tmp_path / "config"
    write_together({first: lambda path: path.write_text("1"), last: lambda p: p.write_text("1")})

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_together({first: lambda path: path.write_text("2"), last: full})
    assert (first.read_text(), last.read_text()) == ("1", "1")


def test_while_some_are_new_and_some_old_the_last_is_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So a process that dies between two renames leaves nothing that loads."""
    first, last = tmp_path / "tensors", tmp_path / "config"
    last.write_text("1")
    replace = Path.replace

    def watched(self: Path, target: Path) -> Path:
        assert not last.exists()
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    write_together({first: lambda path: path.write_text("2"), last: lambda p: p.write_text("2")})
    assert last.read_text() == "2"


def test_a_sealed_description_comes_back(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(sealed(DESCRIPTION), "utf-8")
    assert read_sealed(tmp_path / "a.json") == DESCRIPTION


def test_every_changed_byte_of_a_sealed_description_is_found_out(tmp_path: Path) -> None:
    content, path = sealed(DESCRIPTION).encode(), tmp_path / "a.json"
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 1
        path.write_bytes(changed)
        with pytest.raises(RunError, match="is damaged"):
            read_sealed(path)
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(RunError, match="is damaged"):
            read_sealed(path)


def test_a_file_without_a_checksum_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nothing cannot be read"):
        file_checksum(tmp_path / "nothing")
