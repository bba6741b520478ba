"""The trained model of a run, and whether data fits it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convexcnn.errors import DataError, RunError, SettingError

SAMPLED = 64
"""Images whose pixels are looked at."""

FAR = 30
"""Standard deviations of the training pixels that no picture in the same units is away from their
mean; and one over the part of them that its own pixels spread over."""

if TYPE_CHECKING:
    from convexcnn.cli.console import Console
    from convexcnn.data import ImageDataset
    from convexcnn.data.rows import ImageRows
    from convexcnn.models.base import ImageClassifier


def load_trained(run: Path) -> ImageClassifier:
    """Return the model of a run.

    Args:
        run: folder of a fit, or one model's folder in a comparison.

    Raises:
        RunError: there is no such run, it holds several models, or the model is damaged.
    """
    from convexcnn.models import load_model
    from convexcnn.models.io import config_file

    if not run.is_dir():
        raise RunError(f"{run}: there is no such run; make one with 'convexcnn fit DATA --out'")
    several = sorted(folder for folder in run.glob("models/*") if config_file(folder))
    if several and config_file(run) is None:
        names = " or ".join(str(path) for path in several)
        raise RunError(f"{run} is a comparison; name one of its models: {names}")
    model = load_model(run)
    if not model.class_names:  # saved from Python, where labels may be anything
        import numpy as np

        model.class_names = tuple(model.column_names())
        model.classes_ = np.arange(len(model.class_names))
    return model


def require_pictures(model: ImageClassifier) -> None:
    """Refuse a model that picture files cannot be given to.

    Raises:
        DataError: its images have other channels than grey or colours.
    """
    channels = model.image_shape_[0]
    if channels not in (1, 3):
        raise DataError(
            f"the model is of images with {channels} channels, and picture files have 1 or 3; give "
            "arrays to 'convexcnn evaluate', or to its predict from Python"
        )


def reading_of(run: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """How DATA is read: as given, else as the run read it.

    Where DATA has no test images of its own, another seed would set aside images that trained.

    Args:
        run: folder of a run, or one model's folder in a comparison.
        given: values of options by name; None and False count as not given.

    Raises:
        RunError: `config.toml` of the run is damaged.
    """
    from convexcnn.cli.run_folder import SETTINGS_FILE, read_toml
    from convexcnn.cli.settings import check_run_keys

    path = (run if (run / SETTINGS_FILE).exists() else _comparison(run)) / SETTINGS_FILE
    settings = read_toml(path) if path.exists() else {}
    try:
        check_run_keys(settings)
    except SettingError as error:
        raise RunError(f"{path}: {error}") from error
    reading: dict[str, Any] = {"image_size": None, "limit": None, "seed": 0, "skip_bad": False}
    reading |= settings
    return {
        name: reading.get(name) if value is None or value is False else value
        for name, value in given.items()
    }


def _comparison(run: Path) -> Path:
    """The comparison that RUN is a model of; RUN itself if it is of none."""
    from convexcnn.cli.run_folder import is_run

    folder = run.resolve()
    of_several = folder.parent.name == "models" and is_run(folder.parent.parent)
    return folder.parent.parent if of_several else run


def check_fits(model: ImageClassifier, dataset: ImageDataset) -> None:
    """Refuse data whose images or classes are not those of the model.

    Raises:
        DataError: what differs, and what to do.
    """
    if dataset.image_shape != model.image_shape_:
        channels, height, width = model.image_shape_
        resizable = dataset.image_shape[0] == channels and height == width
        advice = f"read it with --image-size {height}" if resizable else "give images of that shape"
        raise DataError(
            f"{dataset.name} has images of {_shape(dataset.image_shape)}, and the model was "
            f"trained on {_shape(model.image_shape_)}; {advice}"
        )
    known = model.class_names
    if dataset.classes != known:
        unknown = [name for name in dataset.classes if name not in known]
        problem = (
            f"classes that the model does not know ({', '.join(unknown[:5])})"
            if unknown
            else f"other classes ({', '.join(dataset.classes[:5])})"
        )
        raise DataError(
            f"{dataset.name} has {problem}; the model was trained on {len(known)}: "
            f"{', '.join(known[:10])}{', ...' if len(known) > 10 else ''}"
        )


def warn_of_units(console: Console, model: ImageClassifier, images: ImageRows) -> None:
    """Say so where pixels lie far outside of those that the model was trained on.

    Nothing in a picture tells whether the arrays of a training were bytes or fractions.
    """
    import numpy as np

    few = images[:SAMPLED]
    if not len(few):
        return
    scaled = replace(model.scaler_, centre=False).transform(few)
    away, spread = float(np.abs(scaled).mean()), float(scaled.std())
    if away > FAR or 0 < spread < 1 / FAR:
        low, high = float(few.min()), float(few.max())
        console.note(
            f"Warning: pixels from {low:g} to {high:g} are far from those the model was trained "
            "on; give images in the units of its training"
        )


def _shape(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    colours = {1: "grey", 3: "colour"}.get(channels, f"{channels} channels")
    return f"{height}x{width} pixels ({colours})"
