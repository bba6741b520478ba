"""Data and settings at the edge of what makes sense: solved, or refused in words; never wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convexcnn.errors import DataError, SettingError
from convexcnn.models.proof import prove
from small import stripes
from tiny_models import convex

IMAGES, LABELS = stripes(24, 3)
NOISE = np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8), dtype=np.uint8)
COINS = np.random.default_rng(0).integers(0, 2, 20)


@pytest.mark.parametrize(
    ("regulariser", "solver", "beta"),
    [("group", "fista", 1e-3), ("group", "admm", 1e-3), ("nuclear", "admm", 1e-4)],
)
def test_labels_without_a_pattern_are_fitted_to_the_optimum(regulariser, solver, beta):
    """Iterates go past the labels here, where a bound that may turn around is none."""
    model = convex(
        n_gates=6, betas=beta, regulariser=regulariser, solver=solver, augment="none"
    ).fit(NOISE, COINS)
    bound = model.certify(NOISE, COINS)
    assert model.solution_.relative_gap > -1e-5
    assert 0 < bound.relative_gap <= 1.2e-3


def test_cones_and_softmax_end():
    settings = {"formulation": "relu", "regulariser": "group", "loss": "cross_entropy"}
    model = convex(betas=0.01, solver="cone-columns", augment="flip+crop", **settings)
    assert model.fit(IMAGES, LABELS).certify(IMAGES, LABELS).relative_gap < 2e-3


def test_more_gates_than_patches_are_as_many_as_there_are():
    images, labels = stripes(6, 2)
    model = convex(gates="dual", n_gates=400, betas=0.01, regulariser="group")
    found = model.fit(images, labels)
    assert len(found.gates_) == 6 * 9
    assert found.certify(images, labels).relative_gap < 2e-3


@pytest.mark.parametrize("regulariser", ["group", "nuclear"])
def test_a_model_without_neurons_is_proven_and_is_a_network(regulariser):
    model = convex(betas=1e3, regulariser=regulariser).fit(IMAGES, LABELS)
    assert not model.coef_.any()
    proof = prove(model, IMAGES, LABELS)
    assert proof.relu_network.neurons == 0
    images = torch.from_numpy(model.scaler_.transform(IMAGES)).double()
    scores = model.to_relu(IMAGES)(images).detach().numpy()
    np.testing.assert_allclose(scores, model.scores(IMAGES), atol=1e-6)


@pytest.mark.parametrize("weights", ["sample", "class"])
def test_a_class_of_no_weight_is_absent_from_the_certificate_too(weights):
    labels = LABELS.copy()
    labels[0] = 7
    if weights == "sample":
        weighed = {"sample_weight": (labels != 7).astype(float)}
        model = convex(betas=0.01)
    else:
        weighed = {}
        model = convex(betas=0.01, class_weight={0: 1.0, 1: 1.0, 2: 1.0, 7: 0.0})
    model.fit(IMAGES, labels, **weighed)
    assert list(model.classes_) == [0, 1, 2]
    assert model.certify(IMAGES, labels, **weighed).relative_gap < 1e-5


def test_a_cell_without_a_patch_has_no_walls():
    """Padding that whole cells lie in, of patches without a constant: nothing is learned there."""
    model = convex(
        **{"formulation": "relu", "regulariser": "group", "whiten": None, "gates": "gaussian"},
        **{"padding": 3, "filter_size": 3, "stride": 3, "pooling": 4},
        **{"augment": "none", "betas": 0.01},
    ).fit(IMAGES, LABELS)
    assert model.coef_.isfinite().all()
    assert model.certify(IMAGES, LABELS).relative_gap < 2e-3


def test_cells_of_few_patches_are_certified_from_a_stream(monkeypatch):
    images, labels = stripes(160, 2, size=11)
    settings = {"filter_size": 3, "stride": 2, "pooling": 3, "n_gates": 2, "augment": "none"}
    model = convex(formulation="relu", regulariser="group", betas=0.02, **settings)
    model.fit(images, labels)
    monkeypatch.setattr("convexcnn.models.proof.GATHERED", 0)
    assert model.certify(images, labels).relative_gap < 0.1


def test_max_pooling_is_certified_with_its_own_cones_however_many(monkeypatch):
    settings = {"formulation": "relu", "regulariser": "group", "pool": "max", "augment": "none"}
    model = convex(betas=0.01, n_gates=2, **settings).fit(*stripes(20, 2))
    bound = model.certify(*stripes(20, 2))
    monkeypatch.setattr("convexcnn.models.proof.GATHERED", 0)
    assert model.certify(*stripes(20, 2)) == bound
    assert bound.relative_gap < 2e-3


def test_a_beta_that_no_number_holds_is_refused():
    with pytest.raises(SettingError, match=r"solver kernel found no finite weights at beta 1e\+37"):
        convex(betas=1e37, solver="kernel").fit(IMAGES, LABELS)


def test_a_tiny_beta_is_solved_without_its_coarse_start():
    model = convex(betas=1e-9, solver="cg").fit(IMAGES, LABELS)
    assert model.coef_.isfinite().all()


@pytest.mark.parametrize("beta", [np.int64(1), np.float32(1), 1])
def test_any_real_number_is_a_beta_and_true_is_none(beta):
    assert convex(betas=beta).fit(IMAGES, LABELS).beta_ == 1.0
    with pytest.raises(SettingError, match="betas is True"):
        convex(betas=True).fit(IMAGES, LABELS)


def test_weights_without_a_sum_are_refused():
    with pytest.raises(DataError, match="weights of images are negative, infinite or NaN"):
        convex(betas=0.1).fit(IMAGES, LABELS, sample_weight=np.full(24, 1e308))


def test_no_images_and_no_filters_are_refused(trained):
    model = trained["convex"]
    with pytest.raises(DataError, match="of the 0 images"):
        model.certify(IMAGES[:0], LABELS[:0])
    with pytest.raises(DataError, match="X has no images"):
        model.to_relu(IMAGES[:0])
    for count in (0, -1):
        with pytest.raises(SettingError, match="give a whole number, 1 or more"):
            model.filters(count)


@pytest.mark.parametrize("formulation", ["gated", "relu"])
def test_certifying_tells_of_all_rows(formulation):
    model = convex(formulation=formulation, regulariser="group", betas=0.02, n_gates=2, whiten=3)
    done = []
    model.fit(IMAGES, LABELS).certify(IMAGES, LABELS, progress=done.append)
    assert done[-1] == len(model.training_stream(IMAGES, LABELS))
