"""The classifier solves every convex program, to the gap asked for, and lives on as its file."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from convexcnn.certificates.certify import ConeCertificate
from convexcnn.data.dataset import ImageSplit
from convexcnn.models import load_model, save_model
from convexcnn.models.evaluation import evaluate_model
from convexcnn.patches.operator import GatedFeatures
from convexcnn.programs.kind import ProgramKind
from convexcnn.programs.neurons import relu_neurons
from convexcnn.programs.program import Program
from convexcnn.solvers.fista import Fista
from convexcnn.solvers.optimum import Status
from convexcnn.solvers.path import PathSolver
from convexcnn.solvers.result import best_point
from convexcnn.solvers.warm_path import WarmPath
from small import stripes
from tiny_models import convex

IMAGES, LABELS = stripes(30)
LOSSES = ("squared", "cross_entropy")
PROGRAMS = [
    *itertools.product(["gated"], ["l2", "group", "nuclear"], LOSSES),
    *itertools.product(["relu"], ["l2", "group"], LOSSES),
]
FORMER = {"betas": 0.02, "n_gates": 3, "whiten": 3}


def program_of(model, images=IMAGES, labels=LABELS) -> Program:
    """The program that a model was trained by, gathered in memory."""
    features = GatedFeatures(model.geometry(), model.transform_.double(), model.gates_.double())
    kind = ProgramKind(model.formulation, model.regulariser, model.loss)
    streams = [model.training_stream(images, labels)]
    return Program.from_streams(kind, _doubled(features), streams, model.beta_)


def _doubled(features):
    """Phi of images in float64."""
    pooling = features.pooling
    features.pooling = lambda images: pooling(images.double())
    return features


@pytest.fixture(scope="module", params=PROGRAMS, ids="-".join)
def solved(request):
    formulation, regulariser, loss = request.param
    settings = {"formulation": formulation, "regulariser": regulariser, "loss": loss}
    return convex(**settings, **FORMER, tolerance=1e-4).fit(IMAGES, LABELS)


def test_every_program_is_solved_and_certified(solved):
    assert solved.solution_.status is Status.OPTIMAL
    assert solved.solution_.reason
    certificate = solved.certify(IMAGES, LABELS)
    assert -1e-9 < certificate.relative_gap < 2e-4
    assert isinstance(certificate, ConeCertificate) == (solved.formulation == "relu")
    assert f"{solved.loss} loss + beta {solved.regulariser}" in certificate.program
    if isinstance(certificate, ConeCertificate):
        assert certificate.violation < 1e-6


def test_the_primal_value_is_the_objective_of_the_weights(solved):
    program = program_of(solved)
    weights, bias = solved.coef_.double(), solved.intercept_.double()
    expected = program.objective(weights, bias)
    found = solved.certify(IMAGES, LABELS).primal
    assert found == pytest.approx(expected, rel=1e-6)


def test_it_predicts_as_its_program_does_and_as_a_relu_network_for_the_exact_one(solved):
    images, _ = stripes(12, seed=5)
    found = solved.scores(images)
    program = program_of(solved, images, np.zeros(12, int))
    weights, bias = solved.coef_.double(), solved.intercept_.double()
    expected = program.scores(weights, bias)
    if solved.formulation == "relu":
        expected = relu_neurons(weights, bias).scores(program.patches)
    plain = slice(None, None, 2)  # every second row is a mirror image
    np.testing.assert_allclose(found, expected[plain], atol=1e-4)


def test_it_survives_its_files(solved, tmp_path):
    save_model(solved, tmp_path)
    found = load_model(tmp_path)
    assert torch.equal(found.coef_, solved.coef_)
    np.testing.assert_array_equal(found.scores(IMAGES), solved.scores(IMAGES))
    assert found.certify(IMAGES, LABELS) == solved.certify(IMAGES, LABELS)


def test_filters_and_measures_follow(solved):
    filters = solved.filters(4)
    k, shown = filters["convex_strength"].shape
    assert filters["convex"].shape == (k, shown, 1, 3, 3)
    assert k == 3
    assert shown <= 4
    assert (np.diff(filters["convex_strength"], axis=1) <= 0).all()
    signs = 1 + (solved.formulation == "relu")
    assert 0 < solved.n_neurons() <= signs * 3 * 4 * 3 * 3
    measured = evaluate_model(solved, ImageSplit(IMAGES, LABELS), 3)
    assert measured.accuracy == solved.score(IMAGES, LABELS) > 0.7


def test_a_smaller_tolerance_leaves_a_smaller_gap():
    gaps = []
    for tolerance in (1e-2, 1e-6):
        model = convex(regulariser="group", solver="fista", tolerance=tolerance, **FORMER)
        gaps.append(model.fit(IMAGES, LABELS).certify(IMAGES, LABELS).relative_gap)
    assert gaps[1] < 2e-6 < gaps[0]


@pytest.mark.parametrize("regulariser", ["group", "nuclear"])
def test_validation_chooses_from_the_path_of_a_norm(regulariser):
    model = convex(regulariser=regulariser).fit(IMAGES, LABELS)
    chosen = best_point(model.solution_.path, round(0.1 * len(LABELS)))
    assert model.beta_ == chosen.beta
    assert model.path_ == [point.to_dict() for point in model.solution_.path]
    assert model.temperature_ != 1


def test_solver_objects_bring_their_own_tolerance():
    kind = ProgramKind("gated", "group", "squared")
    by_beta = convex(regulariser="group", solver=Fista(1e-6), **FORMER).fit(IMAGES, LABELS)
    path = WarmPath(Fista(1e-6), kind, [0.02])
    by_path = convex(regulariser="group", solver=path, **(FORMER | {"betas": None}))
    by_path.validation_fraction = 0.1
    assert isinstance(path, PathSolver)
    assert by_beta.solution_.solver == "fista"
    assert by_beta.solution_.reason == ""
    # A path solver brings its beta too; the images it would choose by are held out and then used.
    found = by_path.fit(IMAGES, LABELS).certify(IMAGES, LABELS)
    assert found.primal == pytest.approx(by_beta.certify(IMAGES, LABELS).primal, rel=1e-5)


def test_features_that_do_not_repeat_are_refused(monkeypatch):
    from convexcnn.errors import RunError
    from convexcnn.patches.operator import GatedFeatures as Features

    count = itertools.count()
    original = Features._fill

    def unsteady(self, patches, out):
        original(self, patches, out)
        out[0, 0] += next(count)

    monkeypatch.setattr(Features, "_fill", unsteady)
    with pytest.raises(RunError, match="two different feature vectors"):
        convex(gates="gaussian", betas=0.1).fit(IMAGES, LABELS)
