"""Convolutional image classifiers trained as convex programs."""

from __future__ import annotations

from convexcnn.errors import ConvexcnnError, DataError, RunError, SettingError

__version__ = "0.1.0"

__all__ = ["ConvexcnnError", "DataError", "RunError", "SettingError", "__version__"]
