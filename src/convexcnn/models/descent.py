"""SGD on a convex program: the paper's way to train it, without a guarantee."""

from __future__ import annotations

import torch

from convexcnn.models.program_settings import ProgramSettings
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.programs.gated import GatedProgram, PenalisedConeProgram
from convexcnn.programs.losses import get_loss
from convexcnn.solvers.optimum import Status
from convexcnn.solvers.result import Callback, Solution
from convexcnn.solvers.sgd import SGD


def descend(
    settings: ProgramSettings,
    features: GatedFeatures,
    stream: ImageStream,
    generator: torch.Generator,
    callback: Callback | None = None,
) -> Solution:
    """Descend at one beta from zero, for as many epochs as the solver says.

    Args:
        settings: program, beta and solver.
        features: the operator Phi.
        stream: training images.
        generator: order of the mini-batches.
        callback: called with every event.

    Returns:
        V and b; V - W and zero for formulation ``relu-penalised``.
    """
    solver = settings.solver if isinstance(settings.solver, SGD) else SGD()
    loss, beta = get_loss(settings.loss), settings.beta_values[0]
    program: GatedProgram | PenalisedConeProgram
    if settings.formulation == "gated":
        program = GatedProgram(features, stream.n_classes, loss, beta=beta)
        weights, bias = program.weights, program.bias
    else:
        program = PenalisedConeProgram(features, stream.n_classes, loss, beta=beta)
        weights, bias = program.weights, program.weights.new_zeros(stream.n_classes)
    solver.solve(program, stream, generator=generator, callback=callback, phase="sgd")
    if isinstance(program, PenalisedConeProgram):
        weights = weights[0] - weights[1]
    return Solution(weights, bias, beta, "sgd", float("nan"), status=Status.DESCENDED)
