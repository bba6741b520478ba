"""The exact `l2` optimum from the n x n kernel, for programs with more features than images.

minimise (1/2n) |Phi V + 1 b' - Y|^2 + (beta/2) |V|^2  has V = Phi' A with
(K + n beta I) A = Y - 1 b',  K = Phi Phi',  1' A = 0. Where images have weights, rows of Phi and Y
are scaled by their square roots s, 1 becomes s, and n the sum of weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.solvers.linear_algebra.cholesky import CholeskyFactor, shifted_solutions
from convexcnn.solvers.passes import row_sum, weighted_blocks
from convexcnn.solvers.path import (
    CHUNK,
    PATH_TOLERANCE,
    PATH_VECTORS,
    PathSolver,
    relative_path,
    squared_measures,
)
from convexcnn.solvers.result import Callback, PathPoint, PhaseClock, Solution, best_point
from convexcnn.solvers.ridge.refinement import MEASURE_VECTORS, ExactRidge, RidgeMeasure, refine
from convexcnn.solvers.ridge.statistics import pilot_mean


def needed_gb(rows: int, n_features: int, k: int, *, chunk: int = CHUNK) -> float:
    """Memory of :class:`Kernel` in GB: the kernel, two chunks of Phi and the path.

    Args:
        rows: training and held-out images, mirror images counted.
        n_features: cells g d.
        k: classes.
        chunk: rows of Phi held in memory.
    """
    vectors = k * (PATH_VECTORS * rows + MEASURE_VECTORS * (n_features + rows))
    return 4e-9 * (rows**2 + 1.5 * chunk * n_features + vectors)


class Kernel(PathSolver):
    """Ridge regression on the gated features from the kernel of the images (dual side).

    The held-out images come last in the kernel, so the leading block of its Cholesky factor
    is the factor of the training images: one factorisation serves the path on the training images,
    the scores of the held-out ones, and the final solution on all of them. The kernel and its
    factor carry the rounding of float32, which refinement with Phi itself takes away.
    """

    name = "kernel"

    def solve(
        self,
        features: GatedFeatures,
        train: ImageStream,
        validation: ImageStream | None = None,
        callback: Callback | None = None,
    ) -> Solution:
        self._check_choice(train, validation)
        clock = PhaseClock(callback)
        streams = [train] if validation is None else [train, validation]
        shift = pilot_mean(features, train)
        kernel, targets, roots, moment = self._kernel(features, streams, shift)
        clock.lap("kernel")
        n_train, total = len(train), train.total
        square = float(kernel.diagonal()[:n_train].double().sum())
        variance = square / total - float((moment / total).square().sum())
        betas = relative_path(self.betas, variance, features)
        shifts = [beta * total for beta in betas]
        factor = CholeskyFactor(kernel, (min(shifts) * max(shifts)) ** 0.5)
        clock.lap("factorisation")
        lead = factor.leading(n_train)
        duals, biases = _solve(lead, targets[:n_train], roots[:n_train], shifts)
        path = [
            PathPoint(beta, {"loss": 0.5 * total * beta**2 * float(dual.square().sum())})
            for beta, dual in zip(betas, duals, strict=True)
        ]
        clock.lap("path")
        beta, dual, held_out = betas[0], duals[0], None
        if validation is not None:
            plain = slice(None, None, validation.views)
            scale = roots[n_train:]
            scores = [
                (factor.trailing_product(a) / scale + b)[plain]
                for a, b in zip(duals, biases, strict=True)
            ]
            held_targets = (targets[n_train:] / scale)[plain]
            for point, point_scores in zip(path, scores, strict=True):
                point.validation = squared_measures(point_scores, held_targets, validation.weights)
            chosen = best_point(path, len(validation.labels))
            beta, held_out = chosen.beta, scores[path.index(chosen)]
            dual = duals[path.index(chosen)]
        if validation is None or not self.refit:
            factor, roots, streams = lead, roots[:n_train], [train]
        else:
            total += validation.total
            dual = _solve(factor, targets, roots, [beta * total])[0][0]
            clock.lap("refit")
        ridge = ExactRidge(features, streams, beta)
        dual = dual.double()

        def correct(found: RidgeMeasure) -> Tensor:
            nonlocal dual
            right = (found.residual - total * beta * dual).to(targets.dtype)
            step = _solve(factor, right, roots, [total * beta])[0][0].double()
            dual = dual + step
            return ridge.pull(step)

        refined = refine(ridge, ridge.pull(dual), correct, self.tolerance)
        clock.lap("refinement")
        return Solution(
            weights=refined.weights,
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

    def _kernel(
        self, features: GatedFeatures, streams: Sequence[ImageStream], shift: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The lower triangle of K, the targets (n, k) and s (n, 1) of all rows.

        The last part is the sum (n_features,) of the weighted features of the first stream. Phi is
        rebuilt for every band of rows: that is cheap beside the products of its blocks.
        """
        size = sum(len(stream) for stream in streams)
        kernel = shift.new_empty(size, size)
        targets, roots = shift.new_empty(size, streams[0].n_classes), shift.new_empty(size, 1)
        half = max(1, self.chunk // 2)
        moment = shift.new_zeros(features.n_features, dtype=torch.float64)
        for rows, band, y, root in weighted_blocks(features, streams, self.chunk, shift):
            targets[rows], roots[rows] = y, root
            if rows.stop <= len(streams[0]):
                moment += row_sum(root, band)
            for columns, phi, _, _ in weighted_blocks(features, streams, half, shift):
                if columns.start >= rows.stop:
                    break
                torch.mm(band, phi.T, out=kernel[rows, columns])
        return kernel, targets, roots, moment


def _solve(
    factor: CholeskyFactor, targets: Tensor, roots: Tensor, shifts: Sequence[float]
) -> tuple[list[Tensor], list[Tensor]]:
    """Dual variables A (n, k) and intercepts b (k,) for every shift.

    With H = (K + shift I)^-1, b = s' H Y / s' H s and A = H (Y - s b').
    """
    right = torch.cat([targets, roots], 1)
    solutions, _ = shifted_solutions(factor, right, shifts, tolerance=PATH_TOLERANCE)
    duals, biases = [], []
    for solution in solutions:
        sums = (roots * solution).sum(0)
        bias = sums[:-1] / sums[-1]
        biases.append(bias)
        duals.append(solution[:, :-1] - torch.outer(solution[:, -1], bias))
    return duals, biases
