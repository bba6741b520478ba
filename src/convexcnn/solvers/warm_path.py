"""A path of beta by any solver that takes one beta at a time: each starts at the last optimum."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from convexcnn.errors import SettingError
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.programs.kind import ProgramKind
from convexcnn.programs.losses import get_loss
from convexcnn.programs.neurons import relu_neurons
from convexcnn.programs.program import Program
from convexcnn.programs.regularisers import Norm, get_regulariser
from convexcnn.solvers.optimum import Optimum, Status
from convexcnn.solvers.passes import feature_scale
from convexcnn.solvers.path import DEFAULT_PATH, PathSolver, check_spread, scores_of
from convexcnn.solvers.result import Callback, PathPoint, PhaseClock, Solution, best_point

AtBeta = Callable[[float, Optimum | None], Optimum]
"""Solves a prepared program at a beta, from the optimum of a near-by one or from nothing."""

NORM_PATH = tuple(10.0 ** (-1 - i / 3) for i in range(9))
"""Default betas of a norm, relative to the smallest one at which all weights are zero."""


class BetaSolver(ABC):
    """Solves a kind of program at one beta, to a relative duality gap.

    Args:
        tolerance: relative duality gap.
    """

    name: ClassVar[str]
    shares_images: ClassVar[bool] = False
    """As for :class:`PathSolver`."""
    tolerance: float

    @abstractmethod
    def handles(self, kind: ProgramKind) -> bool:
        """Whether this solver can solve programs of a kind."""

    @abstractmethod
    def prepare(
        self,
        kind: ProgramKind,
        features: GatedFeatures,
        streams: Sequence[ImageStream],
        callback: Callback | None = None,
    ) -> AtBeta:
        """Do what all betas share, and return the function that solves one.

        Args:
            kind: which program; one that it handles.
            features: the operator Phi.
            streams: training images, one stream after the other.
            callback: called with events while it works.
        """

    def restrict(
        self,
        at_beta: AtBeta,
        kind: ProgramKind,
        features: GatedFeatures,
        streams: Sequence[ImageStream],
        callback: Callback | None = None,
    ) -> AtBeta:
        """Prepare for some of the images that ``at_beta`` was prepared for, with what it knows."""
        return self.prepare(kind, features, streams, callback)

    def check(self, kind: ProgramKind) -> None:
        """Raise SettingError, naming the solvers that can, if this one does not handle a kind."""
        if not self.handles(kind):
            from convexcnn.solvers.registry import solvers_for

            raise SettingError(
                f"solver {self.name} cannot solve {kind}; use solver "
                f"{' or '.join(solvers_for(kind))}"
            )


class InMemorySolver(BetaSolver):
    """A solver that needs all patches of all images in memory, in float64."""

    @abstractmethod
    def solve(self, program: Program, start: Optimum | None = None) -> Optimum:
        """Solve one program.

        Args:
            program: of a kind that this solver handles.
            start: where to begin, such as the optimum at the last beta.

        Raises:
            SettingError: a program of another kind.
        """

    def prepare(
        self,
        kind: ProgramKind,
        features: GatedFeatures,
        streams: Sequence[ImageStream],
        callback: Callback | None = None,
    ) -> AtBeta:
        self.check(kind)
        program = Program.from_streams(kind, features, streams, 1.0)
        return lambda beta, start: self.solve(program.at(beta), start)


class WarmPath(PathSolver):
    """Solves a path of beta from the largest down, each from the last one's optimum.

    Held-out images choose among the betas that were solved to the tolerance, if any was.

    Args:
        solver: what solves one beta.
        kind: which program.
        betas: weights of the regulariser to try; None for a path that fits the data, which ends
            early once held-out images have had enough.
        refit: as for every :class:`PathSolver`.
    """

    def __init__(
        self,
        solver: BetaSolver,
        kind: ProgramKind,
        betas: Sequence[float] | None = None,
        *,
        refit: bool = True,
    ) -> None:
        super().__init__(betas, tolerance=solver.tolerance, refit=refit)
        solver.check(kind)
        self.solver = solver
        self.kind = kind

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.solver.name

    @property
    def shares_images(self) -> bool:  # type: ignore[override]
        return self.solver.shares_images

    def handles(self, kind: ProgramKind) -> bool:
        return kind == self.kind

    def solve(
        self,
        features: GatedFeatures,
        train: ImageStream,
        validation: ImageStream | None = None,
        callback: Callback | None = None,
    ) -> Solution:
        self._check_choice(train, validation)
        if train.weights is not None:
            raise SettingError(
                f"solver {self.name} cannot weigh images; leave their weights out, or repeat images"
            )
        clock = PhaseClock(callback)
        betas = self.betas or self._default_betas(features, train)
        betas = sorted((float(beta) for beta in betas), reverse=True)
        refit = validation is not None and self.refit
        everything = [train, validation] if validation is not None and refit else [train]
        at_beta = at_beta_of_all = self.solver.prepare(self.kind, features, everything, callback)
        if refit:
            at_beta = self.solver.restrict(at_beta, self.kind, features, [train], callback)
        clock.lap("preparation")
        path: list[PathPoint] = []
        optima: list[Optimum] = []
        scores: list[Tensor] = []
        optimum: Optimum | None = None
        for beta in betas:
            optimum = at_beta(beta, optimum)
            optima.append(replace(optimum, multipliers=None))  # which are as large as the data
            path.append(PathPoint(beta, {"objective": optimum.history[-1]["primal"]}))
            if validation is None:
                continue
            scores.append(held_out_scores(self.kind, features, validation, optimum))
            path[-1].validation = self._measures(scores[-1], validation)
            if self._has_enough(path, validation):
                break
        clock.lap("path")
        at, held_out = 0, None
        if validation is not None:
            ends = zip(path, optima, strict=True)
            solved = [point for point, end in ends if end.status is Status.OPTIMAL]
            at = path.index(best_point(solved or path, len(validation.labels)))
            held_out = scores[at]
        beta, best = path[at].beta, optima[at]
        if refit:
            best = at_beta_of_all(beta, optimum)
            clock.lap("refit")
        return Solution(
            weights=best.weights,
            bias=best.bias,
            beta=beta,
            solver=self.name,
            relative_gap=best.history[-1]["relative_gap"],
            status=best.status,
            history=best.history,
            path=path,
            seconds=clock.seconds,
            held_out_scores=held_out,
        )

    def _measures(self, scores: Tensor, stream: ImageStream) -> dict[str, float]:
        labels = torch.from_numpy(stream.labels).to(scores.device)
        targets = torch.nn.functional.one_hot(labels, stream.n_classes).to(scores.dtype)
        return {
            "loss": float(get_loss(self.kind.loss).value(scores, targets)) / len(scores),
            "accuracy": float((scores.argmax(1) == labels).double().mean()),
        }

    def _default_betas(self, features: GatedFeatures, train: ImageStream) -> list[float]:
        """Relative to what makes all weights zero (a norm), or to a feature's variance (l2)."""
        scale = feature_scale(features, [train], intercept=self.kind.intercept)
        regulariser = get_regulariser(self.kind.regulariser)
        if isinstance(regulariser, Norm):
            slopes = scale.slopes.view(-1, *features.shape)
            largest = float(regulariser.dual_norm(slopes))
            check_spread(largest)
            return [largest * relative for relative in NORM_PATH]
        check_spread(scale.total_variance)
        variance = scale.total_variance / features.n_features
        return [variance * relative for relative in DEFAULT_PATH]


def held_out_scores(
    kind: ProgramKind, features: GatedFeatures, stream: ImageStream, optimum: Optimum
) -> Tensor:
    """Scores (n, k) of images that were not trained on; mirror images are left out.

    (R) is a ReLU network: on new images its filters respond as ReLU neurons, not by their gates.
    """
    plain = stream.plain()
    if kind.formulation == "gated":
        device = features.gates.device
        weights, bias = (
            part.to(device, torch.float32) for part in (optimum.weights.flatten(1), optimum.bias)
        )
        return scores_of(features, stream, weights.T, bias)
    neurons = relu_neurons(optimum.weights.cpu(), optimum.bias.cpu(), kind.pooling).single()
    cells = features.geometry.n_cells
    scores = []
    for images, _ in plain.blocks(features.block_size):
        patches = features.pooling(images).cpu()
        scores.append(neurons.scores(patches.view(len(images), cells, -1, patches.shape[-1])))
    return torch.cat(scores)
