"""`convexcnn predict`: label pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convexcnn.cli.options import FILE, FOLDER, PICTURES, output_options

if TYPE_CHECKING:
    from convexcnn.data.decode import DecodedImages
    from convexcnn.models.base import ImageClassifier

BATCH = 512
"""Pictures decoded at once, so that a folder of any size fits in memory."""

Prediction = dict[str, Any]


@click.command(name="predict", short_help="Label pictures with a trained model.")
@click.argument("run", type=FOLDER)
@click.argument("images", nargs=-1, required=True, type=PICTURES)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="K",
    help="Labels per picture, the most probable first; at most one per class.",
)
@click.option("--csv", "csv_file", type=FILE, metavar="FILE", help="Also write a CSV file.")
@click.option(
    "--overwrite", is_flag=True, help="Replace FILE, even if it holds something else than labels."
)
@click.option(
    "--skip-bad",
    is_flag=True,
    help="Leave out pictures that cannot be read, and name them, instead of stopping.",
)
@output_options
def command(
    run: Path,
    images: Sequence[Path],
    *,
    top: int,
    csv_file: Path | None,
    overwrite: bool,
    skip_bad: bool,
    as_json: bool,
) -> None:
    """Label IMAGES, files or folders of them, with the model of RUN.

    Pictures of another size than the model's are resized until they just cover it, and the centre
    is cut out; to a model of grey images, colours are turned grey.
    """
    from convexcnn.cli.console import Console
    from convexcnn.cli.prediction_table import check_table, write_table
    from convexcnn.cli.trained import load_trained, require_pictures, warn_of_units
    from convexcnn.data.decode import NoneReadable

    console = Console(as_json=as_json)
    table = None if csv_file is None else check_table(csv_file, images, overwrite=overwrite)
    model = load_trained(run)
    require_pictures(model)
    files, skipped = picture_files(images, skip_bad=skip_bad)
    top = min(top, len(model.column_names()))
    predictions: list[Prediction] = []
    for start in range(0, len(files), BATCH):
        batch = files[start : start + BATCH]
        try:
            read = _read(model, batch, skip_bad)
        except NoneReadable:  # there are others
            skipped += map(str, batch)
            continue
        if not predictions:
            warn_of_units(console, model, read.images)
        predictions += _predict(model, batch, read, top)
        skipped += read.skipped
    if not predictions:
        raise NoneReadable(len(files))
    _, height, width = model.image_shape_
    console.note(f"Pictures are seen at {height}x{width} pixels: resized to cover, centre cut out.")
    for name in skipped:
        console.note(f"Skipped: {name}")
    if csv_file is not None and table is not None:
        write_table(table, predictions)
        console.note(f"Written: {csv_file}")
    _show(console, predictions, top)
    console.result(
        {
            "run": str(run),
            "image_shape": list(model.image_shape_),
            "predictions": predictions,
            "skipped": skipped,
        }
    )


def picture_files(images: Sequence[Path], *, skip_bad: bool) -> tuple[list[Path], list[str]]:
    """Return the files named, and the pictures of folders named, in order; and what was skipped.

    Raises:
        DataError: a folder holds no pictures, or what is in it cannot be looked into and may not
            be skipped.
    """
    from convexcnn.data.decode import LEAVE_OUT
    from convexcnn.errors import DataError

    files: list[Path] = []
    skipped: list[str] = []
    for path in images:
        if not path.is_dir():
            files.append(path)
            continue
        inside, closed = _look_into(path)
        for error in closed:
            if not skip_bad:
                raise DataError(
                    f"{error.filename}: cannot be looked into ({error.strerror}); make it "
                    f"readable, or {LEAVE_OUT}"
                ) from error
            skipped.append(str(error.filename))
        if not inside:
            raise DataError(f"{path} holds no pictures; name a folder or file with some")
        files += sorted(inside)
    return files, skipped


def _look_into(folder: Path) -> tuple[list[Path], list[OSError]]:
    """The pictures in a folder, however deep, and what the system does not let be looked into."""
    from convexcnn.data.decode import is_image_file

    pictures: list[Path] = []
    closed: list[OSError] = []
    for place, _, names in os.walk(folder, onerror=closed.append):
        for path in (Path(place, name) for name in names):
            try:
                if is_image_file(path):
                    pictures.append(path)
            except OSError as error:
                closed.append(error)
    return pictures, closed


def _read(model: ImageClassifier, files: Sequence[Path], skip_bad: bool) -> DecodedImages:
    from convexcnn.data import read_images

    channels, height, width = model.image_shape_
    return read_images(files, channels=channels, image_size=(height, width), skip_bad=skip_bad)


def _predict(
    model: ImageClassifier, files: Sequence[Path], read: DecodedImages, top: int
) -> list[Prediction]:
    names = model.column_names()
    probabilities = model.predict_proba(read.images)
    order = (-probabilities).argsort(axis=1, kind="stable")[:, :top]
    predictions = []
    for row, file in enumerate(read.kept):
        ranked = [
            {
                "label": names[column],
                "probability": float(probabilities[row, column]),
            }
            for column in order[row]
        ]
        predictions.append({"image": str(files[file]), **ranked[0], "top": ranked})
    return predictions


def _show(console: Any, predictions: Sequence[Prediction], top: int) -> None:
    from convexcnn.cli.console import percent

    columns = ["image"]
    for rank in range(1, top + 1):
        columns += [f"label {rank}" if top > 1 else "label", "probability"]
    rows = []
    for prediction in predictions:
        cells = [prediction["image"]]
        for entry in prediction["top"]:
            cells += [entry["label"], percent(entry["probability"])]
        rows.append(cells)
    console.table(columns, rows)
