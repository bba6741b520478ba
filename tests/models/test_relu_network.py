"""The non-convex classifier: the network that it says it is, and its filters."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convexcnn import reference
from convexcnn.solvers.sgd import SGD
from small import one_hot, stripes
from tiny_models import non_convex

IMAGES, LABELS = stripes(60)


@pytest.mark.parametrize(
    "settings",
    [{}, {"pooling": 1, "stride": 1, "padding": 1}, {"whiten": None, "centre": False}],
    ids=str,
)
def test_scores_are_those_of_the_reference_network(settings):
    model = non_convex(**settings).fit(IMAGES, LABELS)
    transform = model.transform_.double()
    scaled = model.scaler_.transform(IMAGES[:5])
    raw = reference.patches(scaled, model.filter_size, model.stride, model.padding)
    x = reference.coordinates(raw, transform.mean, transform.projection, transform.constant)
    pooled = reference.relu_features(x, model.filters_, model.pooling).reshape(5, -1)
    expected = pooled @ model.coef_.double().numpy().T + model.intercept_.double().numpy()
    np.testing.assert_allclose(model.scores(IMAGES[:5]), expected, rtol=1e-4, atol=1e-5)


def test_training_lowers_the_objective(data):
    def objective(epochs):
        solver = SGD(epochs=epochs, batch_size=20, learning_rate=0.02, method="adam")
        model = non_convex(solver=solver, augment="none", validation_fraction=0.0, beta=1e-3)
        model.fit(*data)
        transform = model.transform_.double()
        raw = reference.patches(model.scaler_.transform(IMAGES), 3, 2)
        x = reference.coordinates(raw, transform.mean, transform.projection, transform.constant)
        return reference.relu_objective(
            x,
            model.filters_,
            model.coef_,
            model.intercept_,
            one_hot(LABELS, 3),
            1e-3,
            cells=2,
            loss="cross_entropy",
        )

    assert objective(20) < 0.7 * objective(1)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_named_solvers_learn(solver):
    model = non_convex(solver=solver).fit(IMAGES, LABELS)
    assert model.score(IMAGES, LABELS) > (0.8 if solver == "adam" else 0.3)


def test_held_out_images_set_the_temperature_only():
    whole = non_convex(validation_fraction=0.0).fit(IMAGES, LABELS)
    part = non_convex(validation_fraction=0.2).fit(IMAGES, LABELS)
    assert (whole.n_train_, part.n_train_) == (60, 48)
    assert whole.temperature_ == 1 != part.temperature_


def test_filters_come_strongest_first_as_functions_of_raw_patches(trained):
    model = trained["non-convex"]
    found = model.filters(5)
    assert found["non_convex"].shape == (5, 1, 3, 3)
    assert found["non_convex"].dtype == found["non_convex_strength"].dtype == np.float32
    head = model.coef_.view(3, 4, 8).norm(dim=(0, 1))
    strength = model.filters_.norm(dim=1) * head
    order = strength.argsort(descending=True)[:5]
    np.testing.assert_allclose(found["non_convex_strength"], strength[order], rtol=1e-6)
    raw = reference.patches(model.scaler_.transform(IMAGES[:2]), 3, 2).reshape(-1, 9)
    transform = model.transform_.double()
    x = reference.coordinates(raw, transform.mean, transform.projection, transform.constant)
    constant = x @ model.filters_[order].double().numpy().T
    constant = constant - raw @ found["non_convex"].reshape(5, 9).T
    np.testing.assert_allclose(constant, constant[:1].repeat(len(raw), 0), atol=1e-5)


def test_there_are_at_most_as_many_filters_as_were_trained(trained):
    found = trained["non-convex"].filters()
    assert found["non_convex"].shape[0] == found["non_convex_strength"].shape[0] == 8
    assert torch.from_numpy(found["non_convex"]).isfinite().all()
