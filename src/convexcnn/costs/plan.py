"""A training foreseen: its phases, what they take together, and in what they are reported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from convexcnn.costs.problem import carried
from convexcnn.costs.stack import StackPlan
from convexcnn.costs.two_layer import convex_phases, feature_shape, non_convex_phases
from convexcnn.costs.work import Hardware, Phase, Work
from convexcnn.data.limits import machine_memory
from convexcnn.data.survey import DataSurvey
from convexcnn.environment import resident_bytes
from convexcnn.models.layerwise import LayerwiseConvexCNN
from convexcnn.models.relu_cnn import NonConvexConvClassifier
from convexcnn.models.two_layer import ConvexConvClassifier

Model = ConvexConvClassifier | NonConvexConvClassifier | LayerwiseConvexCNN

WORKSPACE = 0.2e9
"""Bytes that threads, the allocator and libraries use beside arrays and the program itself."""

COPIES = 2
"""Times that the training images are in memory: as they were read, and divided for validation."""

REPORT_BYTES = 2e6
"""Of the page, its figures, and the arrays behind them."""


@dataclass(frozen=True)
class Plan:
    """What a training is expected to take.

    Args:
        data: that it is planned for.
        model: ``two-layer``, ``layerwise`` or ``non-convex``.
        phases: in order.
        hardware: that their seconds are for.
        base: bytes that are resident in all of them: Python, libraries and images.
        run_bytes: of the run folder.
        temporary_bytes: of files that go with the process.
        solver: that was chosen for a two-layer program, with its reason; None for others.
    """

    data: DataSurvey
    model: str
    phases: tuple[Phase, ...]
    hardware: Hardware
    base: float
    run_bytes: float
    temporary_bytes: float
    solver: dict[str, str] | None

    @property
    def seconds(self) -> float:
        return sum(phase.seconds(self.hardware) for phase in self.phases)

    @property
    def flops(self) -> float:
        return sum(phase.flops for phase in self.phases)

    @property
    def peak_memory(self) -> float:
        """The largest resident memory in bytes."""
        return self.base + max(phase.memory for phase in self.phases)

    @property
    def complete(self) -> bool:
        """Whether every phase is foreseen; if not, time and operations are lower bounds."""
        return all(phase.known for phase in self.phases)

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "format": 1,
            "kind": "plan",
            "data": self.data.describe(),
            "model": self.model,
            "solver": self.solver,
            "phases": [self._entry(phase) for phase in self.phases],
            "seconds": self.seconds,
            "flops": self.flops,
            "peak_memory_bytes": self.peak_memory,
            "machine_memory_bytes": machine_memory(),
            "disk_bytes": {"run": self.run_bytes, "temporary": self.temporary_bytes},
            "complete": self.complete,
            "hardware": self.hardware.describe(),
        }

    def _entry(self, phase: Phase) -> dict[str, Any]:
        return {
            "phase": phase.title,
            "block": phase.block,
            "flops": phase.flops,
            "seconds": phase.seconds(self.hardware),
            "memory_bytes": self.base + phase.memory,
            "known": phase.known,
            "note": phase.note,
        }


def make_plan(
    model: Model,
    survey: DataSurvey,
    hardware: Hardware,
    *,
    certificate: bool = True,
    baselines: tuple[str, ...] = (),
) -> Plan:
    """Foresee a training with `fit`, without doing any of it.

    Args:
        model: untrained, with the settings that `fit` would use.
        survey: of the data.
        hardware: that trains.
        certificate: whether the solution is certified.
        baselines: networks that are trained beside a stack, each for its budget.

    Raises:
        SettingError: settings that `fit` would refuse too.
    """
    memory_gb = None if isinstance(model, NonConvexConvClassifier) else model.memory_gb
    in_memory, temporary, solver = survey.in_memory(memory_gb), 0.0, None
    if isinstance(model, LayerwiseConvexCNN):
        stack = StackPlan(model, survey, hardware, certificate=certificate)
        phases, name = stack.phases(), "layerwise"
        temporary, numbers = stack.disk, stack.parameters
        minutes = 60 * (model.budget or 0.0)
        phases += [Phase(f"baseline {network}", fixed=minutes) for network in baselines]
    elif isinstance(model, ConvexConvClassifier):
        phases, solver = convex_phases(model, survey, certificate=certificate)
        signs = 2 if model.formulation == "relu" else 1
        gates = model.n_gates or 128
        shape = feature_shape(model, survey, gates)
        numbers = signs * survey.n_classes * shape.features + gates * shape.dim
        name = "two-layer"
    else:
        phases, name = non_convex_phases(model, survey), "non-convex"
        shape = feature_shape(model, survey, model.n_filters)
        cells = shape.geometry.n_cells
        numbers = model.n_filters * (shape.dim + cells * survey.n_classes)
    stored = 0.0 if in_memory or survey.in_place else float(survey.n_bytes)
    return Plan(
        data=survey,
        model=name,
        phases=(_reading(survey, in_memory), *phases),
        hardware=hardware,
        base=_base(survey, in_memory),
        run_bytes=4.0 * numbers + REPORT_BYTES,
        temporary_bytes=temporary + stored,
        solver=solver,
    )


def _base(survey: DataSurvey, in_memory: bool) -> float:
    """Python and libraries as they are now, room to work in, and the images that stay in memory."""
    images = COPIES * survey.n_train + survey.n_test if in_memory else 0
    return resident_bytes() + WORKSPACE + images * survey.pixels * survey.item_bytes


def _reading(survey: DataSurvey, in_memory: bool) -> Phase:
    """Image files are decoded; arrays are read, and checked by fingerprints."""
    work = [carried(4.0 * survey.n_bytes)]
    if survey.n_files:
        shape = survey.files, survey.image_shape[1:]
        work.append(Work("decoding", files=survey.n_files, shape=shape, divides=False))
    streamed = not in_memory and (survey.in_place or survey.n_files)
    return Phase("data", tuple(work), 0.0 if streamed else float(survey.n_bytes))
