"""The gallery of a fit: a few test images, and what their predicted class was decided on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convexcnn.report.formatting import count, fixed, in_words
from convexcnn.report.map_pictures import data_uri, figure, overlay, picture_of
from convexcnn.report.run_files import Examples

TITLES = {
    "contributions": "Contributions",
    "occlusion": "Occlusion",
    "gradcam": "Grad-CAM",
    "gradient": "Gradient × input",
}
_TOP = 3
_SMALL = 96  # side of a lesser picture, in pixels, at most


@dataclass(frozen=True)
class Picture:
    """One picture of an example."""

    title: str
    alt: str
    data_uri: str


@dataclass(frozen=True)
class ClassScore:
    """One of the highest scores: its share of the highest one's size, for its bar, and why."""

    name: str
    score: str
    share: float
    is_true: bool
    why: Picture | None


@dataclass(frozen=True)
class Example:
    """One test image: what was predicted, its maps, its highest scores, and block by block."""

    number: int
    title: str
    verdict: str
    is_right: bool
    pictures: list[Picture]
    scores: list[ClassScore]
    heads: list[Picture]

    @property
    def choice(self) -> str:
        """Its name among the others."""
        return f"{self.title.removeprefix('Test image ')}: {self.verdict.partition(',')[0]}"


@dataclass(frozen=True)
class WhyView:
    """The gallery, the same pictures as files by name, and what its caption speaks of.

    That is: the methods that drew the maps, by their names in the file, and which scores are shown.
    """

    examples: list[Example]
    files: dict[str, bytes]
    methods: list[str]
    shown_scores: str

    @property
    def explains_top(self) -> bool:
        """Whether contributions to the highest scores were recorded."""
        return any(score.why for example in self.examples for score in example.scores)

    @property
    def is_stack(self) -> bool:
        """Whether there are several heads to compare."""
        return any(example.heads for example in self.examples)

    @property
    def choices(self) -> list[tuple[int, str]]:
        """The examples to choose from, by number and name."""
        return [(example.number, example.choice) for example in self.examples]


def why_view(examples: Examples, classes: Sequence[str]) -> WhyView:
    """Prepare the examples of a run for the page."""
    views, files = [], {}
    for row in range(len(examples.images)):
        example, name = _example(examples, row, classes), f"why-{row + 1}.png"
        image = examples.images[row]
        panels = [("Picture", picture_of(image))]
        panels += [(TITLES[key], overlay(image, maps[row])) for key, maps in examples.maps.items()]
        files[name] = figure(panels, f"{example.title}: {example.verdict}")
        views.append(example)
    shown = _shown_scores(min(_TOP, len(examples.columns)), len(examples.columns))
    return WhyView(views, files, list(examples.maps), shown)


def _shown_scores(shown: int, scores: int) -> str:
    """Which scores stand below the maps, as a part of a sentence."""
    if shown == 1:
        return "the highest score"
    return "both scores" if scores == 2 else f"the {in_words(shown)} highest scores"


def _example(examples: Examples, row: int, classes: Sequence[str]) -> Example:
    image, label = examples.images[row], int(examples.labels[row])
    predicted, true = classes[int(examples.predicted[row])], classes[label]
    right = int(examples.predicted[row]) == label
    title = f"Test image {count(int(examples.index[row]))}"
    pictures = [
        Picture("Picture", f"{title}, a picture of class {true}", data_uri(picture_of(image)))
    ]
    for key, maps in examples.maps.items():
        alt = f"{TITLES[key]} to the score of {predicted}: {_where(maps[row])}"
        pictures.append(Picture(TITLES[key], alt, data_uri(overlay(image, maps[row]))))
    return Example(
        number=row,
        title=title,
        verdict=f"{true}, recognised" if right else f"{true}, taken for {predicted}",
        is_right=right,
        pictures=pictures,
        scores=_highest(examples, row, classes),
        heads=_heads(examples, row, classes),
    )


def _highest(examples: Examples, row: int, classes: Sequence[str]) -> list[ClassScore]:
    scores = examples.scores[row]
    order = np.argsort(-scores, kind="stable")[:_TOP]
    largest = max(float(np.abs(scores[order]).max()), 1e-30)
    return [
        ClassScore(
            name=classes[int(examples.columns[column])],
            score=fixed(float(scores[column]), 3),
            share=max(0.0, float(scores[column]) / largest),
            is_true=int(examples.columns[column]) == int(examples.labels[row]),
            why=_why(examples, row, place, classes[int(examples.columns[column])]),
        )
        for place, column in enumerate(order)
    ]


def _why(examples: Examples, row: int, place: int, name: str) -> Picture | None:
    """Contributions to one of the highest scores, if they were recorded."""
    if place >= examples.top.shape[1]:
        return None
    values = examples.top[row, place]
    alt = f"Contributions to the score of {name}: {_where(values)}"
    return Picture(name, alt, data_uri(overlay(examples.images[row], values), _SMALL))


def _heads(examples: Examples, row: int, classes: Sequence[str]) -> list[Picture]:
    """What every block's own head decides the predicted class on, and what it says itself."""
    predicted, pictures = classes[int(examples.predicted[row])], []
    for number, values in enumerate(examples.blocks[row], 1):
        scores = examples.block_scores[row, number - 1]
        says = classes[int(examples.columns[int(scores.argmax())])]
        alt = f"Contributions to {predicted} by the head of block {number}: {_where(values)}"
        uri = data_uri(overlay(examples.images[row], values), _SMALL)
        pictures.append(Picture(f"{number}: {says}", alt, uri))
    return pictures


def _where(values: np.ndarray) -> str:
    """In which ninth of the picture a map is highest, for those who do not see it."""
    down = np.array_split(np.arange(values.shape[0]), 3)
    across = np.array_split(np.arange(values.shape[1]), 3)
    sums = [
        (float(values[np.ix_(rows, columns)].sum()), f"{vertical} {horizontal}")
        for rows, vertical in zip(down, ("top", "middle", "bottom"), strict=True)
        for columns, horizontal in zip(across, ("left", "centre", "right"), strict=True)
    ]
    return f"most in the {max(sums)[1]}"
