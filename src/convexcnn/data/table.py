"""A table of labels: a .csv with the columns path, label and, if wanted, split."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path

from convexcnn.data.dataset import ImageDataset
from convexcnn.data.listing import TEST_NAMES, LabelledFile, ReadOptions, read_listing
from convexcnn.errors import DataError

SPLITS = ("train", *TEST_NAMES)
NEEDS = "give the columns path,label and, if wanted, split"
SAVE_AS_CSV = "save it as CSV in UTF-8"


def read_table(table: Path, options: ReadOptions | None = None) -> ImageDataset:
    """Read the images that a .csv (or tab-separated .tsv) lists.

    Args:
        table: UTF-8 text whose first line names the columns ``path`` (relative to the table's
            folder, or absolute), ``label`` and perhaps ``split`` (train, or test, val, validation
            or valid; empty means train). Other columns are not read. A file that is listed again
            with the same label and split counts once.
        options: how to read.

    Returns:
        The data set, named after the table.

    Raises:
        DataError: a column, a path or a label is missing, a split is unknown, a file is listed
            with two labels or splits, or an image cannot be used.
    """
    splits = list_table(table)
    return read_listing(table.stem, splits, str(table), options or ReadOptions())


def list_table(table: Path) -> dict[str, list[LabelledFile]]:
    """The files that a table lists, by split.

    Raises:
        DataError: a column, a path or a label is missing, a split is unknown, or a file is listed
            with two labels or splits.
    """
    listed: dict[str, tuple[int, str, str]] = {}
    splits: dict[str, list[LabelledFile]] = {split: [] for split in SPLITS}
    for line, row in _rows(table):
        path, label = row.get("path", ""), row.get("label", "")
        split = row.get("split", "").lower() or "train"
        if not path or not label:
            raise DataError(f"{table}, line {line}: no {'label' if path else 'path'}; fill it in")
        if split not in SPLITS:
            raise DataError(
                f"{table}, line {line}: unknown split {split}; write one of {', '.join(SPLITS)}"
            )
        key = os.path.abspath(table.parent / path)
        first, *known = listed.setdefault(key, (line, label, split))
        for found, before in zip((label, split), known, strict=True):
            if found != before:
                raise DataError(
                    f"{table}, line {line}: {path} is {found} here, but {before} in line {first}; "
                    "keep one of the two rows"
                )
        if first == line:
            splits[split].append(LabelledFile(table.parent / path, label))
    if not splits["train"]:
        raise DataError(f"{table}: lists no training images; {NEEDS}")
    return splits


def _rows(table: Path) -> list[tuple[int, dict[str, str]]]:
    """Every row with its line number, column names in lower case, all without outer blanks."""
    delimiter = "\t" if table.suffix.lower() == ".tsv" else ","
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter)
            columns = [column.strip().lower() for column in next(reader, [])]
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{table}: cannot be read as a table in UTF-8 ({error}); {SAVE_AS_CSV}"
        ) from error
    if missing := [column for column in ("path", "label") if column not in columns]:
        advice = _advice(columns, delimiter)
        raise DataError(f"{table}: has no column {' and no column '.join(missing)}; {advice}")
    return [(line, dict(zip(columns, row, strict=False))) for line, row in rows]


def _advice(columns: Sequence[str], delimiter: str) -> str:
    """What to do about a first line that does not name the columns that are needed."""
    line = ",".join(columns)
    if "\0" in line:
        return f"it looks like UTF-16: {SAVE_AS_CSV}"
    names = {name.strip(' "') for name in re.split(r"[;,\t|]", line)}
    if not {"path", "label"} <= names:
        return NEEDS
    if delimiter == ",":
        return "its columns are separated by something else than commas: save it with commas"
    return "its columns are separated by something else than tabs: save it with tabs, or as .csv"
