"""Parameters that are set after ``fit`` are for the next one: a trained model stays what it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convexcnn.explain.methods import METHODS
from convexcnn.models import Block, EndToEndCNN, GreedyCNN, load_model, save_model
from small import stripes
from tiny_models import convex, layerwise, non_convex

IMAGES, LABELS = stripes(40)
PATCHES = {"filter_size": 5, "stride": 1, "padding": 2, "pooling": 1, "whiten": None}
OF_ALL = {"augment": "none", "validation_fraction": 0.4, "random_state": 7, "image_shape": (4, 4)}
PROGRAM = {
    "formulation": "relu",
    "regulariser": "nuclear",
    "loss": "cross_entropy",
    "pool": "max",
    "betas": 3.0,
    "gates": "dual",
}
CASES = {
    "convex": (convex, PATCHES | PROGRAM | OF_ALL | {"class_weight": {0: 9.0}}),
    "non-convex": (non_convex, PATCHES | OF_ALL | {"loss": "squared", "n_filters": 3}),
    "layerwise": (layerwise, OF_ALL | {"blocks": "vgg11", "regulariser": "group"}),
    "end-to-end": (
        lambda: EndToEndCNN(network="alexnet", budget=None, epochs=1),
        OF_ALL | {"network": "vgg11"},
    ),
    "greedy": (
        lambda: GreedyCNN(blocks=[Block(n_gates=4)], budget=None, epochs=1),
        OF_ALL | {"blocks": "vgg11"},
    ),
}


@pytest.fixture(scope="module", params=CASES)
def fitted(request):
    """A trained model, and parameters that are all different from those of its training."""
    make, later = CASES[request.param]
    return make().fit(IMAGES, LABELS), later


def looked_at(model, folder):
    """Everything that can be had from a trained model, as arrays by name."""
    with torch.no_grad():
        found = {
            "scores": model.scores(IMAGES),
            "flattened": model.scores(IMAGES.reshape(len(IMAGES), -1)),
            "torch": model.to_torch()(torch.from_numpy(IMAGES)).numpy(),
        }
    if hasattr(model, "filters"):
        found |= model.filters()
    if hasattr(model, "block_scores"):
        found["block scores"] = model.block_scores(IMAGES)
    if hasattr(model, "certify"):
        found["certificate"] = str(model.certify(IMAGES, LABELS))
    if hasattr(model, "to_relu"):
        found["relu"] = model.to_relu(IMAGES)[0].weight.detach().numpy()
        found["neurons"] = model.n_neurons()
        found["further"] = str(model.further_neuron(IMAGES, LABELS))
    if not isinstance(model, EndToEndCNN):
        found |= {name: explain(model, IMAGES[:4], LABELS[:4]) for name, explain in METHODS.items()}
    save_model(model, folder)
    for name in ("config.json", "model.safetensors"):
        found[name] = (folder / name).read_bytes()
    return found


def test_what_was_trained_does_not_depend_on_later_parameters(fitted, tmp_path):
    model, later = fitted
    before, parameters = looked_at(model, tmp_path / "before"), model.get_params()
    model.set_params(**later)
    try:
        after = looked_at(model, tmp_path / "after")
        assert model.get_params() == parameters | later
    finally:
        model.set_params(**parameters)
    assert set(after) == set(before)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)


def test_a_loaded_model_does_not_depend_on_later_parameters(fitted, tmp_path):
    model, later = fitted
    save_model(model, tmp_path)
    found = load_model(tmp_path).set_params(**later)
    np.testing.assert_array_equal(found.scores(IMAGES), model.scores(IMAGES))


def test_a_list_that_is_changed_later_is_not_that_of_the_training(tmp_path):
    weights = {0: 2.0, 1: 1.0, 2: 1.0}
    model = convex(gates="gaussian", betas=0.1, class_weight=weights).fit(IMAGES, LABELS)
    before = model.certify(IMAGES, LABELS)
    weights[0] = 5.0
    assert model.certify(IMAGES, LABELS) == before
