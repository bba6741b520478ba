"""What all classifiers share: checking input, scaling, splitting, predicting."""

from __future__ import annotations

import copy
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import Tensor, nn

from convexcnn.data.preprocess import ImageScaler, shape_of_image
from convexcnn.data.rows import ImageRows, RowView
from convexcnn.data.split import train_validation_split
from convexcnn.data.stored_rows import FileRows
from convexcnn.distributed import current
from convexcnn.errors import DataError, SettingError
from convexcnn.models.augmentation import AUGMENTATIONS
from convexcnn.models.devices import resolve_device
from convexcnn.models.inputs import (
    check_feature_names,
    encode,
    feature_names,
    label_array,
    read_array,
    read_images,
    read_labels,
    weighing,
)
from convexcnn.models.parameters import (
    LARGEST_SEED,
    Seed,
    check_types,
    draw_seed,
    kept_parameters,
)
from convexcnn.models.probabilities import fit_temperature, probabilities
from convexcnn.patches.float32 import fast_float32
from convexcnn.patches.stream import ImageStream
from convexcnn.programs.losses import get_loss
from convexcnn.solvers.result import Callback

SCORED_AT_ONCE = 32

OF_DATA = ("class_names", "fingerprint_", "feature_names_in_")
"""Attributes that name the data of a training, and go when there is another one."""


class ImageClassifier(ClassifierMixin, BaseEstimator):
    """A classifier of images: fitting, splitting and predicting, whatever the network.

    Subclasses set their parameters in ``__init__``, train in ``_fit_stream`` and score in
    ``_scorer``; every parameter named here is one of theirs. Parameters that are set after ``fit``
    are for the next one: whatever looks at what was trained begins with ``as_trained``.
    """

    loss: str
    centre: bool
    augment: str
    validation_fraction: float
    device: str
    random_state: Seed
    image_shape: tuple[int, ...] | None
    callback: Callback | None
    class_names: tuple[str, ...] = ()
    """Names of the labels 0, 1, ... that it was trained on; empty where labels name themselves."""

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Train on images.

        The attributes of an earlier training stay as they are until this one has succeeded.

        Args:
            X: images (n, channels, height, width), (n, height, width, channels),
                (n, height, width), or flattened (n, pixels) with ``image_shape``; uint8 or float.
                Rows of a file, as ``load_dataset`` gives them for large data, stay there.
            y: (n,) labels of any kind, at least two different ones.

        Returns:
            The fitted classifier.

        Raises:
            DataError: images or labels that cannot be used.
            SettingError: a parameter that cannot work.
        """
        return self._fit(X, y)

    def _fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        start = time.perf_counter()
        self.check_parameters()
        fitted = self._with_own_parameters()._fitted_attributes(X, y, sample_weight)
        for name in OF_DATA:
            self.__dict__.pop(name, None)
        self.__dict__.update(fitted, seconds_=time.perf_counter() - start)
        return self

    def _with_own_parameters(self) -> Self:
        """A copy with parameters that nobody else changes, and a seed that is a number."""
        model = copy.copy(self)
        model.__dict__.update(kept_parameters(self))
        model.random_state = self._drawn_seed()
        if self.image_shape is not None:
            model.image_shape = shape_of_image(self.image_shape)
        return model

    def _drawn_seed(self) -> int:
        return draw_seed(self.random_state)

    def _fitted_attributes(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None
    ) -> dict[str, Any]:
        """Train, and return everything learned by its name; the estimator stays as it was."""
        images, targets = self._check(X, y)
        weights = self._image_weights(targets, sample_weight)
        images, targets, weights = weighing(images, targets, weights)
        classes, labels = encode(targets)
        device = resolve_device(self.device)
        scaler = ImageScaler.fit(images, centre=self.centre, weights=weights)
        stream = ImageStream(
            images,
            labels,
            len(classes),
            scaler,
            device=device,
            weights=weights,
            processes=current(),
            **vars(AUGMENTATIONS[self.augment]),
        )
        stream.require_shares()
        generator = torch.Generator().manual_seed(draw_seed(self.random_state))
        with torch.no_grad(), fast_float32():
            trained = self._fit_stream(stream, generator)
        return {
            **trained,
            **feature_names(X),
            "classes_": classes,
            "image_shape_": tuple(int(size) for size in images.shape[1:]),
            "n_features_in_": int(np.prod(images.shape[1:])),
            "scaler_": scaler,
            "sample_weighted_": sample_weight is not None,
            "trained_parameters_": kept_parameters(self),
        }

    def as_trained(self) -> Self:
        """The model with the parameters of its training, as a view that shares everything else."""
        self.check_trained()
        model = copy.copy(self)
        model.__dict__.update(getattr(self, "trained_parameters_", {}))
        return model

    def _image_weights(
        self, targets: NDArray[Any], sample_weight: ArrayLike | None
    ) -> NDArray[np.float64] | None:
        """The weight of every image in the loss; None where all weigh one."""
        return None

    @abstractmethod
    def _fit_stream(self, stream: ImageStream, generator: torch.Generator) -> dict[str, Any]:
        """Train and return the fitted attributes, by name; nothing is set before it succeeds."""

    @abstractmethod
    def _scorer(self) -> Callable[[Tensor], Tensor]:
        """A function from scaled images (n, channels, height, width) to scores (n, k)."""

    @abstractmethod
    def to_torch(self) -> nn.Module:
        """Return the trained network as plain layers that map pixels to scores.

        Preprocessing is its first layer: it takes float or uint8 images (n, channels, height,
        width) in the units that the model was trained on. It lies on the CPU. A patch within
        rounding of a gate's boundary may fall on its other side than in ``scores``.
        """

    @property
    @abstractmethod
    def fitted_device(self) -> torch.device:
        """Where the tensors of the trained model are."""

    @abstractmethod
    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors and everything JSON-able that ``restore`` needs."""

    @abstractmethod
    def restore(self, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Set the fitted attributes that ``saved`` gave; what all classifiers have is set.

        Raises:
            ValueError: something that does not fit together.
        """

    def _check(self, X: ArrayLike, y: ArrayLike) -> tuple[ImageRows, NDArray[Any]]:
        images = read_images(X, self, self.image_shape, at_least=1)
        targets = read_labels(y, len(images))
        return images, targets

    def check_parameters(self) -> None:
        """Refuse parameters that cannot work, whatever the images.

        Raises:
            SettingError: the first one.
        """
        check_types(self)
        if self.augment not in AUGMENTATIONS:
            raise SettingError(
                f"augment {self.augment!r} is not known; choose one of {', '.join(AUGMENTATIONS)}"
            )
        seed = self.random_state
        given = seed is not None and not isinstance(seed, RandomState)
        if given and not 0 <= draw_seed(seed) <= LARGEST_SEED:
            raise SettingError(f"random_state is {seed}; give a number from 0 to {LARGEST_SEED}")
        if self.image_shape is not None:
            shape_of_image(self.image_shape)
        if self.callback is not None and not callable(self.callback):
            raise SettingError(f"callback is {self.callback!r}; give a function of one event")
        get_loss(self.measured_by)

    @property
    def measured_by(self) -> str:
        """The loss by which predictions are measured: the one that is trained on."""
        return self.loss

    def _check_validation_fraction(self) -> None:
        """Refuse a part of the images that cannot be held out, where some are.

        Raises:
            SettingError: it is not between 0 and 1.
        """
        if not 0 < self.validation_fraction < 1:
            raise SettingError(
                f"validation_fraction is {self.validation_fraction}; give a number between 0 and 1"
            )

    def _split(self, stream: ImageStream) -> tuple[ImageStream, ImageStream]:
        kept, held_out = train_validation_split(
            stream.labels, self.validation_fraction, draw_seed(self.random_state)
        )
        if not len(held_out):
            raise DataError(
                "y has too few images to hold any out; give more, one value of betas, or "
                "validation_fraction=0 where a network is trained by descent"
            )
        train = stream.subset(kept)
        train.require_shares()
        return train, stream.subset(held_out)

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

        The temperature is fitted on the held-out images, before they join the training images; it
        is 1 where none were held out (one beta), and probabilities are then not calibrated:
        ``sklearn.calibration.CalibratedClassifierCV`` calibrates with images of its own.
        """
        return probabilities(self.scores(X), self.temperature_)

    def scores(self, X: ArrayLike) -> NDArray[np.float32]:
        """Return the scores (n, k) of images, one column per class, before any calibration.

        Computed where the model's tensors are: where it was trained, or on the CPU once loaded.
        """
        blocks = self.scaled_blocks(X)
        with torch.no_grad(), fast_float32():
            score = self.as_trained()._scorer()
            scores = [score(block).cpu() for block in blocks]
        empty = torch.zeros(0, len(self.classes_))
        result: NDArray[np.float32] = torch.cat([empty, *scores]).numpy()
        return result

    def scaled_blocks(self, X: ArrayLike) -> Iterator[Tensor]:
        """Yield images as the block sees them, a few at a time: (b, channels, height, width).

        They are checked, standardised, and where the model's tensors are.
        """
        images = self.as_trained()._images_like_trained(X)
        labels, k = np.zeros(len(images), np.int64), len(self.classes_)
        stream = ImageStream(images, labels, k, self.scaler_, device=str(self.fitted_device))
        return (block for block, _ in stream.blocks(SCORED_AT_ONCE))

    def training_stream(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> ImageStream:
        """The images that it was trained on as a stream on the CPU, mirrored as in training.

        Args:
            X: the training images.
            y: (n,) their labels.
            sample_weight: (n,) their weights, if it was trained with some.

        Raises:
            DataError: images or labels of another kind than the model was trained on.
        """
        model = self.as_trained()
        images = model._images_like_trained(X)
        if self.sample_weighted_ != (sample_weight is not None):
            raise DataError(
                f"the model was trained {'with' if self.sample_weighted_ else 'without'} "
                "sample_weight; give what it was trained with"
            )
        targets, total = label_array(y), len(images)
        known = targets.shape == (total,)
        if known:
            weights = model._image_weights(targets, sample_weight)
            images, targets, weights = weighing(images, targets, weights)
        if not total or not known or not np.isin(targets, self.classes_).all():
            raise DataError(
                f"y must hold one label for each of the {total} images, out of the "
                f"{len(self.classes_)} that the model was trained on"
            )
        labels = np.searchsorted(self.classes_, targets).astype(np.int64)
        views = vars(AUGMENTATIONS[model.augment])
        return ImageStream(
            images,
            labels,
            len(self.classes_),
            self.scaler_,
            weights=weights,
            processes=current(),
            **views,
        )

    def column_names(self) -> list[str]:
        """Return the names of the classes in the order of the columns of scores."""
        labels = self.classes_.tolist()
        names = self.class_names
        return [names[label] for label in labels] if names else [str(label) for label in labels]

    def check_trained(self) -> None:
        """Raise scikit-learn's NotFittedError before ``fit``."""
        if not hasattr(self, "classes_"):
            from sklearn.exceptions import NotFittedError

            raise NotFittedError(f"this {type(self).__name__} is not trained; call fit first")

    def _images_like_trained(self, X: ArrayLike) -> ImageRows:
        self.check_trained()
        rows = X if isinstance(X, FileRows | RowView) else read_array(X, self)
        check_feature_names(X, self)
        flat = len(rows.shape) == 2
        if flat and rows.shape[1] != self.n_features_in_:
            raise DataError(
                f"X has {rows.shape[1]} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input; give images of shape {self.image_shape_}"
            )
        shape = self.image_shape or (self.image_shape_ if flat else None)
        images = read_images(rows, self, shape)
        if images.shape[1:] != self.image_shape_:
            raise DataError(
                f"X has images of shape {images.shape[1:]}; the model was trained on "
                f"{self.image_shape_}"
            )
        return images

    def _temperature(
        self,
        scores: Tensor | None,
        labels: NDArray[np.int64],
        weights: NDArray[np.float64] | None = None,
    ) -> float:
        return 1.0 if scores is None else fit_temperature(scores.cpu().numpy(), labels, weights)
