"""The convex classifier: its optimum is the reference's, certified, and its filters explain it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

from convexcnn import reference
from convexcnn.errors import DataError, SettingError
from convexcnn.models import descent, two_layer
from convexcnn.models.gates import choose_gates
from convexcnn.models.memory_plan import MemoryPlan
from convexcnn.programs.gated import PenalisedConeProgram
from convexcnn.solvers.direct import Direct
from convexcnn.solvers.registry import RIDGE_SOLVERS
from convexcnn.solvers.result import best_point
from convexcnn.solvers.sgd import SGD
from small import one_hot, stripes
from tiny_models import convex

IMAGES, LABELS = stripes(60)
TAKEN = 10 - MemoryPlan.of(10.0, IMAGES).usable_gb
"""Memory in GB of Python, torch and these images."""
K = 3


def pictures(model, images=IMAGES):
    """Scaled images as the model sees them, float64, mirrored if it was trained on mirrors."""
    scaled = model.scaler_.transform(images).astype(np.float64)
    return np.concatenate([scaled, scaled[..., ::-1]]) if model.augment == "flip" else scaled


def loops(model, images):
    """Phi (n, features) of scaled images under the model's gates, by the reference."""
    transform = model.transform_.double()
    raw = reference.patches(images, model.filter_size, model.stride, model.padding)
    x = reference.coordinates(raw, transform.mean, transform.projection, transform.constant)
    return reference.gated_features(x, model.gates_, model.pooling).reshape(len(images), -1)


ARCHITECTURES = [
    {},
    {"pooling": 1, "stride": 1},
    {"padding": 1, "pooling": 3, "stride": 3},
    {"gates": "gaussian", "whiten": None},
    {"gates": "gaussian", "whiten": None, "centre": False, "augment": "none"},
    {"gates": "sgd", "n_gates": 3},
    {"solver": "kernel"},
]


@pytest.mark.parametrize("settings", ARCHITECTURES, ids=str)
def test_the_optimum_is_the_references(settings):
    model = convex(**settings).fit(IMAGES, LABELS)
    images = pictures(model)
    phi, targets = loops(model, images), one_hot(LABELS, K)
    if model.augment == "flip":
        targets = np.concatenate([targets, targets])
    weights, bias = reference.ridge_optimum(phi, targets, model.beta_)
    best = reference.gated_objective(phi, weights, bias, targets, model.beta_)
    found = reference.gated_objective(
        phi, model.coef_.flatten(1), model.intercept_, targets, model.beta_
    )
    assert best * (1 - 1e-9) <= found <= best * (1 + 1e-5)
    np.testing.assert_allclose(
        model.scores(IMAGES), phi[: len(IMAGES)] @ weights.T + bias, atol=5e-3
    )


@pytest.mark.parametrize("settings", ARCHITECTURES, ids=str)
def test_the_optimum_is_certified(settings):
    model = convex(**settings).fit(IMAGES, LABELS)
    certificate = model.certify(IMAGES, LABELS)
    assert -1e-12 < certificate.relative_gap < 1e-5
    assert f"these {len(model.gates_)} gates" in certificate.scope
    assert certificate.primal < 0.5  # better than predicting zero


@pytest.mark.parametrize(
    "settings",
    [{"gates": "gaussian", "whiten": None}, {"gates": "patches"}, {"gates": "sgd"}],
    ids=str,
)
def test_an_even_background_does_not_spoil_the_certificate(settings):
    """No gate may leave the side of a patch that occurs everywhere to rounding."""
    images = np.pad(IMAGES, ((0, 0), (0, 0), (4, 4), (4, 4)), constant_values=17)
    model = convex(n_gates=8, betas=1e-3, **settings).fit(images, LABELS)
    assert model.certify(images, LABELS).relative_gap < 1e-5


def test_labels_of_any_kind_are_certified():
    names = np.array(["ash", "beech", "cedar"])[LABELS]
    by_name = convex().fit(IMAGES, names).certify(IMAGES, names)
    assert by_name == convex().fit(IMAGES, LABELS).certify(IMAGES, LABELS)


@pytest.mark.parametrize(
    ("X", "y", "complaint"),
    [
        (IMAGES, LABELS + 1, "out of the 3 that the model was trained on"),
        (IMAGES, LABELS[1:], "one label for each of the 60 images"),
        (IMAGES[..., 1:], LABELS, "the model was trained on"),
    ],
)
def test_other_images_or_labels_are_not_certified(trained, X, y, complaint):
    with pytest.raises(DataError, match=complaint):
        trained["convex"].certify(X, y)


def test_an_untrained_model_is_not_certified():
    with pytest.raises(NotFittedError, match="call fit first"):
        convex().certify(IMAGES, LABELS)


def test_a_worse_solution_has_a_larger_gap():
    model = convex(betas=1e-3).fit(IMAGES, LABELS)
    optimum = model.certify(IMAGES, LABELS)
    model.coef_ = model.coef_ * 0.9
    worse = model.certify(IMAGES, LABELS)
    assert worse.gap > 100 * abs(optimum.gap)
    assert worse.dual <= optimum.primal <= worse.primal


def test_sgd_goes_towards_the_certified_optimum():
    gaps = []
    for epochs in (1, 30):
        solver = SGD(epochs=epochs, batch_size=20, learning_rate=0.02)
        model = convex(solver=solver, betas=0.01, augment="none").fit(IMAGES, LABELS)
        gaps.append(model.certify(IMAGES, LABELS).relative_gap)
    assert 0 < gaps[1] < 0.5 * gaps[0]


def test_only_what_can_be_certified_is():
    solver = SGD(epochs=1, batch_size=20)
    for settings in ({"formulation": "relu-penalised"}, {}):
        model = convex(solver=solver, **settings).fit(IMAGES, LABELS)
        with pytest.raises(SettingError, match="certificate"):
            model.certify(IMAGES, LABELS)


def test_beta_is_chosen_from_the_path_by_validation(trained):
    model = trained["convex"]
    assert len(model.path_) == 13
    assert model.beta_ == best_point(model.solution_.path, round(0.1 * len(LABELS))).beta
    assert all(point["train"]["loss"] > 0 for point in model.path_)


@pytest.mark.parametrize("betas", [0.02, [0.02], (0.02,), np.array([0.02]), 1])
def test_one_beta_needs_no_held_out_images(betas):
    model = convex(betas=betas, validation_fraction=0.0).fit(IMAGES, LABELS)
    assert model.beta_ == np.ravel(betas)[0]
    assert model.temperature_ == 1
    assert model.n_train_ == 60


def test_a_solver_object_brings_its_own_settings():
    named = convex(solver="direct", betas=[0.01, 0.1]).fit(IMAGES, LABELS)
    given = convex(solver=Direct([0.01, 0.1])).fit(IMAGES, LABELS)
    torch.testing.assert_close(given.coef_, named.coef_)
    assert given.solution_.solver == "direct"


@pytest.mark.parametrize(("n_gates", "expected"), [(1, "direct"), (16, "kernel")])
def test_auto_takes_the_smaller_system(n_gates, expected):
    model = convex(n_gates=n_gates, betas=0.01, augment="none").fit(IMAGES, LABELS)
    assert model.solution_.solver == expected


@pytest.mark.parametrize("solver", ["auto", *RIDGE_SOLVERS])
def test_memory_is_counted_before_it_is_taken(solver):
    with pytest.raises(SettingError, match=r"need .* GB with solver .*; lower n_gates \(now 4\)"):
        convex(solver=solver, memory_gb=TAKEN + 1e-6).fit(IMAGES, LABELS)


def test_the_default_number_of_gates_fits_the_memory():
    assert len(convex(n_gates=None, betas=0.1).fit(IMAGES, LABELS).gates_) == 128
    settings = {"n_gates": None, "betas": 0.1, "solver": "direct"}
    tight = convex(**settings, memory_gb=TAKEN + 0.01).fit(IMAGES, LABELS)
    assert 1 < len(tight.gates_) < 128


def test_the_penalised_program_trains_by_sgd(monkeypatch):
    """What it predicts with is V - W."""
    programs = []

    class Recorded(PenalisedConeProgram):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            programs.append(self)

    monkeypatch.setattr(descent, "PenalisedConeProgram", Recorded)
    solver = SGD(epochs=30, batch_size=20, learning_rate=0.05)
    model = convex(formulation="relu-penalised", solver=solver, centre=False, betas=1e-3)
    assert model.fit(IMAGES, LABELS).score(IMAGES, LABELS) > 0.6
    assert not model.intercept_.any()
    v, w = programs[0].weights
    assert torch.equal(model.coef_.flatten(1), v - w)


def test_cross_entropy_trains_by_sgd():
    solver = SGD(epochs=30, batch_size=20, learning_rate=0.05)
    model = convex(loss="cross_entropy", solver=solver).fit(IMAGES, LABELS)
    assert model.score(IMAGES, LABELS) > 0.8


# Filters


@pytest.mark.parametrize("settings", [{}, {"gates": "gaussian", "whiten": None}], ids=str)
def test_filters_come_by_class_strongest_first(settings):
    model = convex(pooling=1, **settings).fit(IMAGES, LABELS)
    found = model.filters(3)
    assert found["convex"].shape == (K, 3, 1, 3, 3)
    assert found["convex"].dtype == found["convex_strength"].dtype == np.float32
    norms = model.coef_.flatten(1, 2).norm(dim=2).sort(descending=True).values
    np.testing.assert_allclose(found["convex_strength"], norms[:, :3])


def test_there_are_at_most_as_many_filters_as_cells_and_gates(trained):
    model = trained["convex"]
    assert model.filters(1000)["convex"].shape[:2] == (K, 4 * 4)
    assert model.filters()["convex_strength"].shape == (K, 16)


@pytest.mark.parametrize("settings", [{}, {"gates": "gaussian", "whiten": None}], ids=str)
def test_filters_are_the_weights_as_functions_of_raw_patches(settings):
    """On pixels a filter adds to the score what V adds in the coordinates, but a constant."""
    model = convex(**settings).fit(IMAGES, LABELS)
    raw = reference.patches(pictures(model)[:2], 3, 2).reshape(-1, 9)
    transform = model.transform_.double()
    x = reference.coordinates(raw, transform.mean, transform.projection, transform.constant)
    found = model.filters(4)
    for c in range(K):
        columns = model.coef_[c].flatten(0, 1).double()
        order = columns.norm(dim=1).argsort(descending=True)[:4]
        expected = x @ columns[order].T.numpy()
        values = raw @ found["convex"][c].reshape(4, 9).T
        constant = expected - values
        np.testing.assert_allclose(constant, constant[:1].repeat(len(raw), 0), atol=1e-5)


@pytest.mark.parametrize("gates", ["sgd", "patches"])
@pytest.mark.parametrize("betas", [None, 0.1])
def test_no_gate_is_learned_from_images_that_choose_beta(gates, betas, monkeypatch):
    seen = []

    def choose(strategy, n_gates, stream, *rest):
        seen.append(len(stream.images))
        return choose_gates(strategy, n_gates, stream, *rest)

    monkeypatch.setattr(two_layer, "choose_gates", choose)
    model = convex(gates=gates, betas=betas).fit(IMAGES, LABELS)
    assert seen == [54 if gates == "sgd" and betas is None else 60]
    assert model.certify(IMAGES, LABELS).relative_gap < 1e-5  # of the program of all images
