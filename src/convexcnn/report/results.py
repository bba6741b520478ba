"""What `result.json` says, read into typed records and checked on the way."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from convexcnn.report.baselines import Baseline, read_baseline
from convexcnn.report.node import Node

Formulation = Literal["gated", "non-convex"]
FORMULATIONS: tuple[Formulation, Formulation] = ("gated", "non-convex")
MEASURES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
ACCURACIES = MEASURES[1::2]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Scores:
    """Loss and accuracy (a fraction) of one model on one set of images."""

    loss: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds."""

    mean: float | None
    std: float | None


@dataclass(frozen=True)
class Certificate:
    """The duality certificate of one block's convex program."""

    program: str
    scope: str
    primal: float | None
    dual: float | None
    gap: float | None
    relative_gap: float | None
    dtype: str
    violation: float | None


@dataclass(frozen=True)
class PathPoint:
    """One beta of the regularisation path."""

    beta: float
    train: Scores
    validation: Scores | None


@dataclass(frozen=True)
class Block:
    """One trained block.

    Of a stack, `validation` is of its own head, `stack` of the best prediction by all heads so
    far, both on held-out images, `head_weight` is its part in the final prediction, and
    `strategy` says where its gates come from. It is `kept` if an earlier run trained it: `seconds`
    are then what taking it over took.
    """

    train: Scores
    test: Scores | None
    certificate: Certificate | None
    gates: int | None
    neurons: int | None
    beta: float | None
    seconds: float | None
    path: tuple[PathPoint, ...]
    solver: str
    further_neuron: str
    relu_network: str
    validation: Scores | None = None
    stack: Scores | None = None
    head_weight: float | None = None
    strategy: str = ""
    kept: bool = False


@dataclass(frozen=True)
class DataDescription:
    """The data set a run was trained on."""

    name: str
    source: str
    classes: tuple[str, ...]
    image_shape: tuple[int, ...]
    n_train: int
    n_test: int
    fingerprint: str


@dataclass(frozen=True)
class Circumstances:
    """Settings, cost and machine: what both kinds of run record."""

    data: DataDescription
    settings: dict[str, object]
    seconds: float | None
    peak_memory_bytes: float | None
    versions: dict[str, object]
    machine: dict[str, object]
    seed: int | None


@dataclass(frozen=True)
class FitResult:
    """`result.json` of a fit."""

    circumstances: Circumstances
    model: str
    formulation: str
    blocks: tuple[Block, ...]
    train: Scores
    test: Scores | None
    confusion: NDArray[np.int64] | None
    phases: dict[str, float]
    baselines: tuple[Baseline, ...] = ()


@dataclass(frozen=True)
class SeedRun:
    """One formulation trained from one seed."""

    formulation: Formulation
    seed: int
    steps: int | None
    seconds: float | None
    steps_to_accuracy: dict[str, int | None]


@dataclass(frozen=True)
class CompareResult:
    """`result.json` of a comparison; spreads and the paper's figures by formulation and measure."""

    circumstances: Circumstances
    runs: tuple[SeedRun, ...]
    summary: dict[Formulation, dict[str, Spread]]
    paper: dict[Formulation, dict[str, float]]
    confusion: dict[Formulation, NDArray[np.int64]]

    def runs_of(self, formulation: Formulation) -> list[SeedRun]:
        """The runs of one formulation, one per seed."""
        return [run for run in self.runs if run.formulation == formulation]


def read_result(root: Node) -> FitResult | CompareResult:
    """Read a parsed `result.json`; RunError names the first entry that is missing or wrong."""
    if root["format"].value != 1:
        raise root["format"].wrong("1 (this version of convexcnn reads no other)")
    kind = root["kind"]
    if kind.value == "fit":
        return _read_fit(root)
    if kind.value == "compare":
        return _read_compare(root)
    raise kind.wrong('"fit" or "compare"')


def _maybe(parent: Node, key: str, read: Callable[[Node], _T]) -> _T | None:
    node = parent.optional(key)
    return None if node is None else read(node)


def _scores(node: Node) -> Scores:
    return Scores(_maybe(node, "loss", Node.number), _maybe(node, "accuracy", Node.fraction))


def _data(node: Node) -> DataDescription:
    classes = tuple(entry.text() for entry in node["classes"].items())
    if not classes:
        raise node["classes"].wrong("a list with at least one name")
    return DataDescription(
        name=node["name"].text(),
        source=_maybe(node, "source", Node.text) or "",
        classes=classes,
        image_shape=tuple(entry.integer() for entry in node["image_shape"].items()),
        n_train=node["n_train"].integer(),
        n_test=_maybe(node, "n_test", Node.integer) or 0,
        fingerprint=_maybe(node, "fingerprint", Node.text) or "",
    )


def _circumstances(root: Node) -> Circumstances:
    return Circumstances(
        data=_data(root["data"]),
        settings=_maybe(root, "settings", Node.mapping) or {},
        seconds=_maybe(root, "seconds", Node.number),
        peak_memory_bytes=_maybe(root, "peak_memory_bytes", Node.number),
        versions=_maybe(root, "versions", Node.mapping) or {},
        machine=_maybe(root, "machine", Node.mapping) or {},
        seed=_maybe(root, "seed", Node.integer),
    )


def _confusion(node: Node, classes: int) -> NDArray[np.int64]:
    rows = [[entry.integer() for entry in row.items()] for row in node.items()]
    if len(rows) != classes or any(len(row) != classes for row in rows):
        raise node.wrong(f"{classes} rows of {classes} counts, one per class")
    if any(entry < 0 for row in rows for entry in row):
        raise node.wrong("counts that are not negative")
    return np.asarray(rows, dtype=np.int64)


def _certificate(node: Node) -> Certificate:
    return Certificate(
        program=_maybe(node, "program", Node.text) or "",
        scope=_maybe(node, "scope", Node.text) or "",
        primal=_maybe(node, "primal", Node.number),
        dual=_maybe(node, "dual", Node.number),
        gap=_maybe(node, "gap", Node.number),
        relative_gap=_maybe(node, "relative_gap", Node.number),
        dtype=_maybe(node, "dtype", Node.text) or "",
        violation=_maybe(node, "violation", Node.number),
    )


def _words(node: Node) -> str:
    return node["words"].text()


def _solver(node: Node) -> str:
    """Name and reason of a solver, and how it ended if not at the optimum."""
    parts = [node["name"].text()]
    parts += [text for key in ("reason", "advice") if (text := _maybe(node, key, Node.text))]
    return "; ".join(parts)


def _path_point(node: Node) -> PathPoint:
    return PathPoint(
        node["beta"].number(), _scores(node["train"]), _maybe(node, "validation", _scores)
    )


def _block(node: Node) -> Block:
    path = node.optional("path")
    return Block(
        train=_scores(node["train"]),
        test=_maybe(node, "test", _scores),
        certificate=_maybe(node, "certificate", _certificate),
        gates=_maybe(node, "gates", Node.integer),
        neurons=_maybe(node, "neurons", Node.integer),
        beta=_maybe(node, "beta", Node.number),
        seconds=_maybe(node, "seconds", Node.number),
        path=() if path is None else tuple(_path_point(point) for point in path.items()),
        solver=_maybe(node, "solver", _solver) or "",
        further_neuron=_maybe(node, "further_neuron", _words) or "",
        relu_network=_maybe(node, "relu_network", _words) or "",
        validation=_maybe(node, "validation", _scores),
        stack=_maybe(node, "stack", _scores),
        head_weight=_maybe(node, "head_weight", Node.number),
        strategy=_maybe(node, "strategy", Node.text) or "",
        kept=node.mapping().get("kept") is True,
    )


def _read_fit(root: Node) -> FitResult:
    circumstances = _circumstances(root)
    classes = len(circumstances.data.classes)
    phases, baselines = root.optional("phases"), root.optional("baselines")
    return FitResult(
        circumstances=circumstances,
        model=root["model"].text(),
        formulation=root["formulation"].text(),
        blocks=tuple(_block(node) for node in root["blocks"].items()),
        train=_scores(root["train"]),
        test=_maybe(root, "test", _scores),
        confusion=_maybe(root, "confusion", lambda node: _confusion(node, classes)),
        phases={} if phases is None else {key: phases[key].number() for key in phases.mapping()},
        baselines=() if baselines is None else tuple(map(read_baseline, baselines.items())),
    )


def _seed_run(node: Node) -> SeedRun:
    marks = node.optional("steps_to_accuracy")
    for formulation in FORMULATIONS:
        if node["formulation"].value == formulation:
            return SeedRun(
                formulation=formulation,
                seed=node["seed"].integer(),
                steps=_maybe(node, "steps", Node.integer),
                seconds=_maybe(node, "seconds", Node.number),
                steps_to_accuracy={} if marks is None else _steps_to(marks),
            )
    raise node["formulation"].wrong('"gated" or "non-convex"')


def _steps_to(marks: Node) -> dict[str, int | None]:
    """Steps to every accuracy, which is written out as the key."""
    for key in marks.mapping():
        if not re.fullmatch(r"0?\.[0-9]{1,9}|[01](\.0)?", key):
            raise marks.wrong("steps by accuracies such as 0.4")
    return {key: _maybe(marks, key, Node.integer) for key in marks.mapping()}


def _spreads(node: Node) -> dict[str, Spread]:
    return {
        measure: Spread(
            _maybe(entry, "mean", Node.fraction if measure in ACCURACIES else Node.number),
            _maybe(entry, "std", Node.number),
        )
        for measure in MEASURES
        if (entry := node.optional(measure)) is not None
    }


def _read_compare(root: Node) -> CompareResult:
    circumstances = _circumstances(root)
    classes = len(circumstances.data.classes)
    runs = tuple(_seed_run(node) for node in root["runs"].items())
    if not runs:
        raise root["runs"].wrong("a list with at least one run")
    paper, confusion = root.optional("paper"), root.optional("confusion")
    return CompareResult(
        circumstances=circumstances,
        runs=runs,
        summary={name: _spreads(root["summary"][name]) for name in FORMULATIONS},
        paper={}
        if paper is None
        else {
            name: {key: entry[key].number() for key in entry.mapping()}
            for name in FORMULATIONS
            if (entry := paper.optional(name)) is not None
        },
        confusion={}
        if confusion is None
        else {
            name: _confusion(entry, classes)
            for name in FORMULATIONS
            if (entry := confusion.optional(name)) is not None
        },
    )
