"""What the training of every kind of block shares: its task, its outcome, its exact solver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convexcnn.errors import DataError
from convexcnn.models.descent_memory import images_at_once
from convexcnn.models.fresh_maps import FreshMaps
from convexcnn.models.frozen_maps import MapStream
from convexcnn.models.memory_plan import MemoryPlan
from convexcnn.models.program_settings import ProgramSettings
from convexcnn.models.stack_settings import Block
from convexcnn.models.trained_block import TrainedBlock
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.stream import ImageStream
from convexcnn.programs.losses import get_loss
from convexcnn.solvers.choose import ProblemSize, needed_gb
from convexcnn.solvers.optimum import Status
from convexcnn.solvers.path import PathSolver
from convexcnn.solvers.registry import solvers_for
from convexcnn.solvers.result import Callback, Solution

RIDGE_SOLVERS = {"squared": "direct", "cross_entropy": "lbfgs"}
"""Solvers of heads on known features with l2, by loss."""

NORM_SOLVER = "admm"
"""Of heads on known features with any other regulariser: it too sees them from a stream."""

ON_KNOWN_FEATURES = {"direct", "kernel", "cg", "lbfgs", "admm", "burer-monteiro", "fista"}
"""Solvers that ask features for Phi only, and not for the patches that it is made of: what heads on
known features may have in their place."""

HEAD_PATH = tuple(10.0 ** (-1.5 - i / 2) for i in range(9))
"""Default betas of a head on known features with l2, relative to their mean variance."""

SOLVED_BETAS = 6
"""Of them, about, before held-out images have had enough: late blocks want large ones."""

FLAT = 1e-12
"""Variance of features, relative to their mean square, below which they are all the same."""

NO_MORE_STEPS = "its solver takes no more steps than that: raise tolerance, or give larger betas"
"""What to do where one ends before the tolerance: a block has no number of steps to raise."""

WHITENING_NUMBERS = 1.5e8
"""Numbers in the patches that a whitening is fitted on."""


@dataclass(frozen=True)
class Split:
    """Which images train the blocks, and which are held out; the same for all blocks.

    Args:
        kept: ascending indices of the training images.
        held_out: those of the others: they choose betas and weigh heads.
    """

    kept: NDArray[np.intp]
    held_out: NDArray[np.intp]


@dataclass(frozen=True)
class BlockTask:
    """One block to train on frozen maps.

    Args:
        block: settings.
        pixels: all images, with the views that descent draws from.
        earlier: the blocks before, in their order.
        stream: all images as the program of the block sees them, in two views at most.
        split: which of them train.
        generator: source of every random choice.
        last: whether no block follows, so that no maps are needed.
        memory: what the solver, features and maps may use.
        certificate: whether to bound the distance from the optimum.
        steps: from the steps that a network that lends neurons would take without a budget, to
            those that it takes.
        callback: called with every event.
    """

    block: Block
    pixels: ImageStream
    earlier: tuple[TrainedBlock, ...]
    stream: ImageStream
    split: Split
    generator: torch.Generator
    last: bool
    memory: MemoryPlan
    certificate: bool
    steps: Callable[[int], int]
    callback: Callback | None = None

    @property
    def number(self) -> int:
        """Which block of its stack it is, from 1."""
        return len(self.earlier) + 1

    @property
    def train(self) -> ImageStream:
        return self.stream.subset(self.split.kept)

    def descent_stream(self, dtype: torch.dtype = torch.float32) -> ImageStream:
        """Training images whose mini-batches are augmented anew in every epoch.

        Args:
            dtype: precision of mini-batches of maps.
        """
        train, pixels = self.train, self.pixels.subset(self.split.kept)
        if not isinstance(train, MapStream):
            return pixels
        if pixels.views == 1:
            return train
        stored = {f.name: getattr(train, f.name) for f in fields(train)}
        return FreshMaps(**stored, pixels=pixels, earlier=self.earlier, dtype=dtype)

    @property
    def held_out(self) -> ImageStream:
        return self.stream.subset(self.split.held_out)

    @property
    def geometry(self) -> PatchGeometry:
        channels, height, width = self.stream.images.shape[1:]
        return self.block.geometry((channels, height, width))

    @property
    def at_once(self) -> int:
        """Images of a piece of a mini-batch of descent."""
        _, channels, height, width = self.pixels.images.shape
        where = self.block, self.geometry, (channels, height, width), self.stream.device
        return images_at_once(*where, last=self.last)

    def sample(self) -> Tensor:
        """Training images whose patches are enough to whiten by."""
        geometry = self.geometry
        per_image = geometry.grid[0] * geometry.grid[1] * geometry.patch_dim
        order = torch.randperm(len(self.split.kept), generator=self.generator).numpy()
        images, _ = self.train.sample(order[: max(1, int(WHITENING_NUMBERS / per_image))])
        return images

    def solver(
        self, gates: int, default_betas: Sequence[float] | None = None
    ) -> tuple[PathSolver, str]:
        """The exact solver of its head on so many gates, and why it was chosen."""
        size = problem_size(self.block, self.geometry, *sizes_of(self.stream))
        block = self.block
        if block.betas is None:
            block = replace(block, betas=default_betas)
        # Shares differ by an image, and hosts by their memory; all have to choose the same.
        memory_gb = self.stream.processes.least(self.memory.solver_gb)
        solver, reason = block_solver(block, size.with_gates(gates), memory_gb)
        solver.ends_early |= self.block.betas is None
        return solver, reason


@dataclass(frozen=True)
class BlockOutcome:
    """A trained block and what goes on from it.

    Args:
        block: without the scaler of its maps unless ``maps`` are there.
        scores: (n, k) of all images of the task's stream, mirror images averaged in.
        maps: all images as the next block sees them, if they were made along the way.
    """

    block: TrainedBlock
    scores: Tensor
    maps: MapStream | None = None


def sizes_of(stream: ImageStream) -> tuple[int, int, int]:
    """Rows, classes and processes of a stream, as ``problem_size`` takes them."""
    return len(stream), stream.n_classes, stream.processes.size


def problem_size(
    block: Block, geometry: PatchGeometry, rows: int, classes: int, processes: int = 1
) -> ProblemSize:
    """The numbers that decide what the program of a block costs."""
    dim, patches = 1, 1
    if block.head == "patches":
        patches = geometry.grid[0] * geometry.grid[1]
        dim = geometry.patch_dim
        if block.whiten is not None:
            dim = min(block.whiten, dim) + 1
    cells, gates = geometry.n_cells, block.n_gates
    return ProblemSize(rows, patches, cells, gates, dim, classes, processes)


def solver_settings(block: Block, memory_gb: float) -> ProgramSettings:
    """The program of a block and the name of its solver."""
    name = "auto"
    if block.head == "neurons":
        name = RIDGE_SOLVERS[block.loss] if block.regulariser == "l2" else NORM_SOLVER
    settings = block.regulariser, block.loss, name, block.tolerance, block.betas
    return ProgramSettings("gated", *settings, memory_gb)


def block_solver(block: Block, size: ProblemSize, memory_gb: float) -> tuple[PathSolver, str]:
    """The exact solver of a block, and why it was chosen.

    Raises:
        SettingError: if none fits into the memory.
    """
    program = solver_settings(block, memory_gb)
    name, among = str(program.solver), None
    if block.head == "neurons":
        among = ON_KNOWN_FEATURES
        able = name in solvers_for(program.kind, shared=size.processes > 1)
        if not able or needed_gb(name, size, program.kind) > memory_gb:
            program = replace(program, solver="auto")
    solver, reason = program.exact_solver(size, refit=False, among=among)
    return solver, reason or "pooled neurons are few, and known for all images at once"


def default_betas(task: BlockTask, phi: Tensor) -> list[float] | None:
    """Betas that suit some known features (n, m); None where some are given or solvers know better.

    A norm has a smallest beta at which all weights are zero, which its path starts from.

    Raises:
        DataError: features that are the same for all images, from which no betas follow.
    """
    if task.block.betas is not None:
        return None
    variance = float(phi.var(0).mean())
    if not variance > FLAT * float(phi.square().mean()):
        what = "maps of the block before it" if task.earlier else "images"
        raise DataError(
            f"block {task.number}: its features are the same for all images, so that there is "
            f"nothing to learn; check that the {what} are not constant, or take other gates"
        )
    if task.block.regulariser != "l2":
        return None
    return [variance * relative for relative in HEAD_PATH]


def measure(scores: Tensor, labels: NDArray[np.int64], loss: str) -> dict[str, float]:
    """Mean loss and accuracy of scores (n, k) of images with labels (n,)."""
    truth = torch.from_numpy(labels).to(scores.device)
    targets = torch.nn.functional.one_hot(truth, scores.shape[1]).to(scores.dtype)
    return {
        "loss": float(get_loss(loss).value(scores, targets)) / len(scores),
        "accuracy": float((scores.argmax(1) == truth).double().mean()),
    }


def split_measures(scores: Tensor, task: BlockTask) -> dict[str, dict[str, float]]:
    """Loss and accuracy on training and on held-out images of scores (n, k) of all of them."""
    parts = {"train": task.split.kept, "validation": task.split.held_out}
    return {
        name: measure(scores[torch.from_numpy(rows)], task.stream.labels[rows], task.block.loss)
        for name, rows in parts.items()
    }


def solver_outcome(solution: Solution, reason: str) -> dict[str, Any]:
    """Which solver it was, why, and how it ended."""
    return {
        "name": solution.solver,
        "reason": reason,
        "status": solution.status.name.lower().replace("_", " "),
        "advice": _advice(solution.status),
        "relative_gap": solution.relative_gap,
    }


def _advice(status: Status) -> str:
    """What to try next; nothing if it is solved."""
    if status is Status.OPTIMAL:
        return ""
    return NO_MORE_STEPS if status is Status.ITERATION_LIMIT else status.value
