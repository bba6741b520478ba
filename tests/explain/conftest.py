"""Small classifiers of colour images, trained once, in arrangements that stress explanations."""

from __future__ import annotations

import pytest

from small import stripes
from tiny_models import convex, non_convex

ARRANGEMENTS = {
    "convex": (convex, {}),
    "convex, raw pixels": (convex, {"whiten": None, "gates": "gaussian"}),
    "convex, not centred": (convex, {"centre": False}),
    "convex, padding and one cell": (convex, {"padding": 1, "pooling": 1}),
    "convex, cells that overlap": (convex, {"stride": 1, "filter_size": 4}),
    "convex, ragged cells": (convex, {"stride": 3, "padding": 2, "pooling": 3}),
    "non-convex": (non_convex, {}),
    "non-convex, cells that overlap": (non_convex, {"stride": 1, "filter_size": 4}),
}


@pytest.fixture(scope="session")
def data():
    """Forty-eight striped colour images of three kinds, and their labels."""
    return stripes(48, size=9, channels=3)


@pytest.fixture(scope="session")
def classifiers(data):
    """A classifier of every arrangement; not to be changed."""
    return {name: make(**kwargs).fit(*data) for name, (make, kwargs) in ARRANGEMENTS.items()}


@pytest.fixture(params=ARRANGEMENTS)
def model(request, classifiers):
    """Each classifier in turn; not to be changed."""
    return classifiers[request.param]


@pytest.fixture
def convex_model(classifiers):
    return classifiers["convex"]
