"""The non-convex twin: the same two-layer CNN with trainable filters, trained by SGD or Adam."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convexcnn.errors import SettingError
from convexcnn.models.block_classifier import BlockClassifier
from convexcnn.models.parameters import Seed
from convexcnn.models.torch_module import relu_network
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.float32 import LARGEST
from convexcnn.patches.stream import ImageStream
from convexcnn.patches.whiten import PatchTransform
from convexcnn.programs.losses import get_loss
from convexcnn.programs.neurons import Neurons
from convexcnn.programs.relu_cnn import ReluProgram
from convexcnn.solvers.result import Callback
from convexcnn.solvers.sgd import SGD


class NonConvexConvClassifier(BlockClassifier):
    """Two-layer CNN, Conv2D - ReLU - average pool - Linear, trained without convexity.

    minimise (1/n) loss(F, Y) + (beta/2) sum_j (|u_j|^2 + |w_j|^2),
    F(x) = sum_j w_j (1/q) sum_l (x_l . u_j)_+ + b: program (P), the baseline.

    Args:
        loss: ``squared`` or ``cross_entropy``.
        solver: ``adam`` (20 epochs), ``sgd`` (the paper protocol's settings), or an ``SGD``
            object with settings of its own.
        n_filters: number of filters, m.
        beta: weight decay of filters and head.
        filter_size: side of the filters, in pixels.
        stride: distance between patches, in pixels.
        padding: zeros around the image, in pixels.
        pooling: cells per side that responses are averaged over.
        whiten: number of whitened principal directions of a patch; None takes raw pixels.
        centre: whether every image loses its mean first.
        augment: views that train: ``none``, ``flip``, ``crop`` or ``flip+crop``.
        validation_fraction: part of the images held out to fit the temperature of
            ``predict_proba``; 0 trains on all of them and leaves the temperature at 1.
        device: ``auto``, ``cpu`` or ``cuda``.
        random_state: seed of the starting point and the order of the images, or what it is drawn
            from.
        image_shape: shape of one image if X comes flattened.
        callback: called with one JSON-able event per logged step.

    Attributes:
        classes_: (k,) the labels that occurred.
        filters_: U, (m, d), in the coordinates of ``transform_``.
        coef_: w, (k, cells^2 * m).
        intercept_: b, (k,).
        seconds_: time of ``fit``.
    """

    tensors = ("filters_", "coef_", "intercept_")
    numbers = ("beta_", "temperature_")

    def __init__(
        self,
        *,
        loss: str = "cross_entropy",
        solver: str | SGD = "adam",
        n_filters: int = 256,
        beta: float = 0.0,
        filter_size: int = 6,
        stride: int = 2,
        padding: int = 0,
        pooling: int = 2,
        whiten: int | None = 48,
        centre: bool = True,
        augment: str = "flip",
        validation_fraction: float = 0.1,
        device: str = "auto",
        random_state: Seed = 0,
        image_shape: tuple[int, ...] | None = None,
        callback: Callback | None = None,
    ) -> None:
        self.loss = loss
        self.solver = solver
        self.n_filters = n_filters
        self.beta = beta
        self.filter_size = filter_size
        self.stride = stride
        self.padding = padding
        self.pooling = pooling
        self.whiten = whiten
        self.centre = centre
        self.augment = augment
        self.validation_fraction = validation_fraction
        self.device = device
        self.random_state = random_state
        self.image_shape = image_shape
        self.callback = callback

    def check_parameters(self) -> None:
        super().check_parameters()
        if self.n_filters < 1 or not 0 <= self.beta <= LARGEST:
            raise SettingError(
                f"n_filters is {self.n_filters} and beta {self.beta}; give at least 1 filter and "
                f"a beta of 0 or more"
            )
        if self.validation_fraction:
            self._check_validation_fraction()
        self.descent()

    def _train(
        self,
        stream: ImageStream,
        geometry: PatchGeometry,
        transform: PatchTransform,
        generator: torch.Generator,
    ) -> dict[str, Any]:
        train, held_out = self._split(stream) if self.validation_fraction else (stream, None)
        program = ReluProgram(
            geometry,
            transform,
            self.n_filters,
            stream.n_classes,
            get_loss(self.loss),
            beta=self.beta,
            generator=generator,
        )
        self.descent().solve(
            program, train, generator=generator, callback=self.callback, phase="sgd"
        )
        temperature = 1.0
        if held_out is not None:
            plain = held_out.plain()
            blocks = plain.blocks(program.block_size)
            nothing = program.bias.new_empty(0, stream.n_classes)
            scores = torch.cat([nothing, *(program.scores(images) for images, _ in blocks)])
            scores = plain.gather(scores)
            temperature = self._temperature(scores, held_out.labels)
        return {
            "filters_": program.filters,
            "coef_": program.head,
            "intercept_": program.bias,
            "beta_": self.beta,
            "temperature_": temperature,
            "n_train_": len(train.images),
        }

    def descent(self) -> SGD:
        """The solver by its name.

        Raises:
            SettingError: a name that is not known.
        """
        if isinstance(self.solver, SGD):
            return self.solver
        if self.solver == "sgd":
            return SGD()
        if self.solver == "adam":
            return SGD(epochs=20, batch_size=500, learning_rate=8e-3, method="adam")
        raise SettingError(f"solver {self.solver!r} is not known; choose adam or sgd")

    def _scorer(self) -> Callable[[Tensor], Tensor]:
        program = ReluProgram(
            self.geometry(),
            self.transform_,
            len(self.filters_),
            len(self.classes_),
            get_loss(self.loss),
        )
        program.filters, program.head, program.bias = self.filters_, self.coef_, self.intercept_
        return lambda images: torch.cat(
            [program.scores(block) for block in torch.split(images, program.block_size)]
        )

    def to_torch(self) -> nn.Sequential:
        """Return the network as layers ``scale, conv, relu, pool, flatten, head``."""
        self.check_trained()
        geometry = self.geometry()
        head = self.coef_.cpu().view(len(self.classes_), geometry.n_cells, -1)
        neurons = Neurons(self.filters_.cpu().double(), head, self.intercept_.cpu())
        return relu_network(self.scaler_, geometry, self.transform_.to("cpu"), neurons)

    def filters(self, n_filters: int = 64) -> dict[str, NDArray[np.float32]]:
        """Return the strongest filters on raw (standardised) pixels.

        Args:
            n_filters: how many.

        Returns:
            ``non_convex`` (m, channels, f, f) by falling strength |u_j| |w_j|, and
            ``non_convex_strength`` (m,).
        """
        head = self.coef_.view(len(self.classes_), -1, len(self.filters_)).norm(dim=(0, 1))
        strength, order = (self.filters_.norm(dim=1) * head).cpu().sort(descending=True)
        strongest = self.filters_.cpu()[order[:n_filters]]
        filters, _ = self.transform_.to("cpu").to_filters(strongest)
        side = self.geometry().filter_size
        shape = (len(strongest), self.image_shape_[0], side, side)
        return {
            "non_convex": filters.reshape(shape).numpy(),
            "non_convex_strength": strength[:n_filters].contiguous().numpy(),
        }

    def tensor_shapes(
        self, geometry: PatchGeometry, tensors: Mapping[str, Tensor]
    ) -> dict[str, tuple[int, ...]]:
        """The shapes that saved tensors must have."""
        width, k = tensors["filters_"].shape[0], len(self.classes_)
        return {
            "filters_": (width, self.transform_.dim),
            "coef_": (k, geometry.n_cells * width),
            "intercept_": (k,),
        }
