"""Held-out images choose among the betas that were solved to the tolerance."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from convexcnn.programs.kind import ProgramKind
from convexcnn.solvers.lbfgs import LBFGS
from convexcnn.solvers.optimum import Optimum, Status
from convexcnn.solvers.path import PATIENCE
from convexcnn.solvers.result import best_point
from convexcnn.solvers.warm_path import BetaSolver, WarmPath
from small import GEOMETRIES, single_features, stripe_stream

KIND = ProgramKind(loss="cross_entropy")


@dataclass(frozen=True)
class GivesUp(BetaSolver):
    """Solves the largest beta only; of the others it says that it did not."""

    largest: float
    tolerance: float = 1e-4
    name = "gives-up"

    def handles(self, kind):
        return True

    def prepare(self, kind, features, streams, callback=None):
        solve = LBFGS(self.tolerance).prepare(kind, features, streams)

        def at_beta(beta: float, start: Optimum | None) -> Optimum:
            found = solve(beta, start)
            solved = beta >= self.largest
            return Optimum(
                found.weights,
                found.bias,
                Status.OPTIMAL if solved else Status.STALLED,
                found.history,
            )

        return at_beta


def test_a_path_that_ends_early_leaves_small_betas_out_once_they_do_not_help():
    train, validation = stripe_stream(160, size=7), stripe_stream(60, seed=1, size=7)
    noise = np.random.default_rng(0).integers(train.n_classes, size=80)
    train = replace(train, labels=np.concatenate([noise, train.labels[80:]]))
    features = single_features(GEOMETRIES["even cells"], 4)
    betas = [10.0 ** (1 - i) for i in range(9)]
    path = WarmPath(LBFGS(1e-3), KIND, betas, refit=False)
    assert not path.ends_early
    every = path.solve(features, train, validation).path
    path.ends_early = True
    found = path.solve(features, train, validation).path
    assert [point.beta for point in found] == betas[: len(found)]
    assert PATIENCE < len(found) < len(betas) == len(every)
    assert best_point(found, 60) is found[-1 - PATIENCE]


@pytest.mark.parametrize(("largest", "chosen"), [(3.0, 3.0), (1e-9, 1e-3), (1e9, 1e-3)])
def test_a_beta_that_was_not_solved_is_not_chosen_if_another_was(largest, chosen):
    train, validation = stripe_stream(160, size=7), stripe_stream(60, seed=1, size=7)
    features = single_features(GEOMETRIES["even cells"], 4)
    path = WarmPath(GivesUp(largest), KIND, [3.0, 1e-3], refit=False)
    solution = path.solve(features, train, validation)
    assert [point.beta for point in solution.path] == [3.0, 1e-3]
    accuracies = [point.validation["accuracy"] for point in solution.path]
    assert accuracies[1] > accuracies[0]
    assert solution.beta == chosen
    alone = WarmPath(LBFGS(1e-4), KIND, [chosen], refit=False).solve(features, train)
    torch.testing.assert_close(
        solution.weights.flatten(), alone.weights.flatten(), rtol=0.05, atol=0.02
    )
