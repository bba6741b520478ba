"""The exact `l2` optimum from the n x n kernel, for programs with more features than images.

minimise (1/2n) |Phi V + 1 b' - Y|^2 + (beta/2) |V|^2  has V = Phi' A with
(K + n beta I) A = Y - 1 b',  K = Phi Phi',  1' A = 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.solvers.linear_algebra.cholesky import CholeskyFactor, shifted_solutions
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
        self._check_choice(validation)
        clock = PhaseClock(callback)
        streams = [train] if validation is None else [train, validation]
        shift = pilot_mean(features, train)
        kernel, targets = self._kernel(features, streams, shift)
        clock.lap("kernel")
        n_train = len(train)
        betas = relative_path(self.betas, float(kernel.diagonal()[:n_train].mean()), features)
        shifts = [beta * n_train for beta in betas]
        factor = CholeskyFactor(kernel, (min(shifts) * max(shifts)) ** 0.5)
        clock.lap("factorisation")
        lead = factor.leading(n_train)
        duals, biases = _solve(lead, targets[:n_train], shifts)
        path = [
            PathPoint(beta, {"loss": 0.5 * n_train * beta**2 * float(dual.square().sum())})
            for beta, dual in zip(betas, duals, strict=True)
        ]
        clock.lap("path")
        beta, dual, held_out = betas[0], duals[0], None
        if validation is not None:
            plain = slice(None, None, validation.views)
            scores = [
                (factor.trailing_product(a) + b)[plain] for a, b in zip(duals, biases, strict=True)
            ]
            for point, point_scores in zip(path, scores, strict=True):
                point.validation = squared_measures(point_scores, targets[n_train:][plain])
            chosen = best_point(path)
            beta, held_out = chosen.beta, scores[path.index(chosen)]
            dual = duals[path.index(chosen)]
        if validation is None or not self.refit:
            factor, targets, streams = lead, targets[:n_train], [train]
        else:
            dual = _solve(factor, targets, [beta * len(targets)])[0][0]
            clock.lap("refit")
        ridge = ExactRidge(features, streams, beta)
        dual = dual.double()

        def correct(found: RidgeMeasure) -> Tensor:
            nonlocal dual
            right = (found.residual - len(targets) * beta * dual).to(targets.dtype)
            step = _solve(factor, right, [len(targets) * beta])[0][0].double()
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

    def _blocks(
        self, features: GatedFeatures, streams: Sequence[ImageStream], shift: Tensor, size: int
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Rows, shifted Phi and targets of all streams in turn, in a buffer that is reused."""
        buffer = shift.new_empty(size, features.n_features)
        start = 0
        for stream in streams:
            for images, targets in stream.blocks(size):
                phi = features(images, buffer[: len(images)])
                phi -= shift
                yield slice(start, start + len(images)), phi, targets
                start += len(images)

    def _kernel(
        self, features: GatedFeatures, streams: Sequence[ImageStream], shift: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The lower triangle of K and the targets of all rows.

        Phi is rebuilt for every band of rows: that is cheap beside the products of its blocks.
        """
        size = sum(len(stream) for stream in streams)
        kernel = shift.new_empty(size, size)
        targets = shift.new_empty(size, streams[0].n_classes)
        for rows, band, band_targets in self._blocks(features, streams, shift, self.chunk):
            targets[rows] = band_targets
            for columns, phi, _ in self._blocks(features, streams, shift, max(1, self.chunk // 2)):
                if columns.start >= rows.stop:
                    break
                torch.mm(band, phi.T, out=kernel[rows, columns])
        return kernel, targets


def _solve(
    factor: CholeskyFactor, targets: Tensor, shifts: Sequence[float]
) -> tuple[list[Tensor], list[Tensor]]:
    """Dual variables A (n, k) and intercepts b (k,) for every shift.

    With S = (K + s I)^-1, b = 1' S Y / 1' S 1 and A = S (Y - 1 b').
    """
    ones = torch.ones_like(targets[:, :1])
    right = torch.cat([targets, ones], 1)
    solutions, _ = shifted_solutions(factor, right, shifts, tolerance=PATH_TOLERANCE)
    duals, biases = [], []
    for solution in solutions:
        sums = solution.sum(0)
        bias = sums[:-1] / sums[-1]
        biases.append(bias)
        duals.append(solution[:, :-1] - torch.outer(solution[:, -1], bias))
    return duals, biases
