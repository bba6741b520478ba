"""What both two-layer classifiers share: checking input, scaling, splitting, predicting."""

from __future__ import annotations

import os
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import Tensor, nn

from convexcnn.data.preprocess import ImageScaler, as_images
from convexcnn.data.split import train_validation_split
from convexcnn.errors import DataError, SettingError
from convexcnn.models.probabilities import fit_temperature, probabilities
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.float32 import fast_float32
from convexcnn.patches.stream import ImageStream
from convexcnn.patches.whiten import PatchTransform, fit_whitening, identity_transform
from convexcnn.programs.losses import get_loss

WHITENING_IMAGES = 8000
SCORED_AT_ONCE = 32
AUGMENTATIONS = ("none", "flip")


class BlockClassifier(ClassifierMixin, BaseEstimator):
    """A two-layer convolutional classifier with one block of patches, gates or filters, and a head.

    Subclasses set their parameters in ``__init__``, train in ``_train`` and score in
    ``_scorer``; every parameter named here is one of theirs.
    """

    filter_size: int
    stride: int
    padding: int
    pooling: int
    whiten: int | None
    centre: bool
    loss: str
    augment: str
    validation_fraction: float
    device: str
    random_state: int | None
    image_shape: tuple[int, ...] | None

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Train on images.

        Args:
            X: images (n, channels, height, width), (n, height, width, channels),
                (n, height, width), or flattened (n, pixels) with ``image_shape``; uint8 or float.
            y: (n,) labels of any kind, at least two different ones.

        Returns:
            The fitted classifier.

        Raises:
            DataError: images or labels that cannot be used.
            SettingError: a parameter that cannot work.
        """
        start = time.perf_counter()
        images, labels, classes = self._check(X, y)
        device = resolve_device(self.device)
        scaler = ImageScaler.fit(images, centre=self.centre)
        geometry = self.geometry(images.shape[1:])
        stream = ImageStream(
            images, labels, len(classes), scaler, mirror=self.augment == "flip", device=device
        )
        generator = torch.Generator().manual_seed(self.random_state or 0)
        with torch.no_grad(), fast_float32():
            transform = self._fit_transform(stream, geometry, generator).to(device)
            trained = self._train(stream, geometry, transform, generator)
        self.__dict__.update(trained)
        self.classes_ = classes
        self.image_shape_ = tuple(int(size) for size in images.shape[1:])
        self.n_features_in_ = int(np.prod(self.image_shape_))
        self.scaler_ = scaler
        self.transform_ = transform
        self.seconds_ = time.perf_counter() - start
        return self

    @abstractmethod
    def _train(
        self,
        stream: ImageStream,
        geometry: PatchGeometry,
        transform: PatchTransform,
        generator: torch.Generator,
    ) -> dict[str, Any]:
        """Train and return the fitted attributes, by name; nothing is set before it succeeds."""

    @abstractmethod
    def _scorer(self) -> Callable[[Tensor], Tensor]:
        """A function from scaled images (n, channels, height, width) to scores (n, k)."""

    @abstractmethod
    def filters(self, n_filters: int = 32) -> dict[str, NDArray[np.float32]]:
        """Return the strongest first-layer filters in raw pixels, ready to be pictured."""

    @abstractmethod
    def to_torch(self) -> nn.Sequential:
        """Return the trained network as plain layers that map pixels to scores.

        Preprocessing is its first layer: it takes float or uint8 images (n, channels, height,
        width) in the units that the model was trained on. It lies on the CPU. A patch within
        rounding of a gate's boundary may fall on its other side than in ``scores``.
        """

    def geometry(self, image_shape: tuple[int, ...] | None = None) -> PatchGeometry:
        """Where patches and pooling cells lie in images of a shape; by default the fitted one."""
        channels, height, width = image_shape or self.image_shape_
        shape = int(channels), int(height), int(width)
        return PatchGeometry(shape, self.filter_size, self.stride, self.padding, self.pooling)

    def _check(
        self, X: ArrayLike, y: ArrayLike
    ) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[Any]]:
        images = as_images(X, self.image_shape)
        targets = np.asarray(y)
        if targets.ndim != 1 or len(targets) != len(images):
            raise DataError(
                f"y has shape {targets.shape}; give one label for each of the {len(images)} images"
            )
        if targets.dtype.kind == "f" and not np.array_equal(targets, np.rint(targets)):
            raise DataError("y holds fractions or NaN, continuous values; give one class per image")
        classes, labels = np.unique(targets, return_inverse=True)
        if len(classes) < 2:
            raise DataError(f"y has {len(classes)} class; a classifier needs at least two")
        if self.augment not in AUGMENTATIONS:
            raise SettingError(
                f"augment {self.augment!r} is not known; choose one of {', '.join(AUGMENTATIONS)}"
            )
        get_loss(self.loss)
        return images, labels.astype(np.int64), classes

    def _fit_transform(
        self, stream: ImageStream, geometry: PatchGeometry, generator: torch.Generator
    ) -> PatchTransform:
        if self.whiten is None:
            return identity_transform(geometry.patch_dim)
        order = torch.randperm(len(stream.images), generator=generator).numpy()
        images, _ = stream.block(order[:WHITENING_IMAGES])
        return fit_whitening(images, geometry, min(self.whiten, geometry.patch_dim))

    def _split(self, stream: ImageStream) -> tuple[ImageStream, ImageStream]:
        fraction = self.validation_fraction
        if not 0 < fraction < 1:
            raise SettingError(f"validation_fraction is {fraction}; give a number between 0 and 1")
        kept, held_out = train_validation_split(stream.labels, fraction, self.random_state or 0)
        if not len(held_out):
            raise DataError("y has too few images to hold any out; give betas=[one value]")
        return stream.subset(kept), stream.subset(held_out)

    def decision_function(self, X: ArrayLike) -> NDArray[np.float32]:
        """Return the scores of images.

        Args:
            X: images, in any layout that ``fit`` takes.

        Returns:
            (n, k) scores; (n,), the second class's minus the first's, for two classes.
        """
        scores = self.scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the class with the highest score for every image, (n,)."""
        best = self.scores(X).argmax(1)
        labels: NDArray[Any] = self.classes_[best]
        return labels

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return class probabilities (n, k): softmax of the scores over a temperature.

        The temperature is fitted on the held-out images, before they join the training images.
        """
        return probabilities(self.scores(X), self.temperature_)

    def scores(self, X: ArrayLike) -> NDArray[np.float32]:
        """Return the scores (n, k) of images, one column per class, before any calibration.

        Computed where the model's tensors are: where it was trained, or on the CPU once loaded.
        """
        blocks = self.scaled_blocks(X)
        with torch.no_grad(), fast_float32():
            score = self._scorer()
            scores = [score(block).cpu() for block in blocks]
        empty = torch.zeros(0, len(self.classes_))
        result: NDArray[np.float32] = torch.cat([empty, *scores]).numpy()
        return result

    def scaled_blocks(self, X: ArrayLike) -> Iterator[Tensor]:
        """Yield images as the block sees them, a few at a time: (b, channels, height, width).

        They are checked, standardised, and where the model's tensors are.
        """
        images = self._images_like_trained(X)
        labels, k = np.zeros(len(images), np.int64), len(self.classes_)
        device = str(self.transform_.mean.device)
        stream = ImageStream(images, labels, k, self.scaler_, device=device)
        return (block for block, _ in stream.blocks(SCORED_AT_ONCE))

    def check_trained(self) -> None:
        """Raise scikit-learn's NotFittedError before ``fit``."""
        if not hasattr(self, "classes_"):
            from sklearn.exceptions import NotFittedError

            raise NotFittedError(f"this {type(self).__name__} is not trained; call fit first")

    def _images_like_trained(self, X: ArrayLike) -> NDArray[Any]:
        self.check_trained()
        images = as_images(X, self.image_shape or self._flat_shape(X))
        if images.shape[1:] != self.image_shape_:
            raise DataError(
                f"X has images of shape {images.shape[1:]}; the model was trained on "
                f"{self.image_shape_}"
            )
        return images

    def _flat_shape(self, X: ArrayLike) -> tuple[int, ...] | None:
        return self.image_shape_ if np.ndim(X) == 2 else None

    def _temperature(self, scores: Tensor | None, labels: NDArray[np.int64]) -> float:
        return 1.0 if scores is None else fit_temperature(scores.cpu().numpy(), labels)


def resolve_device(device: str) -> str:
    """Return ``cpu`` or a CUDA device that is there; ``auto`` takes CUDA if it can.

    Raises:
        SettingError: a device that does not exist here.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind = device.partition(":")[0]
    if kind == "cuda" and not torch.cuda.is_available():
        raise SettingError(f"device {device} is not there: torch finds no CUDA; use cpu or auto")
    if kind not in ("cpu", "cuda"):
        raise SettingError(f"device {device!r} is not known; use cpu, cuda, cuda:1 or auto")
    return device


def available_memory_gb() -> float:
    """Return the memory of this machine in GB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
