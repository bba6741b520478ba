"""The convex two-layer CNN: gates, then a convex program solved to its optimum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from convexcnn.certificates.certificate import PROBED, Certificate, require_same_bits
from convexcnn.certificates.further_neuron import FurtherNeuron
from convexcnn.errors import DataError, SettingError
from convexcnn.models.augmentation import AUGMENTATIONS
from convexcnn.models.base import SCORED_AT_ONCE
from convexcnn.models.block_classifier import BlockClassifier
from convexcnn.models.column_generation import Solve, dual_gates
from convexcnn.models.descent import descend
from convexcnn.models.gates import LEARNED, choose_gates
from convexcnn.models.image_weights import (
    ClassWeight,
    check_can_weigh,
    image_weights,
    restored_label,
)
from convexcnn.models.memory_plan import MemoryPlan
from convexcnn.models.parameters import Seed
from convexcnn.models.program_settings import DEFAULT_GATES, ProgramSettings
from convexcnn.models.proof import block_evidence, further_neuron
from convexcnn.models.recovered import recover
from convexcnn.models.strength import count_neurons, strongest_filters
from convexcnn.models.torch_module import gated_network, relu_network
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.patches.whiten import PatchTransform
from convexcnn.programs.kind import ProgramKind
from convexcnn.programs.neurons import relu_neurons
from convexcnn.solvers.choose import ProblemSize
from convexcnn.solvers.path import PathSolver
from convexcnn.solvers.registry import RIDGE_SOLVERS
from convexcnn.solvers.result import Callback, PhaseClock, Solution
from convexcnn.solvers.sgd import SGD
from convexcnn.solvers.warm_path import BetaSolver


class ConvexConvClassifier(BlockClassifier):
    """Two-layer CNN, Conv2D - ReLU - average pool - Linear, trained as a convex program.

    minimise (1/n) loss( sum_i Phi_i V_i + b, Y ) + beta R(V)                                  (G)

    over the gated features Phi_i of g fixed gates (Mishkin, Sahiner & Pilanci 2022), or (R), the
    same for V_i - W_i inside the cones on which gated and ReLU responses agree: the exact convex
    form of the ReLU network with these activation patterns (Ergen & Pilanci 2021). The optimum is
    certified, for a whole path of beta; held-out images, which no gate is learned from, choose from
    it, and the final solution uses them too.

    Args:
        formulation: ``gated`` (G), ``relu`` (R), or ``relu-penalised``: the cone constraint as a
            penalty, for SGD.
        regulariser: ``l2`` (half the sum of squares), ``group`` (the norms of all filters: exact
            for classes with filters of their own) or ``nuclear`` (exact for gated networks whose
            classes share filters).
        loss: ``squared`` or ``cross_entropy``.
        solver: ``auto``, a name of ``solvers.registry``, ``sgd``, or a solver object with settings
            of its own, such as ``Fista(1e-5)`` or ``SGD(epochs=20)``.
        tolerance: relative duality gap to solve to; None for 1e-6 for ridge regression (gated, l2,
            squared) and 1e-3 for the others.
        filter_size: side of the patches, in pixels.
        stride: distance between patches, in pixels.
        padding: zeros around the image, in pixels.
        pooling: cells per side that responses are averaged over; 1 is global average pooling.
        pool: ``average`` of a cell's responses, or ``max``, the largest, for small programs.
        n_gates: number of gates, g; None for 128, or fewer where ``memory_gb`` asks for it.
        gates: ``gaussian``, ``patches``, ``sgd`` (the strongest filters of a non-convex network
            of the same architecture that was trained briefly) or ``dual`` (column generation:
            solve, add the neurons that would help most, solve again).
        whiten: number of whitened principal directions that patches are reduced to, at most all
            of a patch; None takes raw pixels.
        centre: whether every image loses its mean first.
        betas: weights of the regulariser to choose from; None for a path that fits the data. One
            value needs no held-out images.
        class_weight: a factor per class for the loss of its images, ``balanced``, or None; as
            ``sample_weight`` of ``fit``, for ridge regression only.
        augment: views that train: ``none``, ``flip``, ``crop`` or ``flip+crop``.
        validation_fraction: part of the images that is held out to choose beta.
        memory_gb: memory that the process may use while it trains, Python and torch (0.6 GB)
            included; None for 60 % of the machine's.
        device: ``auto``, ``cpu`` or ``cuda``.
        random_state: seed of gates, whitening sample, split and SGD; a ``RandomState`` that it is
            drawn from, or None for NumPy's own.
        image_shape: shape of one image if X comes flattened.
        callback: called with one JSON-able event per phase or logged step.

    Attributes:
        classes_: (k,) the labels that occurred.
        coef_: V, (k, cells^2, g, d), in the coordinates of ``transform_``; V and W,
            (2, k, cells^2, g, d), for formulation ``relu``.
        intercept_: b, (k,).
        gates_: (g, d) gates in the coordinates of ``transform_``.
        transform_: raw patch -> d coordinates.
        beta_: the weight of the regulariser that was chosen.
        path_: one dictionary per beta: ``beta``, ``train`` (what its solver knows: ``loss`` or
            ``objective``), ``validation`` (``loss`` and ``accuracy``).
        solution_: what the solver returned.
        seconds_: time of ``fit``.
    """

    tensors = ("gates_", "coef_", "intercept_")
    numbers = ("beta_", "temperature_")

    def __init__(
        self,
        *,
        formulation: str = "gated",
        regulariser: str = "l2",
        loss: str = "squared",
        solver: str | PathSolver | BetaSolver | SGD = "auto",
        tolerance: float | None = None,
        filter_size: int = 6,
        stride: int = 2,
        padding: int = 0,
        pooling: int = 2,
        pool: str = "average",
        n_gates: int | None = None,
        gates: str = "sgd",
        whiten: int | None = 48,
        centre: bool = True,
        betas: float | tuple[float, ...] | list[float] | None = None,
        class_weight: ClassWeight = None,
        augment: str = "flip",
        validation_fraction: float = 0.1,
        memory_gb: float | None = None,
        device: str = "auto",
        random_state: Seed = 0,
        image_shape: tuple[int, ...] | None = None,
        callback: Callback | None = None,
    ) -> None:
        self.formulation = formulation
        self.regulariser = regulariser
        self.loss = loss
        self.solver = solver
        self.tolerance = tolerance
        self.filter_size = filter_size
        self.stride = stride
        self.padding = padding
        self.pooling = pooling
        self.pool = pool
        self.n_gates = n_gates
        self.gates = gates
        self.whiten = whiten
        self.centre = centre
        self.betas = betas
        self.class_weight = class_weight
        self.augment = augment
        self.validation_fraction = validation_fraction
        self.memory_gb = memory_gb
        self.device = device
        self.random_state = random_state
        self.image_shape = image_shape
        self.callback = callback

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train on images; see :meth:`ImageClassifier.fit`.

        Args:
            X: images.
            y: (n,) labels.
            sample_weight: (n,) weights of the images in the loss, in the scale of pixels and in
                whitening: an image of weight 2 counts as two, one of weight 0 as absent. How gates
                are drawn and which images are held out does not depend on other weights.

        Raises:
            DataError: images, labels or weights that cannot be used.
            SettingError: a parameter that cannot work, or weights for a program or solver that
                has none.
        """
        return self._fit(X, y, sample_weight)

    def _image_weights(
        self, targets: NDArray[Any], sample_weight: ArrayLike | None
    ) -> NDArray[np.float64] | None:
        weights = image_weights(targets, sample_weight, self.class_weight)
        if weights is not None:
            check_can_weigh(self.program_settings(), self.gates)
        return weights

    def check_parameters(self) -> None:
        super().check_parameters()
        settings = self.program_settings()
        settings.check()
        if settings.holds_out:
            self._check_validation_fraction()

    def _train(
        self,
        stream: ImageStream,
        geometry: PatchGeometry,
        transform: PatchTransform,
        generator: torch.Generator,
    ) -> dict[str, Any]:
        budget = MemoryPlan.of(self.memory_gb, stream.images).solver_gb
        memory_gb = stream.processes.least(budget)
        settings = replace(self.program_settings(), memory_gb=memory_gb)
        clock = PhaseClock(self.callback)
        size = ProblemSize(
            rows=len(stream),
            patches=geometry.grid[0] * geometry.grid[1],
            cells=geometry.n_cells,
            gates=self.n_gates or DEFAULT_GATES,
            dim=transform.dim,
            classes=stream.n_classes,
            processes=stream.processes.size,
        )
        among = None if stream.weights is None else RIDGE_SOLVERS  # others take all as one
        n_gates = self.n_gates or settings.affordable_gates(size, among)
        # Held-out images that choose beta must not have been learned from.
        labelled = self.gates in LEARNED and settings.holds_out
        seen = self._split(stream)[0] if labelled else stream
        where = seen, geometry, transform, generator
        if self.gates == "dual":
            self.require_average("gates dual")
            solve = self._one_beta_solver(settings, size, stream, seen)
            gates = dual_gates(n_gates, *where, settings.kind, solve, callback=self.callback)
        else:
            gates = choose_gates(self.gates, n_gates, *where, self.callback)
        gates = stream.processes.agree(gates)
        clock.lap("gates")
        features = GatedFeatures(geometry, transform, gates, self.pool)
        if settings.descends:
            solution = descend(settings, features, stream, generator, self.callback)
            trained = {"temperature_": 1.0, **self._fitted(solution, features, stream.n_classes)}
        else:
            solver, reason = settings.exact_solver(replace(size, gates=len(gates)), among=among)
            trained = self._optimise(solver, features, stream)
            trained["solution_"].reason = reason
        trained["solution_"].seconds |= clock.seconds
        return {"gates_": gates, "n_train_": len(stream.images), **trained}

    def program_settings(self) -> ProgramSettings:
        """The parameters that say which program is solved, and how.

        Raises:
            SettingError: a number of gates that cannot be.
        """
        if self.n_gates is not None and self.n_gates < 1:
            raise SettingError(f"n_gates is {self.n_gates}; give at least 1")
        names = ProgramSettings.__dataclass_fields__
        return ProgramSettings(**{name: getattr(self, name) for name in names})

    def _one_beta_solver(
        self, settings: ProgramSettings, size: ProblemSize, stream: ImageStream, seen: ImageStream
    ) -> Solve:
        """A solver for column generation; held-out images choose its beta at the first call.

        It solves for the images that gates are learned from, ``seen``, all that are not held out.
        """
        if settings.descends or isinstance(settings.solver, PathSolver):
            raise SettingError(
                "gates dual solves the program again and again at one beta; give a solver by name, "
                "or one of a single beta, that is exact"
            )
        fixed = settings

        def solve(features: GatedFeatures) -> Solution:
            nonlocal fixed
            solver, _ = fixed.exact_solver(replace(size, gates=len(features.gates)), refit=False)
            train, held_out = (seen, None) if fixed.one_beta else self._split(stream)
            solution = solver.solve(features, train, held_out, self.callback)
            fixed = replace(fixed, betas=solution.beta)
            return solution

        return solve

    def _optimise(
        self, solver: PathSolver, features: GatedFeatures, stream: ImageStream
    ) -> dict[str, Any]:
        """The exact optimum, with beta from held-out images."""
        require_same_bits(partial(features, stream.block(slice(PROBED))[0]))
        train, held_out = (
            (stream, None) if self.program_settings().one_beta else self._split(stream)
        )
        solution = solver.solve(features, train, held_out, self.callback)
        scores = solution.held_out_scores
        temperature = 1.0
        if held_out is not None:
            temperature = self._temperature(scores, held_out.labels, held_out.weights)
        return {
            "temperature_": temperature,
            **self._fitted(solution, features, stream.n_classes),
        }

    def _fitted(self, solution: Solution, features: GatedFeatures, k: int) -> dict[str, Any]:
        signs = (2,) if self.formulation == "relu" else ()
        weights = solution.weights.contiguous()  # as files hold them: sums then round alike
        return {
            "coef_": weights.reshape(*signs, k, *features.shape).to(features.gates),
            "intercept_": solution.bias.to(features.gates),
            "beta_": solution.beta,
            "path_": [point.to_dict() for point in solution.path],
            "solution_": solution,
        }

    def _scorer(self) -> Callable[[Tensor], Tensor]:
        features = GatedFeatures(self.geometry(), self.transform_, self.gates_, self.pool)
        if self.formulation == "relu":
            neurons = relu_neurons(self.coef_, self.intercept_, self.pool)
            return neurons.scorer(features.pooling)
        weights = self.coef_.flatten(1).T
        phi = weights.new_empty(SCORED_AT_ONCE, features.n_features)

        def score(images: Tensor) -> Tensor:
            scores: Tensor = features(images, phi[: len(images)]) @ weights + self.intercept_
            return scores

        return score

    def to_torch(self) -> nn.Sequential:
        """Return the network as layers ``scale, features, pool, flatten, head``.

        Formulation ``relu`` has ``conv, relu`` in place of ``features``.

        Raises:
            SettingError: a model with max pooling.
        """
        model = self.as_trained()
        model.require_average("to_torch")
        where = self.scaler_, self.geometry(), self.transform_.to("cpu")
        if model.formulation == "relu":
            return relu_network(*where, recover(model, None))
        return gated_network(*where, self.gates_.cpu(), self.coef_.cpu(), self.intercept_.cpu())

    def filters(self, n_filters: int = 32) -> dict[str, NDArray[np.float32]]:
        """Return the strongest filters of every class, as filters on raw (standardised) pixels.

        Args:
            n_filters: how many per class.

        Returns:
            ``convex`` (k, m, channels, f, f), every class by falling strength, and
            ``convex_strength`` (k, m), the norms |v| of cell and gate. Filters of (R) that count
            against their class are shown as -w, so that bright is for the class everywhere.
        """
        signed = self.as_trained().formulation == "relu"
        filters, strength = strongest_filters(
            self.coef_.cpu(), self.transform_.to("cpu"), n_filters, signed=signed
        )
        side = self.geometry().filter_size
        shape = (*strength.shape, self.image_shape_[0], side, side)
        return {"convex": filters.reshape(shape).numpy(), "convex_strength": strength.numpy()}

    def require_average(self, purpose: str) -> None:
        """Raise SettingError if responses are pooled by their maximum."""
        if self.pool != "average":
            raise SettingError(f"{purpose} is for pool 'average', not for {self.pool!r}")

    def n_neurons(self) -> int:
        """Neurons that are not zero: filters, or for l2 and nuclear the factors of every V_i."""
        model = self.as_trained()
        shared = model.formulation == "gated" and model.regulariser != "group"
        return count_neurons(self.coef_, shared=shared)

    def certify(
        self,
        X: ArrayLike,
        y: ArrayLike,
        progress: Callable[[int], None] | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Certificate:
        """Bound the distance from the optimum, in float64, on the images it was trained on.

        Args:
            X: the training images.
            y: (n,) their labels.
            progress: called with the number of rows done: of views of images.
            sample_weight: (n,) as in training.

        Returns:
            The certificate.

        Raises:
            DataError: images or labels of another kind than the model was trained on.
            SettingError: there is no certificate: beta is 0, or the formulation has no bound.
        """
        stream = self.training_stream(X, y, sample_weight)
        return block_evidence(self.as_trained(), stream, progress).certificate

    def further_neuron(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> FurtherNeuron:
        """Search for one more ReLU neuron that would lower the objective; no proof that none would.

        Args:
            X: the training images.
            y: (n,) their labels.
            sample_weight: (n,) as in training.

        Raises:
            DataError: images or labels of another kind than the model was trained on.
            SettingError: there is no dual point to search with; as for ``certify``.
        """
        stream = self.training_stream(X, y, sample_weight)
        model = self.as_trained()
        model.require_average("the search for a further neuron")
        return further_neuron(model, stream, block_evidence(model, stream))

    def to_relu(self, X: ArrayLike | None = None) -> nn.Sequential:
        """Return the plain ReLU network of the solution, in float64, on scaled images.

        (R): its neurons. (G): every gated filter is the difference of two ReLU filters that lie in
        the cone of its gate, so that scores on the training images stay the same; elsewhere they
        drift, and the norm is larger.

        Args:
            X: the training images, whose patches make the cones; not needed for ``relu``.

        Returns:
            Conv2d, ReLU, AdaptiveAvgPool2d or AdaptiveMaxPool2d, Flatten, Linear, on
            ``scaler_.transform(images)``.

        Raises:
            DataError: images of another kind than the model was trained on, or none.
            SettingError: training images are needed, or the formulation has no such network.
        """
        model = self.as_trained()
        if model.formulation == "relu-penalised":
            raise SettingError(
                "formulation relu-penalised keeps V - W only, which is no ReLU network; train with "
                "formulation relu or gated"
            )
        stream = None
        if model.formulation == "gated":
            if X is None:
                raise SettingError(
                    "X is None; give to_relu the training images, whose patches make the cones of "
                    "formulation gated"
                )
            images = model._images_like_trained(X)
            if not len(images):
                raise DataError("X has no images; give to_relu the training images")
            labels, k = np.zeros(len(images), np.int64), len(self.classes_)
            views = vars(AUGMENTATIONS[model.augment])
            stream = ImageStream(images, labels, k, self.scaler_, **views)
        with torch.no_grad():
            neurons = recover(model, stream)
            where = self.geometry(), self.transform_.to("cpu")
            return neurons.to_sequential(*where, torch.float64)

    def program_kind(self) -> ProgramKind:
        """Which convex program is solved."""
        return self.program_settings().kind

    def tensor_shapes(
        self, geometry: PatchGeometry, tensors: Mapping[str, Tensor]
    ) -> dict[str, tuple[int, ...]]:
        """The shapes that saved tensors must have."""
        gates, dim = tensors["gates_"].shape[0], self.transform_.dim
        k = len(self.classes_)
        signs = (2,) if self.formulation == "relu" else ()
        return {
            "gates_": (gates, dim),
            "coef_": (*signs, k, geometry.n_cells, gates, dim),
            "intercept_": (k,),
        }

    def restore(self, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self.program_settings().check_names()
        super().restore(description, tensors)
        if isinstance(self.class_weight, Mapping):
            labels = self.classes_.tolist()
            self.class_weight = {
                restored_label(key, labels): value for key, value in self.class_weight.items()
            }
