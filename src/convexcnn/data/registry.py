"""Every named data set, one line each: what ``data list``, the documentation and tests read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from convexcnn.data.cifar import read_cifar10, read_cifar100
from convexcnn.data.dataset import ImageDataset
from convexcnn.data.idx import FASHION_MNIST, MNIST
from convexcnn.data.root import DataRoot


@dataclass(frozen=True)
class DatasetInfo:
    """A data set that has a name.

    Args:
        name: what to write for DATA.
        summary: one line for ``data list``.
        image_shape: (channels, height, width).
        n_classes: number of classes.
        n_train: number of training images.
        n_test: number of test images.
        homepage: who made it, and where it is described.
        offline: whether it comes with installed packages and needs no files.
        read: reads it.
    """

    name: str
    summary: str
    image_shape: tuple[int, int, int]
    n_classes: int
    n_train: int
    n_test: int
    homepage: str
    offline: bool
    read: Callable[[DataRoot], ImageDataset]

    def to_dict(self) -> dict[str, Any]:
        """Everything but the reader, ready for JSON."""
        return {
            "name": self.name,
            "summary": self.summary,
            "image_shape": list(self.image_shape),
            "n_classes": self.n_classes,
            "n_train": self.n_train,
            "n_test": self.n_test,
            "homepage": self.homepage,
            "offline": self.offline,
        }


_CIFAR_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
_MNIST_PAGE = "http://yann.lecun.com/exdb/mnist"
_FASHION_PAGE = "https://github.com/zalandoresearch/fashion-mnist"

_ALL = (
    DatasetInfo(
        "cifar10",
        "CIFAR-10: small colour photographs of 10 animals and vehicles",
        (3, 32, 32), 10, 50_000, 10_000, _CIFAR_PAGE, False, read_cifar10,
    ),
    DatasetInfo(
        "cifar100",
        "CIFAR-100: small colour photographs of 100 fine classes",
        (3, 32, 32), 100, 50_000, 10_000, _CIFAR_PAGE, False, read_cifar100,
    ),
    DatasetInfo(
        "mnist",
        "MNIST: handwritten digits",
        (1, 28, 28), 10, 60_000, 10_000, _MNIST_PAGE, False, MNIST.load,
    ),
    DatasetInfo(
        "fashion-mnist",
        "Fashion-MNIST: grey pictures of 10 kinds of clothing",
        (1, 28, 28), 10, 60_000, 10_000, _FASHION_PAGE, False, FASHION_MNIST.load,
    ),
)  # fmt: skip

dataset_registry: dict[str, DatasetInfo] = {info.name: info for info in _ALL}
"""Named data sets by name."""


def available_datasets() -> tuple[DatasetInfo, ...]:
    """Every named data set, in the order of the registry."""
    return tuple(dataset_registry.values())
