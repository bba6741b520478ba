"""Blocks that nothing can be learned from, or that nothing follows, say so; samples are even."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convexcnn import ConvexConvClassifier
from convexcnn.errors import DataError, SettingError
from convexcnn.models import Block, LayerwiseConvexCNN, neuron_training
from convexcnn.models.block_training import solver_outcome
from convexcnn.models.neuron_training import SAMPLE, spread
from convexcnn.solvers.optimum import Status
from convexcnn.solvers.result import Solution
from small import stripes

IMAGES, LABELS = stripes(60)
LARGE_BETA = Block(
    n_gates=5,
    gates="gaussian",
    head="patches",
    whiten=None,
    regulariser="nuclear",
    loss="squared",
    betas=[1e6],
)


def test_a_block_that_keeps_no_neuron_cannot_be_followed():
    model = LayerwiseConvexCNN(blocks=[LARGE_BETA, Block(n_gates=5, pooling=1)])
    with pytest.raises(SettingError, match=r"block 1 keeps no neuron at beta 1e\+06.*smaller beta"):
        model.fit(IMAGES, LABELS)


def test_the_last_block_may_keep_none():
    found = LayerwiseConvexCNN(blocks=[LARGE_BETA]).fit(IMAGES, LABELS)
    assert float(found.blocks_[0].weights.abs().max()) < 1e-6


@pytest.mark.parametrize("gates", ["sgd", "dual", "gaussian"])
@pytest.mark.parametrize("regulariser", ["l2", "nuclear"])
def test_constant_images_are_named(gates, regulariser):
    block = Block(n_gates=4, gates=gates, regulariser=regulariser, epochs=1)
    with pytest.raises(DataError, match=r"block 1: its features are the same .* images are not"):
        LayerwiseConvexCNN(blocks=[block]).fit(np.zeros_like(IMAGES), LABELS)


@pytest.mark.parametrize("settings", [{}, {"loss": "cross_entropy"}, {"regulariser": "group"}])
def test_constant_images_are_named_by_one_block_too(settings):
    model = ConvexConvClassifier(
        n_gates=3, filter_size=3, whiten=None, gates="gaussian", **settings
    )
    with pytest.raises(DataError, match="the features of all training images are the same"):
        model.fit(np.zeros_like(IMAGES), LABELS)


@pytest.mark.parametrize("status", Status)
def test_what_to_do_about_a_block_that_stops_early_is_possible(status):
    nothing = torch.zeros(1)
    outcome = solver_outcome(Solution(nothing, nothing, 1.0, "admm", 0.06, status=status), "")
    assert (outcome["advice"] == "") == (status is Status.OPTIMAL)
    assert "max_iterations" not in outcome["advice"]
    if status is Status.ITERATION_LIMIT:
        assert "raise tolerance" in outcome["advice"]


def test_samples_are_spread_over_all_rows():
    rows = np.arange(0, 4 * SAMPLE, 2)
    found = spread(rows)
    assert len(found) == len(np.unique(found)) == SAMPLE
    assert found[0] == 0
    assert found[-1] >= 4 * SAMPLE - 4
    assert set(np.diff(found)) <= {4}
    np.testing.assert_array_equal(spread(rows[:7]), rows[:7])


def test_betas_of_images_that_lie_class_by_class_are_those_of_shuffled_ones(monkeypatch):
    monkeypatch.setattr(neuron_training, "spread", lambda rows: spread(rows, 20))
    order = np.argsort(LABELS, kind="stable")
    block = Block(n_gates=6, gates="gaussian")
    betas = []
    for rows in (np.arange(60), order):
        model = LayerwiseConvexCNN(blocks=[block], augment="none").fit(IMAGES[rows], LABELS[rows])
        betas.append(model.blocks_[0].path[0]["beta"])
    assert betas[0] == pytest.approx(betas[1], rel=0.3)
