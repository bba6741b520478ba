"""Makers of classifiers that train in a blink."""

from __future__ import annotations

from convexcnn.models import (
    Block,
    ConvexConvClassifier,
    LayerwiseConvexCNN,
    NonConvexConvClassifier,
)
from convexcnn.solvers.sgd import SGD

SMALL = {"filter_size": 3, "stride": 2, "whiten": 5}


def convex(**kwargs) -> ConvexConvClassifier:
    """A convex classifier that trains in a blink."""
    return ConvexConvClassifier(**{"n_gates": 4, "gates": "patches", **SMALL, **kwargs})


def non_convex(**kwargs) -> NonConvexConvClassifier:
    """A non-convex classifier that trains in a blink."""
    solver = SGD(epochs=15, batch_size=20, learning_rate=0.02, method="adam")
    return NonConvexConvClassifier(**{"n_filters": 8, "solver": solver, **SMALL, **kwargs})


ON_PATCHES = {"head": "patches", "loss": "squared"}
TINY_BLOCKS = (
    Block(stride=2, n_gates=4, gates="patches", n_neurons=6, whiten=5, **ON_PATCHES),
    Block(n_gates=4, gates="patches", n_neurons=5, whiten=8, downsample="average", **ON_PATCHES),
    Block(n_gates=3, gates="gaussian", pooling=1, whiten=None, **ON_PATCHES),
)
TINY_NEURONS = (
    Block(stride=2, n_gates=6, epochs=6),
    Block(n_gates=8, epochs=6, downsample="max", pooling=1),
)


def layerwise(**kwargs) -> LayerwiseConvexCNN:
    """A stack of three blocks that trains in a blink."""
    return LayerwiseConvexCNN(**{"blocks": TINY_BLOCKS, "augment": "flip", **kwargs})


MAKERS = {"convex": convex, "non-convex": non_convex}
