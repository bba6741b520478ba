"""Gates by column generation: solve, find the neurons that would help most, add them, solve again.

The gates of a round contain those of the last one, so the optimum at a fixed beta never rises
(Bach 2017, *Breaking the Curse of Dimensionality with Convex Neural Networks*, section 4).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from convexcnn.certificates.dual_bound import centred_residual
from convexcnn.certificates.further_neuron import steepest_neurons
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.gates import patch_gates
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.patches.whiten import PatchTransform
from convexcnn.programs.kind import ProgramKind
from convexcnn.programs.losses import get_loss
from convexcnn.programs.regularisers import get_regulariser
from convexcnn.solvers.passes import feature_blocks
from convexcnn.solvers.result import Callback, Solution

ROUNDS = 3
"""Times that a program is solved to find further gates."""

SAMPLE, SAMPLED_NUMBERS = 2000, 2**23
"""Images that the first gates and the starts of ascents are drawn from."""

STARTS_PER_GATE = 3
ALIKE = 0.98
"""Cosine above which a neuron is taken for a gate that is there already."""

Solve = Callable[[GatedFeatures], Solution]
"""Solves the program at one beta that never changes."""


def dual_gates(
    n_gates: int,
    stream: ImageStream,
    geometry: PatchGeometry,
    transform: PatchTransform,
    generator: torch.Generator,
    kind: ProgramKind,
    solve: Solve,
    *,
    rounds: int = ROUNDS,
    callback: Callback | None = None,
) -> Tensor:
    """Start with patches of the images, and add the steepest further neurons, round by round.

    Args:
        n_gates: g, of the last round.
        stream: training images.
        geometry: where the patches lie.
        transform: raw patch -> d coordinates.
        generator: source of every random choice.
        kind: the program that is solved.
        solve: solves it, always at the same beta.
        rounds: how often it is solved, at most; every round adds a gate or more.
        callback: called with one event per round: the objective, which never rises, and the
            steepest slope found.

    Returns:
        (n_gates, d); there are fewer if the images have not patches enough to start from.
    """
    first = max(1, n_gates // (rounds + 1))
    rounds = min(rounds, n_gates - first)
    images, _ = stream.sample(stream.random_rows(SAMPLE, generator, SAMPLED_NUMBERS))
    pool = patch_gates(
        (1 + STARTS_PER_GATE * rounds) * n_gates, images, geometry, transform, generator
    )
    gates, pool = pool[:first], pool[first:]
    for round_ in range(rounds):
        if not len(pool):
            break
        wanted = first + (n_gates - first) * (round_ + 1) // rounds - len(gates)
        features = GatedFeatures(geometry, transform, gates)
        solution = solve(features)
        objective, residual = objective_and_residual(features, stream, kind, solution)
        starts, pool = pool[: STARTS_PER_GATE * wanted], pool[STARTS_PER_GATE * wanted :]
        found = steepest_neurons(
            features, stream, residual, starts, shared=kind.regulariser == "nuclear"
        )
        gates = torch.cat([gates, unlike(gates, found.neurons, wanted)])
        if callback is not None:
            event = {"phase": "column generation", "step": round_ + 1, "steps": rounds}
            slope = float(found.slopes[0]) if len(found.slopes) else 0.0
            callback({**event, "objective": objective, "slope": slope, "beta": solution.beta})
    return gates


def objective_and_residual(
    features: GatedFeatures, stream: ImageStream, kind: ProgramKind, solution: Solution
) -> tuple[float, Tensor]:
    """The objective of a solution and its centred residual (n, k) of own rows, in one pass.

    Args:
        features: the operator Phi.
        stream: training images.
        kind: which program.
        solution: of that program on those images.
    """
    weights = solution.weights.to(features.gates)
    linear = weights[0] - weights[1] if kind.formulation == "relu" else weights
    linear = linear.reshape(stream.n_classes, -1)
    scores, targets = [], []
    for _, phi, block_targets in feature_blocks(features, [stream]):
        scores.append(phi @ linear.T + solution.bias.to(phi))
        targets.append(block_targets)
    f, y = torch.cat(scores).double(), torch.cat(targets).double()
    parts = weights if kind.formulation == "relu" else weights[None]
    shaped = (part.reshape(stream.n_classes, *features.shape).double() for part in parts)
    penalty = sum(float(get_regulariser(kind.regulariser).value(part)) for part in shaped)
    loss = stream.processes.total(float(get_loss(kind.loss).value(f, y))) / len(stream)
    residual = centred_residual(kind.loss, f, y, kind.intercept, stream.processes)
    return loss + solution.beta * penalty, residual.to(features.gates)


def unlike(gates: Tensor, neurons: Tensor, wanted: int) -> Tensor:
    """The first neurons that are neither like a gate nor like one another; then any others.

    Args:
        gates: (g, d), perhaps none.
        neurons: (m, d) of unit norm, the best first.
        wanted: how many, at most.
    """
    there = torch.nn.functional.normalize(gates, dim=1)
    chosen: list[int] = []
    for index, neuron in enumerate(neurons):
        if len(chosen) < wanted and bool((there @ neuron < ALIKE).all()):
            chosen.append(index)
            there = torch.cat([there, neuron[None]])
    others = [index for index in range(len(neurons)) if index not in chosen]
    return neurons[sorted(chosen + others[: wanted - len(chosen)])]
