"""The CSV file of predictions: what it may replace, and how it is written."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from convexcnn.cli.outputs import check_file
from convexcnn.errors import RunError
from convexcnn.files import not_written, write_whole

HEADER = ("image", "label", "probability")


def check_table(path: Path, images: Sequence[Path], *, overwrite: bool) -> Path:
    """Return where the table is to lie, through links.

    Args:
        path: as it was given; a table of predictions that is there will be replaced.
        images: files and folders that are read.
        overwrite: replace another file too, though never one of the images.

    Raises:
        RunError: the file must stay as it is, or its folder is not there.
    """
    target = check_file(path)
    if any(_is_read(target, given.resolve()) for given in images):
        raise RunError(f"{path} is one of the pictures, and would be lost; name another file")
    if path.is_file() and not overwrite and not _is_table(path):
        raise RunError(
            f"{path} holds no labels of pictures; name another file, or replace it with --overwrite"
        )
    return target


def write_table(path: Path, predictions: Sequence[Mapping[str, Any]]) -> None:
    """Write one row per picture: image, then label and probability of every rank.

    A file appears whole or not at all; a device or a pipe is written into.

    Raises:
        RunError: it cannot be written.
    """
    # A file name need not be UTF-8: its bytes go through as they are.
    content = _text(predictions).encode("utf-8", "surrogateescape")
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(content)
        else:
            write_whole(path, lambda temporary: temporary.write_bytes(content))
    except OSError as error:
        raise not_written(path, error) from error


def _text(predictions: Sequence[Mapping[str, Any]]) -> str:
    ranks = max((len(prediction["top"]) for prediction in predictions), default=1)
    header = [*HEADER]
    for rank in range(2, ranks + 1):
        header += [f"label_{rank}", f"probability_{rank}"]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    for prediction in predictions:
        row = [prediction["image"]]
        for entry in prediction["top"]:
            row += [entry["label"], f"{entry['probability']:.6f}"]
        writer.writerow(row)
    return text.getvalue()


def _is_table(path: Path) -> bool:
    """Whether a file is empty or begins as such a table does."""
    begin = ",".join(HEADER).encode()
    try:
        with path.open("rb") as file:
            return file.read(len(begin)) in (b"", begin)
    except OSError as error:
        raise not_written(path, error) from error


def _is_read(path: Path, given: Path) -> bool:
    """Whether a file is the picture that was given, or one of those in the folder."""
    from convexcnn.data.decode import is_image_file

    inside = given.is_dir() and path.is_relative_to(given) and is_image_file(path)
    return path == given or inside
