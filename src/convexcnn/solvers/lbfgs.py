"""L-BFGS in the metric of the features' Gram matrix: l2 with every loss, Phi in memory.

minimise (1/n) loss(Phi V + b, Y) + (beta/2) |V|^2

With C = (1/n) (Phi - mean)' (Phi - mean) and s the mean curvature of the loss, s C + beta I is
about the Hessian. Its Cholesky factor L changes the variables to U = V L, whose Hessian is about
the identity, so that a few dozen steps of L-BFGS (Liu & Nocedal 1989) reach small gaps; squared
loss needs one. A step costs one product with Phi and one with Phi'. The slope that comes with them
also is a dual point, which says every few steps how far the lowest point so far is from the
optimum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from convexcnn.distributed import ALONE, Processes
from convexcnn.errors import SettingError
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.programs.kind import ProgramKind
from convexcnn.programs.losses import get_loss
from convexcnn.programs.program import Program
from convexcnn.solvers.duality import balanced, best_dual_value
from convexcnn.solvers.optimum import History, Optimum, Status
from convexcnn.solvers.passes import feature_blocks
from convexcnn.solvers.result import Callback
from convexcnn.solvers.warm_path import AtBeta, BetaSolver

MEMORY = 20
"""Steps that L-BFGS remembers."""

ROWS_PER_FEATURE = 8
"""So many rows per feature are enough for C, which only is a metric."""

GRAM_BLOCK = 512
"""Columns of C that are made at once."""

SUM_BLOCK = 8192
"""Rows that are summed in the precision of Phi; sums of blocks are float64."""

LEAST_CURVATURE = 0.01
"""Of cross-entropy: the curvature at a start that is sure of every image would be zero."""

PATIENCE = 4
"""Measurements without progress after which rounding is blamed."""


@dataclass(frozen=True)
class LBFGS(BetaSolver):
    """Quasi-Newton descent, preconditioned by the features' Gram matrix.

    Args:
        tolerance: relative duality gap.
        max_iterations: steps at most, for one beta.
        interval: steps between two measurements of the gap.
    """

    tolerance: float = 1e-4
    max_iterations: int = 1000
    interval: int = 4

    name = "lbfgs"
    shares_images = True

    def handles(self, kind: ProgramKind) -> bool:
        return kind.formulation == "gated" and kind.regulariser == "l2"

    def prepare(
        self,
        kind: ProgramKind,
        features: GatedFeatures,
        streams: Sequence[ImageStream],
        callback: Callback | None = None,
    ) -> AtBeta:
        self.check(kind)
        rows, k = sum(stream.size for stream in streams), streams[0].n_classes
        phi = features.gates.new_empty(rows, features.n_features)
        targets = features.gates.new_empty(rows, k, dtype=torch.float64)
        for place, block, block_targets in feature_blocks(features, streams):
            phi[place] = block
            targets[place] = block_targets
        data = _Data.of(
            phi, targets, features.shape, centre=kind.intercept, processes=streams[0].processes
        )
        return _Prepared(self, kind, data, tuple(streams), callback)

    def restrict(
        self,
        at_beta: AtBeta,
        kind: ProgramKind,
        features: GatedFeatures,
        streams: Sequence[ImageStream],
        callback: Callback | None = None,
    ) -> AtBeta:
        """Share the features and the metric of all images, if these are the first of them."""
        assert isinstance(at_beta, _Prepared)
        shared = at_beta.streams[: len(streams)]
        if any(one is not other for one, other in zip(shared, streams, strict=True)):
            return self.prepare(kind, features, streams, callback)
        data = at_beta.data.first(sum(stream.size for stream in streams))
        return _Prepared(self, kind, data, tuple(streams), callback)

    def solve(self, program: Program, start: Optimum | None = None) -> Optimum:
        """Solve (G) in memory, from zero by default."""
        self.check(program.kind)
        phi = program.features.clone()
        data = _Data.of(phi, program.targets, program.shape[1:], centre=program.intercept)
        return _Prepared(self, program.kind, data, (), None)(program.beta, start)


@dataclass(frozen=True)
class _Data:
    """Features in memory, about their mean; sums and targets are float64.

    Of several processes, each has the rows of its own images, and the sums over those of all.

    Args:
        phi: Phi - mean, (n, m).
        mean: (m,); zero if nothing is centred. Of more images than these, if they were restricted.
        targets: Y, (n, k), a class contiguous.
        gram: C, (m, m), of which only the lower blocks are filled.
        shape: (cells, g, d).
        cross: Y' phi, (k, m).
        feature_sum: sum of phi, (m,).
        target_sum: sum of y, (k,).
        rows: of all processes.
        processes: that share the rows.
    """

    phi: Tensor
    mean: Tensor
    targets: Tensor
    gram: Tensor
    shape: tuple[int, int, int]
    cross: Tensor
    feature_sum: Tensor
    target_sum: Tensor
    rows: int
    processes: Processes = ALONE

    @classmethod
    def of(
        cls,
        phi: Tensor,
        targets: Tensor,
        shape: tuple[int, int, int],
        *,
        centre: bool,
        processes: Processes = ALONE,
    ) -> _Data:
        """Centre features in place and make their Gram matrix."""
        mean, rows = _sum_of(phi), int(processes.total(len(phi)))
        processes.add_up(mean)
        mean /= rows
        if centre:
            phi -= mean.to(phi.dtype)
            mean = mean.to(phi.dtype).double()
        else:
            mean.zero_()
        gram = _gram(phi, rows, processes)
        nothing = mean.new_empty(0)
        sums = nothing, nothing, nothing, rows, processes
        targets = targets.double().T.contiguous().T  # as scores are
        return cls(phi, mean, targets, gram, shape, *sums).first(len(phi))

    def first(self, rows: int) -> _Data:
        """The first images of each process only, about the mean of all and with their C."""
        phi, targets = self.phi[:rows], self.targets[:rows]
        feature_sum, target_sum = _sum_of(phi), targets.sum(0)
        self.processes.add_up(feature_sum, target_sum)
        part = replace(
            self,
            phi=phi,
            targets=targets,
            feature_sum=feature_sum,
            target_sum=target_sum,
            rows=int(self.processes.total(rows)),
        )
        return replace(part, cross=part.pull(targets))

    def pull(self, values: Tensor) -> Tensor:
        """L' phi (k, m) for L (n, k): float64 sums of sums of blocks, which are short enough."""
        total = self.feature_sum.new_zeros(values.shape[1], self.phi.shape[1])
        transposed = values.T.to(self.phi.dtype)
        for start in range(0, len(self.phi), SUM_BLOCK):
            rows = slice(start, start + SUM_BLOCK)
            total += transposed[:, rows] @ self.phi[rows]
        self.processes.add_up(total)
        return total

    def total(self, number: Tensor) -> float:
        """Sum over all processes of what each has of its own rows."""
        return self.processes.total(float(number))


def _sum_of(phi: Tensor) -> Tensor:
    """Sum of the rows in float64."""
    total = phi.new_zeros(phi.shape[1], dtype=torch.float64)
    for start in range(0, len(phi), SUM_BLOCK):
        total += phi[start : start + SUM_BLOCK].sum(0)
    return total


def _gram(phi: Tensor, rows: int, processes: Processes) -> Tensor:
    """(1/n) Phi' Phi of evenly spaced rows; blocks right of the diagonal are left at zero."""
    size = phi.shape[1]
    phi = phi[:: max(1, rows // (ROWS_PER_FEATURE * size))]
    gram = phi.new_zeros(size, size)
    for start in range(0, size, GRAM_BLOCK):
        stop = min(size, start + GRAM_BLOCK)
        gram[start:stop, :stop] = phi[:, start:stop].T @ phi[:, :stop]
    processes.add_up(gram)
    return gram.div_(processes.total(len(phi)))


class _Prepared:
    """A program without its beta; solves it at one beta after the other."""

    def __init__(
        self,
        settings: LBFGS,
        kind: ProgramKind,
        data: _Data,
        streams: tuple[ImageStream, ...],
        callback: Callback | None,
    ) -> None:
        self.settings, self.kind, self.data = settings, kind, data
        self.streams, self.callback = streams, callback

    @torch.no_grad()
    def __call__(self, beta: float, start: Optimum | None) -> Optimum:
        """Solve at one beta."""
        settings = self.settings
        descent = _Descent(self.kind, self.data, beta, start)
        history, status = History(settings.tolerance), Status.ITERATION_LIMIT
        steps = stale = 0
        best_gap = best_primal = float("inf")
        while True:
            primal, dual = descent.bounds()
            done = history.add(primal, dual)
            self._tell(beta, steps, history)
            if done:
                status = Status.OPTIMAL
                break
            if steps >= settings.max_iterations:
                break
            little = 1e-3 * settings.tolerance * abs(primal)
            better = primal - dual < 0.999 * best_gap or primal < best_primal - little
            stale = 0 if better else stale + 1
            if stale >= PATIENCE:
                status = Status.STALLED
                break
            if stale == PATIENCE // 2:
                descent.forget()
            best_gap, best_primal = min(best_gap, primal - dual), min(best_primal, primal)
            count = min(settings.interval, settings.max_iterations - steps)
            descent.advance(count)
            steps += count
        weights, bias = descent.solution()
        return Optimum(weights, bias, status, history.rows)

    def _tell(self, beta: float, steps: int, history: History) -> None:
        if self.callback is not None:
            row = history.rows[-1]
            event = {"phase": f"lbfgs at beta {beta:.3g}", "step": steps, "steps": None}
            gap, primal = row["relative_gap"], row["primal"]
            self.callback({**event, "relative_gap": gap, "objective": primal})


@dataclass(frozen=True)
class _Point:
    """What one product with Phi and one with Phi' say about a point.

    Args:
        position: U and the scaled intercept, (k, m + 1) or (k, m).
        weights: V, (k, m), as precise as Phi.
        bias: the intercept of centred features, (k,).
        scores: (n, k), of the process's own rows.
        pulled: L' phi with L = -loss'(scores), (k, m).
        drift: sum of L over images, (k,).
        primal: the objective.
    """

    position: Tensor
    weights: Tensor
    bias: Tensor
    scores: Tensor
    pulled: Tensor
    drift: Tensor
    primal: float


class _Descent:
    """L-BFGS at one beta, and the lowest point that it has seen."""

    def __init__(self, kind: ProgramKind, data: _Data, beta: float, start: Optimum | None) -> None:
        self.kind, self.data, self.beta = kind, data, beta
        self.loss = get_loss(kind.loss)
        k, size = data.cross.shape
        weights, bias = torch.zeros_like(data.cross), data.cross.new_zeros(k)
        if start is not None:
            weights.copy_(start.weights.reshape(k, size))
            bias.copy_(start.bias)
        elif kind.intercept:
            bias = self._first_bias()
        bias = bias + weights @ data.mean
        curvature = self._curvature(weights, bias)
        self.factor = _factor(data.gram, curvature, beta)
        self.bias_scale = curvature**-0.5
        parts = [weights @ self.factor]
        if kind.intercept:
            parts.append(bias[:, None] / self.bias_scale)
        self.position = torch.cat(parts, 1)
        self.lowest = self._measure()
        self.forget()

    def _first_bias(self) -> Tensor:
        """The best intercept of weights that are zero."""
        share = self.data.target_sum / self.data.rows
        return share if self.kind.loss == "squared" else share.clamp_min(1e-6).log()

    def _curvature(self, weights: Tensor, bias: Tensor) -> float:
        """Mean second derivative of the loss at the start, over images and directions."""
        if self.kind.loss == "squared":
            return 1.0
        chances = torch.softmax(self._scores(weights.to(self.data.phi.dtype), bias), 1)
        spread = 1 - self.data.total(chances.square().sum()) / self.data.rows
        return max(LEAST_CURVATURE, spread / max(1, chances.shape[1] - 1))

    def _scores(self, weights: Tensor, bias: Tensor) -> Tensor:
        """(n, k), a class contiguous: this order of the factors is the fast one."""
        return (weights @ self.data.phi.T).double().add_(bias[:, None]).T

    def forget(self) -> None:
        """Start L-BFGS anew from the lowest point."""
        self.position.copy_(self.lowest.position)
        self.optimiser = torch.optim.LBFGS(
            [self.position],
            tolerance_grad=0.0,
            tolerance_change=0.0,
            history_size=MEMORY,
            line_search_fn="strong_wolfe",
        )
        self.fresh = True

    def advance(self, steps: int) -> None:
        """Take steps of L-BFGS."""
        options = self.optimiser.param_groups[0]
        if self.fresh:
            # Its first step is lr min(1, 1 / |gradient|_1); in this metric, 1 is right.
            slope = self._gradient(self.lowest)
            self._run(options, 1, lr=max(1.0, float(slope.abs().sum())))
            self.fresh, steps = False, steps - 1
        if steps:
            self._run(options, steps, lr=1.0)

    def _run(self, options: dict[str, float], steps: int, lr: float) -> None:
        options.update(lr=lr, max_iter=steps, max_eval=4 * steps)
        self.optimiser.step(self._closure)  # type: ignore[no-untyped-call]

    def _closure(self) -> float:
        """The objective, with its gradient written where the optimiser looks for it."""
        point = self.lowest
        if not torch.equal(self.position, point.position):
            point = self._measure()
            if point.primal < self.lowest.primal:
                self.lowest = point
        self.position.grad = self._gradient(point)
        return point.primal

    def _measure(self) -> _Point:
        data, (k, size) = self.data, self.data.cross.shape
        position, bias = self.position.clone(), data.cross.new_zeros(k)
        weights = torch.linalg.solve_triangular(
            self.factor, position[:, :size], upper=False, left=False
        ).to(data.phi.dtype)
        if self.kind.intercept:
            bias = position[:, size] * self.bias_scale
        scores = self._scores(weights, bias)
        primal = data.total(self.loss.value(scores, data.targets)) / data.rows
        primal += 0.5 * self.beta * float(weights.double().square().sum())
        negative = -self.loss.gradient(scores, data.targets)
        pulled, drift = data.pull(negative), negative.sum(0)
        data.processes.add_up(drift)
        return _Point(position, weights, bias, scores, pulled, drift, primal)

    def _gradient(self, point: _Point) -> Tensor:
        """Of the objective by U and the scaled intercept."""
        rows = self.data.rows
        slope = self.beta * point.weights.double() - point.pulled / rows
        parts = [torch.linalg.solve_triangular(self.factor.T, slope, upper=True, left=False)]
        if self.kind.intercept:
            parts.append(-point.drift[:, None] * (self.bias_scale / rows))
        return torch.cat(parts, 1)

    def bounds(self) -> tuple[float, float]:
        """The objective at the lowest point, and a lower bound from its slope."""
        data, point = self.data, self.lowest
        negative = -self.loss.gradient(point.scores, data.targets)
        processes = data.processes
        dual = balanced(self.kind, negative, data.targets, processes)
        slopes = dual.pull(point.pulled, data.cross, data.feature_sum)
        slopes = slopes.view(1, -1, *data.shape)
        value = best_dual_value(self.kind, data.targets, self.beta, dual.values, slopes, processes)
        return point.primal, value

    def solution(self) -> tuple[Tensor, Tensor]:
        """V (k, cells, g, d) and the intercept of features that are not centred."""
        data, point = self.data, self.lowest
        bias = point.bias - point.weights.double() @ data.mean
        return point.weights.view(-1, *data.shape), bias.to(point.weights.dtype)


def _factor(gram: Tensor, curvature: float, beta: float) -> Tensor:
    """L with L L' = s C + beta I in float64, or with more than beta where C is too rounded."""
    if not bool(gram.isfinite().all()):
        raise SettingError("features are not finite; give images in units of a sensible size")
    factor: Tensor
    ridge = beta
    while True:
        matrix = gram.double() * curvature
        matrix.diagonal().add_(ridge)
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if not failed:
            return factor
        ridge = 10 * max(ridge, 1e-9 * float(gram.diagonal().mean()))
