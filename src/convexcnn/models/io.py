"""Trained models on disk: tensors in safetensors, everything else in JSON, both checked on load.

The folder is laid out as the Hugging Face Hub wants it: ``model.safetensors``, ``config.json``, and
a model card ``README.md``. ``model.json`` is what ``config.json`` was called at first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from convexcnn import __version__
from convexcnn.data.preprocess import ImageScaler, shape_of_image
from convexcnn.errors import ConvexcnnError, RunError
from convexcnn.files import not_readable, not_written, write_text, write_together
from convexcnn.models.base import ImageClassifier
from convexcnn.models.block_classifier import BlockClassifier
from convexcnn.models.end_to_end import EndToEndCNN
from convexcnn.models.greedy import GreedyCNN
from convexcnn.models.layerwise import LayerwiseConvexCNN
from convexcnn.models.model_card import CARD_START, model_card
from convexcnn.models.parameters import kept_parameters
from convexcnn.models.relu_cnn import NonConvexConvClassifier
from convexcnn.models.stack_settings import Block
from convexcnn.models.two_layer import ConvexConvClassifier
from convexcnn.models.whole_files import read_tensors, write_arrays, write_tensors

FORMAT = 1
TENSORS_FILE, CONFIG_FILE, CARD_FILE = "model.safetensors", "config.json", "README.md"
OLD_CONFIG_FILE = "model.json"
MODEL_FILES = (TENSORS_FILE, CONFIG_FILE, CARD_FILE)

MODELS: dict[str, type[ImageClassifier]] = {
    "ConvexConvClassifier": ConvexConvClassifier,
    "NonConvexConvClassifier": NonConvexConvClassifier,
    "LayerwiseConvexCNN": LayerwiseConvexCNN,
    "EndToEndCNN": EndToEndCNN,
    "GreedyCNN": GreedyCNN,
}


def write_filters(path: Path, model: BlockClassifier | LayerwiseConvexCNN) -> None:
    """Write the strongest filters of a model, and the numbers of the classes that they are of.

    Args:
        path: of a safetensors file.
        model: fitted on labels out of 0..n_classes - 1, perhaps not on all of them.

    Raises:
        RunError: the file cannot be written.
    """
    columns: NDArray[np.int64] = model.classes_.astype(np.int64)
    write_arrays(path, {**model.filters(), "columns": columns})


def save_model(model: ImageClassifier, folder: Path | str) -> None:
    """Write ``model.safetensors``, ``config.json`` and ``README.md``, each whole or not at all.

    A README.md that is no model card of this library is left alone.

    Args:
        model: fitted.
        folder: created if need be.

    Raises:
        RunError: the model is not fitted, or the files cannot be written.
    """
    if not hasattr(model, "classes_"):
        raise RunError("the model is not trained; call fit before save_model")
    folder, model = Path(folder), model.as_trained()
    tensors, learned = model.saved()
    description = {
        "format": FORMAT,
        "class": type(model).__name__,
        "parameters": _plain_parameters(model),
        "classes": _plain(model.classes_.tolist()),
        "class_names": list(model.class_names),
        "feature_names": [str(name) for name in getattr(model, "feature_names_in_", ())],
        "image_shape": list(model.image_shape_),
        "scaler": model.scaler_.to_dict(),
        **learned,
        "training": {
            "fingerprint": getattr(model, "fingerprint_", None),
            "images": int(model.n_train_),
            "weighted": model.sample_weighted_,
        },
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        text = json.dumps(description, indent=2) + "\n"
        write_together(
            {
                folder / TENSORS_FILE: lambda path: write_tensors(path, contiguous),
                folder / CONFIG_FILE: lambda path: path.write_text(text, "utf-8", "replace"),
            }
        )
        card = folder / CARD_FILE
        if not card.exists() or card.read_text("utf-8", "replace").startswith(CARD_START):
            words = model_card(description, model.column_names(), __version__)
            write_text(card, words, "replace")
    except OSError as error:
        raise not_written(folder, error, "the model ") from error


def load_model(folder: Path | str) -> ImageClassifier:
    """Read a model that ``save_model`` wrote, checking every shape and number.

    Args:
        folder: with ``config.json`` (or the ``model.json`` of old) and ``model.safetensors``.

    Returns:
        The fitted classifier.

    Raises:
        RunError: a file is missing, damaged, of another format, or does not fit together.
    """
    folder = Path(folder)
    config = config_file(folder) or folder / CONFIG_FILE
    description = _read_description(config)
    tensors = read_tensors(folder / TENSORS_FILE)
    try:
        return _assemble(description, tensors)
    except (*_MISFITS, ConvexcnnError) as error:
        reason = f"{error}" if isinstance(error, ConvexcnnError) else repr(error)
        raise RunError(
            f"{folder}: {config.name} and {TENSORS_FILE} do not fit together ({reason}); "
            f"train the model again"
        ) from error


def config_file(folder: Path) -> Path | None:
    """Return the file that describes the model in a folder; None if there is none."""
    names = (folder / name for name in (CONFIG_FILE, OLD_CONFIG_FILE))
    return next((path for path in names if path.exists()), None)


_PLAIN = (str, int, float, bool, list, tuple, dict, type(None))
_MISFITS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


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
    except OSError as error:
        raise not_readable(path, error) from error
    except (ValueError, RecursionError) as error:
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
    ImageClassifier.check_parameters(model)
    model.classes_ = np.asarray(description["classes"])
    if model.classes_.ndim != 1 or len(model.classes_) < 2:
        raise ValueError(f"classes has shape {model.classes_.shape}")
    model.class_names = tuple(str(name) for name in description["class_names"])
    if model.class_names:
        model.column_names()  # every label has its name
    channels, height, width = shape_of_image(description["image_shape"])
    model.image_shape_ = (channels, height, width)
    model.n_features_in_ = channels * height * width
    if names := description.get("feature_names"):
        model.feature_names_in_ = np.array([str(name) for name in names], object)
    model.scaler_ = ImageScaler.from_dict(description["scaler"])
    if len(model.scaler_.mean) != channels:
        raise ValueError("the scaler has another number of channels")
    model.restore(description, tensors)
    seed = model.random_state or 0  # files of old may say None, which was 0
    model.trained_parameters_ = kept_parameters(model) | {"random_state": seed}
    model.fingerprint_ = description["training"]["fingerprint"]
    model.n_train_ = int(description["training"]["images"])
    model.sample_weighted_ = bool(description["training"].get("weighted", False))
    return model


def _from_json(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
