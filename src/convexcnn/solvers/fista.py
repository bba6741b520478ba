"""Accelerated proximal gradients with restart and active sets: every regulariser and loss of (G).

minimise (1/n) loss(Phi V + b, Y) + beta R(V)

One product with Phi and one with Phi' per iteration, both at the extrapolated point, whose slope
also is a dual point (Beck & Teboulle 2009; gradient restart of O'Donoghue & Candes 2015). b moves
like the weight of one more feature. Between two looks at all gates, only those work whose weights
or slopes say that they may be in the solution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.programs.kind import ProgramKind
from convexcnn.programs.losses import get_loss
from convexcnn.programs.program import Program
from convexcnn.programs.regularisers import Norm, get_regulariser
from convexcnn.solvers.duality import balanced, best_dual_value
from convexcnn.solvers.optimum import History, Optimum, Status
from convexcnn.solvers.products import Products, ProductsInMemory, StreamedProducts
from convexcnn.solvers.result import Callback
from convexcnn.solvers.warm_path import AtBeta, BetaSolver

POWER_STEPS = 20
SAFETY = 1.05
CURVATURE = {"squared": 1.0, "cross_entropy": 0.5}
"""Largest second derivative of the loss of one image."""

LOOK = 10
"""Iterations between two looks at all gates."""

CLOSE = 0.8
"""Slope relative to its bound above which a gate stays at work though its weights are zero."""

WORTH_IT = 0.7
"""Part of the gates that may be at work for an active set to be worth making."""


@dataclass(frozen=True)
class Fista(BetaSolver):
    """Proximal gradient descent with momentum; streams images where Phi does not fit in memory.

    Args:
        tolerance: relative duality gap.
        max_iterations: at most this many.
        memory_gb: what all of Phi, in float64, may need before it is streamed instead.
    """

    tolerance: float = 1e-4
    max_iterations: int = 20000
    memory_gb: float = 2.0

    name = "fista"
    shares_images = True

    def handles(self, kind: ProgramKind) -> bool:
        return kind.formulation == "gated"

    def prepare(
        self,
        kind: ProgramKind,
        features: GatedFeatures,
        streams: Sequence[ImageStream],
        callback: Callback | None = None,
    ) -> AtBeta:
        self.check(kind)
        rows, places = sum(s.size for s in streams), features.geometry.cell_order.numel()
        per_row = 2 * features.n_features + places * sum(features.gates.shape)
        products: Products = StreamedProducts(features, streams)
        if features.patchwise and 8e-9 * rows * per_row <= self.memory_gb:
            program = Program.from_streams(kind, features, streams, 1.0)
            products = ProductsInMemory.of(program, streams[0].processes)
        descent = _Descent(self, kind, products, callback)
        return descent.solve

    def solve(self, program: Program, start: Optimum | None = None) -> Optimum:
        """Solve (G) in memory, with any regulariser and loss, from zero by default."""
        self.check(program.kind)
        descent = _Descent(self, program.kind, ProductsInMemory.of(program), None)
        return descent.solve(program.beta, start)


class _Descent:
    """A program without its beta, and the step length that fits it."""

    def __init__(
        self, settings: Fista, kind: ProgramKind, products: Products, callback: Callback | None
    ) -> None:
        self.settings, self.kind, self.products = settings, kind, products
        self.callback = callback
        self.loss, self.regulariser = get_loss(kind.loss), get_regulariser(kind.regulariser)
        self.totals = products.totals()
        self.targets = self.totals.targets.double()
        self.bias_scale, largest = self._largest_eigenvalue()
        self.length = self.totals.rows / (SAFETY * CURVATURE[kind.loss] * largest)

    @torch.no_grad()
    def solve(self, beta: float, start: Optimum | None) -> Optimum:
        """Solve at one beta."""
        k = self.targets.shape[1]
        zero = torch.zeros(k, *self.products.shape, dtype=self.products.dtype)
        zero = zero.to(self.totals.cross.device)
        point = (zero, zero.new_zeros(k)) if start is None else (start.weights, start.bias)
        weights, bias = (part.to(zero).clone() for part in point)
        moving = _Momentum(weights, bias)
        history, status = History(self.settings.tolerance), Status.ITERATION_LIMIT
        best_gap, best = float("inf"), (weights, bias)
        for iteration in range(self.settings.max_iterations):
            products, kept = self.products, None
            if iteration % LOOK and len(moving.active) < WORTH_IT * zero.shape[2]:
                kept = moving.active
                products = moving.working
            negative, slopes = self._measure(products, kept, moving)
            if kept is None:
                primal, dual = self._bounds(beta, moving, slopes)
                if primal - dual < best_gap:
                    best_gap, best = primal - dual, (moving.ahead, moving.ahead_bias)
                if history.add(primal, dual):
                    status = Status.OPTIMAL
                    break
                self._tell(beta, history)
                self._choose_active(beta, moving, slopes)
            self._step(beta, moving, slopes, negative, kept)
        return Optimum(*best, status, history.rows)

    def _measure(
        self, products: Products, kept: Tensor | None, moving: _Momentum
    ) -> tuple[Tensor, Tensor]:
        """L and Phi' L, (k, cells, g, d) of the gates at work, at the extrapolated point."""
        ahead = moving.ahead if kept is None else moving.ahead[:, :, kept]
        self.scores, negative, pulled = products.measure(
            self.loss, ahead.flatten(1), moving.ahead_bias
        )
        return negative, pulled.view(ahead.shape)

    def _bounds(self, beta: float, moving: _Momentum, slopes: Tensor) -> tuple[float, float]:
        """Objective and a lower bound at the extrapolated point, from a look at all gates."""
        scores, targets, totals = self.scores.double(), self.targets, self.totals
        processes = totals.processes
        primal = processes.total(float(self.loss.value(scores, targets))) / totals.rows
        primal += beta * float(self.regulariser.value(moving.ahead.double()))
        point = balanced(self.kind, -self.loss.gradient(scores, targets), targets, processes)
        mixed = point.pull(slopes.flatten(1), totals.cross, totals.feature_sum)
        mixed = mixed.view(1, *slopes.shape)
        dual = best_dual_value(self.kind, targets, beta, point.values, mixed, processes)
        return primal, dual

    def _choose_active(self, beta: float, moving: _Momentum, slopes: Tensor) -> None:
        if not isinstance(self.regulariser, Norm):
            return
        used = (moving.weights != 0).any(3).any(0).any(0) | (moving.ahead != 0).any(3).any(0).any(0)
        steep = self.regulariser.gate_norms(slopes) > CLOSE * self.totals.rows * beta
        active = (used | steep).nonzero()[:, 0]
        if not torch.equal(active, moving.active):
            moving.active = active
            if 0 < len(active) < WORTH_IT * len(used):
                moving.working = self.products.of_gates(active)
        if not len(active):
            moving.active = torch.arange(len(used), device=used.device)

    def _step(
        self, beta: float, moving: _Momentum, slopes: Tensor, negative: Tensor, kept: Tensor | None
    ) -> None:
        """One proximal step from the extrapolated point, and the next extrapolation."""
        rate = self.length / self.totals.rows
        gates = slice(None) if kept is None else kept
        moved = moving.ahead[:, :, gates] + rate * slopes
        weights = torch.zeros_like(moving.ahead)
        weights[:, :, gates] = self.regulariser.prox(moved, self.length * beta)
        bias = moving.ahead_bias
        if self.kind.intercept:
            drift = negative.sum(0)
            self.totals.processes.add_up(drift)
            bias = bias + self.bias_scale**2 * rate * drift
        moving.advance(weights, bias)

    def _tell(self, beta: float, history: History) -> None:
        if self.callback is not None:
            event = {"phase": f"fista at beta {beta:.3g}", "step": len(history.rows), "steps": None}
            self.callback({**event, "relative_gap": history.rows[-1]["relative_gap"]})

    def _largest_eigenvalue(self) -> tuple[float, float]:
        """The scale of the intercept's column, and the largest eigenvalue of Phi' Phi with it."""
        rows, total = self.totals.rows, self.totals.feature_sum.to(self.products.dtype)
        vector = total[:, None] / total.norm().clamp_min(1e-300)
        first = self.products.gram_times(vector)
        scale = (float(first.norm()) / rows) ** 0.5 if self.kind.intercept else 0.0
        # The sum of the features may lie in few of the directions in which they vary.
        drawn = torch.randn(vector.shape, generator=torch.Generator().manual_seed(0))
        vector = vector + drawn.to(vector) / drawn.norm()
        constant, size = 0.0, float(first.norm()) or 1.0
        for _ in range(POWER_STEPS):
            image = self.products.gram_times(vector) + scale * constant * total[:, None]
            constant = scale * float(total @ vector[:, 0]) + scale**2 * rows * constant
            size = (float(image.norm()) ** 2 + constant**2) ** 0.5
            if not size:
                return scale, 1.0
            vector, constant = image / size, constant / size
        return scale, size


class _Momentum:
    """The last two iterates, the extrapolated point, and the gates at work."""

    def __init__(self, weights: Tensor, bias: Tensor) -> None:
        self.weights, self.bias = weights, bias
        self.ahead, self.ahead_bias = weights, bias
        self.momentum = 1.0
        self.active = torch.arange(weights.shape[2], device=weights.device)
        self.working: Products

    def advance(self, weights: Tensor, bias: Tensor) -> None:
        """Take a new iterate; restart where the last step turned back."""
        if ((self.ahead - weights) * (weights - self.weights)).sum() > 0:
            self.momentum = 1.0
        following = (1 + (1 + 4 * self.momentum**2) ** 0.5) / 2
        share = (self.momentum - 1) / following
        self.ahead = weights + share * (weights - self.weights)
        self.ahead_bias = bias + share * (bias - self.bias)
        self.weights, self.bias, self.momentum = weights, bias, following
