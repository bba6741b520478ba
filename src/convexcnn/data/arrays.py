"""Images that are arrays already: NumPy arrays, .npz files and torch data sets."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convexcnn.data.dataset import (
    ImageDataset,
    Images,
    ImageSplit,
    Labels,
    split_off_test,
)
from convexcnn.data.limits import check_fits
from convexcnn.data.preprocess import as_images, tensor_array
from convexcnn.data.rows import ImageRows, RowView
from convexcnn.data.stored_rows import FileRows
from convexcnn.errors import DataError

NPZ_KEYS = ("images", "labels", "test_images", "test_labels", "classes")


def dataset_from_arrays(
    images: Any,
    labels: Any,
    test_images: Any = None,
    test_labels: Any = None,
    *,
    classes: Sequence[str] | None = None,
    name: str = "arrays",
    source: str = "NumPy arrays",
    image_shape: Sequence[int] | None = None,
    seed: int = 0,
) -> ImageDataset:
    """A data set from arrays in memory.

    Args:
        images: training images in any layout that ``as_images`` takes.
        labels: (n,), whole numbers or strings. With ``classes``, numbers index into them;
            without, the different values, sorted, are the classes.
        test_images: images to judge by; without them a stratified fifth is split off.
        test_labels: their labels.
        classes: names of the classes.
        name: short name for reports.
        source: where the arrays come from, for messages and reports.
        image_shape: (channels, height, width) if the images are flattened.
        seed: chooses the split where there are no test images.

    Returns:
        The checked data set.

    Raises:
        DataError: images and labels do not match, labels are out of range or not one per image,
            there is one class only, or a pixel is NaN or infinite.
    """
    train_values = _label_values(labels, f"{source}: labels")
    names, coding = _coding(train_values, classes, source)
    train = _split(images, _encode(train_values, coding, f"{source}: labels"), source, image_shape)
    if (test_images is None) != (test_labels is None):
        given = "test_labels" if test_images is None else "test_images"
        raise DataError(f"{source}: only {given} is given; give test_images and test_labels both")
    if test_images is None:
        return split_off_test(name, train, names, source, seed=seed)
    test_values = _label_values(test_labels, f"{source}: test_labels")
    test = _split(
        test_images,
        _encode(test_values, coding, f"{source}: test_labels"),
        f"{source}: test",
        image_shape,
    )
    if test.images.dtype != train.images.dtype:
        train = ImageSplit(np.asarray(train.images, np.float32), train.labels)
        test = ImageSplit(np.asarray(test.images, np.float32), test.labels)
    return ImageDataset(name, train, test, names, source)


def read_npz(path: Path, seed: int = 0) -> ImageDataset:
    """Read an .npz with ``images``, ``labels`` and, if wanted, ``test_images``, ``test_labels``.

    ``classes``, an array of names, may be there too. Nothing is unpickled.

    Args:
        path: the file.
        seed: chooses the split where there are no test images.

    Returns:
        The data set, named after the file.

    Raises:
        DataError: the file is damaged, lacks a key, or holds what ``dataset_from_arrays`` refuses.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            check_fits(sum(member.file_size for member in archive.infolist()), str(path))
        with np.load(path, allow_pickle=False) as archive:
            fields = {key: archive[key] for key in NPZ_KEYS if key in archive.files}
            found = ", ".join(archive.files) or "nothing"
    except DataError:
        raise
    except Exception as error:  # zipfile and numpy raise nearly anything on damaged files
        raise DataError(
            f"{path}: not a readable .npz of plain arrays ({error}); "
            "write it with numpy.savez(path, images=..., labels=...)"
        ) from error
    if missing := [key for key in ("images", "labels") if key not in fields]:
        raise DataError(
            f"{path}: has {found} but no {' and no '.join(missing)}; "
            "write it with numpy.savez(path, images=..., labels=...)"
        )
    classes = fields.pop("classes", None)
    return dataset_from_arrays(
        **fields,
        classes=None if classes is None else _names(classes, f"{path}: classes"),
        name=path.stem,
        source=str(path),
        seed=seed,
    )


def dataset_from_torch(
    train: Iterable[Any],
    test: Iterable[Any] | None = None,
    *,
    classes: Sequence[str] | None = None,
    name: str = "torch",
    seed: int = 0,
) -> ImageDataset:
    """A data set from torch data sets, read through once into memory.

    Args:
        train: yields (image, label): the image a tensor, an array or a Pillow image of one shape
            for all; the label a whole number.
        test: the same for testing; without it a stratified fifth of ``train`` is split off.
        classes: names of the classes; ``train.classes`` where there is one.
        name: short name for reports.
        seed: chooses the split where there is no test set.

    Returns:
        The checked data set.

    Raises:
        DataError: items are no (image, label) pairs, or shapes differ, or what
            ``dataset_from_arrays`` refuses.
    """
    source = f"torch data set {type(train).__name__}"
    images, labels = _stack(train, source)
    test_images, test_labels = (None, None) if test is None else _stack(test, f"{source}, test")
    if classes is None:
        classes = getattr(train, "classes", None)
    return dataset_from_arrays(
        images,
        labels,
        test_images,
        test_labels,
        classes=classes,
        name=name,
        source=source,
        seed=seed,
    )


def _stack(pairs: Iterable[Any], source: str) -> tuple[Images, NDArray[Any]]:
    """Every image and label of a torch data set."""
    images: list[NDArray[Any]] = []
    labels: list[Any] = []
    for i, pair in enumerate(_items(pairs)):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise DataError(f"{source}: item {i} is no (image, label) pair")
        image = np.asarray(pair[0])
        if image.ndim not in (2, 3):
            raise DataError(f"{source}: image {i} has shape {image.shape}; give 2 or 3 axes")
        if images and image.shape != images[0].shape:
            raise DataError(
                f"{source}: image {i} has shape {image.shape}, image 0 {images[0].shape}; "
                "add a transform that makes them the same"
            )
        images.append(image)
        labels.append(np.asarray(pair[1]))
    if not images:
        raise DataError(f"{source}: is empty; give at least two classes of images")
    return as_images(np.stack(images)), np.stack(labels)


def _items(pairs: Any) -> Iterator[Any]:
    """Items by index where there is a length: map-style data sets need not end by themselves."""
    if hasattr(pairs, "__len__") and hasattr(pairs, "__getitem__"):
        return (pairs[i] for i in range(len(pairs)))
    return iter(pairs)


def _split(
    images: Any, labels: Labels, source: str, image_shape: Sequence[int] | None
) -> ImageSplit:
    try:
        in_file = isinstance(images, FileRows | RowView)
        pixels: ImageRows = images if in_file else as_images(images, image_shape)
    except DataError as error:
        raise DataError(f"{source}: {error}") from error
    if len(pixels) != len(labels):
        raise DataError(
            f"{source}: {len(pixels)} images but {len(labels)} labels; give one label per image"
        )
    return ImageSplit(pixels, labels)


def _label_values(labels: Any, where: str) -> NDArray[Any]:
    """One whole number or string per image."""
    if hasattr(labels, "detach"):
        labels = tensor_array(labels, "labels")
    values = np.asarray(labels)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise DataError(
            f"{where} have shape {values.shape}; give one per image, (n,) "
            "(one-hot labels: use labels.argmax(axis=1))"
        )
    if values.dtype.kind == "f":
        if not (np.isfinite(values).all() and (values == np.rint(values)).all()):
            raise DataError(f"{where} hold NaN or fractions; give whole numbers or strings")
        values = values.astype(np.int64)
    if values.dtype.kind not in "buiUS":
        raise DataError(f"{where} hold {values.dtype}; give whole numbers or strings")
    return values.astype(np.int64) if values.dtype.kind in "bui" else _as_text(values, where)


def _names(classes: NDArray[Any], where: str) -> list[str]:
    flat = np.ravel(classes)
    return [str(name) for name in (_as_text(flat, where) if flat.dtype.kind in "US" else flat)]


def _as_text(values: NDArray[Any], where: str) -> NDArray[np.str_]:
    """Strings, or bytes that are UTF-8, as strings of characters that exist."""
    try:
        is_bytes = values.dtype.kind == "S"
        text = np.char.decode(values, "utf-8") if is_bytes else values.astype(np.str_)
    except UnicodeDecodeError as error:
        raise DataError(f"{where} hold bytes that are no UTF-8; give strings") from error
    text = text.astype(text.dtype.newbyteorder("="))
    characters = np.frombuffer(text.tobytes(), np.uint32)
    if characters.size and characters.max() > sys.maxunicode:
        raise DataError(f"{where} hold characters that do not exist; write them anew")
    return text


def _coding(
    values: NDArray[Any], classes: Sequence[str] | None, source: str
) -> tuple[tuple[str, ...], NDArray[Any]]:
    """Class names, and the label value that stands for each."""
    if classes is None:
        different = np.unique(values)
        return tuple(str(value) for value in different), different
    names = tuple(str(name) for name in classes)
    if len(set(names)) != len(names):
        raise DataError(f"{source}: class names are not all different; rename them")
    if values.dtype.kind == "U":
        return names, np.asarray(names)
    return names, np.arange(len(names))


def _encode(values: NDArray[Any], coding: NDArray[Any], where: str) -> Labels:
    """Class index of every label."""
    order = np.argsort(coding, kind="stable")
    position = np.searchsorted(coding, values, sorter=order).clip(max=len(coding) - 1)
    labels = order[position] if len(coding) else position
    known = (coding[labels] == values) if len(coding) else np.zeros(len(values), dtype=bool)
    if not known.all():
        first = int(np.argmin(known))
        raise DataError(
            f"{where}: image {first} has label {values[first]}, out of range: the "
            f"{len(coding)} classes are {_shorten(coding)}"
        )
    return labels.astype(np.int64)


def _shorten(values: NDArray[Any]) -> str:
    words = [str(value) for value in values]
    return ", ".join(words if len(words) <= 8 else [*words[:3], "...", words[-1]])
