"""Which solver suits a program: what each needs in memory, and in which order they are preferred.

Pure functions of kind, size, memory budget and tolerance; the tables are what a new solver adds to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from convexcnn.errors import SettingError
from convexcnn.programs.kind import ProgramKind
from convexcnn.solvers import direct, kernel, matrix_free
from convexcnn.solvers.metric import gram_metric_bytes, kernel_metric_bytes, metric_chunk
from convexcnn.solvers.registry import BETA_SOLVERS, solvers_for
from convexcnn.solvers.warm_path import InMemorySolver

FLOAT32_GAP = 1e-7
"""Relative gaps below this are out of reach of solvers that work in float32."""

LOGISTIC_GAP = 1e-5
"""The same for quasi-Newton steps with cross-entropy."""

DENSE = 4000
"""Side of a matrix that is factorised in float64 in seconds."""

LEAST_ROWS = 500
"""Rows of Phi at once below which products with it become slow."""

CONE_ROWS = 2e7
"""Cone constraints that an interior-point method steps through in seconds."""


@dataclass(frozen=True)
class ProblemSize:
    """The numbers that decide what a program costs.

    Args:
        rows: images, mirror images included.
        patches: patches per image.
        cells: pooling cells.
        gates: g.
        dim: numbers per patch, d.
        classes: k.
        processes: that share the images.
    """

    rows: int
    patches: int
    cells: int
    gates: int
    dim: int
    classes: int
    processes: int = 1

    def with_gates(self, gates: int) -> ProblemSize:
        """The same with another number of gates."""
        return replace(self, gates=gates)

    @property
    def features(self) -> int:
        return self.cells * self.gates * self.dim

    @property
    def own_rows(self) -> int:
        """Of every process."""
        return -(-self.rows // self.processes)

    @property
    def smaller_side(self) -> int:
        """Of Phi: the Gram matrix or the kernel."""
        return min(self.features, self.rows)

    @property
    def why_gram(self) -> str:
        """What speaks for the Gram matrix, in words."""
        if self.features > self.rows:
            return (
                f"the Gram matrix of {self.features:,} features is a sum over the images of "
                f"{self.processes} processes, which the kernel of {self.rows:,} images is not"
            )
        return (
            f"{self.features:,} features are fewer than {self.rows:,} images, so their Gram "
            "matrix is the smaller system"
        )

    @property
    def cone_rows(self) -> int:
        """Constraints of (R)."""
        return 2 * self.classes * self.gates * self.patches * self.rows


@dataclass(frozen=True)
class Choice:
    """A solver, and why it was chosen, in words."""

    solver: str
    reason: str


def rows_at_once(features: int, spare_gb: float = math.inf) -> int:
    """Rows of Phi in memory: those of about 0.5 GB, or of a third of what is to spare."""
    least = min(LEAST_ROWS, 0.5e9 / (4 * features))
    return int(min(4000, max(100, least, min(0.5e9, spare_gb / 3 * 1e9) / (4 * features))))


def _streamed(size: ProblemSize, kind: ProgramKind) -> float:
    """Two blocks of Phi, weights and steps, and a few scores per image in float64."""
    weights = size.classes * size.features * (2 if kind.formulation == "relu" else 1)
    scores = 8.0 * 6 * size.own_rows * size.classes
    return 4.0 * (2 * metric_chunk(size.features) * size.features + 8 * weights) + scores


def _gathered(size: ProblemSize, kind: ProgramKind) -> float:
    """All patches, gate bits and Phi in float64."""
    return 8.0 * size.own_rows * (size.patches * (size.dim + size.gates) + 2 * size.features)


def _ridge(needed: Callable[..., float]) -> Callable[[ProblemSize, ProgramKind], float]:
    """What a solver of ridge regressions says that it needs."""

    def of(size: ProblemSize, kind: ProgramKind) -> float:
        chunk = rows_at_once(size.features, 0)
        return 1e9 * needed(size.own_rows, size.features, size.classes, chunk=chunk)

    return of


def _one_factor(size: ProblemSize, kind: ProgramKind) -> float:
    gram, kernel = gram_metric_bytes(size.features), kernel_metric_bytes(size.rows)
    return min(gram, kernel) + _streamed(size, kind)


def _patches(size: ProblemSize, kind: ProgramKind) -> float:
    """All patches in float64, and working memory."""
    return 8.0 * size.rows * size.patches * size.dim + 1e9


def _in_metric(size: ProblemSize, kind: ProgramKind) -> float:
    """Phi and its Gram matrix in float32, two float64 matrices beside it, and scores."""
    rows = size.own_rows
    phi, scores = 4.0 * rows * size.features, 8.0 * 8 * rows * size.classes
    return phi + 20.0 * size.features**2 + scores + _streamed(size, kind)


def _multiple_kernel(size: ProblemSize, kind: ProgramKind) -> float:
    return _gathered(size, kind) + 8.0 * 3 * size.smaller_side**2


def _interior_point(size: ProblemSize, kind: ProgramKind) -> float:
    side = size.smaller_side * (size.classes if kind.loss == "cross_entropy" else 1)
    cones = 12 * size.cone_rows if kind.formulation == "relu" else 0
    return _gathered(size, kind) + 8.0 * (3 * side**2 + cones)


NEEDED: dict[str, Callable[[ProblemSize, ProgramKind], float]] = {
    "direct": _ridge(direct.needed_gb),
    "kernel": _ridge(kernel.needed_gb),
    "cg": _ridge(matrix_free.needed_gb),
    "lbfgs": _in_metric,
    "admm": _one_factor,
    "cone-columns": _patches,
    "multiple-kernel": _multiple_kernel,
    "interior-point": _interior_point,
}
"""Bytes that a solver needs; another one gathers all patches or streams them, as its class says."""


def needed_gb(solver: str, size: ProblemSize, kind: ProgramKind) -> float:
    """Return the memory in GB that a solver needs for a program."""
    in_memory = solver in BETA_SOLVERS and issubclass(BETA_SOLVERS[solver], InMemorySolver)
    needed = NEEDED.get(solver, _gathered if in_memory else _streamed)
    return 1e-9 * needed(size, kind)


@dataclass(frozen=True)
class Preference:
    """A solver, when it is the best one, and why."""

    solver: str
    suits: Callable[[ProblemSize, ProgramKind, float], bool]
    because: str


def _coarse(tolerance: float) -> bool:
    return tolerance >= FLOAT32_GAP


PREFERENCES = (
    Preference(
        "direct",
        lambda size, kind, tolerance: (
            (size.features <= size.rows or size.processes > 1) and _coarse(tolerance)
        ),
        "{why_gram}",
    ),
    Preference(
        "kernel",
        lambda size, kind, tolerance: size.features > size.rows and _coarse(tolerance),
        "{features:,} features are more than {rows:,} images, so the kernel of the images is the "
        "smaller system",
    ),
    Preference(
        "cg",
        lambda size, kind, tolerance: _coarse(tolerance),
        "neither the Gram matrix of {features:,} features nor the kernel of {rows:,} images fits "
        "in memory, so it reads the images again for every step",
    ),
    Preference(
        "multiple-kernel",
        lambda size, kind, tolerance: size.smaller_side <= DENSE,
        "squared loss with the group norm and matrices of side {smaller_side:,}: Newton's method "
        "reaches any tolerance in a few steps",
    ),
    Preference(
        "lbfgs",
        lambda size, kind, tolerance: (
            kind.loss == "cross_entropy"
            and size.features <= max(size.rows, DENSE)
            and tolerance >= LOGISTIC_GAP
        ),
        "{features:,} features of {rows:,} images fit in memory, and quasi-Newton steps in the "
        "metric of their Gram matrix are few",
    ),
    Preference(
        "interior-point",
        lambda size, kind, tolerance: (
            size.smaller_side <= DENSE / (size.classes if kind.loss == "cross_entropy" else 2)
            and (kind.formulation == "gated" or size.cone_rows <= CONE_ROWS)
        ),
        "the program is small enough for Newton steps: matrices of side {smaller_side:,}",
    ),
    Preference(
        "cone-columns",
        lambda size, kind, tolerance: True,
        "{cone_rows:,} cone constraints are too many for Newton steps, so filters are generated "
        "cone by cone",
    ),
    Preference(
        "admm",
        lambda size, kind, tolerance: _coarse(tolerance),
        "one factor with side {smaller_side:,} fits in memory and serves every beta",
    ),
    Preference(
        "burer-monteiro",
        lambda size, kind, tolerance: _coarse(tolerance),
        "factors of the nuclear norm descend without a matrix of side {smaller_side:,}",
    ),
    Preference(
        "fista",
        lambda size, kind, tolerance: True,
        "it takes every gated program, at two products with Phi per step",
    ),
)
"""From the first choice to the last; a solver that is not named comes after all of them."""


def choose_solver(
    kind: ProgramKind,
    size: ProblemSize,
    budget_gb: float,
    tolerance: float,
    names: Sequence[str] | None = None,
) -> Choice:
    """Return the solver to take, and why.

    Args:
        kind: which program.
        size: of the program.
        budget_gb: memory that it may use.
        tolerance: relative duality gap.
        names: solvers to choose from; None for all that handle the kind.

    Raises:
        SettingError: if none fits into the memory.
    """
    if names is None:
        names = solvers_for(kind, shared=size.processes > 1)
    fitting = [name for name in names if needed_gb(name, size, kind) <= budget_gb]
    derived = ("features", "smaller_side", "cone_rows", "why_gram")
    numbers = vars(size) | {name: getattr(size, name) for name in derived}
    for preference in PREFERENCES:
        if preference.solver in fitting and preference.suits(size, kind, tolerance):
            return Choice(preference.solver, preference.because.format(**numbers))
    if fitting:
        name = min(fitting, key=lambda name: needed_gb(name, size, kind))
        return Choice(
            name,
            f"of the solvers of this program that fit in memory ({', '.join(fitting)}) it needs "
            f"the least, {needed_gb(name, size, kind):.1g} GB",
        )
    check_memory(min(names, key=lambda name: needed_gb(name, size, kind)), kind, size, budget_gb)
    raise AssertionError("unreachable")


def check_memory(solver: str, kind: ProgramKind, size: ProblemSize, budget_gb: float) -> None:
    """Raise SettingError if a solver does not fit into the memory budget."""
    needed = needed_gb(solver, size, kind)
    if needed > budget_gb:
        raise SettingError(
            f"{size.features} features of {size.rows} images need {needed:.1f} GB with solver "
            f"{solver}, and memory_gb allows {budget_gb:.1f}; lower n_gates (now {size.gates}), "
            f"whiten or pooling, or raise memory_gb by {needed - budget_gb:.2f}"
        )


def affordable_gates(
    kind: ProgramKind, size: ProblemSize, budget_gb: float, names: Sequence[str]
) -> int:
    """The most gates, at most ``size.gates``, with which one of some solvers fits into memory."""
    gates = size.gates
    while gates > 1:
        smaller = replace(size, gates=gates)
        if any(needed_gb(name, smaller, kind) <= budget_gb for name in names):
            break
        gates -= 1
    return gates
