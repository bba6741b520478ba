"""Deletion, insertion and randomisation on models whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from convexcnn.errors import DataError, SettingError
from convexcnn.explain.faithfulness import (
    RANDOM,
    Curve,
    deletion_curve,
    faithfulness_table,
    insertion_curve,
)
from convexcnn.explain.methods import METHODS, occlusion_window
from convexcnn.explain.randomisation import (
    randomisation_test,
    rank_correlations,
    shuffled_copies,
)

WEIGHTS = torch.arange(16.0).view(1, 1, 4, 4)


def weighted(images: torch.Tensor) -> torch.Tensor:
    return torch.stack([(images * WEIGHTS).sum((1, 2, 3)), images.mean((1, 2, 3))], 1)


def test_curves_of_a_linear_model_are_those_of_its_sums() -> None:
    images = torch.ones(2, 1, 4, 4)
    maps = WEIGHTS[:, 0].expand(2, 4, 4)
    deleted = deletion_curve(weighted, images, maps, 0, steps=4)
    assert deleted.shares.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert deleted.values[1].tolist() == [120, 66, 28, 6, 0]
    inserted = insertion_curve(weighted, images, maps, 0, steps=4, batch_size=1)
    assert inserted.values[0].tolist() == [0, 54, 92, 114, 120]
    upside_down = deletion_curve(weighted, images, -maps, 0, steps=4)
    assert (upside_down.areas > deleted.areas).all()


def test_areas_are_by_trapezoids() -> None:
    curve = Curve(np.array([0, 0.5, 1], np.float32), np.array([[1, 1, 1], [1, 0, 0]], np.float32))
    assert curve.areas.tolist() == [1, 0.25]


def test_classifiers_are_measured_by_their_probabilities(model, data) -> None:
    maps = METHODS["occlusion"](model, data[0][:4], model.scores(data[0][:4]).argmax(1))
    curve = deletion_curve(model, data[0][:4], maps, steps=3)
    np.testing.assert_allclose(
        curve.values[:, 0], model.predict_proba(data[0][:4]).max(1), rtol=1e-5
    )
    assert insertion_curve(model, data[0][:4], maps, steps=3).values[:, -1] == pytest.approx(
        curve.values[:, 0], rel=1e-5
    )


def test_the_table_has_every_method_and_a_floor(classifiers, data) -> None:
    model, steps = classifiers["convex, padding and one cell"], []
    rows = faithfulness_table(model, data[0], steps=6, progress=lambda *step: steps.append(step))
    assert [row.method for row in rows] == [*METHODS, RANDOM]
    assert steps[-1] == (5, 5)
    floor = rows[-1]
    assert floor.randomised == {}
    for row in rows[:-1]:
        assert row.deletion < floor.deletion, row.method
        assert row.insertion > floor.insertion, row.method
        assert set(row.randomised) == {"coef", "gates"}
        assert row.randomised["gates"] < 0.9
        assert row.to_dict()["seconds"] >= 0


def test_ranks_are_correlated() -> None:
    maps = np.random.default_rng(0).normal(size=(3, 5, 5))
    np.testing.assert_allclose(rank_correlations(maps, np.exp(maps)), 1)
    np.testing.assert_allclose(rank_correlations(maps, -maps), -1)
    np.testing.assert_allclose(rank_correlations(maps, np.ones_like(maps)), 0)


def test_layers_of_a_module_are_shuffled_from_the_output_down() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    seen = [
        (name, torch.equal(other[0].weight, network[0].weight))
        for name, other in shuffled_copies(network)
    ]
    assert seen == [("3", True), ("0", False)]
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())

    def first_filter(module: nn.Module) -> np.ndarray:
        return module[0].weight.detach().numpy()  # type: ignore[index]

    similarity = randomisation_test(network, first_filter)
    assert similarity["3"] == pytest.approx(1)
    assert similarity["0"] < 0.9


def test_a_classifier_keeps_its_weights(convex_model) -> None:
    coef = convex_model.coef_.clone()
    names = [name for name, _ in shuffled_copies(convex_model)]
    assert names == ["coef", "gates"]
    assert torch.equal(coef, convex_model.coef_)


def test_windows_of_occlusion_grow_with_the_image() -> None:
    assert occlusion_window(32, 32) == (8, 2)
    assert occlusion_window(3, 50) == (1, 1)


def test_what_cannot_work_is_refused(convex_model, data) -> None:
    with pytest.raises(DataError, match="one value per pixel"):
        deletion_curve(convex_model, data[0][:2], np.zeros((2, 3)))
    with pytest.raises(SettingError, match="1 or more"):
        insertion_curve(convex_model, data[0][:2], np.zeros((2, 9, 9)), steps=0)
    with pytest.raises(SettingError, match=r"steps is 2\.5"):
        insertion_curve(convex_model, data[0][:2], np.zeros((2, 9, 9)), steps=2.5)
    with pytest.raises(SettingError, match="batch_size is 'all'"):
        deletion_curve(convex_model, data[0][:2], np.zeros((2, 9, 9)), batch_size="all")
    with pytest.raises(DataError, match="at least two"):
        faithfulness_table(convex_model, data[0][:1])
    with pytest.raises(SettingError, match="no weights"):
        next(shuffled_copies(nn.ReLU()))
