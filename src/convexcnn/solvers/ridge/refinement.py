"""Iterative refinement of ridge regressions: the duality gap by a float64 pass, then a correction.

For  minimise (1/2n) |Phi V + 1 b' - Y|^2 + (beta/2) |V|^2  with b the mean residual, the residual
R = Y - Phi V - 1 b' is a dual point, and the gap between V and R is

    |G|^2 / (2 beta),   G = beta V - Phi' R / n,

the gradient of the program with b minimised out. One pass over the images yields R and G. Where
images have weights, rows are scaled by their square roots s, 1 becomes s, and n the sum of weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.solvers.optimum import History, Status
from convexcnn.solvers.passes import row_sum, weighted_blocks

MAX_ROUNDS = 8
PROGRESS = 0.5
"""A round that does not shrink the gap to this part of the last one has met rounding."""


MEASURE_VECTORS = 8
"""Memory of a measure: as that of so many float32 vectors per class, of features and images."""


@dataclass(frozen=True)
class RidgeMeasure:
    """A ridge regression at one V, in float64.

    Args:
        primal: objective at V and the best b.
        loss: (1/2n) |R|^2, over all processes.
        gap: primal minus the dual value of the residual.
        bias: b, (k,).
        residual: R, (n, k), with columns that sum to zero; scaled where images have weights. Of
            several processes, each has its own rows.
        total: n, or the sum of the weights.
        gradient: G, (k, n_features).
        mean: of the features, (n_features,).
    """

    primal: float
    loss: float
    gap: float
    bias: Tensor
    residual: Tensor
    total: float
    gradient: Tensor
    mean: Tensor

    @property
    def relative_gap(self) -> float:
        """gap / primal."""
        return self.gap / self.primal if self.primal else 0.0


class ExactRidge:
    """One ridge regression on streamed images, evaluated in float64.

    Args:
        features: the operator Phi, of any precision.
        streams: training images, one stream after the other.
        beta: weight of (1/2) |V|^2.
    """

    def __init__(
        self, features: GatedFeatures, streams: Sequence[ImageStream], beta: float
    ) -> None:
        self.features = features.double()
        self.streams = streams
        self.beta = beta
        self.processes = streams[0].processes
        self.rows = sum(stream.size for stream in streams)
        self.total = sum(stream.total for stream in streams)

    def measure(self, weights: Tensor) -> RidgeMeasure:
        """Objective, gap, residual and gradient at V (k, n_features), in one pass."""
        v = weights.double()
        residual = v.new_empty(self.rows, len(v))
        pulled, feature_sum = torch.zeros_like(v), v.new_zeros(v.shape[1])
        roots = v.new_empty(self.rows, 1)
        for rows, phi, targets, root in weighted_blocks(self.features, self.streams):
            residual[rows] = targets - phi @ v.T
            pulled.addmm_(residual[rows].T, phi)
            roots[rows] = root
            feature_sum += row_sum(root, phi)
        drift = row_sum(roots, residual)
        self.processes.add_up(drift, pulled, feature_sum)
        bias = drift / self.total
        residual -= roots * bias
        pulled.addr_(bias, feature_sum, alpha=-1)
        gradient = pulled.div_(-self.total).add_(v, alpha=self.beta)
        loss = 0.5 * self.processes.total(float(residual.square().sum())) / self.total
        return RidgeMeasure(
            primal=loss + 0.5 * self.beta * float(v.square().sum()),
            loss=loss,
            gap=float(gradient.square().sum()) / (2 * self.beta),
            bias=bias,
            residual=residual,
            total=self.total,
            gradient=gradient,
            mean=feature_sum / self.total,
        )

    def pull(self, dual: Tensor) -> Tensor:
        """Return A' Phi (k, n_features) for A (n, k), with Phi scaled as R is, in one pass."""
        a = dual.double()
        pulled = a.new_zeros(a.shape[1], self.features.n_features)
        for rows, phi, _, _ in weighted_blocks(self.features, self.streams):
            pulled.addmm_(a[rows].T, phi)
        self.processes.add_up(pulled)
        return pulled


@dataclass(frozen=True)
class Refined:
    """Weights in the precision in which they are returned, measured as such.

    Args:
        weights: V, (k, n_features), float32.
        measure: the program at these weights.
        status: how refinement ended.
        history: one dictionary per round; see :class:`Optimum`.
    """

    weights: Tensor
    measure: RidgeMeasure
    status: Status
    history: list[dict[str, float]]


def refine(
    ridge: ExactRidge,
    weights: Tensor,
    correct: Callable[[RidgeMeasure], Tensor | None],
    tolerance: float,
) -> Refined:
    """Measure and correct V until its relative duality gap is within the tolerance.

    Args:
        ridge: what is solved.
        weights: first V, (k, n_features).
        correct: from the measure of a V to a step (k, n_features) towards the optimum, or to None
            to end here.
        tolerance: relative duality gap.

    Returns:
        The V with the smallest gap of all rounds.
    """
    history, status = History(tolerance), Status.ITERATION_LIMIT
    weights = weights.float()
    best = weights, ridge.measure(weights)
    within = history.add(best[1].primal, best[1].primal - best[1].gap)
    while not within and len(history.rows) < MAX_ROUNDS:
        step = correct(best[1])
        if step is None:
            break
        weights = (best[0].double() + step).float()
        found = ridge.measure(weights)
        within = history.add(found.primal, found.primal - found.gap)
        stalled = not found.gap <= PROGRESS * best[1].gap
        if found.gap < best[1].gap:
            best = weights, found
        if stalled and not within:
            status = Status.STALLED
            break
    if within:
        status = Status.OPTIMAL
    return Refined(*best, status, history.rows)
