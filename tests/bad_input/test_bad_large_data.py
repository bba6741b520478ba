"""Tar shards and folders of arrays whose headers lie, loop, nest or cannot be parsed."""

from __future__ import annotations

import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from bad_inputs import Bad, Prepare, check, picture

from convexcnn.data import load_dataset
from small import stripes

END = bytes(1024)
RAISED = "as an uncompressed tar file"


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A block with a right checksum; sizes that are no octal number are written in base 256."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    sign = b"\xff" if size < 0 else b"\x80"
    octal = b"%011o\0" % size if 0 <= size < 8**11 else b""
    block[124:136] = octal or sign + size.to_bytes(11, "big", signed=True)
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def member(name: str, content: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    return header(name, len(content), kind) + content + bytes(-len(content) % 512)


def record(text: str) -> bytes:
    """A pax header of one record."""
    length = len(text) + 2
    while length != len(f"{length} {text}\n"):
        length = len(f"{length} {text}\n")
    return member("pax", f"{length} {text}\n".encode(), tarfile.XHDTYPE)


def shard(*blocks: bytes) -> Prepare:
    """`bad.tar`: a good pair, then blocks of our own, then a good pair."""

    def prepare(folder: Path) -> None:
        png = picture(folder / "x.png").read_bytes()
        good = [member(f"{key}.png", png) + member(f"{key}.cls", key.encode()) for key in "ab"]
        (folder / "bad.tar").write_bytes(b"".join([good[0], *blocks, good[1], END]))

    return prepare


GNU_NAME, PAX = tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE
SHARDS = [
    Bad("bad.tar", "-512 bytes", shard(header("x", -512))),
    Bad("bad.tar", "-5120 bytes", shard(header("x", -5120))),
    Bad("bad.tar", "-512 bytes", shard(header("x", -512, GNU_NAME))),
    Bad("bad.tar", "-512 bytes", shard(header("x", -512, PAX))),
    Bad("bad.tar", "-1024 bytes", shard(record("size=-1024"), header("x"))),
    Bad("bad.tar", RAISED, shard(record("GNU.sparse.size=-9"), header("x"))),
    Bad("bad.tar", f"{2**80} bytes", shard(header("x", 2**80))),
    Bad("bad.tar", RAISED, shard(record(f"size={2**80}"), header("x"))),
    Bad("bad.tar", f"{2**40} bytes", shard(header("x", 2**40, GNU_NAME))),
    Bad("bad.tar", "100000 bytes", shard(member("x", b"9" * 100_000, PAX))),
    Bad("bad.tar", RAISED, shard(header("x", kind=GNU_NAME) * 3000)),
    Bad("bad.tar", RAISED, shard(header("x", kind=PAX) * 3000)),
    Bad("bad.tar", RAISED, shard(header("x", kind=GNU_NAME), bytes(512))),
    Bad("bad.tar", "damaged header", shard(b"x" * 512)),
    Bad("bad.tar", RAISED, shard(record("GNU.sparse.map=1,x"), header("x"))),
    Bad("x-{{0..999999999}}.tar", "x-0.tar: this shard of"),
    Bad("x-{{0..99999999999999999999}}.tar", "no data set, folder or file"),
    Bad("x-{{7..3}}.tar", "no data set, folder or file"),
]


def npy(name: str, head: str | bytes, body: bytes = b"") -> Prepare:
    """`bad`: good arrays, but for one whose header is text of our own."""
    data = head if isinstance(head, bytes) else head.encode()

    def prepare(folder: Path) -> None:
        arrays(folder)
        start = b"\x93NUMPY\1\0" + struct.pack("<H", len(data))
        (folder / "bad" / name).write_bytes(start + data + body)

    return prepare


def arrays(folder: Path) -> None:
    (folder / "bad").mkdir()
    images, labels = stripes(12)
    np.save(folder / "bad" / "images.npy", images)
    np.save(folder / "bad" / "labels.npy", labels)


def shaped(name: str, shape: str, descr: str = "'|u1'") -> Prepare:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"
    return npy(name, text, bytes(6 * 64))


def endless(folder: Path) -> None:
    """A header whose length is said to be four gigabytes."""
    arrays(folder)
    (folder / "bad" / "images.npy").write_bytes(b"\x93NUMPY\2\0\xff\xff\xff\xff" + bytes(99))


UNREADABLE = (
    *("((((", "'''", "  1\n 2\n", "{[]: 3}", "{1: 2}", "-" * 5000 + "1", "(" * 9000, "\\N", ""),
    *("{'descr': [('a', ()), 3], 'fortran_order': 0, 'shape': (-1,)}", "9" * 5000, "{'\\0': 1}"),
)
ARRAYS = [
    *(
        Bad("bad", f"{name}: not a .npy of a plain array", npy(name, text))
        for name in ("images.npy", "labels.npy")
        for text in UNREADABLE
    ),
    Bad("bad", "images.npy: not a .npy", endless),
    *(
        Bad("bad", f"images.npy: {message}", shaped("images.npy", shape))
        for shape, message in {
            "(True, 8, 8)": "is no plain array",
            f"(6, {2**32}, {2**32})": "is cut off",
            f"(6, {2**31}, {2**32})": "is cut off",
            f"({10**22}, 8, 8)": "is no plain array",
            "(6, -8, 8)": "is no plain array",
            "()": "holds uint8 of shape ()",
        }.items()
    ),
    *(
        Bad("bad", message, shaped("labels.npy", shape))
        for shape, message in {
            "(True, 8, 8)": "no plain array",
            "(6, 8, 8)": "labels have shape (6, 8, 8)",
            f"({2**32}, {2**32})": "labels.npy: is cut off",
            f"({10**22},)": "labels.npy: is no plain array",
            "(" + f"{2**62}," * 400 + ")": "labels.npy: is cut off",
            f"({2**40},)": "labels.npy: is cut off",
        }.items()
    ),
    Bad("bad", "labels.npy: is no plain array", shaped("labels.npy", f"({2**62},)", "'|S0'")),
    Bad("bad", "hold |V4", shaped("labels.npy", "(12,)", "'|V4'")),
]


@pytest.mark.parametrize("command", ["data info", "plan"])
@pytest.mark.parametrize(
    "case", [*SHARDS, *ARRAYS], ids=lambda case: f"{case.arguments} | {case.message}"
)
def test_it_is_refused_in_one_line(command, case, places, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check(Bad(f"{command} {case.arguments}", case.message, case.prepare), tmp_path, places)


def test_a_long_name_before_a_member_is_read(tmp_path):
    """Headers before a member's own are usual, such as those of long names."""
    folder = "x" * 120
    names = (member("name", f"{folder}/{key}.png".encode(), GNU_NAME) for key in "cd")
    words = (record(f"path={folder}/{key}.cls") for key in "cd")
    png = picture(tmp_path / "x.png").read_bytes()
    blocks = [
        name + member("x", png) + word + member("y", b"a")
        for name, word in zip(names, words, strict=True)
    ]
    shard(*blocks)(tmp_path)
    found = load_dataset(tmp_path / "bad.tar")
    assert len(found.train) + len(found.test) == 4
