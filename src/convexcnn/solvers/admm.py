"""ADMM on the optimality conditions of (G): every loss and regulariser, from a stream.

minimise (1/n) loss(Phi V + b, Y) + beta R(V)

The loss is replaced by the quadratic with its value and slope at the last point and the
curvature s G, where G is the Gram matrix of the centred features; s = 1 for squared loss, which
it equals, and for cross-entropy what was measured between the last points, at first 1/2, which
bounds it (Boehning & Lindsay 1988). ADMM (Boyd et al. 2011, with over-relaxation) splits that
quadratic from R:

    X <- A + (G + rho I)^-1 (S / s + rho (Z - U - A))   A: the last point measured, S: its slope
    Z <- prox of n beta R / (s rho) at X + U            gate by gate
    U <- U + X - Z

and every few steps one pass over the images measures loss and slope at Z as they really are, and
with them a lower bound of the optimum: the rounding of G costs no accuracy.
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
from convexcnn.programs.regularisers import Norm, get_regulariser
from convexcnn.solvers.duality import balanced, best_dual_value
from convexcnn.solvers.metric import Metric, make_metric
from convexcnn.solvers.optimum import History, Optimum, Status
from convexcnn.solvers.passes import image_totals, pull_back
from convexcnn.solvers.result import Callback
from convexcnn.solvers.warm_path import AtBeta, BetaSolver

RELAXATION = 1.6
CURVATURE = {"squared": 1.0, "cross_entropy": 0.5}
"""s: the second derivative of the loss is at most this."""

LEAST_CURVATURE, LEAST_MOVED = 1e-6, 1e-10
"""That a measurement gives, and the part of a change of scores that tells it from rounding."""

STIFFNESS = 300.0
"""rho / mean eigenvalue of G is this times the power 3/2 of beta / the smallest beta at which all
weights are zero."""

STIFFNESS_RANGE = (0.08, 100.0)
REFACTORISE = 2.5
"""A factor serves while the rho that is wanted is within this factor of its own."""

PATIENCE = 6
"""Passes without progress after which rho is balanced anew."""


@dataclass(frozen=True)
class ADMM(BetaSolver):
    """Alternating directions with one factorisation of the features' Gram matrix or kernel.

    Args:
        tolerance: relative duality gap.
        max_passes: passes over the images at most, for one beta.
        steps: ADMM steps between two passes.
        memory_gb: what factor and kept features may need.
    """

    tolerance: float = 1e-4
    max_passes: int = 200
    steps: int = 20
    memory_gb: float = 8.0

    name = "admm"

    def handles(self, kind: ProgramKind) -> bool:
        return kind.formulation == "gated" and kind.intercept

    def prepare(
        self,
        kind: ProgramKind,
        features: GatedFeatures,
        streams: Sequence[ImageStream],
        callback: Callback | None = None,
    ) -> AtBeta:
        self.check(kind)
        metric = make_metric(features, streams, self.memory_gb)
        return _Prepared(self, kind, features, streams, metric, callback)

    def restrict(
        self,
        at_beta: AtBeta,
        kind: ProgramKind,
        features: GatedFeatures,
        streams: Sequence[ImageStream],
        callback: Callback | None = None,
    ) -> AtBeta:
        """Keep the Gram matrix of all images: it bounds that of some of them from above."""
        assert isinstance(at_beta, _Prepared)
        return _Prepared(self, kind, features, streams, at_beta.metric, callback)


class _Prepared:
    """A program whose metric is known; solves it at one beta after the other."""

    def __init__(
        self,
        settings: ADMM,
        kind: ProgramKind,
        features: GatedFeatures,
        streams: Sequence[ImageStream],
        metric: Metric,
        callback: Callback | None,
    ) -> None:
        self.settings = settings
        self.kind = kind
        self.features = features
        self.streams = streams
        self.metric = metric
        self.callback = callback
        self.totals = image_totals(features, streams)
        slopes = self.totals.centred_cross().view(-1, *features.shape)
        regulariser = get_regulariser(kind.regulariser)
        self.largest_beta = None
        if isinstance(regulariser, Norm):
            self.largest_beta = float(regulariser.dual_norm(slopes)) / self.totals.rows

    def __call__(self, beta: float, start: Optimum | None) -> Optimum:
        """Solve at one beta."""
        iterate = _Iterate(self, beta, start)
        history = History(self.settings.tolerance)
        status = Status.ITERATION_LIMIT
        stale = 0
        for passes in range(self.settings.max_passes):
            primal, dual = iterate.measure()
            done = history.add(primal, dual)
            if self.callback is not None:
                gap = history.rows[-1]["relative_gap"]
                step = {"phase": f"admm at beta {beta:.3g}", "step": passes, "steps": None}
                self.callback({**step, "relative_gap": gap, "objective": primal})
            if done:
                status = Status.OPTIMAL
                break
            stale = 0 if primal - dual <= iterate.best_gap else stale + 1
            if stale >= PATIENCE:
                iterate.rebalance()
                stale = 0
            for _ in range(self.settings.steps):
                iterate.step()
        shape = (-1, *self.features.shape)
        return Optimum(iterate.best_weights.view(shape), iterate.best_bias, status, history.rows)


class _Iterate:
    """X, Z and U of ADMM, (k, m); the point where the loss was measured; the best point so far.

    Around that point, the anchor A with slope S and intercept a, the model of the loss has slope
    S - s G (V - A), and its best intercept is b(V) = a - (V - A) mean.
    """

    def __init__(self, prepared: _Prepared, beta: float, start: Optimum | None) -> None:
        self.prepared = prepared
        self.beta = beta
        self.metric = prepared.metric
        self.totals = prepared.totals
        self.loss = get_loss(prepared.kind.loss)
        self.regulariser = get_regulariser(prepared.kind.regulariser)
        self.curvature = CURVATURE[prepared.kind.loss]
        self.curvatures: list[float] = []
        self.seen: tuple[Tensor, Tensor] | None = None
        self.x = torch.zeros_like(self.totals.cross)
        self.anchor_bias = self.x.new_zeros(len(self.x))
        if start is not None:
            self.x.copy_(start.weights.reshape(self.x.shape))
            self.anchor_bias.copy_(start.bias)
        self.z, self.before, self.anchor = self.x, self.x, self.x
        self.u = torch.empty(0)
        self.best_gap = float("inf")
        self.best_weights, self.best_bias = self.x, self.anchor_bias
        self.choose_rho()

    def choose_rho(self) -> None:
        """A rho that fits beta, with a factor that is made again only if it is far off."""
        wanted = self.totals.rows * self.beta / self.curvature
        if self.prepared.largest_beta:
            low, high = STIFFNESS_RANGE
            stiffness = STIFFNESS * (self.beta / self.prepared.largest_beta) ** 1.5
            wanted = self.metric.mean_square * min(max(stiffness, low), high)
        rho = self.metric.rho
        if not rho or not 1 / REFACTORISE <= wanted / rho <= REFACTORISE:
            self.metric.factorise(wanted)

    def rebalance(self) -> None:
        """Move rho towards equal residuals of weights and slopes (Boyd et al. 2011, 3.4.1)."""
        apart = float((self.x - self.z).norm() / self.z.norm().clamp_min(1e-30))
        moved = float((self.z - self.before).norm() / self.z.norm().clamp_min(1e-30))
        factor = min(max((apart / max(moved, 1e-30)) ** 0.5, 0.2), 5.0)
        self.metric.factorise(self.metric.rho * factor)
        self.u = self.nearest_subgradient() / (self.curvature * self.metric.rho)

    def measure(self) -> tuple[float, float]:
        """One pass over the images: the objective at Z and a lower bound from its slope there.

        The model of the loss is made anew around Z.
        """
        kind, totals = self.prepared.kind, self.totals
        bias = self.intercept(self.z)
        scores, negative, pulled = pull_back(
            self.prepared.features, self.prepared.streams, self.loss, self.z, bias
        )
        primal = float(self.loss.value(scores.double(), totals.targets.double())) / totals.rows
        primal += self.beta * float(self.regulariser.value(self.by_gate(self.z).double()))
        self.measure_curvature(scores, negative)
        point = balanced(kind, negative.double(), totals.targets.double())
        slopes = point.pull(pulled, totals.cross, totals.feature_sum)
        dual = best_dual_value(
            kind, totals.targets.double(), self.beta, point.values, self.by_gate(slopes)[None]
        )
        if primal - dual < self.best_gap:
            self.best_gap, self.best_weights, self.best_bias = primal - dual, self.z, bias
        drift = negative.sum(0)
        self.anchor, self.slope = self.z, pulled - torch.outer(drift, totals.mean)
        self.anchor_bias = bias + drift / (totals.rows * self.curvature)
        if not len(self.u):
            self.u = self.nearest_subgradient() / (self.curvature * self.metric.rho)
        return primal, dual

    def measure_curvature(self, scores: Tensor, negative: Tensor) -> None:
        """Set s to the mean curvature of the loss on the way from the last point to this one.

        The bound on it that holds everywhere is five times too large where classes are many and
        scores small; the larger of two measurements keeps s from being too small.
        """
        if self.prepared.kind.loss == "squared":
            return
        if self.seen is not None:
            change, bend = scores - self.seen[0], self.seen[1] - negative
            moved = change - change.mean(0)  # the intercept follows the mean by itself
            square = float(moved.square().sum())
            if square > LEAST_MOVED * float(change.square().sum()):
                measured = float((moved * bend).sum()) / square
                bound = CURVATURE[self.prepared.kind.loss]
                if measured > LEAST_CURVATURE:  # less is rounding: the loss is convex
                    self.curvatures = [*self.curvatures[-1:], min(measured, bound)]
                    self.set_curvature(max(self.curvatures))
        self.seen = scores, negative

    def set_curvature(self, curvature: float) -> None:
        """Change s; the slope that U stands for stays the same."""
        self.u = self.u * (self.curvature / curvature)
        self.curvature = curvature

    def step(self) -> None:
        """One step of ADMM on the model."""
        rho = self.metric.rho
        right = self.slope / self.curvature + rho * (self.z - self.u - self.anchor)
        self.x = self.anchor + self.metric.solve(right.T.contiguous()).T
        relaxed = RELAXATION * self.x + (1 - RELAXATION) * self.z
        moved = relaxed + self.u
        step = self.totals.rows * self.beta / (self.curvature * rho)
        self.before = self.z
        self.z = self.regulariser.prox(self.by_gate(moved), step).reshape(moved.shape)
        self.u = moved - self.z

    def intercept(self, weights: Tensor) -> Tensor:
        """b(V), (k,)."""
        return self.anchor_bias - (weights - self.anchor) @ self.totals.mean

    def nearest_subgradient(self) -> Tensor:
        """S, moved to where n beta R has a subgradient: what S is at the optimum."""
        slope, weight = self.by_gate(self.slope), self.totals.rows * self.beta
        if not isinstance(self.regulariser, Norm):
            return weight * self.z
        # Moreau: what the proximal map of a norm leaves is the projection on its dual ball.
        return (slope - self.regulariser.prox(slope, weight)).reshape(self.slope.shape)

    def by_gate(self, weights: Tensor) -> Tensor:
        """(k, cells, g, d) from (k, m)."""
        return weights.view(-1, *self.prepared.features.shape)
