"""Probabilities: softmax over a temperature that no other temperature beats."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import log_loss

from convexcnn.models.probabilities import fit_temperature, probabilities

RNG = np.random.default_rng(0)
SCORES = RNG.standard_normal((200, 4)).astype(np.float32)


def labels_at(temperature):
    """Labels drawn from the probabilities that the scores have at a temperature."""
    p = probabilities(SCORES, temperature)
    return np.array([np.random.default_rng(i).choice(4, p=row) for i, row in enumerate(p)])


def test_probabilities_are_the_softmax_of_scaled_scores():
    expected = np.exp(SCORES.astype(np.float64) / 0.5)
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(probabilities(SCORES, 0.5), expected)


def test_probabilities_survive_enormous_scores():
    np.testing.assert_allclose(probabilities(1e6 * SCORES, 0.01).sum(1), 1)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_the_fitted_temperature_is_the_best(temperature):
    labels = labels_at(temperature)
    found = fit_temperature(SCORES, labels)
    best = log_loss(labels, probabilities(SCORES, found), labels=range(4))
    for factor in (0.5, 0.9, 1.1, 2.0):
        assert log_loss(labels, probabilities(SCORES, factor * found), labels=range(4)) > best
    assert found == pytest.approx(temperature, rel=0.5)


def test_perfect_scores_get_a_low_temperature_and_useless_ones_a_high_one():
    assert fit_temperature(SCORES, SCORES.argmax(1)) < 0.05
    assert fit_temperature(SCORES, SCORES.argmin(1)) > 10
