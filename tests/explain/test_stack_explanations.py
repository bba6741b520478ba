"""Stacks of blocks are explained by their scores alone; gradients and exact sums are refused."""

from __future__ import annotations

import numpy as np
import pytest

from convexcnn.errors import SettingError
from convexcnn.explain import exact_contributions, grad_cam, gradient_times_input, occlusion_map
from tiny_models import layerwise


@pytest.fixture(scope="module")
def stack(data):
    return layerwise().fit(*data)


def test_occlusion_asks_a_stack_for_its_scores(stack, data) -> None:
    images = data[0][:2]
    found = occlusion_map(stack, images, [0, 1], window=4, stride=4)
    colour = np.asarray(stack.scaler_.mean)[:, None, None]
    by_scores = occlusion_map(stack.scores, images, [0, 1], window=4, stride=4, fill=colour)
    np.testing.assert_allclose(found, by_scores, atol=1e-4)
    assert found.any()


@pytest.mark.parametrize(
    ("method", "complaint"),
    [
        (grad_cam, "model is a LayerwiseConvexCNN; give a fitted two-layer classifier"),
        (gradient_times_input, "model is a LayerwiseConvexCNN; give a fitted two-layer classifier"),
        (exact_contributions, "model is a LayerwiseConvexCNN; give a fitted ConvexConvClassifier"),
    ],
)
def test_what_needs_one_block_is_refused(stack, data, method, complaint) -> None:
    with pytest.raises(SettingError, match=complaint):
        method(stack, data[0][:2])
