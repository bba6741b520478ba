"""Images in every layout that a classifier reads have the same explanations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convexcnn.errors import DataError
from convexcnn.explain import (
    METHODS,
    block_head,
    deletion_curve,
    exact_contributions,
    faithfulness_table,
    gate_activity,
    grad_cam,
    gradient_times_input,
    maximise_input,
    occlusion_map,
)
from convexcnn.explain.scorer import as_tensor
from tiny_models import convex, layerwise, non_convex

TARGETS = np.array([0, 1, 2])
WAYS = {
    "contributions": lambda model, images: exact_contributions(model, images).patches[:, 1],
    "gates": lambda model, images: exact_contributions(model, images).gates,
    "gradient": lambda model, images: gradient_times_input(model, images, TARGETS).pixels,
    "occlusion": lambda model, images: occlusion_map(model, images, window=3),
    "gradcam": grad_cam,
    "curve": lambda model, images: (
        deletion_curve(
            model, images, np.arange(81.0)[None].repeat(3, 0).reshape(3, 9, 9), steps=3
        ).values
    ),
    **METHODS,
}


@pytest.fixture(scope="module")
def stack(data):
    """One that averages the scores of mirror images."""
    return layerwise().fit(*data)


@pytest.fixture(scope="module")
def table():
    """Rows of five numbers, and labels that their signs decide."""
    rows = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    return rows, (rows[:, 0] > 0).astype(int) + (rows[:, 1] > 0)


def explained(way, model, images):
    given = (model, images, TARGETS) if way in METHODS else (model, images)
    return np.asarray(WAYS[way](*given))


@pytest.mark.parametrize("kind", ["convex", "stack"])
@pytest.mark.parametrize("way", WAYS)
def test_channels_may_be_last(convex_model, stack, data, way: str, kind: str) -> None:
    model = {"convex": convex_model, "stack": block_head(stack, 3)}[kind]
    images = data[0][:3]
    last = torch.from_numpy(np.moveaxis(images, 1, 3).astype(np.float32))
    expected = explained(way, model, images)
    tolerance = 1e-5 * np.abs(expected).max()
    for same in (last, last.double(), last.numpy(), last.byte(), np.moveaxis(images, 1, 3)):
        np.testing.assert_allclose(explained(way, model, same), expected, atol=tolerance)


def test_tensors_keep_their_type_where_they_fit(convex_model) -> None:
    images = torch.rand(2, 3, 9, 9, dtype=torch.float64)
    assert as_tensor(images, convex_model).data_ptr() == images.data_ptr()
    assert as_tensor(images.movedim(1, 3), convex_model).dtype == torch.float64
    assert as_tensor(images.bfloat16(), convex_model).dtype == torch.float32
    of_a_module = images.movedim(1, 3)
    assert as_tensor(of_a_module).shape == (2, 9, 9, 3)
    assert as_tensor(images.numpy()[:, :, ::-1].astype(np.float32)[:, :, ::-1]).shape == (
        2,
        3,
        9,
        9,
    )
    with pytest.raises(DataError, match="trained on"):
        grad_cam(convex_model, torch.rand(2, 8, 8, 3), 0)


def test_flattened_images_are_read_as_in_training(data) -> None:
    """With channels last, if the shape that was given has them last."""
    images, labels = data
    flat = np.moveaxis(images, 1, 3).reshape(len(images), -1)
    model = convex(image_shape=(9, 9, 3)).fit(flat, labels)
    assert model.image_shape_ == (3, 9, 9)
    for way in WAYS:
        expected = explained(way, model, images[:3])
        np.testing.assert_array_equal(explained(way, model, flat[:3]), expected, err_msg=way)


@pytest.mark.parametrize("make", [convex, non_convex])
def test_models_of_tables_are_explained(table, make) -> None:
    rows, labels = table
    model = make(image_shape=(-1, 1, 1), filter_size=1, stride=1, pooling=1, whiten=None)
    model.fit(rows, labels)
    scores = model.scores(rows)[:, 1]
    limit = 1e-4 * np.abs(scores).max()
    shaped = rows[:, :, None, None]
    for given in (rows, torch.from_numpy(rows), shaped, torch.from_numpy(shaped)):
        piece = gradient_times_input(model, given, 1)
        assert piece.pixels.shape == (60, 5, 1, 1)
        total = piece.pixels.sum((1, 2, 3)) + piece.constant
        np.testing.assert_allclose(total, scores, rtol=0, atol=limit)
        assert grad_cam(model, given, 1).shape == (60, 1, 1)
    one_number = occlusion_map(model, rows, 1, window=1, stride=1, fill=0.5)
    covered = model.scores(np.full_like(rows, 0.5))[:, 1]
    np.testing.assert_allclose(one_number[:, 0, 0, 0], scores - covered, rtol=0, atol=limit)
    parts = exact_contributions(model, rows)
    np.testing.assert_allclose(parts.scores[:, 1], scores, rtol=0, atol=limit)
    assert gate_activity(model, rows).shape == (parts.gates.shape[2],)
    assert deletion_curve(model, rows, np.ones((60, 1, 1))).values.shape == (60, 17)
    table_of_methods = faithfulness_table(model, rows, steps=2)
    assert [row.method for row in table_of_methods] == [*METHODS, "random"]
    best = maximise_input(model, 1, lower=-1, upper=1, starts=2, steps=3).images
    assert gradient_times_input(model, best).pixels.shape == best.shape
