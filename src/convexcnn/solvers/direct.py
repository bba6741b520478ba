"""The exact optimum of squared loss with `l2`, for a whole path of beta from one factorisation.

minimise (1/2n) |Phi V + 1 b' - Y|^2 + (beta/2) |V|^2  is solved by
(C + n beta I) V = Phi_c' Y_c  with the centred covariance C = Phi_c' Phi_c, and b = mean residual.
"""

from __future__ import annotations

import torch
from torch import Tensor

from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.solvers.linear_algebra.cg import conjugate_gradients
from convexcnn.solvers.linear_algebra.cholesky import CholeskyFactor, shifted_solutions
from convexcnn.solvers.path import (
    CHUNK,
    PATH_TOLERANCE,
    PATH_VECTORS,
    PathSolver,
    measure_path,
    relative_path,
    scores_of,
)
from convexcnn.solvers.result import Callback, PathPoint, PhaseClock, Solution, best_point
from convexcnn.solvers.ridge.refinement import MEASURE_VECTORS, ExactRidge, RidgeMeasure, refine
from convexcnn.solvers.ridge.statistics import BAND, GramStatistics, pilot_mean

CORRECTED = 1e-3
"""Relative residual to which a round of refinement solves for its correction."""


def symmetric_product(lower: Tensor, right: Tensor) -> Tensor:
    """Return A X from the lower block triangle of A, whose diagonal blocks of BAND are whole."""
    out = torch.zeros_like(right)
    for start in range(0, len(lower), BAND):
        stop = min(start + BAND, len(lower))
        band = slice(start, stop)
        out[start:].addmm_(lower[start:, band], right[band])
        if stop < len(lower):
            out[band].addmm_(lower[stop:, band].T, right[stop:])
    return out


def needed_gb(rows: int, n_features: int, k: int, *, chunk: int = CHUNK) -> float:
    """Memory of :class:`Direct` in GB: two Gram matrices, a chunk of Phi, the path and the images.

    Args:
        rows: training and held-out images, mirror images counted.
        n_features: cells g d.
        k: classes.
        chunk: rows of Phi held in memory.
    """
    vectors = k * (PATH_VECTORS * n_features + MEASURE_VECTORS * (n_features + rows))
    return 4e-9 * (2 * n_features**2 + chunk * n_features + vectors)


class Direct(PathSolver):
    """Ridge regression on the gated features from sufficient statistics (primal side).

    The path comes from one factorisation of the Gram matrix. Its sums carry the rounding of
    float32, so the gap of the solution is measured with Phi itself, and refined.
    """

    name = "direct"
    shares_images = True

    def solve(
        self,
        features: GatedFeatures,
        train: ImageStream,
        validation: ImageStream | None = None,
        callback: Callback | None = None,
    ) -> Solution:
        self._check_choice(train, validation)
        clock = PhaseClock(callback)
        statistics = GramStatistics(
            features, train.n_classes, pilot_mean(features, train), chunk=self.chunk
        )
        statistics.add(train)
        clock.lap("statistics")
        gram, cross = statistics.centred()
        betas = relative_path(self.betas, statistics.variance(), features)
        shifts = [beta * statistics.count for beta in betas]
        factor = CholeskyFactor(gram, (min(shifts) * max(shifts)) ** 0.5)
        clock.lap("factorisation")
        weights, _ = shifted_solutions(factor, cross, shifts, tolerance=PATH_TOLERANCE)
        path = [
            self._point(statistics, beta, cross, v) for beta, v in zip(betas, weights, strict=True)
        ]
        clock.lap("path")
        beta, best, held_out, streams = betas[0], weights[0], None, [train]
        if validation is not None:
            biases = torch.stack([statistics.intercept(v) for v in weights])
            measure_path(features, validation, weights, biases, path)
            chosen = best_point(path, len(validation.labels))
            at, beta = path.index(chosen), chosen.beta
            held_out = scores_of(features, validation, weights[at], biases[at])
            best = weights[at]
            clock.lap("validation")
        if validation is not None and self.refit:
            statistics.add(validation)
            mean = statistics.feature_sum / statistics.count
            cross = statistics.cross - torch.outer(mean, statistics.target_sum)
            best = _solve(statistics, factor, beta, cross, PATH_TOLERANCE, best)
            streams = [train, validation]
            clock.lap("refit")

        def correct(found: RidgeMeasure) -> Tensor:
            right = found.gradient.T.to(cross.dtype) * -statistics.count
            return _solve(statistics, factor, beta, right, CORRECTED).T.double()

        refined = refine(ExactRidge(features, streams, beta), best.T, correct, self.tolerance)
        clock.lap("refinement")
        return Solution(
            weights=refined.weights.contiguous(),
            bias=refined.measure.bias.float(),
            beta=beta,
            solver=self.name,
            relative_gap=refined.measure.relative_gap,
            path=path,
            seconds=clock.seconds,
            held_out_scores=held_out,
            status=refined.status,
            history=refined.history,
        )

    @staticmethod
    def _point(
        statistics: GramStatistics, beta: float, cross: Tensor, weights: Tensor
    ) -> PathPoint:
        """The training loss at an optimum, from the statistics: C V = B - n beta V."""
        fit = float((weights * cross).sum())
        ridge = statistics.count * beta * float(weights.square().sum())
        loss = (statistics.centred_target_square() - fit - ridge) / (2 * statistics.count)
        return PathPoint(beta, {"loss": loss})


def _solve(
    statistics: GramStatistics,
    factor: CholeskyFactor,
    beta: float,
    right: Tensor,
    tolerance: float,
    start: Tensor | None = None,
) -> Tensor:
    """Solve (C + n beta I) X = B on all rows seen; the factor of fewer rows preconditions."""
    mean = statistics.feature_sum / statistics.count

    def product(x: Tensor) -> Tensor:
        out = symmetric_product(statistics.gram, x)
        out.addr_(mean, mean @ x, alpha=-statistics.count)
        return out.add_(x, alpha=statistics.count * beta)

    solution, _, _ = conjugate_gradients(
        product, right, factor.solve, start=start, tolerance=tolerance
    )
    return solution
