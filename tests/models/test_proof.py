"""A trained block's proof: the certificate, the further neuron, and the plain ReLU network."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch

from convexcnn.errors import SettingError
from convexcnn.models import load_model, save_model
from convexcnn.models.augmentation import AUGMENTATIONS
from convexcnn.models.proof import block_evidence, prove
from convexcnn.models.recovered import recover
from convexcnn.solvers.sgd import SGD
from small import stripes
from tiny_models import convex

IMAGES, LABELS = stripes(40)
TEST_IMAGES, _ = stripes(20, seed=3)
PROGRAMS = [
    *itertools.product(["gated"], ["l2", "group", "nuclear"], ["squared", "cross_entropy"]),
    ("relu", "group", "squared"),
]


@pytest.fixture(scope="module", params=PROGRAMS, ids="-".join)
def proven(request):
    formulation, regulariser, loss = request.param
    settings = {"formulation": formulation, "regulariser": regulariser, "loss": loss}
    model = convex(**settings, betas=0.02, n_gates=3, whiten=3).fit(IMAGES, LABELS)
    return model, prove(model, IMAGES, LABELS, TEST_IMAGES)


def test_its_parts_are_those_of_the_model(proven):
    model, proof = proven
    assert proof.certificate == model.certify(IMAGES, LABELS)
    assert proof.further_neuron == model.further_neuron(IMAGES, LABELS)
    written = json.loads(json.dumps(proof.to_dict()))
    assert set(written) == {"certificate", "further_neuron", "relu_network"}
    assert "not a proof" in written["further_neuron"]["words"]
    assert "violation" not in written["certificate"] or model.formulation == "relu"


def test_the_network_scores_training_images_like_the_model(proven):
    model, proof = proven
    network = model.to_relu(IMAGES)
    assert [type(layer).__name__ for layer in network] == [
        "Conv2d",
        "ReLU",
        "AdaptiveAvgPool2d",
        "Flatten",
        "Linear",
    ]
    scaled = torch.from_numpy(model.scaler_.transform(IMAGES)).double()
    scores = network(scaled).detach().numpy()
    np.testing.assert_allclose(scores, model.scores(IMAGES), atol=1e-4)
    found = proof.relu_network
    assert network[0].out_channels == found.neurons
    assert found.training.largest < 1e-6
    assert found.training.changed == 0


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_the_network_scores_every_view_of_training_images_like_the_model(augment):
    model = convex(betas=0.02, n_gates=3, whiten=3, augment=augment).fit(IMAGES, LABELS)
    network = model.to_relu(IMAGES)
    stream = model.training_stream(IMAGES, LABELS)
    assert len(stream) == len(IMAGES) * AUGMENTATIONS[augment].views
    score = model._scorer()
    for images, _ in stream.blocks(20):
        found = network(images.double()).detach()
        torch.testing.assert_close(found.float(), score(images), atol=1e-4, rtol=0)


def test_the_objective_is_that_of_the_network(proven):
    model, proof = proven
    network, found = model.to_relu(IMAGES), proof.relu_network
    stream = model.training_stream(IMAGES, LABELS)
    images, targets = (torch.cat(parts) for parts in zip(*stream.blocks(10), strict=True))
    scores = network(images.double()).detach()
    if model.loss == "squared":
        loss = 0.5 * (scores - targets).square().sum() / len(scores)
    else:
        loss = -(torch.log_softmax(scores, 1) * targets).sum() / len(scores)
    neurons = recover(model, stream if model.formulation == "gated" else None)
    squares = neurons.filters.square().sum() + neurons.head.square().sum()
    expected = float(loss + 0.5 * model.beta_ * squares)
    assert found.objective == pytest.approx(expected, rel=1e-6)
    # Balanced: no rescaling of a filter against its head makes the sum of squares smaller.
    torch.testing.assert_close(neurons.filters.norm(dim=1), neurons.head.norm(dim=(0, 1)))


def test_the_exact_formulation_costs_no_norm_and_the_gated_one_does(proven):
    model, proof = proven
    found = proof.relu_network
    if model.formulation == "relu":
        assert found.norm_ratio == pytest.approx(1, rel=1e-6)
        assert found.objective == pytest.approx(proof.certificate.primal, rel=1e-6)
        assert found.test is None
        return
    assert found.norm_ratio > 1
    assert found.test is not None
    assert found.test.images == len(TEST_IMAGES)
    assert 0 < found.test.root_mean_square <= found.test.largest
    if model.regulariser != "l2":  # which (P) does not weigh by norms
        assert found.objective > proof.certificate.primal
    assert f"{found.norm_ratio:.4g} times" in found.words()


def test_the_exact_formulation_needs_no_images_for_its_network():
    model = convex(formulation="relu", regulariser="group", betas=0.02, n_gates=2, whiten=3)
    network = model.fit(IMAGES, LABELS).to_relu()
    scaled = torch.from_numpy(model.scaler_.transform(TEST_IMAGES)).double()
    found = network(scaled).detach().numpy()
    np.testing.assert_allclose(found, model.scores(TEST_IMAGES), atol=1e-5)


def test_a_gated_network_needs_its_training_images(trained):
    with pytest.raises(SettingError, match="X is None; give to_relu the training images"):
        trained["convex"].to_relu()


def test_the_penalised_program_has_neither_certificate_nor_network():
    solver = SGD(epochs=1, batch_size=20)
    model = convex(formulation="relu-penalised", solver=solver).fit(IMAGES, LABELS)
    with pytest.raises(SettingError, match="no certificate for formulation relu-penalised"):
        prove(model, IMAGES, LABELS)
    with pytest.raises(SettingError, match="no ReLU network"):
        model.to_relu(IMAGES)


def test_many_cones_are_certified_from_a_stream(monkeypatch):
    model = convex(formulation="relu", regulariser="group", betas=0.02, n_gates=2, whiten=3)
    model.fit(IMAGES, LABELS)
    stream = model.training_stream(IMAGES, LABELS)
    gathered = block_evidence(model, stream)
    monkeypatch.setattr("convexcnn.models.proof.GATHERED", 0)
    streamed = block_evidence(model, stream)
    assert streamed.certificate.primal == pytest.approx(gathered.certificate.primal, rel=1e-5)
    assert streamed.certificate.dual <= streamed.certificate.primal
    assert streamed.certificate.relative_gap <= gathered.certificate.relative_gap + 0.05
    torch.testing.assert_close(streamed.residual, gathered.residual, rtol=0, atol=1e-4)


@pytest.mark.parametrize("formulation", ["gated", "relu"])
def test_max_pooling_is_trained_certified_saved_and_turned_into_a_network(formulation, tmp_path):
    settings = {"regulariser": "group", "betas": 0.02, "n_gates": 2, "whiten": 3}
    model = convex(formulation=formulation, pool="max", **settings).fit(IMAGES, LABELS)
    proof = prove(model, IMAGES, LABELS)
    assert proof.certificate.relative_gap <= 2e-3
    assert proof.further_neuron is None
    assert proof.relu_network is not None
    assert proof.relu_network.training.largest <= 1e-4
    save_model(model, tmp_path)
    loaded = load_model(tmp_path).scores(IMAGES)
    np.testing.assert_allclose(loaded, model.scores(IMAGES), rtol=0, atol=1e-6)
    with pytest.raises(SettingError, match="to_torch is for pool"):
        model.to_torch()
    with pytest.raises(SettingError, match="gates dual is for pool"):
        convex(gates="dual", pool="max", **settings).fit(IMAGES, LABELS)
