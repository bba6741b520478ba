"""The convex two-layer CNN: gates, then a convex program solved to its optimum."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from convexcnn.errors import DataError, SettingError
from convexcnn.models.base import SCORED_AT_ONCE, BlockClassifier, available_memory_gb
from convexcnn.models.gates import choose_gates
from convexcnn.models.torch_module import gated_network
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.patches.whiten import PatchTransform
from convexcnn.programs.certificate import Certificate, GatedBlock, certify_ridge
from convexcnn.programs.gated import GatedProgram, PenalisedConeProgram
from convexcnn.programs.losses import get_loss
from convexcnn.solvers.direct import Direct
from convexcnn.solvers.kernel import Kernel
from convexcnn.solvers.path import PathSolver
from convexcnn.solvers.result import Callback, PhaseClock, Solution
from convexcnn.solvers.sgd import SGD

FORMULATIONS = ("gated", "relu-penalised")
EXACT_SOLVERS = ("auto", "direct", "kernel")
SOLVERS = (*EXACT_SOLVERS, "sgd")
DEFAULT_GATES = 128
MEMORY_SHARE = 0.6
"""Part of the machine's memory that training may use by default."""


def _chunk(size: int) -> int:
    """Rows of Phi in memory for a number of features: about 0.5 GB."""
    return int(min(4000, max(100, 0.5e9 / (4 * size))))


def _needed_gb(solver: str, size: int, rows: int) -> float:
    """Memory of an exact solver: two Gram matrices or one kernel, and two chunks of Phi."""
    matrices = 2 * size**2 if solver == "direct" else rows**2
    return 4e-9 * (matrices + 2 * _chunk(size) * size)


class ConvexConvClassifier(BlockClassifier):
    """Two-layer CNN, Conv2D - ReLU - average pool - Linear, trained as a convex program.

    minimise (1/n) loss( sum_i Phi_i V_i + b, Y ) + (beta/2) sum_i |V_i|^2

    over the gated features Phi_i of g fixed gates (Ergen & Pilanci 2021; Mishkin, Sahiner &
    Pilanci 2022, gated ReLU; eq. (3) of Chang & Lee without its cone constraint). With squared
    loss the optimum is exact, for a whole path of beta; held-out images choose from it, and the
    final solution uses them too.

    Args:
        formulation: ``gated``, or ``relu-penalised``: the cone constraint as a penalty, for SGD.
        regulariser: ``l2``.
        loss: ``squared``, or ``cross_entropy`` (solver ``sgd``).
        solver: ``auto``, ``direct``, ``kernel``, ``sgd``, or a solver object with settings of its
            own, such as ``SGD(epochs=20)``. ``auto`` takes ``direct`` if there are fewer features
            than images, and ``kernel`` otherwise.
        filter_size: side of the patches, in pixels.
        stride: distance between patches, in pixels.
        padding: zeros around the image, in pixels.
        pooling: cells per side that responses are averaged over; 1 is global average pooling.
        n_gates: number of gates, g; None for 128, or fewer where ``memory_gb`` asks for it.
        gates: ``gaussian``, ``patches`` or ``sgd`` (the strongest filters of a non-convex
            network of the same architecture that was trained briefly).
        whiten: number of whitened principal directions that patches are reduced to, at most all
            of a patch; None takes raw pixels.
        centre: whether every image loses its mean first.
        betas: weights of the regulariser to choose from; None for a path that fits the data. One
            value needs no held-out images.
        augment: ``flip`` trains on every image and its mirror image; ``none`` does not.
        validation_fraction: part of the images that is held out to choose beta.
        memory_gb: memory that training may use; None for 60 % of the machine's.
        device: ``auto``, ``cpu`` or ``cuda``.
        random_state: seed of gates, whitening sample, split and SGD.
        image_shape: shape of one image if X comes flattened.
        callback: called with one JSON-able event per phase or logged step.

    Attributes:
        classes_: (k,) the labels that occurred.
        coef_: V, (k, cells^2, g, d), in the coordinates of ``transform_``.
        intercept_: b, (k,).
        gates_: (g, d) gates in the coordinates of ``transform_``.
        transform_: raw patch -> d coordinates.
        beta_: the weight of the regulariser that was chosen.
        path_: one dictionary per beta: ``beta``, ``train``, ``validation``.
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
        solver: str | PathSolver | SGD = "auto",
        filter_size: int = 6,
        stride: int = 2,
        padding: int = 0,
        pooling: int = 2,
        n_gates: int | None = None,
        gates: str = "sgd",
        whiten: int | None = 48,
        centre: bool = True,
        betas: float | tuple[float, ...] | list[float] | None = None,
        augment: str = "flip",
        validation_fraction: float = 0.1,
        memory_gb: float | None = None,
        device: str = "auto",
        random_state: int | None = 0,
        image_shape: tuple[int, ...] | None = None,
        callback: Callback | None = None,
    ) -> None:
        self.formulation = formulation
        self.regulariser = regulariser
        self.loss = loss
        self.solver = solver
        self.filter_size = filter_size
        self.stride = stride
        self.padding = padding
        self.pooling = pooling
        self.n_gates = n_gates
        self.gates = gates
        self.whiten = whiten
        self.centre = centre
        self.betas = betas
        self.augment = augment
        self.validation_fraction = validation_fraction
        self.memory_gb = memory_gb
        self.device = device
        self.random_state = random_state
        self.image_shape = image_shape
        self.callback = callback

    def _train(
        self,
        stream: ImageStream,
        geometry: PatchGeometry,
        transform: PatchTransform,
        generator: torch.Generator,
    ) -> dict[str, Any]:
        self._check_settings()
        clock = PhaseClock(self.callback)
        n_gates = self.n_gates or self._affordable_gates(geometry, transform.dim, len(stream))
        gates = choose_gates(
            self.gates, n_gates, stream, geometry, transform, generator, self.callback
        )
        clock.lap("gates")
        features = GatedFeatures(geometry, transform, gates)
        solver = self._solver(features, len(stream))
        if isinstance(solver, SGD):
            trained = self._descend(solver, features, stream, generator)
        else:
            trained = self._optimise(solver, features, stream)
        trained["solution_"].seconds |= clock.seconds
        return {"gates_": gates, "n_train_": len(stream.images), **trained}

    def _optimise(
        self, solver: PathSolver, features: GatedFeatures, stream: ImageStream
    ) -> dict[str, Any]:
        """The exact optimum, with beta from held-out images."""
        train, held_out = (stream, None) if self._one_beta() else self._split(stream)
        solution = solver.solve(features, train, held_out, self.callback)
        scores = solution.held_out_scores
        labels = None if held_out is None else held_out.labels
        return {
            "temperature_": 1.0 if labels is None else self._temperature(scores, labels),
            **self._fitted(solution, features, stream.n_classes),
        }

    def _descend(
        self, solver: SGD, features: GatedFeatures, stream: ImageStream, generator: torch.Generator
    ) -> dict[str, Any]:
        """SGD at one beta."""
        program: GatedProgram | PenalisedConeProgram
        loss, beta = get_loss(self.loss), self._betas()[0]
        if self.formulation == "gated":
            program = GatedProgram(features, stream.n_classes, loss, beta=beta)
            weights, bias = program.weights, program.bias
        else:
            program = PenalisedConeProgram(features, stream.n_classes, loss, beta=beta)
            weights, bias = program.weights, program.weights.new_zeros(stream.n_classes)
        solver.solve(program, stream, generator=generator, callback=self.callback, phase="sgd")
        if isinstance(program, PenalisedConeProgram):
            weights = weights[0] - weights[1]
        solution = Solution(weights, bias, beta, "sgd", float("nan"))
        return {"temperature_": 1.0, **self._fitted(solution, features, stream.n_classes)}

    def _fitted(self, solution: Solution, features: GatedFeatures, k: int) -> dict[str, Any]:
        return {
            "coef_": solution.weights.view(k, *features.shape),
            "intercept_": solution.bias,
            "beta_": solution.beta,
            "path_": [point.to_dict() for point in solution.path],
            "solution_": solution,
        }

    def _betas(self) -> list[float]:
        if self.betas is None:
            return [0.0]
        values = [self.betas] if isinstance(self.betas, (int, float)) else list(self.betas)
        return [float(value) for value in values]

    def _one_beta(self) -> bool:
        return self.betas is not None and len(self._betas()) == 1

    def _solver(self, features: GatedFeatures, rows: int) -> PathSolver | SGD:
        """The solver asked for, or the cheaper exact one that fits into the memory budget."""
        if not isinstance(self.solver, str):
            return self.solver
        if self.solver == "sgd":
            return SGD()
        size = features.n_features
        name = self._exact_name(size, rows)
        needed, budget = _needed_gb(name, size, rows), self._memory_budget_gb()
        if needed > budget:
            raise SettingError(
                f"{size} features of {rows} images need {needed:.1f} GB with solver {name}, and "
                f"memory_gb allows {budget:.1f}; lower n_gates (now {len(features.gates)}), whiten "
                f"or pooling, or raise memory_gb"
            )
        betas = None if self.betas is None else self._betas()
        solver = Direct if name == "direct" else Kernel
        return solver(betas, chunk=_chunk(size))

    def _exact_name(self, size: int, rows: int) -> str:
        if self.solver == "auto":
            return "direct" if size <= rows else "kernel"
        return str(self.solver)

    def _memory_budget_gb(self) -> float:
        return self.memory_gb or MEMORY_SHARE * available_memory_gb()

    def _affordable_gates(self, geometry: PatchGeometry, dim: int, rows: int) -> int:
        """128 gates, or as many as the memory budget lets the exact solver have."""
        per_gate, budget = geometry.n_cells * dim, self._memory_budget_gb()
        gates = DEFAULT_GATES
        if self.solver in EXACT_SOLVERS:
            while gates > 1:
                size = gates * per_gate
                if _needed_gb(self._exact_name(size, rows), size, rows) <= budget:
                    break
                gates -= 1
        return gates

    def _check_settings(self) -> None:
        choices = {
            "formulation": FORMULATIONS,
            "regulariser": ("l2",),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise SettingError(
                    f"{name} {getattr(self, name)!r} is not known; choose one of {', '.join(known)}"
                )
        if not isinstance(self.solver, (PathSolver, SGD)) and self.solver not in SOLVERS:
            raise SettingError(
                f"solver {self.solver!r} is not known; choose one of {', '.join(SOLVERS)}"
            )
        exact = self.solver in EXACT_SOLVERS or isinstance(self.solver, PathSolver)
        if exact and (self.loss != "squared" or self.formulation != "gated"):
            raise SettingError(
                f"solver {self.solver} is exact for squared loss and formulation gated; "
                f"use solver sgd for loss {self.loss} and formulation {self.formulation}"
            )
        if self.n_gates is not None and self.n_gates < 1:
            raise SettingError(f"n_gates is {self.n_gates}; give at least 1")
        if self.memory_gb is not None and not self.memory_gb > 0:
            raise SettingError(f"memory_gb is {self.memory_gb}; give a positive number")
        self._check_betas(exact)

    def _check_betas(self, exact: bool) -> None:
        values = self._betas()
        sound = values and all(0 <= value < math.inf for value in values)
        if not sound or (exact and self.betas is not None and 0 in values):
            raise SettingError(f"betas is {self.betas}; give positive numbers")
        if not exact and len(values) > 1:
            raise SettingError(f"solver sgd trains at one beta, and betas has {len(values)}")
        if isinstance(self.solver, PathSolver) and self.betas is not None:
            raise SettingError(
                f"betas is {self.betas}, and the solver is an object with betas of its own; "
                f"give {type(self.solver).__name__}(betas=...) only"
            )

    def _scorer(self) -> Callable[[Tensor], Tensor]:
        features = GatedFeatures(self.geometry(), self.transform_, self.gates_)
        weights = self.coef_.flatten(1).T
        phi = weights.new_empty(SCORED_AT_ONCE, features.n_features)

        def score(images: Tensor) -> Tensor:
            scores: Tensor = features(images, phi[: len(images)]) @ weights + self.intercept_
            return scores

        return score

    def to_torch(self) -> nn.Sequential:
        """Return the gated network as layers ``scale, features, pool, flatten, head``."""
        self.check_trained()
        return gated_network(
            self.scaler_,
            self.geometry(),
            self.transform_.to("cpu"),
            self.gates_.cpu(),
            self.coef_.cpu(),
            self.intercept_.cpu(),
        )

    def filters(self, n_filters: int = 32) -> dict[str, NDArray[np.float32]]:
        """Return the strongest filters of every class, as filters on raw (standardised) pixels.

        Args:
            n_filters: how many per class.

        Returns:
            ``convex`` (k, m, channels, f, f), every class by falling strength, and
            ``convex_strength`` (k, m), the norms |v| of cell and gate.
        """
        k, dim = len(self.classes_), self.gates_.shape[1]
        columns = self.coef_.reshape(k, -1, dim).cpu()
        strength, order = columns.norm(dim=2).sort(dim=1, descending=True)
        strongest = torch.gather(columns, 1, order[:, :n_filters, None].expand(-1, -1, dim))
        count = strongest.shape[1]
        filters, _ = self.transform_.to("cpu").to_filters(strongest.reshape(-1, dim))
        shape = (k, count, self.image_shape_[0], self.filter_size, self.filter_size)
        return {
            "convex": filters.reshape(shape).numpy(),
            "convex_strength": strength[:, :count].contiguous().numpy(),
        }

    def certify(self, X: ArrayLike, y: ArrayLike) -> Certificate:
        """Bound the distance from the optimum, in float64, on the images it was trained on.

        Args:
            X: the training images.
            y: (n,) their labels.

        Returns:
            The certificate.

        Raises:
            DataError: images or labels of another kind than the model was trained on.
            SettingError: there is no certificate for this loss or formulation yet.
        """
        if self.loss != "squared" or self.formulation != "gated":
            raise SettingError("there is a certificate for squared loss and formulation gated only")
        images = self._images_like_trained(X)
        targets = np.asarray(y)
        if targets.shape != (len(images),) or not np.isin(targets, self.classes_).all():
            raise DataError(
                f"y must hold one label for each of the {len(images)} images, out of the "
                f"{len(self.classes_)} that the model was trained on"
            )
        labels = np.searchsorted(self.classes_, targets).astype(np.int64)
        stream = ImageStream(
            images, labels, len(self.classes_), self.scaler_, mirror=self.augment == "flip"
        )
        with torch.no_grad():
            return certify_ridge(self._raw_block(), stream)

    def _raw_block(self) -> GatedBlock:
        transform = self.transform_.to("cpu").double()
        channels, side = self.image_shape_[0], self.filter_size
        coordinates = torch.eye(transform.dim, dtype=torch.float64)
        gates, gate_bias = transform.to_filters(self.gates_.cpu().double())
        basis, basis_bias = transform.to_filters(coordinates)
        return GatedBlock(
            gates=gates.view(-1, channels, side, side),
            gate_bias=gate_bias,
            basis=basis.view(-1, channels, side, side),
            basis_bias=basis_bias,
            stride=self.stride,
            padding=self.padding,
            cells=self.pooling,
            weights=self.coef_.cpu(),
            bias=self.intercept_.cpu(),
            beta=self.beta_,
        )

    def tensor_shapes(
        self, geometry: PatchGeometry, tensors: dict[str, Tensor]
    ) -> dict[str, tuple[int, ...]]:
        """The shapes that saved tensors must have."""
        gates, dim = tensors["gates_"].shape[0], self.transform_.dim
        k = len(self.classes_)
        return {
            "gates_": (gates, dim),
            "coef_": (k, geometry.n_cells, gates, dim),
            "intercept_": (k,),
        }
