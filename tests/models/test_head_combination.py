"""The combination of heads is the optimum over the simplex."""

from __future__ import annotations

from itertools import pairwise

import cvxpy
import numpy as np
import pytest
import torch

from convexcnn.models.head_combination import best_combination, combination_loss
from convexcnn.models.probabilities import fit_temperature
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


def calibrated_loss(scores: torch.Tensor, targets: torch.Tensor) -> float:
    """Mean cross-entropy at the best temperature."""
    labels = targets.argmax(1)
    temperature = fit_temperature(scores.numpy(), labels.numpy())
    return float(torch.nn.functional.cross_entropy(scores / temperature, labels))


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


@pytest.mark.parametrize("n_heads", [1, 2, 5])
@pytest.mark.parametrize("seed", range(3))
def test_by_likelihood_it_is_the_optimum_over_weights_and_temperature(n_heads, seed):
    scores, targets = make_heads(n_heads, seed)
    found = best_combination(scores, targets, "cross_entropy")
    assert float(found.min()) >= 0
    assert float(found.sum()) == pytest.approx(1, abs=1e-12)
    weights = cvxpy.Variable(n_heads, nonneg=True)
    mixed = sum(weights[b] * scores[b].numpy() for b in range(n_heads))
    losses = cvxpy.log_sum_exp(mixed, axis=1) - cvxpy.sum(
        cvxpy.multiply(mixed, targets.numpy()), axis=1
    )
    best = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum(losses) / 30)).solve(solver="CLARABEL")
    together = torch.tensordot(found, scores, 1)
    assert calibrated_loss(together, targets) == pytest.approx(best, rel=1e-5, abs=1e-6)


def test_a_further_head_does_not_raise_the_calibrated_loss():
    scores, targets = make_heads(6, 2)
    losses = [
        calibrated_loss(
            torch.tensordot(best_combination(scores[:b], targets, "cross_entropy"), scores[:b], 1),
            targets,
        )
        for b in range(1, 7)
    ]
    assert all(after <= before + 1e-6 for before, after in pairwise(losses))


def test_logits_are_weighed_by_likelihood_even_beside_a_head_of_squared_loss():
    """As estimates of one-hot targets, which they are not, good logits would get hardly a say."""
    assert combination_loss(["squared", "squared"]) == "squared"
    assert combination_loss(["cross_entropy", "squared"]) == "cross_entropy"
    scores, targets = make_heads(2, 0)
    scores[0] = 20 * (targets + 0.2 * scores[0])
    weights = {
        loss: float(best_combination(scores, targets, loss)[0])
        for loss in ("squared", combination_loss(["cross_entropy", "squared"]))
    }
    assert weights["cross_entropy"] > 2 * weights["squared"]


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
