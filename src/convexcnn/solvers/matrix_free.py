"""The exact `l2` optimum in little memory: conjugate gradients, with Phi rebuilt in every pass.

minimise (1/2n) |Phi V + 1 b' - Y|^2 + (beta/2) |V|^2  is solved by
(A + beta I) V = (1/n) Phi_c' Y_c  with A = (1/n) Phi_c' Phi_c, whose products are passes over the
images; all betas and classes share them. A Nystrom approximation of A preconditions.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from convexcnn.errors import SettingError
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.solvers.linear_algebra.cg import ShiftedSystems
from convexcnn.solvers.path import (
    CHUNK,
    TOLERANCE,
    PathSolver,
    measure_path,
    relative_path,
    scores_of,
)
from convexcnn.solvers.result import Callback, PathPoint, PhaseClock, Solution, best_point
from convexcnn.solvers.ridge.coarse import coarse_solutions
from convexcnn.solvers.ridge.nystrom import Covariance, Moments, sketch_moments
from convexcnn.solvers.ridge.refinement import MEASURE_VECTORS, ExactRidge, RidgeMeasure, refine

RANK, LEAST_RANK = 1000, 200
"""Of the preconditioner: by default, and where memory is short."""

SKETCHES = 4
"""Arrays of (n_features, rank) that a preconditioner needs while it is made."""

COARSE = 5000
"""Features of the small ridge regression that a path starts from."""

PATH_GAP = 1e-3
"""Relative duality gap of the points of a path, which only serve to choose beta."""

TOGETHER = 4
"""Betas of a path that share their passes; the next ones start at the smallest of them."""

PASSES = "conjugate gradients"
"""Phase of the events that tell of the passes of a path: how many of the betas that share them are
not solved yet, and the training loss at the smallest."""

CORRECTED = 1e-4
"""Relative residual at which a correction is as good as float32 lets it be."""

VECTORS = 6 * 4 + 20
"""Vectors per class: those of conjugate gradients on a few betas, and a solution per beta."""


def affordable_rank(n_features: int, spare_gb: float) -> int:
    """The rank that fits into so much more memory than :func:`needed_gb` says."""
    return min(RANK, LEAST_RANK + max(0, int(spare_gb * 1e9 / (4 * SKETCHES * n_features))))


def needed_gb(
    rows: int, n_features: int, k: int, *, chunk: int = CHUNK, rank: int = LEAST_RANK
) -> float:
    """Memory of :class:`MatrixFree` in GB: four sketches, a chunk of Phi, vectors per beta.

    Args:
        rows: training and held-out images, mirror images counted.
        n_features: cells g d.
        k: classes.
        chunk: rows of Phi held in memory.
        rank: of the preconditioner.
    """
    vectors = k * (VECTORS * n_features + MEASURE_VECTORS * (n_features + rows))
    sketches = SKETCHES * min(rank, n_features)
    return 4e-9 * ((chunk + sketches) * n_features + vectors + 2 * COARSE**2)


class MatrixFree(PathSolver):
    """Ridge regression by Nystrom-preconditioned conjugate gradients on streamed images.

    A path is walked from the largest beta down, a few betas at a time, to a relative duality gap of
    PATH_GAP; it starts at the optima over a few gates, from a Gram matrix, and the solution on all
    images at the point that was chosen. A default path ends once held-out images have had enough.

    Args:
        betas: as for every :class:`PathSolver`.
        tolerance: relative duality gap of the solution that is returned.
        chunk: rows of Phi held in memory.
        refit: as for every :class:`PathSolver`.
        rank: of the preconditioner; its memory is four times rank x n_features.
        coarse: features of the small ridge regression that the path starts from.
        max_iterations: products with A at most, for the betas that share them, and for the final
            solution.
    """

    name = "cg"
    shares_images = True

    def __init__(
        self,
        betas: Sequence[float] | None = None,
        *,
        tolerance: float = TOLERANCE,
        chunk: int = CHUNK,
        refit: bool = True,
        rank: int = RANK,
        coarse: int = COARSE,
        max_iterations: int = 300,
    ) -> None:
        super().__init__(betas, tolerance=tolerance, chunk=chunk, refit=refit)
        for setting, value in {"rank": rank, "coarse": coarse}.items():
            if value < 1:
                raise SettingError(f"{setting} is {value}; give at least 1")
        self.rank = rank
        self.coarse = coarse
        self.max_iterations = max_iterations

    def solve(
        self,
        features: GatedFeatures,
        train: ImageStream,
        validation: ImageStream | None = None,
        callback: Callback | None = None,
    ) -> Solution:
        self._check_choice(train, validation)
        clock = PhaseClock(callback)
        moments = sketch_moments(features, train, self.rank, self.chunk)
        betas = relative_path(self.betas, moments.variance, features)
        clock.lap("sketch")
        falling = sorted(betas, reverse=True)
        first = falling[:TOGETHER]
        start = torch.zeros(features.n_features, len(first), train.n_classes).to(moments.mean)
        if features.patchwise:
            with suppress(SettingError):  # a beta that its factor cannot have, and these steps can
                start = coarse_solutions(features, train, first, self.coarse, self.chunk)
        clock.lap("coarse start")
        goal = 0.5 * self.tolerance if validation is None else PATH_GAP
        covariance = Covariance(features, [train], moments.mean, self.chunk)
        weights: dict[float, Tensor] = {}
        path: list[PathPoint] = []
        for at in range(0, len(falling), TOGETHER):
            group = falling[at : at + TOGETHER]
            if path:
                start = weights[path[-1].beta][:, None].repeat(1, len(group), 1)
            solved, points, passes = self._group(covariance, moments, group, start, goal, clock)
            path += points
            weights |= zip(group, solved, strict=True)
            if validation is not None:
                biases = torch.stack([_bias(train, moments, v) for v in solved])
                measure_path(features, validation, solved, biases, points)
                if self._has_enough(path, validation):
                    break
        clock.lap("path")
        beta, held_out, streams, left = betas[0], None, [train], self.max_iterations - passes
        if validation is not None:
            beta = best_point(path, len(validation.labels)).beta
            left = self.max_iterations
            streams = [train, validation] if self.refit else [train]
            bias = _bias(train, moments, weights[beta])
            held_out = scores_of(features, validation, weights[beta], bias)

        def correct(found: RidgeMeasure) -> Tensor | None:
            nonlocal left
            if left <= 0:
                return None
            step, used = self._correction(features, streams, moments, found, beta, left)
            left -= used
            return step

        ridge = ExactRidge(features, streams, beta)
        refined = refine(ridge, weights[beta].T, correct, self.tolerance)
        clock.lap("refinement")
        return Solution(
            weights=refined.weights.contiguous(),
            bias=refined.measure.bias.float(),
            beta=beta,
            solver=self.name,
            relative_gap=refined.measure.relative_gap,
            path=sorted(path, key=lambda point: betas.index(point.beta)),
            seconds=clock.seconds,
            held_out_scores=held_out,
            status=refined.status,
            history=refined.history,
        )

    def _group(
        self,
        covariance: Covariance,
        moments: Moments,
        betas: list[float],
        start: Tensor,
        goal: float,
        clock: PhaseClock,
    ) -> tuple[Tensor, list[PathPoint], int]:
        """Solutions (s, n_features, k) within a relative gap, their losses, and passes made."""
        points = [PathPoint(beta) for beta in betas]
        done = 0

        def enough(index: int, weights: Tensor, residual: Tensor) -> bool:
            """Both figures follow from the residual: A V = B - R - beta V."""
            beta, square = betas[index], float(weights.square().sum())
            inner = float((weights * (moments.cross + residual)).sum())
            loss = 0.5 * (moments.target_variance - inner - beta * square)
            gap = float(residual.square().sum()) / (2 * beta)
            points[index].train = {"loss": loss}
            return gap <= goal * (loss + 0.5 * beta * square)

        def product(x: Tensor) -> Tensor:
            nonlocal done
            if done:
                unsolved = x.shape[1] // moments.cross.shape[1]
                event = {"phase": PASSES, "step": done, "steps": None, "unsolved": unsolved}
                clock.tell({**event, "beta": betas[-1], **points[-1].train})
            done += 1
            return covariance.product(x)

        systems = ShiftedSystems(product, moments.nystrom.precondition, moments.cross, betas)
        weights, passes = systems.solve(enough, self.max_iterations, start)
        return weights, points, passes

    def _correction(
        self,
        features: GatedFeatures,
        streams: Sequence[ImageStream],
        moments: Moments,
        found: RidgeMeasure,
        beta: float,
        passes: int,
    ) -> tuple[Tensor, int]:
        """A step (k, n_features) from a measured V to about the optimum, and the passes it took."""
        right = -found.gradient.T.to(moments.cross.dtype)
        limit = 0.2 * self.tolerance * found.primal * 2 * beta
        limit = max(limit, CORRECTED**2 * float(right.square().sum()))

        def enough(index: int, weights: Tensor, residual: Tensor) -> bool:
            return float(residual.square().sum()) <= limit

        covariance = Covariance(features, streams, found.mean.to(right.dtype), self.chunk)
        systems = ShiftedSystems(covariance.product, moments.nystrom.precondition, right, [beta])
        step, used = systems.solve(enough, passes)
        return step[0].T.double(), used


def _bias(stream: ImageStream, moments: Moments, weights: Tensor) -> Tensor:
    """The best b (k,) for V (n_features, k): mean y - V' mean phi."""
    counts = np.bincount(stream.labels, stream.weights, minlength=stream.n_classes)
    shares = torch.from_numpy(counts / counts.sum()).to(weights)
    return shares - moments.mean @ weights
