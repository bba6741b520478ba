"""Lists of labelled image files, from a folder, a table or shards, and their reading."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convexcnn.data.arguments import check_whole
from convexcnn.data.dataset import (
    TEST_FRACTION,
    ImageDataset,
    ImageSplit,
    Labels,
    describe_split,
)
from convexcnn.data.decode import ImageFile, read_images
from convexcnn.data.resize import as_box
from convexcnn.data.rows import take_rows
from convexcnn.data.split import stratified_subset, train_validation_split
from convexcnn.errors import DataError

TEST_NAMES = ("test", "val", "validation", "valid")
"""What the split to test on may be called; the first that is there is used."""

CLASSES = "classes.txt"
"""Names of the classes 0, 1, ... of arrays and shards, whose labels are numbers."""


MOST_DIGITS = 18
"""Longer labels are names: Python reads no number of thousands of digits."""


@dataclass(frozen=True)
class ReadOptions:
    """How image files are read.

    Args:
        image_size: side of square images, or None if all files have one size.
        skip_bad: leave out files that cannot be decoded.
        limit: how many training images to keep, or None for all.
        seed: chooses the split and what ``limit`` keeps.
        room: bytes that decoded images may take in memory, instead of a temporary file; None for
            as many as the machine has.

    Raises:
        SettingError: a value of another type, or out of range.
    """

    image_size: int | None = None
    skip_bad: bool = False
    limit: int | None = None
    seed: int = 0
    room: float | None = None

    def __post_init__(self) -> None:
        if self.image_size is not None:
            as_box(self.image_size)
        if self.limit is not None:
            check_whole("limit", self.limit, 1)
        check_whole("seed", self.seed, 0)


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """An image file, perhaps inside a shard, and the name of its class."""

    path: ImageFile
    label: str


def read_listing(
    name: str,
    splits: Mapping[str, Sequence[LabelledFile]],
    source: str,
    options: ReadOptions,
    readable: Mapping[str, str] | None = None,
) -> ImageDataset:
    """Read the files of a listing; only those that ``limit`` keeps are opened.

    Args:
        name: of the data set.
        splits: files of ``train`` and perhaps of one of ``TEST_NAMES``; without such a one a
            stratified fifth is split off.
        source: where the listing comes from.
        options: how to read.
        readable: names to show instead of the labels.

    Returns:
        The data set.

    Raises:
        DataError: a test file has a class without training files, or the files cannot be read.
    """
    train, test, source = divide(splits, source, options.seed)
    if options.limit is not None:
        train_labels = np.asarray([file.label for file in train])
        train = [train[i] for i in stratified_subset(train_labels, options.limit, options.seed)]
    keys = class_order(file.label for file in train)
    files = [*train, *test]
    labels = _encode(files, keys, source)
    decoded = read_images(
        [file.path for file in files],
        image_size=options.image_size,
        skip_bad=options.skip_bad,
        room=options.room,
    )
    labels = labels[decoded.kept]
    n_train = int(np.count_nonzero(decoded.kept < len(train)))

    def split(rows: slice) -> ImageSplit:
        return ImageSplit(take_rows(decoded.images, rows), labels[rows])

    return ImageDataset(
        name,
        split(slice(n_train)),
        split(slice(n_train, None)) if test else None,
        tuple((readable or {}).get(key, key) for key in keys),
        source,
        decoded.skipped,
    )


def divide(
    splits: Mapping[str, Sequence[LabelledFile]], source: str, seed: int
) -> tuple[list[LabelledFile], list[LabelledFile], str]:
    """Training files, test files, and the source with how they were told apart."""
    everything = splits["train"]
    for name in TEST_NAMES:
        if splits.get(name):
            return list(everything), list(splits[name]), f"{source} (train and {name})"
    labels = np.asarray([file.label for file in everything])
    train, test = train_validation_split(labels, TEST_FRACTION, seed)
    return (
        [everything[i] for i in train],
        [everything[i] for i in test],
        f"{source} ({describe_split(seed)})",
    )


def class_names(folder: Path) -> list[str] | None:
    """Names of the classes from ``classes.txt``, one per line, if a folder has one.

    Raises:
        DataError: it is no text, has an empty line between others, or a name twice.
    """
    path = folder / CLASSES
    if not path.is_file():
        return None
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    names = [line.strip() for line in lines]
    while names and not names[-1]:
        names.pop()
    seen: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if not name:
            raise DataError(f"{path}, line {number} is empty; name class {number - 1} there")
        first = seen.setdefault(name, number)
        if first < number:
            raise DataError(
                f"{path} has {name} in lines {first} and {number}; tell the two classes apart"
            )
    return names


def class_order(labels: Iterable[str]) -> list[str]:
    """The different labels: by value if all are whole numbers, alphabetically otherwise."""
    different = set(labels)
    if all(label.isdecimal() and len(label) <= MOST_DIGITS for label in different):
        return sorted(different, key=lambda label: (int(label), label))
    return sorted(different)


def _encode(files: Sequence[LabelledFile], keys: Sequence[str], source: str) -> Labels:
    index = {key: i for i, key in enumerate(keys)}
    for file in files:
        if file.label not in index:
            raise DataError(
                f"{source}: {file.path} is of class {file.label}, which has no training images; "
                "add some or remove it"
            )
    return np.asarray([index[file.label] for file in files], np.int64)
