"""Train one block of a stack: whitening, gates, the exact ridge program, its neurons, its proof."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convexcnn.certificates.block_certificate import certify_block
from convexcnn.certificates.certificate import Certificate
from convexcnn.models.gates import choose_gates
from convexcnn.models.program_settings import ProgramSettings
from convexcnn.models.stack_settings import Block
from convexcnn.models.trained_block import TrainedBlock, strongest_neurons
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.patches.whiten import PatchTransform, fit_whitening, identity_transform
from convexcnn.programs.kind import ProgramKind
from convexcnn.solvers.choose import ProblemSize
from convexcnn.solvers.path import PathSolver, scores_of, squared_measures
from convexcnn.solvers.result import Callback, PhaseClock, Solution

KIND = ProgramKind()
"""Every block solves the gated ridge program."""

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


def problem_size(block: Block, geometry: PatchGeometry, rows: int, classes: int) -> ProblemSize:
    """The numbers that decide what the program of a block costs."""
    dim = geometry.patch_dim
    if block.whiten is not None:
        dim = min(block.whiten, dim) + 1
    patches = geometry.grid[0] * geometry.grid[1]
    return ProblemSize(rows, patches, geometry.n_cells, block.n_gates, dim, classes)


def block_solver(block: Block, size: ProblemSize, memory_gb: float) -> tuple[PathSolver, str]:
    """The exact solver of a block, and why it was chosen.

    Raises:
        SettingError: if none fits into the memory.
    """
    program = ProgramSettings("gated", "l2", "squared", "auto", None, block.betas, memory_gb)
    return program.exact_solver(size, refit=False)


def train_block(
    block: Block,
    stream: ImageStream,
    split: Split,
    generator: torch.Generator,
    *,
    last: bool,
    memory_gb: float,
    certificate: bool,
    callback: Callback | None = None,
) -> tuple[TrainedBlock, Tensor]:
    """Train a block on frozen maps.

    Args:
        block: settings.
        stream: all images as the block sees them.
        split: which of them train.
        generator: source of every random choice.
        last: whether no block follows, so that no neurons are needed.
        memory_gb: memory that the solver may use.
        certificate: whether to bound the distance from the optimum.
        callback: called with every event.

    Returns:
        The block, without the scaler of its maps, and its scores (n, k) of the held-out images.

    Raises:
        SettingError: a program that does not fit into the memory.
    """
    clock = PhaseClock(callback)
    train, held_out = stream.subset(split.kept), stream.subset(split.held_out)
    channels, height, width = stream.images.shape[1:]
    geometry = block.geometry((channels, height, width))
    transform = _fit_transform(block, train, geometry, generator).to(stream.device)
    clock.lap("whitening")
    gates = choose_gates(
        block.gates, block.n_gates, train, geometry, transform, generator, callback
    )
    clock.lap("gates")
    features = GatedFeatures(geometry, transform, gates)
    size = problem_size(block, geometry, len(stream), stream.n_classes)
    solver, reason = block_solver(block, replace(size, gates=len(gates)), memory_gb)
    solution = solver.solve(features, train, held_out, callback)
    assert solution.held_out_scores is not None
    after = PhaseClock(callback)
    weights = solution.weights.reshape(stream.n_classes, *features.shape).to(gates).contiguous()
    bias = solution.bias.to(gates).contiguous()
    neurons, neuron_gates = strongest_neurons(weights, 0 if last else block.n_neurons)
    after.lap("neurons")
    found = TrainedBlock(
        block,
        geometry,
        transform,
        gates,
        weights,
        bias,
        solution.beta,
        neurons,
        neuron_gates,
        measures={
            "train": measure(scores_of(features, train, weights.flatten(1).T, bias), train),
            "validation": measure(solution.held_out_scores, held_out),
        },
        path=tuple(point.to_dict() for point in solution.path),
        solver=_outcome(solution, reason),
    )
    after.lap("accuracy")
    if certificate:
        found = replace(found, certificate=certify_head(found, train))
        after.lap("certificate")
    seconds = {**clock.seconds, **solution.seconds, **after.seconds}
    return replace(found, seconds=seconds), solution.held_out_scores


def certify_head(block: TrainedBlock, train: ImageStream) -> Certificate:
    """Bound the distance of a block's head from its optimum, given its frozen input, in float64.

    Args:
        block: trained.
        train: the images that it was trained on, as the block sees them.
    """
    certificate = certify_block(block.raw(), replace(train, device="cpu"), KIND).certificate
    return replace(certificate, scope=f"{certificate.scope}, given the frozen input of the block")


def measure(scores: Tensor, stream: ImageStream) -> dict[str, float]:
    """Mean squared loss and accuracy of scores (n, k) of the images of a stream, not mirrored."""
    labels = torch.from_numpy(stream.labels).to(scores.device)
    targets = torch.nn.functional.one_hot(labels, stream.n_classes).to(scores.dtype)
    return squared_measures(scores, targets)


def _fit_transform(
    block: Block, train: ImageStream, geometry: PatchGeometry, generator: torch.Generator
) -> PatchTransform:
    """Raw patch -> d coordinates, laid out in memory as a loaded model has it."""
    if block.whiten is None:
        return identity_transform(geometry.patch_dim)
    per_image = geometry.grid[0] * geometry.grid[1] * geometry.patch_dim
    order = torch.randperm(len(train.images), generator=generator).numpy()
    images, _ = train.block(order[: max(1, int(WHITENING_NUMBERS / per_image))])
    found = fit_whitening(images, geometry, min(block.whiten, geometry.patch_dim))
    return replace(found, projection=found.projection.contiguous())


def _outcome(solution: Solution, reason: str) -> dict[str, Any]:
    """Which solver it was, why, and how it ended."""
    return {
        "name": solution.solver,
        "reason": reason,
        "status": solution.status.name.lower().replace("_", " "),
        "advice": "" if solution.status.name == "OPTIMAL" else solution.status.value,
        "relative_gap": solution.relative_gap,
    }
