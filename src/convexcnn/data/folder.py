"""A folder of class folders with JPEG or PNG files, with or without train and test folders.

Understood: ``FOLDER/CLASS/*.jpg``; ``FOLDER/train/CLASS/*.jpg`` with ``test``, ``val``,
``validation`` or ``valid`` beside it (the first of these that has class folders is tested on);
ImageNet's and Tiny ImageNet's layout, with readable names in ``words.txt``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from convexcnn.data.dataset import ImageDataset
from convexcnn.data.decode import SUFFIXES, is_image_file
from convexcnn.data.listing import TEST_NAMES, LabelledFile, ReadOptions, read_listing
from convexcnn.errors import DataError

WORDS = "words.txt"
ANNOTATIONS = "val_annotations.txt"
IMAGES = "images"
LAYOUT = "put the images of every class into a folder of its own, named after the class"
KINDS = ", ".join(SUFFIXES)


def read_folder(folder: Path, options: ReadOptions | None = None) -> ImageDataset:
    """Read a folder of class folders.

    Args:
        folder: holds a folder per class, or ``train`` and a test folder that do.
        options: how to read.

    Returns:
        The data set, named after the folder; class names come from ``words.txt`` (a folder name,
        a tab and a readable name per line) where it is there.

    Raises:
        DataError: there are no class folders, one is empty, or an image cannot be used.
    """
    splits = list_folder(folder)
    labels = {file.label for file in splits["train"]}
    readable = _readable_names(folder / WORDS, labels)
    name = folder.resolve().name or "images"
    found = read_listing(name, splits, str(folder), options or ReadOptions(), readable)
    return replace(found, passed_over=_beside(splits))


def list_folder(folder: Path) -> dict[str, list[LabelledFile]]:
    """The files of ``train``, and of a split to test on if there is one.

    Raises:
        DataError: there are no class folders, or one is empty.
    """
    inside = {child.name.lower(): child for child in _subfolders(folder)}
    train = inside.get("train")
    if train is None or not _subfolders(train):
        return {"train": _class_files(folder)}
    splits = {"train": _class_files(train)}
    for name in TEST_NAMES:
        if name in inside and (files := _test_files(inside[name])):
            splits[name] = files
    return splits


def _children(folder: Path) -> list[Path]:
    """Everything in a folder that is not hidden, by name."""
    try:
        return sorted(
            child for child in folder.iterdir() if not child.name.startswith((".", "__MACOSX"))
        )
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror})") from error


def _subfolders(folder: Path) -> list[Path]:
    return [child for child in _children(folder) if child.is_dir()]


def _class_files(folder: Path) -> list[LabelledFile]:
    """The images of every class folder."""
    class_folders = _subfolders(folder)
    if not class_folders:
        held = "images but no class folders" if any(_images(folder)) else "no images"
        raise DataError(f"{folder}: has {held}; {LAYOUT}")
    return [file for class_folder in class_folders for file in _files_of(class_folder)]


def _files_of(class_folder: Path) -> list[LabelledFile]:
    """The images of one class, in its folder or, as in Tiny ImageNet, in ``images`` there."""
    found = _images(class_folder) or _images(class_folder / IMAGES)
    if not found:
        deeper = _subfolders(class_folder)
        what = f"folders ({deeper[0].name}, ...) but no images" if deeper else "no images"
        raise DataError(
            f"{class_folder}: this class folder has {what} ({KINDS}); fill or remove it"
        )
    return [LabelledFile(path, class_folder.name) for path in found]


def _images(folder: Path) -> list[Path]:
    return [path for path in _children(folder) if is_image_file(path)] if folder.is_dir() else []


def _beside(splits: Mapping[str, Sequence[LabelledFile]]) -> tuple[str, ...]:
    """What lies in the folders of these images and is none by its name, or leads nowhere."""
    places = {Path(str(file.path)).parent for files in splits.values() for file in files}
    return tuple(
        str(child)
        for place in sorted(places)
        if place.is_dir()
        for child in _children(place)
        if not is_image_file(child)
    )


def _test_files(folder: Path) -> list[LabelledFile]:
    """Labelled images of a test folder; none if its images have no classes, as in ImageNet."""
    annotations = folder / ANNOTATIONS
    if annotations.is_file():
        return _annotated(annotations)
    unlabelled = [child.name for child in _subfolders(folder)] in ([], [IMAGES])
    return [] if unlabelled else _class_files(folder)


def _annotated(annotations: Path) -> list[LabelledFile]:
    """Tiny ImageNet's validation images: one folder, and lines of file name, tab, class."""
    rows = [line.split("\t") for line in _lines(annotations)]
    if any(len(row) < 2 for row in rows):
        raise DataError(f"{annotations}: a line has no tab; write the file name, a tab, the class")
    return [LabelledFile(annotations.parent / IMAGES / row[0], row[1]) for row in rows]


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error})") from error


def _readable_names(words: Path, labels: Iterable[str]) -> dict[str, str]:
    """What ``words.txt`` calls the classes: its first word for each, or all if that is not unique.

    ImageNet has two classes ``crane``: such names are written out, and with their label if need be.
    """
    if not words.is_file():
        return {}
    known = dict(line.split("\t", 1) for line in _lines(words) if "\t" in line)
    full = {label: known.get(label, label).strip() for label in labels}
    short = {label: name.split(",")[0].strip() for label, name in full.items()}
    full_count, short_count = Counter(full.values()), Counter(short.values())
    names = {}
    for label in full:
        if short_count[short[label]] == 1:
            names[label] = short[label]
        elif full_count[full[label]] == 1:
            names[label] = full[label]
        else:
            names[label] = f"{full[label]} ({label})"
    return names
