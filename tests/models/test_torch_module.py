"""A fitted classifier as plain torch layers: the same scores, and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

from small import stripes
from tiny_models import convex, non_convex

ARRANGEMENTS = {
    "whitened": {},
    "raw pixels": {"whiten": None},
    "not centred": {"centre": False},
    "padding and one cell": {"padding": 1, "pooling": 1},
    "cells that overlap": {"stride": 1, "filter_size": 4},
}


@pytest.mark.parametrize("name", ARRANGEMENTS)
@pytest.mark.parametrize("make_model", [convex, non_convex], ids=["convex", "non-convex"])
def test_network_has_the_scores_of_its_classifier(make_model, name: str) -> None:
    images, labels = stripes(48, size=9, channels=3)
    model = make_model(**ARRANGEMENTS[name]).fit(images, labels)
    expected = model.scores(images)
    with torch.no_grad():
        scores = model.to_torch()(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_an_untrained_model_says_so(make) -> None:
    with pytest.raises(NotFittedError, match="call fit first"):
        make().to_torch()


def test_layers_are_plain_and_named(trained) -> None:
    assert list(dict(trained["convex"].to_torch().named_children())) == [
        "scale",
        "features",
        "pool",
        "flatten",
        "head",
    ]
    assert "relu" in dict(trained["non-convex"].to_torch().named_children())


def test_gradient_is_that_of_the_affine_piece(model, data) -> None:
    network = model.to_torch().double()
    image = torch.from_numpy(data[0][:1]).double().requires_grad_()
    step = 1e-6 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).double()
    (gradient,) = torch.autograd.grad(network(image)[0, 1], image)
    with torch.no_grad():
        change = network(image + step)[0, 1] - network(image)[0, 1]
    assert float(change) == pytest.approx(float((gradient * step).sum()), rel=1e-4)
