"""Two small classifiers, trained once for all tests that only look at them."""

from __future__ import annotations

import pytest

from small import stripes
from tiny_models import MAKERS


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
