"""A usual CNN trained as a whole by back-propagation: the baseline of stacks of convex blocks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from convexcnn.errors import SettingError
from convexcnn.models.augmentation import AUGMENTATIONS
from convexcnn.models.back_propagation import (
    Recipe,
    channels_last,
    descend,
    network_scores,
    stream_scores,
)
from convexcnn.models.base import ImageClassifier
from convexcnn.models.networks import Shape, build_network
from convexcnn.models.parameters import Seed, draw_seed
from convexcnn.models.restored import check_shapes, positive
from convexcnn.models.torch_module import Standardise
from convexcnn.patches.float32 import LARGEST
from convexcnn.patches.stream import ImageStream
from convexcnn.solvers.result import Callback

BATCH_SIZE, LEARNING_RATE = 128, 0.05
"""Images per step, and the highest learning rate with so many; with fewer it is lower."""


class EndToEndCNN(ImageClassifier):
    """AlexNet or VGG-11, trained by SGD on cross-entropy for a given number of minutes.

    The recipe is the usual strong one: Nesterov momentum 0.9, weight decay 5e-4, label smoothing
    0.1, gradients of norm 2 at most, random flips and shifts, and a learning rate that rises and
    falls linearly and reaches zero when the minutes are over. Where it trains on mirror images,
    scores are averaged with those of the mirror image, as a stack does. Held-out images only
    measure, and fit the temperature of ``predict_proba``; the weights are the last ones.
    Convolutions run in bfloat16 on processors with instructions for it. With a budget the result
    depends on the speed of the machine; with ``epochs`` alone it does not.

    Args:
        network: ``alexnet`` or ``vgg11``.
        budget: minutes of training, measuring included; None for no limit.
        epochs: passes over the images after which it ends, if not before; None for no limit.
        augment: ``none``, ``flip``, ``crop`` (shifts of up to an eighth of the side: 4 of 32
            pixels) or ``flip+crop``, anew every time that an image is seen.
        batch_size: images per step.
        learning_rate: the highest one; None for 0.05, or less with batches below 128.
        centre: whether every image loses its mean first.
        validation_fraction: part of the images that is held out; 0 trains on all of them.
        device: ``auto``, ``cpu`` or ``cuda``.
        random_state: seed of weights, split, order, flips and shifts, or what it is drawn from.
        image_shape: shape of one image if X comes flattened.
        callback: called with one JSON-able event per measurement, about twenty.

    Attributes:
        classes_: (k,) the labels that occurred.
        network_: the trained module, from scaled images to scores.
        curve_: the events: epoch, seconds, and training and validation accuracy.
        n_epochs_: passes over the training images.
        validation_accuracy_: of all held-out images; None without any.
        seconds_: time of ``fit``.
    """

    loss = "cross_entropy"

    def __init__(
        self,
        *,
        network: str = "vgg11",
        budget: float | None = 10.0,
        epochs: int | None = None,
        augment: str = "flip+crop",
        batch_size: int = BATCH_SIZE,
        learning_rate: float | None = None,
        centre: bool = False,
        validation_fraction: float = 0.1,
        device: str = "auto",
        random_state: Seed = 0,
        image_shape: tuple[int, ...] | None = None,
        callback: Callback | None = None,
    ) -> None:
        self.network = network
        self.budget = budget
        self.epochs = epochs
        self.augment = augment
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.centre = centre
        self.validation_fraction = validation_fraction
        self.device = device
        self.random_state = random_state
        self.image_shape = image_shape
        self.callback = callback

    def check_parameters(self) -> None:
        super().check_parameters()
        for name in ("budget", "epochs", "batch_size", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= LARGEST:
                raise SettingError(f"{name} is {value}; give a positive number")
        if self.batch_size < 2:
            raise SettingError("batch_size is 1; give 2 or more: normalisation compares images")
        if self.budget is None and self.epochs is None:
            raise SettingError("neither budget nor epochs is given; the training would not end")
        if self.validation_fraction:
            self._check_validation_fraction()

    @property
    def recipe(self) -> Recipe:
        """How the network is trained."""
        scale = min(1.0, self.batch_size / BATCH_SIZE)
        return Recipe(
            budget=self.budget,
            epochs=self.epochs,
            flip="flip" in self.augment,
            crop="crop" in self.augment,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate or scale * LEARNING_RATE,
        )

    def _fit_stream(self, stream: ImageStream, generator: torch.Generator) -> dict[str, Any]:
        train, held_out = self._split(stream) if self.validation_fraction else (stream, None)
        _, channels, height, width = stream.images.shape
        device = torch.device(stream.device)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(draw_seed(self.random_state))
            network = self._build((channels, height, width), stream.n_classes)
            curve = self._descend(network.to(device), train, held_out, generator)
        mirror = AUGMENTATIONS[self.augment].mirror
        scores = None if held_out is None else stream_scores(network, held_out, mirror=mirror)
        labels = stream.labels if held_out is None else held_out.labels
        right = None
        if scores is not None:
            right = float((scores.argmax(1).numpy() == labels).mean())
            curve[-1]["validation_accuracy"] = right  # of all held-out images
        return {
            "network_": network.eval(),
            "curve_": curve,
            "n_epochs_": curve[-1]["epoch"],
            "validation_accuracy_": right,
            "temperature_": self._temperature(scores, labels),
            "n_train_": len(train.images),
        }

    def _build(self, image_shape: Shape, k: int) -> nn.Module:
        """The network with random weights, by torch's own generator."""
        return build_network(self.network, image_shape, k)

    def _descend(
        self,
        network: nn.Module,
        train: ImageStream,
        held_out: ImageStream | None,
        generator: torch.Generator,
    ) -> list[dict[str, Any]]:
        """Train the network in place; return the events."""
        return descend(
            network, train, held_out, self.recipe, generator=generator, callback=self.callback
        )

    def n_parameters(self) -> int:
        """Number of trained weights."""
        self.check_trained()
        return sum(parameter.numel() for parameter in self.network_.parameters())

    def _scorer(self) -> Callable[[Tensor], Tensor]:
        mirror = AUGMENTATIONS[self.augment].mirror
        return partial(network_scores, self.network_, mirror=mirror)

    def to_torch(self) -> nn.Module:
        self.check_trained()
        network = copy.deepcopy(self.network_).cpu()
        mirror = AUGMENTATIONS[self.as_trained().augment].mirror
        averaged = MirrorAverage(network) if mirror else network
        return nn.Sequential(Standardise(self.scaler_), averaged).eval()

    @property
    def fitted_device(self) -> torch.device:
        return next(self.network_.parameters()).device

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return _numbers(self.network_), {"temperature": self.temperature_}

    def restore(self, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        channels, height, width = self.image_shape_
        with torch.random.fork_rng([]):
            network = self._build((channels, height, width), len(self.classes_))
        expected = _numbers(network)
        check_shapes(tensors, {name: tuple(tensor.shape) for name, tensor in expected.items()})
        for name, tensor in expected.items():
            tensor.copy_(tensors[name])
        self.network_: nn.Module = channels_last(network).eval()
        self.temperature_ = positive(description, "temperature")


class MirrorAverage(nn.Module):
    """The mean of a network's scores of an image and of its mirror image."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Scores (n, k) of images (n, channels, height, width)."""
        total: Tensor = self.network(images) + self.network(images.flip(3))
        return total / 2


def _numbers(network: nn.Module) -> dict[str, Tensor]:
    """Weights and statistics of a network by name; not how many batches it has seen."""
    return {name: t for name, t in network.state_dict().items() if t.is_floating_point()}
