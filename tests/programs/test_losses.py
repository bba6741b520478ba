"""Losses agree with torch's and with the reference, and their gradients with autograd."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, mse_loss, one_hot

from convexcnn import reference
from convexcnn.errors import SettingError
from convexcnn.programs.losses import LOSSES, get_loss
from small import generator

SCORES = 3 * torch.randn(9, 4, generator=generator(), dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 3])
TARGETS = one_hot(LABELS, 4).double()

TORCH = {
    "squared": lambda scores: 0.5 * mse_loss(scores, TARGETS, reduction="sum"),
    "cross_entropy": lambda scores: cross_entropy(scores, LABELS, reduction="sum"),
}

EVERY_LOSS = pytest.mark.parametrize("name", LOSSES)


def test_every_loss_has_an_oracle():
    assert set(TORCH) == set(LOSSES) == set(reference.LOSSES)


@EVERY_LOSS
def test_values_and_gradients_are_those_of_torch(name):
    loss = get_loss(name)
    scores = SCORES.clone().requires_grad_()
    expected = TORCH[name](scores)
    expected.backward()
    torch.testing.assert_close(loss.value(SCORES, TARGETS), expected.detach())
    torch.testing.assert_close(loss.gradient(SCORES, TARGETS), scores.grad)


@EVERY_LOSS
def test_the_mean_over_images_is_the_reference(name):
    mean = float(get_loss(name).value(SCORES, TARGETS)) / len(SCORES)
    assert mean == pytest.approx(reference.LOSSES[name](SCORES, TARGETS), rel=1e-14)


@EVERY_LOSS
def test_losses_lie_above_their_tangents(name):
    """f(z) >= f(x) + <f'(x), z - x>: convexity."""
    loss = get_loss(name)
    source = generator(1)
    for scale in (0.01, 1.0, 30.0):
        step = scale * torch.randn(SCORES.shape, generator=source, dtype=torch.float64)
        tangent = loss.value(SCORES, TARGETS) + (loss.gradient(SCORES, TARGETS) * step).sum()
        assert loss.value(SCORES + step, TARGETS) >= tangent


@pytest.mark.parametrize(("name", "expected"), [("squared", 0.5), ("cross_entropy", math.log(4))])
def test_predicting_zero_scores_a_half_or_the_log_of_the_classes(name, expected):
    value = float(get_loss(name).value(torch.zeros_like(SCORES), TARGETS)) / len(SCORES)
    assert value == pytest.approx(expected, rel=1e-14)


def test_cross_entropy_survives_enormous_scores():
    loss = get_loss("cross_entropy")
    assert torch.isfinite(loss.value(1e4 * SCORES, TARGETS))
    assert torch.isfinite(loss.gradient(1e4 * SCORES, TARGETS)).all()


def test_an_unknown_loss_is_a_wrong_setting():
    with pytest.raises(SettingError, match="loss 'hinge' is not known; choose one of squared,"):
        get_loss("hinge")
