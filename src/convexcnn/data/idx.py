"""MNIST and Fashion-MNIST in their official idx files, plain or gzip-compressed.

Source: LeCun, Cortes & Burges, *The MNIST database* (the idx format); Xiao, Rasul & Vollgraf 2017,
*Fashion-MNIST* (arXiv 1708.07747).
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from convexcnn.data.dataset import ImageDataset, Images, ImageSplit
from convexcnn.data.download import RemoteFile, fetch
from convexcnn.data.limits import check_fits
from convexcnn.data.root import DataRoot
from convexcnn.errors import DataError

UNSIGNED_BYTE = 0x08
READ_AT_ONCE = 2**20
REPAIR = "fetch the official file again"
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@dataclass(frozen=True)
class IdxSet:
    """An official data set of four idx files.

    Args:
        name: as in the registry.
        title: as its authors write it.
        classes: names of the labels 0..9.
        folders: where its files usually lie below the root; the first is where downloads go.
        elsewhere: folders outside the root where packages put it.
        downloads: the official .gz files, in the order of ``FILES``.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    folders: tuple[str, ...]
    elsewhere: tuple[Path, ...]
    downloads: tuple[RemoteFile, ...]

    def read(self, folder: Path) -> ImageDataset:
        """Read the four files from ``folder``.

        Raises:
            DataError: a file is missing, truncated or corrupt, or the files do not match.
        """
        paths = [_path_of(folder, file) for file in FILES]
        train = self._split(paths[0], paths[1])
        test = self._split(paths[2], paths[3])
        return ImageDataset(self.name, train, test, self.classes, str(folder))

    def _split(self, image_path: Path, label_path: Path) -> ImageSplit:
        images, labels = read_idx(image_path, 3), read_idx(label_path, 1)
        if len(images) != len(labels):
            raise DataError(
                f"{label_path}: {len(labels)} labels for the {len(images)} images of "
                f"{image_path.name}; {REPAIR}"
            )
        if labels.size and labels.max() >= len(self.classes):
            first = int(np.argmax(labels >= len(self.classes)))
            raise DataError(
                f"{label_path}: image {first} has label {labels[first]}, out of range "
                f"0..{len(self.classes) - 1}; {REPAIR}"
            )
        return ImageSplit(images[:, None], labels.astype(np.int64))

    def find(self, root: DataRoot) -> Path | None:
        """The first folder that has all four files."""
        places = root.places(self.folders, self.elsewhere)
        return next((place for place in places if len(_present(place)) == len(FILES)), None)

    def load(self, root: DataRoot) -> ImageDataset:
        """Find the files, or download them if asked, and read them."""
        folder = self.find(root)
        if folder is None and root.download:
            folder = root.folder / self.folders[0]
            for remote in self.downloads:
                fetch(remote, folder)
        if folder is None:
            begun = [place for place in root.places(self.folders) if _present(place)]
            folder = max(begun, key=lambda place: len(_present(place)), default=None)
        if folder is None:
            raise DataError(root.advice(self.title, self.folders))
        return self.read(folder)


def read_idx(path: Path, axes: int) -> Images:
    """Read one idx file of unsigned bytes.

    Args:
        path: the file; gzip-compressed if it ends in .gz.
        axes: how many axes it must have: 3 for images, 1 for labels.

    Returns:
        The array, uint8.

    Raises:
        DataError: another magic number, or fewer or more bytes than the header says.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _read_idx(file, path, axes)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: truncated or not gzip ({error}); {REPAIR}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def _read_idx(file: IO[bytes] | gzip.GzipFile, path: Path, axes: int) -> Images:
    header = file.read(4 + 4 * axes)
    expected = bytes([0, 0, UNSIGNED_BYTE, axes])
    if header[:4] != expected[: len(header)]:
        raise DataError(
            f"{path}: wrong magic number {header[:4].hex()} instead of {expected.hex()}, "
            f"so it is no idx file of {'images' if axes == 3 else 'labels'}; {REPAIR}"
        )
    if len(header) < 4 + 4 * axes:
        raise DataError(f"{path}: truncated within its header; {REPAIR}")
    shape = struct.unpack(f">{axes}I", header[4:])
    size = math.prod(shape)
    check_fits(math.prod(max(1, side) for side in shape), str(path))  # empty ones too
    values = bytearray()  # grows with what is there, not with what the header claims
    while part := file.read(min(READ_AT_ONCE, size - len(values))):
        values += part
    if len(values) < size:
        raise DataError(f"{path}: truncated, {len(values)} of {size} bytes; {REPAIR}")
    if file.read(1):
        raise DataError(f"{path}: longer than the {size} bytes its header says; {REPAIR}")
    return np.frombuffer(values, np.uint8).reshape(shape)


def idx_set_in(folder: Path) -> IdxSet | None:
    """The set whose files are in ``folder``: Fashion-MNIST if its path says so, MNIST otherwise."""
    if not _present(folder):
        return None
    return FASHION_MNIST if "fashion" in str(folder.resolve()).lower() else MNIST


def _names_of(file: str) -> tuple[str, ...]:
    """The spellings in use: with a hyphen or a dot before idx, plain or .gz."""
    dotted = file.replace("-idx", ".idx")
    return file, f"{file}.gz", dotted, f"{dotted}.gz"


def _present(folder: Path) -> list[str]:
    return [f for f in FILES if any((folder / name).is_file() for name in _names_of(f))]


def _path_of(folder: Path, file: str) -> Path:
    for name in _names_of(file):
        if (folder / name).is_file():
            return folder / name
    raise DataError(
        f"{folder} has no {file} (nor {file}.gz); complete it, or say --download (download=True)"
    )


def _downloads(address: str, checksums: tuple[str, ...]) -> tuple[RemoteFile, ...]:
    return tuple(
        RemoteFile(f"{address}/{file}.gz", f"md5:{checksum}")
        for file, checksum in zip(FILES, checksums, strict=True)
    )


MNIST = IdxSet(
    name="mnist",
    title="MNIST",
    classes=tuple("0123456789"),
    folders=("MNIST/raw", "mnist"),
    elsewhere=(),
    downloads=_downloads(
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
    ),
)

FASHION_MNIST = IdxSet(
    name="fashion-mnist",
    title="Fashion-MNIST",
    classes=(
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    folders=("FashionMNIST/raw", "fashion-mnist"),
    elsewhere=(Path("/usr/share/datasets/fashion-mnist"),),
    downloads=_downloads(
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
    ),
)
