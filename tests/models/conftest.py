"""Two small classifiers, trained once for all tests that only look at them."""

from __future__ import annotations

import pytest

from convexcnn.models import ConvexConvClassifier, NonConvexConvClassifier
from convexcnn.solvers.sgd import SGD
from small import stripes

SMALL = {"filter_size": 3, "stride": 2, "whiten": 5}


def convex(**kwargs) -> ConvexConvClassifier:
    """A convex classifier that trains in a blink."""
    return ConvexConvClassifier(**{"n_gates": 4, "gates": "patches", **SMALL, **kwargs})


def non_convex(**kwargs) -> NonConvexConvClassifier:
    """A non-convex classifier that trains in a blink."""
    solver = SGD(epochs=15, batch_size=20, learning_rate=0.02, method="adam")
    return NonConvexConvClassifier(**{"n_filters": 8, "solver": solver, **SMALL, **kwargs})


MAKERS = {"convex": convex, "non-convex": non_convex}


@pytest.fixture(params=MAKERS)
def make(request):
    """Each of the two classifiers' makers in turn."""
    return MAKERS[request.param]


@pytest.fixture(scope="session")
def data():
    """Sixty striped images of three kinds, and their labels."""
    return stripes(60)


@pytest.fixture(scope="session")
def trained(data):
    """Both classifiers after ``fit``; not to be changed."""
    return {name: maker().fit(*data) for name, maker in MAKERS.items()}


@pytest.fixture(params=MAKERS)
def model(request, trained):
    """Each of the two trained classifiers in turn; not to be changed."""
    return trained[request.param]
