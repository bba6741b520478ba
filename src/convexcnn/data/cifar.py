"""CIFAR-10 and CIFAR-100 in their official binary and python versions.

Source: Krizhevsky 2009, *Learning Multiple Layers of Features from Tiny Images*;
formats as described at https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convexcnn.data.cifar_pickle import read_cifar_pickle
from convexcnn.data.dataset import ImageDataset, Images, ImageSplit, Labels
from convexcnn.data.download import RemoteFile, fetch_archive
from convexcnn.data.limits import check_fits
from convexcnn.data.root import DataRoot
from convexcnn.errors import DataError

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32
WEB = "https://www.cs.toronto.edu/~kriz"
REPAIR = "fetch the official archive again"


@dataclass(frozen=True)
class CifarVersion:
    """One official way of storing one of the two sets.

    Args:
        folder: the folder its archive unpacks to.
        train: file names of the training images.
        test: file name of the test images.
        names: file name of the class names.
        n_classes: 10 or 100.
        label_bytes: binary version: bytes before the pixels, the last being the label.
        keys: python version: keys of the labels and of the class names; None in the binary one.
        archive: the official download.
    """

    folder: str
    train: tuple[str, ...]
    test: str
    names: str
    n_classes: int
    label_bytes: int
    keys: tuple[str, str] | None
    archive: RemoteFile

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that must be there."""
        return (*self.train, self.test, self.names)

    def missing(self, folder: Path) -> list[str]:
        """Those of ``files`` that are not in ``folder``."""
        return [name for name in self.files if not (folder / name).is_file()]

    def read(self, folder: Path) -> ImageDataset:
        """Read this version from ``folder``.

        Raises:
            DataError: a file is missing, truncated, corrupt, or has labels out of range.
        """
        if missing := self.missing(folder):
            raise DataError(
                f"{folder} has no {', '.join(missing)}; "
                "complete it, or say --download (download=True)"
            )
        try:
            classes = self._class_names(folder / self.names)
            train = self._split([folder / name for name in self.train])
            test = self._split([folder / self.test])
        except OSError as error:
            raise DataError(f"{folder}: cannot be read ({error})") from error
        return ImageDataset(f"cifar{self.n_classes}", train, test, classes, str(folder))

    def _split(self, paths: Sequence[Path]) -> ImageSplit:
        parts = [self._records(path) for path in paths]
        images = np.concatenate([part[0] for part in parts])
        labels = np.concatenate([part[1] for part in parts])
        return ImageSplit(images.reshape(-1, *SHAPE), labels)

    def _records(self, path: Path) -> tuple[Images, Labels]:
        """Pixels (n, 3072) and labels (n,) of one file."""
        if self.keys is None:
            pixels, labels = _read_binary(path, self.label_bytes)
        else:
            pixels, labels = _read_python(path, self.keys[0])
        wrong = np.flatnonzero((labels < 0) | (labels >= self.n_classes))
        if wrong.size:
            raise DataError(
                f"{path}: image {wrong[0]} has label {labels[wrong[0]]}, out of range "
                f"0..{self.n_classes - 1}; {REPAIR}"
            )
        return pixels, labels

    def _class_names(self, path: Path) -> tuple[str, ...]:
        if self.keys is None:
            names = path.read_text("utf-8", errors="replace").split("\n")
        else:
            names = _text_list(read_cifar_pickle(path).get(self.keys[1]))
        names = [name.strip() for name in names if name.strip()]
        if len(names) != self.n_classes:
            raise DataError(
                f"{path}: {len(names)} class names instead of {self.n_classes}; {REPAIR}"
            )
        return tuple(names)


def _text_list(names: object) -> list[str]:
    """Names as text; none if it is no list of strings."""
    found = names if isinstance(names, list) else []
    if not all(isinstance(name, bytes | str) for name in found):
        return []
    return [n.decode("utf-8", "replace") if isinstance(n, bytes) else n for n in found]


def _read_binary(path: Path, label_bytes: int) -> tuple[Images, Labels]:
    record = label_bytes + PIXELS
    size = path.stat().st_size
    check_fits(size, str(path))
    if size == 0 or size % record:
        raise DataError(
            f"{path}: {size} bytes are no whole number of {record}-byte images, "
            f"so it is truncated or another file; {REPAIR}"
        )
    records = np.fromfile(path, np.uint8).reshape(-1, record)
    return records[:, label_bytes:], records[:, label_bytes - 1].astype(np.int64)


def _read_python(path: Path, label_key: str) -> tuple[Images, Labels]:
    batch = read_cifar_pickle(path)
    pixels, labels = batch.get("data"), batch.get(label_key)
    if not isinstance(pixels, np.ndarray) or not isinstance(labels, list):
        raise DataError(f"{path}: has no data and {label_key}; {REPAIR}")
    if pixels.shape != (len(labels), PIXELS) or not labels:
        raise DataError(
            f"{path}: data of shape {pixels.shape} and {len(labels)} labels do not match; {REPAIR}"
        )
    if not all(isinstance(label, int) for label in labels):
        raise DataError(f"{path}: {label_key} are not all whole numbers; {REPAIR}")
    return pixels, np.clip(np.asarray(labels, object), -1, 2**31).astype(np.int64)


@dataclass(frozen=True)
class CifarSet:
    """CIFAR-10 or CIFAR-100, in whichever official version is there.

    Args:
        title: as its authors write it.
        versions: how it may be stored; the first is the one that is downloaded.
    """

    title: str
    versions: tuple[CifarVersion, ...]

    def find(self, root: DataRoot) -> Path | None:
        """The folder that has all files of a version, if there is one."""
        nearest = self._nearest(root)
        return nearest[1] if nearest and not nearest[0].missing(nearest[1]) else None

    def load(self, root: DataRoot) -> ImageDataset:
        """Find the files, or download them if asked, and read them.

        Raises:
            DataError: they are not there, incomplete or damaged.
        """
        if root.download and self.find(root) is None:
            version = self.versions[0]
            fetch_archive(version.archive, root.folder)
            return version.read(root.folder / version.folder)
        nearest = self._nearest(root)
        if nearest is None:
            raise DataError(root.advice(self.title, [version.folder for version in self.versions]))
        version, place = nearest
        return version.read(place)

    def _nearest(self, root: DataRoot) -> tuple[CifarVersion, Path] | None:
        """The most complete version of which any file is there, and where."""
        places = [(v, place) for v in self.versions for place in root.places([v.folder])]
        return _most_complete(places)


def _most_complete(places: Sequence[tuple[CifarVersion, Path]]) -> tuple[CifarVersion, Path] | None:
    begun = [(v, place) for v, place in places if len(v.missing(place)) < len(v.files)]
    return min(begun, key=lambda found: len(found[0].missing(found[1])), default=None)


def cifar_version_in(folder: Path) -> CifarVersion | None:
    """The version of which any file is directly in ``folder``: the most complete one."""
    versions = (*CIFAR10.versions, *CIFAR100.versions)
    found = _most_complete([(version, folder) for version in versions])
    return found[0] if found else None


CIFAR10 = CifarSet(
    "CIFAR-10",
    (
        CifarVersion(
            folder="cifar-10-batches-bin",
            train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
            test="test_batch.bin",
            names="batches.meta.txt",
            n_classes=10,
            label_bytes=1,
            keys=None,
            archive=RemoteFile(
                f"{WEB}/cifar-10-binary.tar.gz", "md5:c32a1d4ab5d03f1284b67883e8d87530"
            ),
        ),
        CifarVersion(
            folder="cifar-10-batches-py",
            train=tuple(f"data_batch_{i}" for i in range(1, 6)),
            test="test_batch",
            names="batches.meta",
            n_classes=10,
            label_bytes=0,
            keys=("labels", "label_names"),
            archive=RemoteFile(
                f"{WEB}/cifar-10-python.tar.gz", "md5:c58f30108f718f92721af3b95e74349a"
            ),
        ),
    ),
)

CIFAR100 = CifarSet(
    "CIFAR-100",
    (
        CifarVersion(
            folder="cifar-100-binary",
            train=("train.bin",),
            test="test.bin",
            names="fine_label_names.txt",
            n_classes=100,
            label_bytes=2,
            keys=None,
            archive=RemoteFile(
                f"{WEB}/cifar-100-binary.tar.gz", "md5:03b5dce01913d631647c71ecec9e9cb8"
            ),
        ),
        CifarVersion(
            folder="cifar-100-python",
            train=("train",),
            test="test",
            names="meta",
            n_classes=100,
            label_bytes=0,
            keys=("fine_labels", "fine_label_names"),
            archive=RemoteFile(
                f"{WEB}/cifar-100-python.tar.gz", "md5:eb9058c3a382ffc7106e4002c42a8d85"
            ),
        ),
    ),
)
