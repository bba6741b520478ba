"""Pictures and test images with their maps: what `explain` prints and writes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convexcnn.cli.trained import check_fits, require_pictures
from convexcnn.errors import DataError, RunError, SettingError
from convexcnn.files import Write, not_written, write_together

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from convexcnn.data import ImageDataset, ImageSplit
    from convexcnn.models.base import ImageClassifier

TOP = 3
LONGEST_NAME = 100
"""Bytes of the name of a picture that are taken over into that of its figure."""

TITLES = {
    "contributions": "Contributions",
    "occlusion": "Occlusion",
    "gradcam": "Grad-CAM",
    "gradient": "Gradient x input",
}


@dataclass(frozen=True)
class Subjects:
    """What is to be explained.

    Args:
        names: n, paths of pictures and then `test image 7`.
        labels: n names of true classes, None where unknown.
        images: (n, channels, height, width), as the model takes them.
        test: the test images of the data set, if one was named.
        skipped: pictures that could not be read.
    """

    names: list[str]
    labels: list[str | None]
    images: NDArray[Any]
    test: ImageSplit | None
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class Explanation:
    """One picture: the class explained, its score, and a map by method.

    Args:
        name: of the picture.
        label: true class, if known.
        target: class that is explained.
        score: of that class.
        top: the highest scores, with label and probability.
        maps: by method, (height, width).
        intercept: the part of the score that every picture gets, if contributions were asked for.
        error: intercept and contributions put together, less the score.
    """

    name: str
    label: str | None
    target: str
    score: float
    top: list[dict[str, Any]]
    maps: dict[str, NDArray[np.float32]]
    intercept: float | None
    error: float | None

    def summary(self) -> dict[str, Any]:
        """All but the maps, with the sum and the extremes of each."""
        return {
            "image": self.name,
            "label": self.label,
            "target": self.target,
            "score": self.score,
            "top": self.top,
            "intercept": self.intercept,
            "sum_less_score": self.error,
            "maps": {
                name: {
                    "sum": float(values.sum()),
                    "least": float(values.min()),
                    "largest": float(values.max()),
                }
                for name, values in self.maps.items()
            },
        }


def head_of(model: ImageClassifier, block: int, run: Path) -> ImageClassifier:
    """Return the head of one block of a stack as a classifier.

    Raises:
        SettingError: a model of one block, or a block that is not there.
    """
    from convexcnn.explain import block_head
    from convexcnn.models import LayerwiseConvexCNN

    if isinstance(model, LayerwiseConvexCNN):
        return block_head(model, block)
    raise SettingError(f"{run} holds a two-layer model, which has one block; leave out --block")


def methods_of(model: ImageClassifier, asked: Sequence[str]) -> tuple[str, ...]:
    """The methods that explain a model: those asked for, or all that it has.

    Raises:
        SettingError: one that it has not.
    """
    from convexcnn.explain import METHODS

    able = ("occlusion",) if getattr(model, "pool", "average") == "max" else tuple(METHODS)
    for name in asked:
        if name not in able:
            raise SettingError(
                f"--method {name} splits scores by patches, which maxima do not allow; this model "
                "has max pooling: give --method occlusion"
            )
    return tuple(asked) or able


def target_of(model: ImageClassifier, target: str) -> int:
    """The column of the scores that a class has.

    Raises:
        SettingError: a class that the model does not know.
    """
    names = model.column_names()
    if target not in names:
        raise SettingError(f"class {target!r} is not known; choose one of {', '.join(names)}")
    return names.index(target)


def collect(
    model: ImageClassifier,
    pictures: Sequence[Path],
    data: str | None,
    indices: Sequence[int],
    reading: Mapping[str, Any],
    *,
    skip_bad: bool,
) -> Subjects:
    """Read picture files as `predict` does, and test images of a data set.

    Args:
        model: that is explained.
        pictures: files, or folders of them.
        data: name or path of the data set, if one was named.
        indices: of its test images.
        reading: how `load_dataset` reads it.
        skip_bad: leave out pictures that cannot be read.

    Raises:
        DataError: a picture that cannot be read, data that does not fit the model, or a test image
            that is not there.
    """
    import numpy as np

    from convexcnn.cli.predict import picture_files
    from convexcnn.data import load_dataset, read_images

    channels, height, width = model.image_shape_
    names: list[str] = []
    labels: list[str | None] = []
    images = [np.zeros((0, channels, height, width), np.uint8)]
    skipped: tuple[str, ...] = ()
    if pictures:
        require_pictures(model)
        files, closed = picture_files(pictures, skip_bad=skip_bad)
        skipped += tuple(closed)
        read = read_images(
            files,
            channels=channels,
            image_size=(height, width),
            skip_bad=skip_bad,
        )
        names += [str(files[row]) for row in read.kept]
        labels += [None] * len(read.kept)
        images.append(np.asarray(read.images))
        skipped += read.skipped
    test = None
    if data is not None:
        dataset = load_dataset(data, **reading)
        check_fits(model, dataset)
        skipped += dataset.skipped
        test = _test_images(dataset, indices)
        names += [f"test image {index}" for index in indices]
        labels += [dataset.classes[int(test.labels[index])] for index in indices]
        images.append(test.images[list(indices)])
    return Subjects(names, labels, np.concatenate(images), test, skipped)


def explain_pictures(
    model: ImageClassifier, subjects: Subjects, methods: Sequence[str], target: int | None
) -> list[Explanation]:
    """Explain every picture by every method.

    Args:
        model: of the run.
        subjects: at least one picture.
        methods: their names.
        target: column of a class; None for the predicted one.
    """
    import numpy as np

    from convexcnn.explain import METHODS

    names = model.column_names()
    scores, probabilities = model.scores(subjects.images), model.predict_proba(subjects.images)
    targets = scores.argmax(1)
    if target is not None:
        targets = np.full(len(scores), target)
    maps = {name: METHODS[name](model, subjects.images, targets) for name in methods}
    rows, intercepts, errors = np.arange(len(scores)), None, None
    if "contributions" in methods:
        together, intercept = _contributed(model, subjects.images)
        intercepts = intercept[targets]
        errors = together[rows, targets] - scores[rows, targets]
    order = (-scores).argsort(axis=1, kind="stable")[:, :TOP]
    return [
        Explanation(
            name=subjects.names[i],
            label=subjects.labels[i],
            target=names[targets[i]],
            score=float(scores[i, targets[i]]),
            top=[
                {
                    "label": names[column],
                    "score": float(scores[i, column]),
                    "probability": float(probabilities[i, column]),
                }
                for column in order[i]
            ],
            maps={name: values[i] for name, values in maps.items()},
            intercept=None if intercepts is None else float(intercepts[i]),
            error=None if errors is None else float(errors[i]),
        )
        for i in rows
    ]


def _contributed(
    model: ImageClassifier, images: NDArray[Any]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Contributions and intercept put together, (n, k), and the intercept, (k,).

    Those of a stack are the sums over its heads, by weight.
    """
    import numpy as np

    from convexcnn.explain import exact_contributions, weighted_heads

    heads = [(weight, exact_contributions(h, images)) for weight, h in weighted_heads(model)]
    together = np.sum([weight * parts.scores for weight, parts in heads], axis=0)
    return together, np.sum([weight * parts.intercept for weight, parts in heads], axis=0)


def write_explanations(out: Path, subjects: Subjects, found: Sequence[Explanation]) -> None:
    """Write `explanations.json` and one figure per picture into a folder, made if need be.

    Raises:
        RunError: the folder cannot be written, or holds one of the pictures, or another file by
            the name of a result; what was there before is there still.
    """
    files = _explanation_files(out, subjects, found)
    _check_targets(files, subjects)
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_together(files)
    except OSError as error:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        raise not_written(out, error) from error


def _explanation_files(
    out: Path, subjects: Subjects, found: Sequence[Explanation]
) -> dict[Path, Write]:
    """What writes each file; a figure is drawn when its turn comes."""
    from convexcnn.cli.run_folder import write_json

    files: dict[Path, Write] = {}
    entries = []
    for number, (explanation, image) in enumerate(zip(found, subjects.images, strict=True), 1):
        name = f"{number:03d}-{_file_name(explanation.name)}.png"
        files[out / name] = partial(_draw, explanation, image)
        maps = {method: values.tolist() for method, values in explanation.maps.items()}
        entries.append({**explanation.summary(), "figure": name, "values": maps})
    files[out / "explanations.json"] = lambda path: write_json(path, {"explanations": entries})
    return files


def _check_targets(files: Mapping[Path, Write], subjects: Subjects) -> None:
    """Refuse to write over pictures that were read, parts of runs, and results of others."""
    from convexcnn.cli.outputs import check_file

    read = {Path(name).resolve() for name in subjects.names}
    for path in files:
        if path.parent.is_dir() and check_file(path) in read:
            raise RunError(f"{path} is a picture that was read; name another folder with --out")
    table = next(path for path in files if path.suffix == ".json")
    if table.exists() and not _is_of_explain(table):
        raise RunError(f"{table} is none of ours; name another folder with --out")


def _is_of_explain(path: Path) -> bool:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and isinstance(content.get("explanations"), list)


def _draw(explanation: Explanation, image: NDArray[Any], path: Path) -> None:
    from convexcnn.report.map_pictures import figure, overlay, picture_of

    panels = [("Picture", picture_of(image))]
    panels += [(TITLES[name], overlay(image, m)) for name, m in explanation.maps.items()]
    note = f"{explanation.target} {explanation.score:.3f}; {Path(explanation.name).name}"
    path.write_bytes(figure(panels, note))


def _test_images(dataset: ImageDataset, indices: Sequence[int]) -> ImageSplit:
    if dataset.test is None:
        raise DataError(f"{dataset.name} has no test images; name other --data")
    for index in indices:
        if index >= len(dataset.test):
            raise DataError(
                f"{dataset.name} has {len(dataset.test)} test images; give a --test-index from 0 "
                f"to {len(dataset.test) - 1}, not {index}"
            )
    return dataset.test


def _file_name(name: str) -> str:
    """What a figure is called after a picture, not too long for a name of a file."""
    word = re.sub(r"[^\w-]+", "-", Path(name).stem).strip("-") or "picture"
    return word.encode()[:LONGEST_NAME].decode(errors="ignore")
