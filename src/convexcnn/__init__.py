"""Convolutional image classifiers trained as convex programs.

The public API is imported on first use, so that `import convexcnn` alone is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from convexcnn.errors import ConvexcnnError, DataError, RunError, SettingError

if TYPE_CHECKING:
    from convexcnn.callbacks import JsonLinesLogger, TensorBoardLogger
    from convexcnn.data import (
        ImageDataset,
        ImageSplit,
        available_datasets,
        dataset_from_arrays,
        dataset_from_torch,
        load_dataset,
    )
    from convexcnn.explain import (
        deletion_curve,
        exact_contributions,
        faithfulness_table,
        grad_cam,
        gradient_times_input,
        insertion_curve,
        maximise_input,
        occlusion_map,
        strongest_filters,
    )
    from convexcnn.models import (
        Block,
        ConvexConvClassifier,
        EndToEndCNN,
        GreedyCNN,
        LayerwiseConvexCNN,
        NonConvexConvClassifier,
        load_from_hub,
        load_model,
        push_to_hub,
        save_model,
    )
    from convexcnn.report import build_report

__version__ = "0.1.0"

__all__ = [
    "Block",
    "ConvexConvClassifier",
    "ConvexcnnError",
    "DataError",
    "EndToEndCNN",
    "GreedyCNN",
    "ImageDataset",
    "ImageSplit",
    "JsonLinesLogger",
    "LayerwiseConvexCNN",
    "NonConvexConvClassifier",
    "RunError",
    "SettingError",
    "TensorBoardLogger",
    "__version__",
    "available_datasets",
    "build_report",
    "dataset_from_arrays",
    "dataset_from_torch",
    "deletion_curve",
    "exact_contributions",
    "faithfulness_table",
    "grad_cam",
    "gradient_times_input",
    "insertion_curve",
    "load_dataset",
    "load_from_hub",
    "load_model",
    "maximise_input",
    "occlusion_map",
    "push_to_hub",
    "save_model",
    "strongest_filters",
]

_HOME = {
    "Block": "models",
    "ConvexConvClassifier": "models",
    "EndToEndCNN": "models",
    "GreedyCNN": "models",
    "ImageDataset": "data",
    "ImageSplit": "data",
    "JsonLinesLogger": "callbacks",
    "LayerwiseConvexCNN": "models",
    "NonConvexConvClassifier": "models",
    "TensorBoardLogger": "callbacks",
    "available_datasets": "data",
    "build_report": "report",
    "dataset_from_arrays": "data",
    "dataset_from_torch": "data",
    "deletion_curve": "explain",
    "exact_contributions": "explain",
    "faithfulness_table": "explain",
    "grad_cam": "explain",
    "gradient_times_input": "explain",
    "insertion_curve": "explain",
    "load_dataset": "data",
    "load_from_hub": "models",
    "load_model": "models",
    "maximise_input": "explain",
    "occlusion_map": "explain",
    "push_to_hub": "models",
    "save_model": "models",
    "strongest_filters": "explain",
}
"""The subpackage that each name comes from."""


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'convexcnn' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"convexcnn.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
