"""The fuzzer sees what it should, and inputs that once broke a reader are read again."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import bundle
import minimise
from convexcnn.data import limits
from convexcnn.errors import DataError
from mutations import LARGEST, mutate
from targets import TARGETS
from watch import PRETENDED_MEMORY, Watch

CORPUS = Path(__file__).parent / "fuzz_corpus"
INPUTS = sorted(
    path
    for path in CORPUS.glob("*/*")
    if not (path.parent.name == "run" and path.name.startswith("sound-"))
)
"""All but sound runs, whose reports take a second each: the tests of reports build such."""


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name} {path.name}")
def test_it_is_read_or_refused_as_documented(path, monkeypatch):
    monkeypatch.setattr(limits, "machine_memory", lambda: PRETENDED_MEMORY)
    target = TARGETS[path.parent.name]
    watch = Watch(target.read, target.base())
    finding = watch(path.read_bytes())
    assert finding is None, finding.what
    expected = {"sound": 0, "refused": 1}.get(path.name.split("-")[0], watch.refused)
    assert watch.refused == expected, "if formats have changed: python fuzz/run.py --write-seeds"


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_has_sound_inputs(name):
    assert list((CORPUS / name).glob("sound-*"))


def refuse(folder: Path) -> None:
    raise DataError("a file: refused")


def refuse_in_silence(folder: Path) -> None:
    raise DataError(" ")


def break_down(folder: Path) -> None:
    raise KeyError("x")


def write_beside(folder: Path) -> None:
    try:
        (folder.parent / "fuzz-beside").write_text("x")
    finally:
        (folder.parent / "fuzz-beside").unlink(missing_ok=True)


def write_inside(folder: Path) -> None:
    (folder / "a").mkdir()
    (folder / "a" / "b").write_text("x")
    (folder / "a" / "b").rename(folder / "c")


def move_away(folder: Path) -> None:
    (folder / "x").rename(folder.parent / "fuzz-away")


def run_something(folder: Path) -> None:
    subprocess.run([sys.executable, "-c", ""], check=True)


@pytest.mark.parametrize(
    ("read", "key"),
    [
        (lambda folder: None, None),
        (refuse, None),
        (write_inside, None),
        (refuse_in_silence, "silent"),
        (break_down, "KeyError test_fuzzing.py:break_down"),
        (write_beside, "touched"),
        (move_away, "touched"),
        (run_something, "touched"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_watch_sees_what_a_reader_does(read: Callable[[Path], object], key: str | None):
    try:
        finding = Watch(read)(bundle.pack({"x": b"1"}))
    finally:
        for path in Path(bundle.__file__).parent.glob("fuzz-away"):
            path.unlink()
    assert (None if finding is None else finding.key) == key


def test_inputs_write_only_into_their_folder(tmp_path):
    inside = tmp_path / "here"
    inside.mkdir()
    names = ["../out", "/tmp/fuzz-out", "a/../../out", "a\0b", "ok/x", "ok", "b" * 300, "\udcff"]
    bundle.write(dict.fromkeys(names, b"1"), inside)
    assert {path.name for path in inside.rglob("*")} == {"ok", "x", "\udcff"}
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_a_member_may_have_a_name_that_is_no_text(tmp_path):
    bundle.write({"x.npz!a\udc85": b"1", "x.npz!b": b"2"}, tmp_path)
    members = bundle.npz_parts("x.npz", (tmp_path / "x.npz").read_bytes())
    assert members == {"x.npz!a\ufffd": b"1", "x.npz!b": b"2"}


def test_parts_come_back_and_containers_are_sound(tmp_path):
    (sound,) = (CORPUS / "model").glob("sound-0")
    parts = bundle.parse(sound.read_bytes())
    assert bundle.parse(bundle.pack(parts)) == parts
    bundle.write(parts, tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    apart = bundle.safetensors_parts("model.safetensors", whole)
    assert apart.items() <= parts.items()
    png = bytearray(bundle.parse((CORPUS / "picture" / "sound-0").read_bytes())["x.png!"])
    whole = bytes(png)
    png[29] ^= 1  # within the checksum of the header
    assert bundle.with_right_checksums(bytes(png)) == whole


@pytest.mark.parametrize("name", TARGETS)
def test_mutations_depend_on_chance_alone(name):
    for path in sorted((CORPUS / name).iterdir()):
        data = path.read_bytes()
        found = [mutate(data, random.Random(seed), TARGETS[name].tokens) for seed in (1, 1, 2, 3)]
        assert found[0] == found[1]
        assert len({*found, data}) > 2
        assert max(map(len, found)) <= LARGEST


def test_findings_are_made_small():
    data = bundle.pack({"x": bytes(500) + b"bad" + bytes(400), "y": bytes(100)})
    small = minimise.minimise(data, lambda data: b"bad" in data)
    assert small == bundle.pack({"x": b"bad"})
