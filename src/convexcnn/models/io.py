"""Trained models on disk: tensors in safetensors, everything else in JSON, both checked on load."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from convexcnn.data.preprocess import ImageScaler
from convexcnn.errors import ConvexcnnError, RunError
from convexcnn.models.base import ImageClassifier
from convexcnn.models.layerwise import LayerwiseConvexCNN
from convexcnn.models.relu_cnn import NonConvexConvClassifier
from convexcnn.models.stack_settings import Block
from convexcnn.models.two_layer import ConvexConvClassifier
from convexcnn.models.whole_files import read_tensors, write_whole

FORMAT = 1
MODELS: dict[str, type[ImageClassifier]] = {
    "ConvexConvClassifier": ConvexConvClassifier,
    "NonConvexConvClassifier": NonConvexConvClassifier,
    "LayerwiseConvexCNN": LayerwiseConvexCNN,
}


def save_model(model: ImageClassifier, folder: Path | str) -> None:
    """Write ``model.safetensors`` and ``model.json`` into a folder, each whole or not at all.

    Args:
        model: fitted.
        folder: created if need be.

    Raises:
        RunError: the model is not fitted, or the files cannot be written.
    """
    if not hasattr(model, "classes_"):
        raise RunError("the model is not trained; call fit before save_model")
    folder = Path(folder)
    tensors, learned = model.saved()
    description = {
        "format": FORMAT,
        "class": type(model).__name__,
        "parameters": _plain_parameters(model),
        "classes": model.classes_.tolist(),
        "class_names": list(model.class_names),
        "image_shape": list(model.image_shape_),
        "scaler": model.scaler_.to_dict(),
        **learned,
        "training": {
            "fingerprint": getattr(model, "fingerprint_", None),
            "images": int(model.n_train_),
            "mirror": model.augment == "flip",
            "weighted": model.sample_weighted_,
        },
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_whole(folder / "model.safetensors", lambda path: save_file(contiguous, path))
        text = json.dumps(description, indent=2)
        write_whole(folder / "model.json", lambda path: path.write_text(text + "\n", "utf-8"))
    except OSError as error:
        raise RunError(f"{folder}: the model cannot be written ({error.strerror})") from error


def load_model(folder: Path | str) -> ImageClassifier:
    """Read a model that ``save_model`` wrote, checking every shape and number.

    Args:
        folder: with ``model.json`` and ``model.safetensors``.

    Returns:
        The fitted classifier.

    Raises:
        RunError: a file is missing, damaged, of another format, or does not fit together.
    """
    folder = Path(folder)
    description = _read_description(folder / "model.json")
    tensors = read_tensors(folder / "model.safetensors")
    try:
        return _assemble(description, tensors)
    except (*_MISFITS, ConvexcnnError) as error:
        reason = f"{error}" if isinstance(error, ConvexcnnError) else repr(error)
        raise RunError(
            f"{folder}: model.json and model.safetensors do not fit together ({reason}); "
            f"train the model again"
        ) from error


_PLAIN = (str, int, float, bool, list, tuple, dict, type(None))
_MISFITS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def _plain_parameters(model: ImageClassifier) -> dict[str, Any]:
    """The parameters that JSON can hold: all but solver objects and callbacks."""
    parameters = {name: _plain(value) for name, value in model.get_params().items()}
    return {name: value for name, value in parameters.items() if isinstance(value, _PLAIN)}


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's, and blocks as mappings, inside lists and tuples too."""
    if isinstance(value, Block):
        value = vars(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} is missing; is this the folder of a finished run?") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read as JSON ({error}); train the model again") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        found = description.get("format") if isinstance(description, dict) else None
        raise RunError(f"{path} has format {found!r}; this version reads format {FORMAT}")
    if description.get("class") not in list(MODELS):
        raise RunError(f"{path} names the model {description.get('class')!r}, which is not known")
    return description


def _assemble(description: dict[str, Any], tensors: dict[str, Tensor]) -> ImageClassifier:
    cls = MODELS[description["class"]]
    model = cls(**{k: _from_json(v) for k, v in description["parameters"].items()})
    model.classes_ = np.asarray(description["classes"])
    model.class_names = tuple(str(name) for name in description["class_names"])
    if model.class_names:
        model.column_names()  # every label has its name
    channels, height, width = (int(size) for size in description["image_shape"])
    model.image_shape_ = (channels, height, width)
    model.n_features_in_ = channels * height * width
    model.scaler_ = ImageScaler.from_dict(description["scaler"])
    if len(model.scaler_.mean) != channels:
        raise ValueError("the scaler has another number of channels")
    model.restore(description, tensors)
    model.fingerprint_ = description["training"]["fingerprint"]
    model.n_train_ = int(description["training"]["images"])
    model.sample_weighted_ = bool(description["training"].get("weighted", False))
    return model


def _from_json(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
