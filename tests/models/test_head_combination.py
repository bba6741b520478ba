"""The combination of heads is the optimum over the simplex."""

from __future__ import annotations

import cvxpy
import numpy as np
import pytest
import torch

from convexcnn.models.head_combination import best_combination
from small import generator


def make_heads(n_heads: int, seed: int, noise: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores (B, 30, 4) around one-hot targets (30, 4)."""
    targets = torch.eye(4, dtype=torch.float64)[torch.arange(30) % 4]
    random = torch.randn(n_heads, 30, 4, generator=generator(seed), dtype=torch.float64)
    return 0.3 * targets + noise * random * torch.rand(
        n_heads, 1, 1, generator=generator()
    ), targets


def loss(weights: np.ndarray, scores: torch.Tensor, targets: torch.Tensor) -> float:
    return float(np.square(np.tensordot(weights, scores.numpy(), 1) - targets.numpy()).sum())


@pytest.mark.parametrize("n_heads", [1, 2, 3, 8])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_optimum_of_an_interior_point_method(n_heads, seed):
    scores, targets = make_heads(n_heads, seed)
    found = best_combination(scores, targets, "squared").numpy()
    assert found.min() >= 0
    assert found.sum() == pytest.approx(1, abs=1e-12)
    weights = cvxpy.Variable(n_heads, nonneg=True)
    errors = (scores - targets).flatten(1).T.numpy()
    problem = cvxpy.Problem(
        cvxpy.Minimize(cvxpy.sum_squares(errors @ weights)), [cvxpy.sum(weights) == 1]
    )
    best = problem.solve(solver="CLARABEL")
    assert loss(found, scores, targets) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_no_direction_within_the_simplex_lowers_the_loss(seed):
    scores, targets = make_heads(5, seed)
    weights = best_combination(scores, targets, "squared")
    errors = (scores - targets).flatten(1)
    gradient = errors @ (weights @ errors)
    gap = float(weights @ gradient - gradient.min())
    assert abs(gap) <= 1e-10 * float((weights @ errors).square().sum())


def test_it_fits_at_least_as_well_as_every_single_head():
    scores, targets = make_heads(4, 1)
    found = loss(best_combination(scores, targets, "squared").numpy(), scores, targets)
    assert all(found <= loss(np.eye(4)[b], scores, targets) + 1e-12 for b in range(4))


def test_heads_that_fit_exactly_or_alike_are_no_trouble():
    scores, targets = make_heads(2, 0)
    scores[1] = targets
    np.testing.assert_allclose(best_combination(scores, targets, "squared"), [0, 1], atol=1e-12)
    both = best_combination(torch.stack([targets, targets]), targets, "squared")
    assert float(both.sum()) == pytest.approx(1)
    twins = best_combination(torch.stack([scores[0], scores[0]]), targets, "squared")
    assert float(twins.sum()) == pytest.approx(1)
