"""What a row of the tables is, and the checks that every row must pass."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from commands import typed
from small import stripes

FAILED, WRONG_USE = 1, 2
Prepare = Callable[[Path], object]


@dataclass(frozen=True)
class Bad:
    """A command that cannot work.

    Args:
        arguments: as typed in a shell; {name} stands for a path of the fixture `places`.
        message: part of the one line that says why.
        prepare: writes the bad input into the empty folder where the command is typed.
        code: exit code.
    """

    arguments: str
    message: str
    prepare: Prepare = lambda folder: None
    code: int = FAILED


def check(case: Bad, folder: Path, places: Mapping[str, Path]) -> None:
    """One line of error, the expected exit code, nothing on stdout, nothing left behind."""
    case.prepare(folder)
    before = {path: _content(path) for path in folder.rglob("*")}
    words = [word.format_map(places) for word in shlex.split(case.arguments)]
    done = typed(*words)
    last = done.err.splitlines()[-1]
    assert done.code == case.code, done.err
    assert done.out == "", done.out
    assert "this is a bug" not in done.err
    assert last.startswith("Error: "), done.err
    assert case.message in last, last
    assert set(folder.rglob("*")) == set(before)
    changed = [path for path, content in before.items() if _content(path) != content]
    assert not changed


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def npz(folder: Path, **arrays: object) -> None:
    """Write `bad.npz`: striped images, but for the arrays given; None leaves one out."""
    images, labels = stripes(12)
    fields = {"images": images[:, 0], "labels": labels} | arrays
    kept = {name: np.asarray(value) for name, value in fields.items() if value is not None}
    np.savez(folder / "bad.npz", **kept)


def picture(path: Path, size: tuple[int, int] = (8, 8), colour: int = 128) -> Path:
    """Write a grey picture, in folders that are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, colour).save(path)
    return path


def class_folders(folder: Path, *names: str, n: int = 2) -> None:
    """Write pictures into class folders below `bad`."""
    for name in names or ("ash", "beech"):
        for number in range(n):
            picture(folder / "bad" / name / f"{number}.png", colour=50 * number)


def truncate(path: Path, n: int = 7) -> None:
    """Cut the last bytes of a file off."""
    path.write_bytes(path.read_bytes()[:-n])
