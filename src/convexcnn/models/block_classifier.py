"""What two-layer classifiers share: patches and their whitening, and what is saved of a block."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convexcnn.models.base import ImageClassifier
from convexcnn.models.restored import check_shapes, finite, positive
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.stream import ImageStream
from convexcnn.patches.whiten import PatchTransform, fit_whitening, identity_transform

WHITENING_IMAGES = 8000


class BlockClassifier(ImageClassifier):
    """A two-layer convolutional classifier with one block of patches, gates or filters, and a head.

    Subclasses train in ``_train``, and name the tensors and numbers that are learned.
    """

    filter_size: int
    stride: int
    padding: int
    pooling: int
    whiten: int | None
    tensors: tuple[str, ...]
    numbers: tuple[str, ...]

    def _fit_stream(self, stream: ImageStream, generator: torch.Generator) -> dict[str, Any]:
        _, channels, height, width = stream.images.shape
        geometry = self.geometry((channels, height, width))
        transform = self._fit_transform(stream, geometry, generator).to(stream.device)
        transform = transform.mapped(stream.processes.agree)
        trained = self._train(stream, geometry, transform, generator)
        return {**trained, "transform_": transform}

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
    def filters(self, n_filters: int = 32) -> dict[str, NDArray[np.float32]]:
        """Return the strongest first-layer filters in raw pixels, ready to be pictured."""

    def geometry(self, image_shape: tuple[int, ...] | None = None) -> PatchGeometry:
        """Where patches and pooling cells lie in images of a shape; by default the fitted one."""
        model = self if image_shape else self.as_trained()
        channels, height, width = image_shape or model.image_shape_
        shape = int(channels), int(height), int(width)
        return PatchGeometry(shape, model.filter_size, model.stride, model.padding, model.pooling)

    @abstractmethod
    def tensor_shapes(
        self, geometry: PatchGeometry, tensors: Mapping[str, Tensor]
    ) -> dict[str, tuple[int, ...]]:
        """The shapes that saved tensors must have."""

    @property
    def fitted_device(self) -> torch.device:
        return self.transform_.mean.device

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {
            "transform.mean": self.transform_.mean,
            "transform.projection": self.transform_.matrix,
            **{name: getattr(self, name) for name in self.tensors},
        }
        numbers = {name: float(getattr(self, name)) for name in self.numbers}
        return tensors, {"constant": self.transform_.constant, "numbers": numbers}

    def restore(self, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        geometry = self.geometry()
        mean, projection = tensors["transform.mean"], tensors["transform.projection"]
        self.transform_ = PatchTransform(mean, projection, float(description["constant"]))
        expected = {
            "transform.mean": (geometry.patch_dim,),
            "transform.projection": (geometry.patch_dim, projection.shape[-1]),
            **self.tensor_shapes(geometry, tensors),
        }
        check_shapes(tensors, expected)
        for name in self.tensors:
            setattr(self, name, tensors[name])
        for name in self.numbers:
            setattr(self, name, finite(description["numbers"], name))
        positive(description["numbers"], "temperature_")

    def _fit_transform(
        self, stream: ImageStream, geometry: PatchGeometry, generator: torch.Generator
    ) -> PatchTransform:
        if self.whiten is None:
            return identity_transform(geometry.patch_dim)
        rows = stream.random_rows(WHITENING_IMAGES, generator)
        images, _ = stream.block(rows)
        each = None if stream.weights is None else torch.from_numpy(stream.weights[rows])
        rank = min(self.whiten, geometry.patch_dim)
        return fit_whitening(images, geometry, rank, weights=each)
