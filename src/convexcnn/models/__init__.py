"""Classifiers: the convex two-layer CNN, its non-convex twin, the paper protocol, and files."""

from convexcnn.models.io import load_model, save_model
from convexcnn.models.relu_cnn import NonConvexConvClassifier
from convexcnn.models.two_layer import ConvexConvClassifier

__all__ = ["ConvexConvClassifier", "NonConvexConvClassifier", "load_model", "save_model"]
