"""What every reader returns: images with labels, split into training and test, and checked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from convexcnn.data.arguments import check_whole
from convexcnn.data.rows import ImageRows, RowIndex, held_bytes, row_blocks, take_rows
from convexcnn.data.split import stratified_subset, train_validation_split
from convexcnn.data.stored_rows import stored_copy
from convexcnn.errors import DataError

Images: TypeAlias = NDArray[Any]
"""(n, channels, height, width), uint8 or finite float32."""

Labels: TypeAlias = NDArray[np.int64]
"""(n,), class indices 0..k-1."""

TEST_FRACTION = 0.2
"""The part of a source without a test split that is kept for testing."""


@dataclass(frozen=True)
class ImageSplit:
    """Images with one class index each.

    Args:
        images: (n, channels, height, width), uint8 in 0..255 or finite float32: an array, or rows
            that are read from a file when they are asked for.
        labels: (n,), int64 class indices 0..k-1.

    Raises:
        DataError: shapes or types differ from these, or a pixel is NaN or infinite.
    """

    images: ImageRows
    labels: Labels

    def __post_init__(self) -> None:
        if len(self.images.shape) != 4 or 0 in self.images.shape[1:]:
            raise DataError(
                f"images have shape {self.images.shape}; "
                "give them as (n, channels, height, width) with at least one pixel"
            )
        if self.images.dtype not in (np.uint8, np.float32):
            raise DataError(f"images are {self.images.dtype}; give them as uint8 or float32")
        if self.labels.shape != self.images.shape[:1]:
            raise DataError(
                f"{len(self.images)} images but labels of shape {self.labels.shape}; "
                "give one label per image"
            )
        if self.labels.dtype != np.int64:
            raise DataError(f"labels are {self.labels.dtype}; give class indices as int64")
        if isinstance(self.images, np.ndarray):  # readers of files have checked theirs
            check_finite(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: RowIndex) -> ImageSplit:
        """The images and labels at ``indices``; of images in a file no pixels are copied."""
        return ImageSplit(take_rows(self.images, indices), self.labels[indices])


@dataclass(frozen=True)
class ImageDataset:
    """A classification problem: training images, test images and the names of the classes.

    Args:
        name: short name for reports and file names.
        train: the images to learn from; at least two classes occur in it.
        test: the images to judge by, of the same shape and type, or None.
        classes: k names, in the order of the labels.
        source: where it was read from, and how it was split if it came in one piece.
        skipped: files left out because they could not be read.
        passed_over: what lies beside the images of a folder and is none by its name.

    Raises:
        DataError: labels out of range, fewer than two classes, or splits that do not match.
    """

    name: str
    train: ImageSplit
    test: ImageSplit | None
    classes: tuple[str, ...]
    source: str
    skipped: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.train) == 0:
            raise DataError(f"{self.source} has no training images; give at least two classes")
        self._check_labels("training", self.train.labels)
        if len(np.unique(self.train.labels)) < 2:
            only = self.classes[int(self.train.labels[0])]
            raise DataError(
                f"{self.source} has images of one class only ({only}); "
                "a classifier needs at least two classes"
            )
        if self.test is None:
            return
        if len(self.test) == 0:
            raise DataError(f"{self.source} has an empty test split; leave it out or fill it")
        self._check_labels("test", self.test.labels)
        if self.test.images.shape[1:] != self.train.images.shape[1:]:
            raise DataError(
                f"{self.source} has training images of shape {self.train.images.shape[1:]} but "
                f"test images of shape {self.test.images.shape[1:]}; make them the same"
            )
        if self.test.images.dtype != self.train.images.dtype:
            raise DataError(
                f"{self.source} has {self.train.images.dtype} training images but "
                f"{self.test.images.dtype} test images; make them the same"
            )

    def _check_labels(self, split: str, labels: Labels) -> None:
        k = len(self.classes)
        wrong = np.flatnonzero((labels < 0) | (labels >= k))
        if wrong.size:
            raise DataError(
                f"{self.source}: {split} image {wrong[0]} has label {labels[wrong[0]]}, out of "
                f"range: with {k} classes labels are 0..{k - 1}"
            )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every image."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width

    def fingerprint(self) -> str:
        """SHA-256 of training images, labels and class names, the same on every machine.

        It is that of the arrays when it was first asked for.
        """
        return self._of_train

    def whole_fingerprint(self) -> str:
        """The same of training and test images together."""
        tested = "" if self.test is None else self._digest(self.test)
        return hashlib.sha256(f"{self._of_train} {tested}".encode()).hexdigest()

    @cached_property
    def _of_train(self) -> str:
        return self._digest(self.train)

    def _digest(self, split: ImageSplit) -> str:
        images, labels = split.images, split.labels
        digest = hashlib.sha256(f"{images.dtype.name} {images.shape}".encode())
        little_endian = images.dtype.newbyteorder("<")
        for _, block in row_blocks(images):
            digest.update(np.ascontiguousarray(block, dtype=little_endian).data)
        digest.update(labels.astype("<i8").tobytes())
        digest.update("\n".join(self.classes).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def limit(self, n: int, seed: int = 0) -> ImageDataset:
        """The same problem with ``n`` training images, classes in the same proportions.

        Args:
            n: how many training images to keep, at least one per class; all if there are fewer.
            seed: chooses which.

        Returns:
            A data set with the same test images.

        Raises:
            SettingError: ``n`` is no whole number, or smaller than the number of classes.
        """
        check_whole("limit", n, 0)
        if n >= len(self.train):
            return self
        return replace(self, train=self.train.take(stratified_subset(self.train.labels, n, seed)))

    def within(self, room: float) -> ImageDataset:
        """The same images, in memory if they take at most so many bytes, else in temporary files.

        Raises:
            RunError: the disk has no room for them.
        """
        splits = [split for split in (self.train, self.test) if split is not None]
        if sum(held_bytes(split.images) for split in splits) <= room:
            return self
        stored = [ImageSplit(stored_copy(split.images), split.labels) for split in splits]
        return replace(self, train=stored[0], test=None if self.test is None else stored[1])

    def describe(self) -> dict[str, Any]:
        """What this data set is, ready for JSON."""
        return {
            "name": self.name,
            "source": self.source,
            "classes": list(self.classes),
            "image_shape": list(self.image_shape),
            "n_train": len(self.train),
            "n_test": 0 if self.test is None else len(self.test),
            "fingerprint": self.fingerprint(),
        }


def check_finite(images: Images, where: str = "images") -> None:
    """Refuse NaN and infinite pixels.

    Raises:
        DataError: naming the first image that has one.
    """
    if images.dtype.kind != "f" or images.size == 0:
        return
    if np.isfinite(images.min()) and np.isfinite(images.max()):
        return
    finite = np.isfinite(images.reshape(len(images), -1)).all(axis=1)
    bad = np.flatnonzero(~finite)
    raise DataError(
        f"{where}: {bad.size} of {len(images)} images have NaN or infinite pixels "
        f"(first: image {bad[0]}); remove or repair them"
    )


def split_off_test(
    name: str,
    all_images: ImageSplit,
    classes: Sequence[str],
    source: str,
    *,
    seed: int = 0,
) -> ImageDataset:
    """A data set from a source without a test split: a stratified fifth of it is kept for testing.

    Args:
        name: of the data set.
        all_images: what the source holds.
        classes: names, in the order of the labels.
        source: where it was read from; how it was split is added.
        seed: chooses the split.
    """
    train, test = train_validation_split(all_images.labels, TEST_FRACTION, seed)
    return ImageDataset(
        name,
        all_images.take(train),
        all_images.take(test) if test.size else None,
        tuple(classes),
        f"{source} ({describe_split(seed)})",
    )


def describe_split(seed: int) -> str:
    """The words that say how a source without a test split was divided."""
    train_percent = round(100 * (1 - TEST_FRACTION))
    return f"split {train_percent}/{100 - train_percent} by seed {seed}"
