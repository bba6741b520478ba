"""Inputs of a fuzz target: a few named parts in one file, and the files that they stand for.

A part is written as it is, unless its name ends in ``!`` or has a ``!`` inside: then its container
is built around it (a zip with its checksums, a gzip stream, a length before a header), so that a
change of the content is not refused by the container's checksum before any reader has seen it.

    x.npz!images.npy          a member of the zip x.npz
    x.gz!                     compressed
    x.png!                    with the checksums of its chunks put right
    x.safetensors!header      and !data: with the length of the header before both
    x.npy!header              and !data: the same
    x.tar!                    with the checksums of its headers put right, and its end
"""

from __future__ import annotations

import gzip
import io
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

SEPARATOR = re.compile(rb"(?:^|\n)@@ ([^\n]{1,300})\n")
LONGEST_NAME, DEEPEST = 200, 6
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
NPY_SIGNATURE = b"\x93NUMPY\1\0"
TAR_BLOCK, TAR_SIZE, TAR_CHECKSUM = 512, slice(124, 136), slice(148, 156)
TAR_END = bytes(2 * TAR_BLOCK)

Parts = dict[str, bytes]


def pack(parts: Mapping[str, bytes]) -> bytes:
    """One input from its parts."""
    return b"".join(
        b"\n@@ " + name.encode("utf-8", "surrogateescape") + b"\n" + content
        for name, content in parts.items()
    )


def parse(data: bytes) -> Parts:
    """The parts of an input; of two with one name the last."""
    pieces = SEPARATOR.split(data)[1:]
    names = (name.decode("utf-8", "surrogateescape") for name in pieces[::2])
    return dict(zip(names, pieces[1::2], strict=True))


def write(parts: Mapping[str, bytes], folder: Path) -> None:
    """Write the files that parts stand for below a folder, and nothing outside it."""
    containers: dict[str, Parts] = {}
    for name, content in parts.items():
        file, mark, member = name.partition("!")
        if mark:
            containers.setdefault(file, {})[member] = content
        else:
            _write(folder, name, content)
    for file, members in containers.items():
        _write(folder, file, _contain(file, members))


def _write(folder: Path, name: str, content: bytes) -> None:
    steps = PurePosixPath(name).parts
    usable = 0 < len(steps) <= DEEPEST and not name.startswith("/") and "\0" not in name
    if not usable or any(
        s == ".." or len(s.encode(errors="replace")) > LONGEST_NAME for s in steps
    ):
        return
    path = folder.joinpath(*steps)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except (FileExistsError, IsADirectoryError, NotADirectoryError):
        return  # two names that cannot both be: the first one stays


def _contain(file: str, members: Parts) -> bytes:
    if file.endswith(".npz"):
        return zipped(members)
    if file.endswith(".safetensors"):
        header = members.get("header", b"")
        return struct.pack("<Q", len(header)) + header + members.get("data", b"")
    if file.endswith(".npy"):
        header = members.get("header", b"")[:65535]
        return NPY_SIGNATURE + struct.pack("<H", len(header)) + header + members.get("data", b"")
    content = members.get("", b"")
    if file.endswith(".tar"):
        return with_right_headers(content) + TAR_END
    if file.endswith(".gz"):
        return gzip.compress(content, 1, mtime=0)
    return with_right_checksums(content) if file.endswith(".png") else content


def zipped(members: Mapping[str, bytes]) -> bytes:
    """A zip of stored members, the same bytes at any time of day."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            text = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            archive.writestr(zipfile.ZipInfo(text), content)
    return buffer.getvalue()


def with_right_checksums(png: bytes) -> bytes:
    """A PNG whose chunks keep their lengths and get the checksums of what is in them."""
    repaired, place = bytearray(png), len(PNG_SIGNATURE)
    while place + 12 <= len(repaired):
        (length,) = struct.unpack_from(">I", repaired, place)
        end = place + 8 + length
        if end + 4 > len(repaired):
            break
        struct.pack_into(">I", repaired, end, zlib.crc32(repaired[place + 4 : end]))
        place = end + 4
    return bytes(repaired)


def with_right_headers(tar: bytes) -> bytes:
    """A tar whose headers, found by the sizes they say, get the checksums of what is in them."""
    repaired, place = bytearray(tar), 0
    while 0 <= place <= len(repaired) - TAR_BLOCK:
        block = repaired[place : place + TAR_BLOCK]
        block[TAR_CHECKSUM] = b" " * 8
        block[TAR_CHECKSUM] = b"%06o\0 " % sum(block)
        repaired[place : place + TAR_BLOCK] = block
        try:
            size = max(0, tarfile.nti(block[TAR_SIZE]))
        except tarfile.HeaderError:
            size = 0
        place += TAR_BLOCK + -(-size // TAR_BLOCK) * TAR_BLOCK
    return bytes(repaired)


def npy_parts(name: str, content: bytes) -> Parts:
    """A .npy as its header and its data."""
    start = len(NPY_SIGNATURE) + 2
    (length,) = struct.unpack_from("<H", content, start - 2)
    header, data = content[start : start + length], content[start + length :]
    return {f"{name}!header": header, f"{name}!data": data}


def safetensors_parts(name: str, content: bytes) -> Parts:
    """A safetensors file as its header and its data."""
    (length,) = struct.unpack_from("<Q", content)
    return {f"{name}!header": content[8 : 8 + length], f"{name}!data": content[8 + length :]}


def npz_parts(name: str, content: bytes) -> Parts:
    """A zip as its members."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {f"{name}!{member}": archive.read(member) for member in archive.namelist()}
