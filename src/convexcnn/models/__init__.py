"""Classifiers: the convex two-layer CNN, its non-convex twin, stacks, baselines, and files."""

from convexcnn.models.end_to_end import EndToEndCNN
from convexcnn.models.greedy import GreedyCNN
from convexcnn.models.hub import load_from_hub, push_to_hub
from convexcnn.models.io import load_model, save_model
from convexcnn.models.layerwise import LayerwiseConvexCNN
from convexcnn.models.relu_cnn import NonConvexConvClassifier
from convexcnn.models.stack_settings import Block
from convexcnn.models.two_layer import ConvexConvClassifier

__all__ = [
    "Block",
    "ConvexConvClassifier",
    "EndToEndCNN",
    "GreedyCNN",
    "LayerwiseConvexCNN",
    "NonConvexConvClassifier",
    "load_from_hub",
    "load_model",
    "push_to_hub",
    "save_model",
]
