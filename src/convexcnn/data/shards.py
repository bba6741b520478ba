"""Tar shards in WebDataset's layout: ``NAME-000000.tar`` with ``KEY.jpg`` and ``KEY.cls`` each.

The standard library reads them: their members are only looked up, with their place in the file, and
images are decoded from there, so nothing is ever extracted and the order of reading is free. That
is all that training needs, which reads its images more than once.
"""

from __future__ import annotations

import io
import os
import re
import sys
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from convexcnn.data.dataset import ImageDataset
from convexcnn.data.decode import SUFFIXES
from convexcnn.data.listing import (
    TEST_NAMES,
    LabelledFile,
    ReadOptions,
    class_names,
    read_listing,
)
from convexcnn.errors import DataError

MAX_IMAGE_BYTES = 200_000_000
MAX_LABEL_BYTES = 1000
MAX_HEADER_BYTES = 8192
"""The longest header that goes before a member's own: far above any name."""

FURTHER_HEADERS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
END = 1024
"""Zeros at the end of every whole tar file."""

LAYOUT = "write pairs KEY.jpg and KEY.cls, the class in the latter, as WebDataset does"
AGAIN = "bring it back and start again"
NUMBERED = re.compile(r"(?P<name>.*?)[-_]?(?P<number>\d+)$")
OTHER = "other"
"""Shards whose names say no split."""

RANGE = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})\}")


@dataclass(frozen=True, slots=True)
class ShardMember:
    """An image inside a shard: so many bytes from a place on.

    Args:
        shard: the tar file.
        name: of the member.
        offset: of its first byte.
        size: in bytes.
    """

    shard: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.shard}: {self.name}"

    def is_file(self) -> bool:
        """Whether it can be asked for; a shard that has gone is no matter of one image."""
        return True

    def open(self, mode: str = "rb") -> IO[bytes]:
        """Its bytes.

        Raises:
            DataError: the shard has gone or become shorter since it was listed.
        """
        try:
            with self.shard.open("rb") as file:
                content = os.pread(file.fileno(), self.size, self.offset)
        except OSError as error:
            raise DataError(
                f"{self.shard}: the shard cannot be read any more ({error.strerror}); {AGAIN}"
            ) from error
        if len(content) < self.size:
            raise DataError(f"{self.shard}: the shard has become shorter; {AGAIN}")
        return io.BytesIO(content)


def shards_in(path: Path) -> dict[str, list[Path]]:
    """The shards of a folder, a pattern such as ``train-{000000..000009}.tar``, or one file.

    Shards with ``train``, or with ``test`` or another of ``TEST_NAMES``, as a word of their name
    (``birds-val-000000.tar``), or that lie in a folder of that name, make up this split; where no
    name says one, all are one split.

    Returns:
        Paths in order, by split; empty if there are none.

    Raises:
        DataError: a number is missing between others, or only some names say a split.
    """
    if not path.is_dir():
        paths = _expanded(path)
        return {"train": paths} if paths else {}
    found = defaultdict(list)
    for shard in sorted({*path.glob("*.tar"), *path.glob("*/*.tar")}):
        if not shard.name.startswith("."):
            found[_split_of(shard, path)].append(shard)
    if not found:
        return {}
    for split in found.values():
        _check_numbers(split)
    if set(found) == {OTHER}:
        return {"train": found[OTHER]}
    if OTHER in found:
        raise DataError(
            f"{found[OTHER][0]}: its name says no split, and the names of others do; put train, "
            "test or val into every name, or into none"
        )
    if "train" not in found:
        raise DataError(f"{path} has shards for testing alone; put train into the names of others")
    return {split: found[split] for split in ("train", *TEST_NAMES) if split in found}


def read_shards(path: Path, splits: dict[str, list[Path]], options: ReadOptions) -> ImageDataset:
    """Read the images of shards.

    Args:
        path: what they were found by; ``classes.txt`` in that folder, or beside the shards, names
            the classes 0, 1, ... line by line.
        splits: of :func:`shards_in`.
        options: how to read.

    Returns:
        The data set, named after the folder or the shards.

    Raises:
        DataError: a shard is missing, truncated or compressed, an image has no class, or one
            cannot be decoded.
    """
    listed = list_shards(splits)
    folder = path if path.is_dir() else path.parent
    names = {str(number): name for number, name in enumerate(class_names(folder) or ())}
    if path.is_dir():
        name = path.resolve().name
    else:
        name = RANGE.sub("", path.stem).rstrip("-_") or path.parent.resolve().name
    return read_listing(name or "shards", listed, str(path), options, names)


def list_shards(splits: dict[str, list[Path]]) -> dict[str, list[LabelledFile]]:
    """The labelled images of shards, by split; none is decoded.

    Raises:
        DataError: a shard is missing, truncated or compressed, or an image has no class.
    """
    return {
        split: [file for shard in shards for file in _files_in(shard)]
        for split, shards in splits.items()
    }


def _expanded(path: Path) -> list[Path]:
    """The shards that a path with a range of numbers in braces stands for, or the path itself."""
    if path.suffix.lower() != ".tar":
        return []
    found = RANGE.search(path.name)
    if found is None:
        return [path] if path.is_file() else []
    first, last = found.groups()
    paths = []
    for number in range(int(first), int(last) + 1):
        shard = path.with_name(RANGE.sub(str(number).zfill(len(first)), path.name, count=1))
        if not shard.is_file():
            raise DataError(f"{shard}: this shard of {path.name} is missing; {AGAIN}")
        paths.append(shard)
    return paths


def _split_of(shard: Path, folder: Path) -> str:
    """The split that a shard belongs to, by its folder or a word of its name."""
    names = [shard.stem] if shard.parent == folder else [shard.parent.name, shard.stem]
    plain = (name.lower().replace("training", "train") for name in names)
    words = (word for name in plain for word in re.split(r"[^a-z]+", name))
    return next((word for word in words if word in ("train", *TEST_NAMES)), OTHER)


def _check_numbers(shards: list[Path]) -> None:
    """Refuse a gap in the numbers of shards: one of them has been lost."""
    numbered: dict[tuple[Path, str], dict[int, Path]] = defaultdict(dict)
    for shard in shards:
        if match := NUMBERED.fullmatch(shard.stem):
            numbered[shard.parent, match["name"]][int(match["number"])] = shard
    for found in numbered.values():
        for number in range(min(found), max(found)):
            if number not in found:
                last = found[max(found)]
                digits = len(NUMBERED.fullmatch(last.stem)["number"])  # type: ignore[index]
                lost = last.with_name(last.stem[:-digits] + str(number).zfill(digits) + ".tar")
                raise DataError(f"{lost}: this shard is missing between others; {AGAIN}")


def _files_in(shard: Path) -> Iterator[LabelledFile]:
    """Labelled images of a shard, in its order."""
    images: dict[str, ShardMember] = {}
    labels: dict[str, str] = {}
    try:
        _check_end(shard)
        with tarfile.open(shard, "r:", tarinfo=_CheckedHeader) as archive:
            for member in archive:
                _sort_in(shard, archive, member, images, labels)
    except DataError:
        raise
    except Exception as error:  # tarfile raises nearly anything on damaged files
        raise DataError(
            f"{shard}: cannot be read as an uncompressed tar file ({error}); fetch or write it anew"
        ) from error
    for key in images.keys() ^ labels.keys():
        what = "no class (.cls)" if key in images else f"no image ({', '.join(SUFFIXES)})"
        raise DataError(f"{shard}: {key} has {what}; {LAYOUT}")
    if not images:
        raise DataError(f"{shard}: holds no images; {LAYOUT}")
    for key, image in images.items():
        yield LabelledFile(image, labels[key])


class _CheckedHeader(tarfile.TarInfo):
    """A header, refused where ``tarfile`` would loop, read gigabytes or end as if all were read."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """The header in a block.

        Raises:
            tarfile.ReadError: it is damaged, or says a size that no header has.
            tarfile.HeaderError: the block is the zeros after the last member.
        """
        if buf and not buf.strip(b"\0"):
            return super().frombuf(buf, encoding, errors)
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"damaged header: {error}") from error
        longest = MAX_HEADER_BYTES if header.type in FURTHER_HEADERS else sys.maxsize
        if not 0 <= header.size <= longest:
            raise tarfile.ReadError(f"a header says {header.size} bytes")
        return header


def _check_end(shard: Path) -> None:
    """Refuse a shard without the zeros that every whole tar file ends with."""
    with shard.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        end = os.pread(file.fileno(), END, max(0, size - END))
    if size < END or end.strip(b"\0"):
        raise DataError(f"{shard}: the tar file is cut off or compressed; fetch or write it anew")


def _sort_in(
    shard: Path,
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    images: dict[str, ShardMember],
    labels: dict[str, str],
) -> None:
    """Put an image or a class under its key: the name up to the first dot of its last part."""
    if member.size < 0:
        raise tarfile.ReadError(f"a header says {member.size} bytes")
    if not member.isreg() or member.issparse():
        return
    folder, _, last = member.name.rpartition("/")
    stem, _, extension = last.partition(".")
    key, suffix = f"{folder}/{stem}" if folder else stem, f".{extension.lower()}"
    if suffix in SUFFIXES:
        if member.size > MAX_IMAGE_BYTES:
            raise DataError(f"{shard}: {member.name} has {member.size} bytes, too many; remove it")
        if key in images:
            raise DataError(f"{shard}: {key} has two images; give every image a key of its own")
        images[key] = ShardMember(shard, member.name, member.offset_data, member.size)
    elif suffix == ".cls":
        if member.size > MAX_LABEL_BYTES:
            raise DataError(f"{shard}: {member.name} is too long for a class; {LAYOUT}")
        file = archive.extractfile(member)
        text = b"" if file is None else file.read()
        label = text.decode("utf-8", "replace").strip()
        if not label or not label.isprintable():
            raise DataError(f"{shard}: {member.name} holds no class; {LAYOUT}")
        labels[key] = label
