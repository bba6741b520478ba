"""The files of a run folder, read and checked; nothing else is looked at."""

from __future__ import annotations

import json
import os
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from convexcnn.errors import RunError
from convexcnn.files import not_readable
from convexcnn.report.maximiser_files import Maximisers, read_maximisers
from convexcnn.report.node import Node
from convexcnn.report.results import CompareResult, FitResult, read_result

Tensor = NDArray[np.float32]
WHOLE = ("index", "labels", "predicted", "columns")
MAPS: tuple[str, ...] = ("contributions", "occlusion", "gradcam", "gradient")


@dataclass(frozen=True)
class FilterSet:
    """Filters ordered strongest first: (m, c, h, w), or (k, m, c, h, w) with a row per class."""

    filters: Tensor
    strength: Tensor


@dataclass(frozen=True)
class Examples:
    """A few test images and what was explained of them.

    Args:
        images: (m, channels, height, width), as the model saw them.
        index: (m,), which test images they are.
        labels: (m,), true classes.
        predicted: (m,), predicted classes.
        scores: (m, columns).
        columns: (columns,), the class of every score.
        maps: by method, (m, height, width).
        top: contributions to the classes with the highest scores, (m, t, height, width).
        blocks: of a stack, contributions to the predicted class by block, (m, B, height, width).
        block_scores: of a stack, the scores of every block's head, (m, B, columns).
    """

    images: NDArray[np.generic]
    index: NDArray[np.int64]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    scores: Tensor
    columns: NDArray[np.int64]
    maps: dict[str, Tensor]
    top: Tensor
    blocks: Tensor
    block_scores: Tensor


@dataclass(frozen=True)
class RunFiles:
    """Everything a report is made from.

    ``columns`` are the numbers of the classes that the model was trained on, of which it has
    filters and scores; the data may name others.
    """

    folder: Path
    result: FitResult | CompareResult
    config: dict[str, object]
    config_text: str
    metrics: tuple[Node, ...]
    columns: tuple[int, ...]
    convex: FilterSet | None
    non_convex: FilterSet | None
    examples: Examples | None
    maximisers: tuple[Maximisers, ...]

    @property
    def column_names(self) -> list[str]:
        """The names of the classes that the model was trained on."""
        return [self.result.circumstances.data.classes[column] for column in self.columns]


def read_run(folder: Path) -> RunFiles:
    """Read `result.json`, `config.toml`, `metrics.jsonl`, and the two files of tensors.

    Raises RunError for a file that is missing, damaged or says something impossible;
    `filters.safetensors` and `explanations.safetensors` may be absent, and so may the metrics of
    a fit.
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: no such run folder; give one that fit or compare has written")
    result = read_result(_parse_json(folder / "result.json", _text(folder / "result.json")))
    config_text = _text(folder / "config.toml")
    try:
        config = tomllib.loads(config_text)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{folder / 'config.toml'}: not TOML ({error}); restore the file") from error
    filters = _read_tensors(folder / "filters.safetensors", "filters")
    path = folder / "explanations.safetensors"
    explanations = _read_tensors(path, "explanations")
    classes = len(result.circumstances.data.classes)
    columns = _columns(folder, filters, explanations, classes)
    return RunFiles(
        folder=folder,
        result=result,
        config=config,
        config_text=config_text,
        metrics=_metrics(folder / "metrics.jsonl", required=isinstance(result, CompareResult)),
        columns=columns,
        convex=_filter_set(folder, filters, "convex", len(columns)),
        non_convex=_filter_set(folder, filters, "non_convex", None),
        examples=_read_examples(path, explanations, classes),
        maximisers=read_maximisers(path, explanations, len(columns)),
    )


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written ({error.strerror}); check permissions and free space"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RunError(
            f"{path}: missing; is {path.parent} a finished run? Run the command again to make it"
        ) from error
    except OSError as error:
        raise not_readable(path, error) from error
    except UnicodeDecodeError as error:
        raise RunError(f"{path}: cannot be read ({error}); restore the file") from error


def _parse_json(path: Path, text: str, place: str = "") -> Node:
    try:
        return Node(path, place, json.loads(text))
    except (ValueError, RecursionError) as error:
        where = f"{place} is " if place else ""
        raise RunError(f"{path}: {where}not JSON ({error}); restore the file") from error


def _metrics(path: Path, *, required: bool) -> tuple[Node, ...]:
    if not required and not path.exists():
        return ()
    lines = enumerate(_text(path).splitlines(), start=1)
    return tuple(
        _parse_json(path, line, place=f"line {number}") for number, line in lines if line.strip()
    )


def _read_tensors(path: Path, what: str) -> dict[str, NDArray[np.generic]]:
    if not path.exists():
        return {}
    try:
        return load(path.read_bytes())
    except OSError as error:
        raise not_readable(path, error) from error
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path}: not a safetensors file ({error}); delete it to report without {what}"
        ) from error


def _columns(
    folder: Path,
    filters: dict[str, NDArray[np.generic]],
    explanations: dict[str, NDArray[np.generic]],
    classes: int,
) -> tuple[int, ...]:
    """The classes that the model was trained on; all where no file says."""
    name = "filters" if "columns" in filters or "columns" not in explanations else "explanations"
    tensors = filters if name == "filters" else explanations
    found = np.asarray(tensors.get("columns", np.arange(classes)))
    sound = found.ndim == 1 and found.dtype.kind in "iu" and len({*found.tolist()}) == len(found)
    if not sound or (found.size and not (found.min() >= 0 and found.max() < classes)):
        raise RunError(
            f"{folder / name}.safetensors: columns are none of the {classes} classes; delete it to "
            f"report without {name}"
        )
    return tuple(int(column) for column in found)


def _filter_set(
    folder: Path, tensors: dict[str, NDArray[np.generic]], name: str, classes: int | None
) -> FilterSet | None:
    if name not in tensors:
        return None
    filters = np.asarray(tensors[name], dtype=np.float32)
    leading = filters.shape[: 1 if classes is None else 2]
    strength = np.asarray(tensors.get(f"{name}_strength", np.ones(leading)), dtype=np.float32)
    expected = "(m, c, h, w)" if classes is None else f"({classes}, m, c, h, w)"
    if (
        filters.ndim != len(leading) + 3
        or 0 in filters.shape
        or strength.shape != leading
        or (classes is not None and leading[0] != classes)
    ):
        raise RunError(
            f"{folder / 'filters.safetensors'}: {name} has shape {filters.shape} and strength "
            f"{strength.shape} where {expected} is needed; delete it to report without filters"
        )
    return FilterSet(np.nan_to_num(filters), np.nan_to_num(strength))


def _read_examples(
    path: Path, tensors: dict[str, NDArray[np.generic]], classes: int
) -> Examples | None:
    if not tensors:
        return None
    try:
        images = tensors["images"]
        index, labels, predicted, columns = (_whole(path, tensors[name]) for name in WHOLE)
        scores = np.asarray(tensors["scores"], np.float32)
    except KeyError as error:
        raise _odd_examples(path, f"has no {error}") from error
    m, *shape = images.shape

    def floats(name: str, *absent: int) -> Tensor:
        return np.nan_to_num(np.asarray(tensors.get(name, np.zeros(absent)), np.float32))

    maps = {name: floats(name) for name in MAPS if name in tensors}
    top, blocks = floats("top", m, 0, *shape[1:]), floats("blocks", m, 0, *shape[1:])
    block_scores = floats("block_scores", m, 0, len(columns))
    fits = (
        images.ndim == 4
        and 0 not in images.shape[1:]
        and index.shape == labels.shape == predicted.shape == (m,)
        and scores.shape == (m, len(columns))
        and all(values.shape == (m, *shape[1:]) for values in maps.values())
        and top.shape == (m, *top.shape[1:2], *shape[1:])
        and blocks.shape == (m, *blocks.shape[1:2], *shape[1:])
        and block_scores.shape == (*blocks.shape[:2], len(columns))
    )
    if not fits:
        raise _odd_examples(path, "holds tensors of shapes that do not fit together")
    for named in (labels, predicted, columns):
        if named.size and not (named.min() >= 0 and named.max() < classes):
            raise _odd_examples(path, f"names a class that is none of the {classes}")
    return Examples(
        images,
        index,
        labels,
        predicted,
        np.nan_to_num(scores),
        columns,
        maps,
        top,
        blocks,
        block_scores,
    )


def _whole(path: Path, numbers: NDArray[np.generic]) -> NDArray[np.int64]:
    if numbers.dtype.kind not in "iu":
        raise _odd_examples(path, f"counts in {numbers.dtype}")
    return np.asarray(numbers, np.int64)


def _odd_examples(path: Path, problem: str) -> RunError:
    return RunError(f"{path} {problem}; delete it to report without explanations")
