"""Train a block on whole gated patches: whitening, gates, the exact program, neurons, proof."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from convexcnn.errors import SettingError
from convexcnn.models.block_training import (
    BlockOutcome,
    BlockTask,
    solver_outcome,
    split_measures,
)
from convexcnn.models.column_generation import dual_gates
from convexcnn.models.gates import choose_gates
from convexcnn.models.patch_block import PatchBlock, strongest_neurons
from convexcnn.models.trained_block import TrainedBlock
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.patches.whiten import PatchTransform, fit_whitening, identity_transform
from convexcnn.programs.kind import ProgramKind
from convexcnn.solvers.result import PhaseClock, Solution

SCORED_AT_ONCE = 32
"""Images whose scores are computed at once."""


def train_patch_block(task: BlockTask) -> BlockOutcome:
    """Train a block with head ``patches``.

    Raises:
        SettingError: a program that does not fit into the memory.
    """
    block, clock = task.block, PhaseClock(task.callback)
    train, geometry = task.train, task.geometry
    transform = _fit_transform(task).to(train.device).mapped(train.processes.agree)
    clock.lap("whitening")
    gates = train.processes.agree(_choose_gates(task, transform))
    clock.lap("gates")
    features = GatedFeatures(geometry, transform, gates)
    solver, reason = task.solver(len(gates))
    solution = solver.solve(features, train, task.held_out, task.callback)
    after = PhaseClock(task.callback)
    k = train.n_classes
    weights = solution.weights.reshape(k, *features.shape).to(gates).contiguous()
    neurons, neuron_gates = strongest_neurons(weights, 0 if task.last else block.n_neurons)
    if not task.last and not len(neurons):
        raise SettingError(
            f"block {task.number} keeps no neuron at beta {solution.beta:g}, so that the next one "
            "would see nothing; give smaller betas, or make it the last block"
        )
    after.lap("neurons")
    found = PatchBlock(
        settings=block,
        geometry=geometry,
        transform=transform,
        gates=gates,
        weights=weights,
        bias=solution.bias.to(gates).contiguous(),
        beta=solution.beta,
        neurons=neurons,
        neuron_gates=neuron_gates,
        path=tuple(point.to_dict() for point in solution.path),
        solver=solver_outcome(solution, reason),
    )
    scores = view_scores(found, task.stream)
    found.measures.update(split_measures(scores, task))
    after.lap("accuracy")
    if task.certificate:
        evidence = found.to("cpu").certify(replace(train, device="cpu"))
        found = replace(found, certificate=evidence)
        after.lap("certificate")
    seconds = {**clock.seconds, **solution.seconds, **after.seconds}
    return BlockOutcome(replace(found, seconds=seconds), scores)


def _choose_gates(task: BlockTask, transform: PatchTransform) -> Tensor:
    """Gates by the block's strategy."""
    block, where = task.block, (task.geometry, transform, task.generator)
    if block.gates != "dual":
        images = task.descent_stream()
        return choose_gates(block.gates, block.n_gates, images, *where, task.callback)
    kind = ProgramKind(regulariser=block.regulariser, loss=block.loss)
    fixed = task

    def solve(features: GatedFeatures) -> Solution:
        """Solve the head; the first time, held-out images choose the beta of all rounds."""
        nonlocal fixed
        solver, _ = fixed.solver(len(features.gates))
        solution = solver.solve(features, task.train, task.held_out, task.callback)
        fixed = replace(task, block=replace(block, betas=solution.beta))
        return solution

    return dual_gates(block.n_gates, task.train, *where, kind, solve, callback=task.callback)


def view_scores(block: TrainedBlock, stream: ImageStream) -> Tensor:
    """Scores (n, k) of all images, averaged with those of their mirror images if these train."""
    own = stream.own
    scores = block.weights.new_zeros(len(stream.images), stream.n_classes)
    for start in range(own.start, own.stop, SCORED_AT_ONCE):
        rows = slice(start, min(start + SCORED_AT_ONCE, own.stop))
        images, _ = stream.block(rows)
        scores[rows] = block.scores(images)
        if stream.mirror:
            scores[rows] = (scores[rows] + block.scores(stream.view(rows, images, 1))) / 2
    stream.processes.add_up(scores)
    return scores


def _fit_transform(task: BlockTask) -> PatchTransform:
    """Raw patch -> d coordinates, laid out in memory as a loaded model has it."""
    geometry, rank = task.geometry, task.block.whiten
    if rank is None:
        return identity_transform(geometry.patch_dim)
    found = fit_whitening(task.sample(), geometry, min(rank, geometry.patch_dim))
    return replace(found, projection=found.matrix.contiguous())
