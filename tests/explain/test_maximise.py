"""Ascent between pixel bounds: exact where the maximum is known, and never below its start."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convexcnn.errors import DataError, SettingError
from convexcnn.explain.filters import strongest_filters
from convexcnn.explain.maximise import box_maximum, maximise_input
from convexcnn.explain.scorer import as_module

SHAPE = (3, 4, 4)


@pytest.mark.parametrize("bounds", [(0.0, 255.0), (-1.0, 1.0), (np.full((3, 3, 3), -2.0), 0.5)])
def test_one_unit_reaches_its_closed_form(convex_model, bounds) -> None:
    found = strongest_filters(convex_model, 2)
    unit, bias = found.filters[1, 0], float(found.biases[1, 0])
    image, value = box_maximum(unit, bias, *bounds)
    assert value == pytest.approx(float((unit * image).sum() + bias), rel=1e-5)
    weights = torch.from_numpy(unit)
    climbed = maximise_input(
        lambda x: (x * weights).sum((1, 2, 3)) + bias,
        image_shape=unit.shape,
        lower=bounds[0],
        upper=bounds[1],
    )
    np.testing.assert_allclose(climbed.values, value, rtol=1e-4)
    np.testing.assert_allclose(climbed.best[unit != 0], image[unit != 0], rtol=1e-4, atol=1e-4)


def test_classes_of_a_classifier_are_climbed_within_bounds(model) -> None:
    steps = []
    found = maximise_input(
        model, 1, lower=20, upper=200, starts=3, steps=30, progress=lambda *s: steps.append(s)
    )
    assert found.images.shape == (3, 3, 9, 9)
    assert found.images.min() >= 20
    assert found.images.max() <= 200
    assert (found.values > found.start_values).all()
    with (
        torch.no_grad()
    ):  # by the module: on the border of a gate rounding decides between two scores
        reached = as_module(model)(torch.from_numpy(found.images))[:, 1]
    np.testing.assert_allclose(found.values, reached, rtol=1e-3, atol=1e-3)
    assert steps[-1][1] == 30


def test_a_module_is_climbed_in_its_evaluation_mode() -> None:
    network = torch.nn.Sequential(
        torch.nn.BatchNorm2d(3), torch.nn.Dropout(), torch.nn.Flatten(), torch.nn.Linear(48, 2)
    )
    network[1].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = maximise_input(network, 1, image_shape=SHAPE, steps=5)
    assert [part.training for part in network] == [True, False, True, True]
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    reached = network.eval()(torch.from_numpy(found.images))[:, 1].detach()
    np.testing.assert_allclose(found.values, reached, rtol=1e-5)


def test_given_starts_are_used_and_the_end_is_noticed() -> None:
    steps = []
    found = maximise_input(
        lambda x: -(x - 3).square().sum((1, 2, 3)),
        image_shape=SHAPE,
        starts=np.full((2, *SHAPE), 300.0),
        progress=lambda *s: steps.append(s),
    )
    np.testing.assert_allclose(found.images, 3, atol=1e-2)
    assert len(steps) < 200


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({}, SettingError, "image_shape is not given"),
        ({"image_shape": SHAPE, "lower": 2, "upper": 1}, SettingError, "exchange"),
        ({"image_shape": SHAPE, "lower": np.zeros(7)}, DataError, "broadcast"),
        ({"image_shape": SHAPE, "starts": 0}, SettingError, "1 or more"),
        ({"image_shape": SHAPE, "starts": np.zeros((1, 2))}, DataError, "starts has shape"),
        ({"image_shape": SHAPE}, SettingError, "name the column"),
        ({"image_shape": SHAPE, "starts": 1.5}, SettingError, "starts is 1.5"),
        ({"image_shape": SHAPE, "steps": 1.5}, SettingError, "steps is 1.5"),
        ({"image_shape": SHAPE, "lower": np.nan}, SettingError, "or NaN"),
        ({"image_shape": SHAPE, "target": 1.5}, SettingError, "target is 1.5"),
        ({"image_shape": SHAPE, "target": 9}, SettingError, "choose one of 0 to 3"),
    ],
)
def test_what_cannot_work_is_refused(settings, error, words) -> None:
    with pytest.raises(error, match=words):
        maximise_input(lambda x: x.mean(1).flatten(1)[:, :4], **settings)
