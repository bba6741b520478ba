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
from convexcnn.solvers.cholesky import CholeskyFactor, shifted_solutions
from convexcnn.solvers.path import PathSolver, relative_path, squared_measures
from convexcnn.solvers.result import Callback, PathPoint, PhaseClock, Solution, best_point
from convexcnn.solvers.statistics import pilot_mean

REFINED = 1e-6
"""Relative residual at which refinement ends."""

MAX_REFINEMENTS = 3


class Kernel(PathSolver):
    """Ridge regression on the gated features from the kernel of the images (dual side).

    The held-out images come last in the kernel, so the leading block of its Cholesky factor
    is the factor of the training images: one factorisation serves the path on the training images,
    the scores of the held-out ones, and the final solution on all of them.
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
        duals, biases, residual = _solve(lead, targets[:n_train], shifts, self.tolerance)
        path = [
            PathPoint(beta, {"loss": 0.5 * n_train * beta**2 * float(dual.square().sum())})
            for beta, dual in zip(betas, duals, strict=True)
        ]
        clock.lap("path")
        beta, dual, bias, held_out = betas[0], duals[0], biases[0], None
        if validation is not None:
            plain = slice(None, None, 1 + validation.mirror)
            scores = [
                (factor.trailing_product(a) + b)[plain] for a, b in zip(duals, biases, strict=True)
            ]
            for point, point_scores in zip(path, scores, strict=True):
                point.validation = squared_measures(point_scores, targets[n_train:][plain])
            chosen = best_point(path)
            beta, held_out = chosen.beta, scores[path.index(chosen)]
            shifts = [beta * len(targets)]
            duals, biases, residual = _solve(factor, targets, shifts, self.tolerance)
            dual, bias = duals[0], biases[0]
            clock.lap("refit")
        factor = lead if validation is None else factor
        weights, bias, residual = self._refine(
            features, streams, shift, factor, targets, dual, bias, beta
        )
        clock.lap("refinement")
        return Solution(
            weights=weights,
            bias=bias - weights @ shift,
            beta=beta,
            solver=self.name,
            relative_gap=residual,
            path=path,
            seconds=clock.seconds,
            held_out_scores=held_out,
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
            for columns, phi, _ in self._blocks(features, streams, shift, self.chunk // 4):
                if columns.start >= rows.stop:
                    break
                torch.mm(band, phi.T, out=kernel[rows, columns])
        return kernel, targets

    def _refine(
        self,
        features: GatedFeatures,
        streams: Sequence[ImageStream],
        shift: Tensor,
        factor: CholeskyFactor,
        targets: Tensor,
        dual: Tensor,
        bias: Tensor,
        beta: float,
    ) -> tuple[Tensor, Tensor, float]:
        """Iterative refinement: measure the residual with Phi itself, solve for the correction.

        The kernel and its factor carry the rounding of float32; two passes over the images per
        round take it away.
        """
        ridge = beta * len(targets)
        for round_ in range(MAX_REFINEMENTS + 1):
            weights = shift.new_zeros(dual.shape[1], features.n_features)
            for rows, phi, _ in self._blocks(features, streams, shift, self.chunk):
                weights.addmm_(dual[rows].T, phi)
            residual = targets - bias - ridge * dual
            for rows, phi, _ in self._blocks(features, streams, shift, self.chunk):
                residual[rows] -= phi @ weights.T
            error = float((residual.norm(dim=0) / targets.norm(dim=0)).max())
            if error <= REFINED or round_ == MAX_REFINEMENTS:
                return weights, bias, error
            corrections, biases, _ = _solve(factor, residual, [ridge], self.tolerance)
            dual, bias = dual + corrections[0], bias + biases[0]
        raise AssertionError("unreachable")


def _solve(
    factor: CholeskyFactor, targets: Tensor, shifts: Sequence[float], tolerance: float
) -> tuple[list[Tensor], list[Tensor], float]:
    """Dual variables A (n, k), intercepts b (k,) for every shift, and the largest residual.

    With S = (K + s I)^-1, b = 1' S Y / 1' S 1 and A = S (Y - 1 b').
    """
    ones = torch.ones_like(targets[:, :1])
    right = torch.cat([targets, ones], 1)
    solutions, residuals = shifted_solutions(factor, right, shifts, tolerance=tolerance)
    duals, biases = [], []
    for solution in solutions:
        sums = solution.sum(0)
        bias = sums[:-1] / sums[-1]
        biases.append(bias)
        duals.append(solution[:, :-1] - torch.outer(solution[:, -1], bias))
    return duals, biases, float(residuals.max())
