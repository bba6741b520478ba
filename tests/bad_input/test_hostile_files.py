"""Files made to do harm: names that are markup or commands of a terminal, archives that escape."""

from __future__ import annotations

import csv
import io
import json
import os
import tarfile
from pathlib import Path

import pytest
import test_bad_arguments
import test_bad_arrays
import test_bad_data
import test_bad_models
from bad_inputs import picture

from commands import typed
from convexcnn.data.download import unpack
from convexcnn.errors import DataError

MARKUP = [
    "<script>alert(1)",
    '"><img src=x onerror=alert(2)>',
    "a&amp;b",
    "{{ 7 * 7 }}",
    "two\nlines",
    "$\\x{",
]
SMALL = ["--filter-size", "3", "--gates", "gaussian", "--n-gates", "2", "--whiten", "4"]


def test_the_table_is_long_enough():
    tables = [
        test_bad_arguments.TABLE,
        test_bad_data.TABLE,
        test_bad_arrays.FITS,
        test_bad_models.FOLDERS,
        test_bad_models.RUNS,
    ]
    assert sum(map(len, tables)) >= 150


def test_class_names_of_data_are_no_markup_in_reports(tmp_path):
    rows = ["path,label"]
    for number in range(24):
        name = MARKUP[number % len(MARKUP)]
        path = picture(tmp_path / f"{number}.png", colour=10 * number)
        quoted = name.replace('"', '""')
        rows.append(f'{path.name},"{quoted}"')
    (tmp_path / "data.csv").write_text("\n".join(rows))
    done = typed("fit", tmp_path / "data.csv", "--out", tmp_path / "run", *SMALL)
    assert done.code == 0, done.err
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "a&amp;amp;b" in page
    for figure in (tmp_path / "run" / "figures").glob("*.svg"):
        assert "<script>alert" not in figure.read_text()
    done = typed("predict", tmp_path / "run", tmp_path / "0.png", "--json")
    assert done.json()["predictions"][0]["label"] in MARKUP


def test_class_folders_whose_names_are_no_text_are_trained_on(tmp_path):
    """A name that is not UTF-8 ends up in every file of the run, escaped."""
    data, trained = tmp_path / os.fsdecode(b"data\xfe"), tmp_path / "run"
    for number in range(12):
        name = os.fsdecode((b"ash\xff", "b\u00fcche".encode())[number % 2])
        picture(data / name / f"{number}.png", colour=20 * number)
    done = typed("fit", data, "--out", trained, *SMALL)
    assert done.code == 0, done.err
    json.loads((trained / "result.json").read_text("utf-8"))
    for arguments in (
        ("report", trained),
        ("evaluate", trained, data),
        ("certify", trained, data),
        ("predict", trained, data, "--csv", tmp_path / "labels.csv"),
        ("explain", trained, data, "--out", tmp_path / "why"),
    ):
        done = typed(*arguments)
        assert done.code == 0, done.err
    assert b"ash\xff" in (tmp_path / "labels.csv").read_bytes()


NAMES = [b"\xff\xfe.png", b"\x1b[2J.png", b"new\nline.png", b"=1+1,comma.png"]


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_odd_names_of_pictures_are_labelled(name, places, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    odd = Path(os.fsdecode(name))
    picture(Path("plain.png")).rename(odd)
    done = typed("predict", places["run"], odd, "--csv", "labels.csv")
    assert done.code == 0
    assert "\x1b" not in done.out
    with Path("labels.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        (row,) = csv.DictReader(file)
    assert os.fsencode(row["image"]) == name
    odd.write_text("no picture")
    done = typed("predict", places["run"], odd)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "\x1b" not in done.err


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


ESCAPES = {
    "above": tarfile.TarInfo("../escaped"),
    "absolute": tarfile.TarInfo("/tmp/convexcnn-escaped"),
    "deep": tarfile.TarInfo("a/../../escaped"),
    "symbolic link": link("link", "/etc/passwd", tarfile.SYMTYPE),
    "hard link": link("link", "../escaped", tarfile.LNKTYPE),
    "device": link("zero", "", tarfile.CHRTYPE),
    "pipe": link("pipe", "", tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES)
def test_archives_do_not_escape(escape, tmp_path):
    (tmp_path / "work").mkdir()
    content = b"" if escape.type != tarfile.REGTYPE else b"x"
    archive = tar_of(tmp_path / "work" / "bad.tar.gz", (escape, content))
    inside = tmp_path / "data"
    if escape.name.startswith("/"):  # the data filter takes the leading slash away
        unpack(archive, inside)
        assert not Path(escape.name).exists()
        return
    with pytest.raises(DataError, match="nothing was kept"):
        unpack(archive, inside)
    assert not list(inside.rglob("*"))
    assert {path.name for path in tmp_path.rglob("*")} == {"work", "bad.tar.gz"}
