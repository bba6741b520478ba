"""Stochastic descent on the factors of a nuclear norm, ended by the convex program's duality gap.

V_i = U_i W_i' turns (G) with the nuclear norm into a smooth problem without singular values
(:mod:`convexcnn.programs.factored`): mini-batches bring it near, L-BFGS over all images to the
end. The problem is not convex, but the program that it stands for is: every pass over all images
gives a dual point of (G), and what is reported is the gap to that. (Sahiner et al. 2024 bound the
same gap by their Theorem 3.4.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.programs.block import gradient_of
from convexcnn.programs.factored import FactoredProgram
from convexcnn.programs.kind import ProgramKind
from convexcnn.programs.losses import get_loss
from convexcnn.programs.regularisers import get_regulariser
from convexcnn.solvers.duality import balanced, best_dual_value
from convexcnn.solvers.optimum import History, Optimum, Status
from convexcnn.solvers.passes import image_totals, pull_back
from convexcnn.solvers.result import Callback
from convexcnn.solvers.sgd import SGD
from convexcnn.solvers.warm_path import AtBeta, BetaSolver

MEMORY = 100
"""Pairs of steps and gradients of L-BFGS; 20 need half as many passes again."""
CHUNK = 10
"""L-BFGS iterations between two looks at the gap."""
PROGRESS = 1e-9
"""Relative decrease over a chunk below which descent has stalled."""


@dataclass(frozen=True)
class BurerMonteiro(BetaSolver):
    """Adam on mini-batches, then L-BFGS on all images, of the factors of every V_i.

    Args:
        tolerance: relative duality gap of the convex program.
        rank: columns of the factors; None for as many as V_i can have, with which no descent
            ends at a local minimum that is not global.
        epochs: passes of the stochastic descent; 0 for none.
        batch_size: images per step.
        learning_rate: largest rate of Adam's one cycle.
        max_iterations: of L-BFGS, each about one pass over all images.
        seed: of the starting point and the mini-batches.
    """

    tolerance: float = 1e-3
    rank: int | None = None
    epochs: int = 5
    batch_size: int = 250
    learning_rate: float = 1e-2
    max_iterations: int = 500
    seed: int = 0

    name = "burer-monteiro"

    def handles(self, kind: ProgramKind) -> bool:
        return (kind.formulation, kind.regulariser) == ("gated", "nuclear")

    def prepare(
        self,
        kind: ProgramKind,
        features: GatedFeatures,
        streams: Sequence[ImageStream],
        callback: Callback | None = None,
    ) -> AtBeta:
        self.check(kind)
        images = _AllImages(kind, features, streams)

        @torch.no_grad()
        def at_beta(beta: float, start: Optimum | None) -> Optimum:
            generator = torch.Generator().manual_seed(self.seed)
            program = self._program(kind, features, streams[0].n_classes, beta, generator)
            if start is not None:
                program.start_at(start.weights, start.bias)
            history = History(self.tolerance)
            if self.epochs:
                sgd = SGD(self.epochs, self.batch_size, self.learning_rate, method="adam")
                joined = _joined(streams)
                sgd.solve(program, joined, generator=generator, callback=callback, beta=beta)
            return self._finish(program, images, history, callback)

        return at_beta

    def _program(
        self,
        kind: ProgramKind,
        features: GatedFeatures,
        n_classes: int,
        beta: float,
        generator: torch.Generator,
    ) -> FactoredProgram:
        cells, _, dim = features.shape
        return FactoredProgram(
            features,
            n_classes,
            get_loss(kind.loss),
            rank=self.rank or min(dim, cells * n_classes),
            beta=beta,
            intercept=kind.intercept,
            generator=generator,
        )

    def _finish(
        self,
        program: FactoredProgram,
        images: _AllImages,
        history: History,
        callback: Callback | None,
    ) -> Optimum:
        """Descend with all images until the gap is small, and return the best point seen."""
        program.refine()
        best = _Best(program)
        lbfgs = torch.optim.LBFGS(
            program.parameters,
            max_iter=CHUNK,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            history_size=MEMORY,
            line_search_fn="strong_wolfe",
        )

        def evaluate() -> float:
            objective, primal, dual = images.measure(program)
            best.see(objective, primal, dual)
            history.add(best.primal, best.dual)
            if callback is not None:
                row = {**history.rows[-1], "phase": "all images", "step": len(history.rows)}
                callback({**row, "steps": None, "beta": program.beta})
            return objective

        status, before = Status.ITERATION_LIMIT, float("inf")
        for _ in range(-(-self.max_iterations // CHUNK)):
            lbfgs.step(evaluate)  # type: ignore[no-untyped-call]
            if history.solved:
                status = Status.OPTIMAL
                break
            if best.objective > (1 - PROGRESS) * before:
                status = Status.STALLED
                break
            before = best.objective
        weights, bias = best.weights.to(images.dtype), best.bias.to(images.dtype)
        return Optimum(weights, bias, status, history.rows)


class _Best:
    """The iterate with the smallest gap to its own dual point: a certificate sees it again."""

    def __init__(self, program: FactoredProgram) -> None:
        self.program = program
        self.objective = self.primal = float("inf")
        self.dual = 0.0

    def see(self, objective: float, primal: float, dual: float) -> None:
        self.objective = min(self.objective, objective)
        if primal - dual < self.primal - self.dual:
            self.primal, self.dual = primal, dual
            self.weights, self.bias = self.program.weights, self.program.bias.clone()


class _AllImages:
    """Passes over all images: objective and gradient of the factors, and a bound of (G)."""

    def __init__(
        self, kind: ProgramKind, features: GatedFeatures, streams: Sequence[ImageStream]
    ) -> None:
        self.kind, self.features, self.streams = kind, features, streams
        self.loss = get_loss(kind.loss)
        self.regulariser = get_regulariser(kind.regulariser)
        self.totals = image_totals(features, streams)
        self.targets = self.totals.targets.double()
        self.dtype = features.gates.dtype

    def measure(self, program: FactoredProgram) -> tuple[float, float, float]:
        """Set the program's ``grad``s; return its objective, that of (G), and a bound of (G)."""
        n, weights, totals = self.totals.rows, program.weights, self.totals
        scores, negative, pulled = pull_back(
            self.features, self.streams, self.loss, weights.flatten(1), program.bias
        )
        loss = float(self.loss.value(scores.double(), self.targets)) / n
        primal = loss + program.beta * float(self.regulariser.value(weights.double()))
        program.zero_grad()
        program.pull_back(-pulled / n)
        if program.intercept:
            gradient_of(program.bias).sub_(negative.mean(0))
        objective = loss + program.regularise()
        point = balanced(self.kind, negative.double(), self.targets)
        slopes = point.pull(pulled, totals.cross, totals.feature_sum).view(1, *weights.shape)
        dual = best_dual_value(self.kind, self.targets, program.beta, point.values, slopes)
        return objective, primal, dual


def _joined(streams: Sequence[ImageStream]) -> ImageStream:
    """One stream of the images of all, mirrored like the first."""
    if len(streams) == 1:
        return streams[0]
    parts: dict[str, Any] = {
        name: np.concatenate([getattr(stream, name) for stream in streams])
        for name in ("images", "labels")
    }
    return replace(streams[0], **parts)
