"""Gate strategies by name, those that learn from labels included."""

from __future__ import annotations

import torch
from torch import Tensor

from convexcnn.errors import SettingError
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.gates import gaussian_gates, patch_gates
from convexcnn.patches.stream import ImageStream
from convexcnn.patches.whiten import PatchTransform
from convexcnn.programs.losses import CrossEntropyLoss
from convexcnn.programs.relu_cnn import ReluProgram
from convexcnn.solvers.result import Callback
from convexcnn.solvers.sgd import SGD

STRATEGIES = ("gaussian", "patches", "sgd", "dual")
"""``dual`` alternates with a solver: :mod:`.column_generation`."""

LEARNED = ("sgd", "dual")
"""Those that see labels."""

LEARNING_RATE = 8e-3

LENDING_WIDTH, UPDATES, BATCH_SIZE = 256, 750, 500
"""Of the network that lends gates: filters, mini-batches at most, and images in each."""

SAMPLE, SAMPLE_NUMBERS = 2000, 5e7
"""Images that patches are drawn from, and numbers in all their patches, at most."""


def choose_gates(
    strategy: str,
    n_gates: int,
    stream: ImageStream,
    geometry: PatchGeometry,
    transform: PatchTransform,
    generator: torch.Generator,
    callback: Callback | None = None,
) -> Tensor:
    """Return gates (n_gates, d) in transformed coordinates.

    Args:
        strategy: ``gaussian``, ``patches`` or ``sgd``.
        n_gates: g.
        stream: training images.
        geometry: where the patches lie.
        transform: raw patch -> d coordinates.
        generator: source of every random choice.
        callback: called while a network that lends its gates is trained.

    Raises:
        SettingError: if the strategy is not known.
    """
    if strategy == "dual":
        raise SettingError("gates dual alternate with a solver; call dual_gates instead")
    if strategy == "gaussian":
        return gaussian_gates(n_gates, geometry, transform, generator)
    if strategy == "patches":
        order = torch.randperm(len(stream.images), generator=generator).numpy()
        per_image = geometry.grid[0] * geometry.grid[1] * geometry.patch_dim
        images, _ = stream.sample(order[: max(1, min(SAMPLE, int(SAMPLE_NUMBERS / per_image)))])
        return patch_gates(n_gates, images, geometry, transform, generator)
    if strategy == "sgd":
        return learned_gates(n_gates, stream, geometry, transform, generator, callback=callback)
    raise SettingError(f"gates {strategy!r} is not known; choose one of {', '.join(STRATEGIES)}")


def learned_gates(
    n_gates: int,
    stream: ImageStream,
    geometry: PatchGeometry,
    transform: PatchTransform,
    generator: torch.Generator,
    *,
    width: int = LENDING_WIDTH,
    updates: int = UPDATES,
    batch_size: int = BATCH_SIZE,
    callback: Callback | None = None,
) -> Tensor:
    """Train a non-convex network of the same architecture briefly; take its strongest filters.

    The strength of filter j is |u_j| |w_j|, its part in the regulariser of (P).

    Args:
        n_gates: g.
        stream: training images.
        geometry: where the patches lie.
        transform: raw patch -> d coordinates.
        generator: source of every random choice.
        width: filters of the network; at least ``n_gates`` are trained.
        updates: mini-batches, at most; small data sets get fewer epochs than that would take.
        batch_size: images per mini-batch.
        callback: called with one event per logged step.

    Returns:
        (n_gates, d), each of unit norm.
    """
    program = ReluProgram(
        geometry,
        transform,
        max(width, n_gates),
        stream.n_classes,
        CrossEntropyLoss(),
        generator=generator,
    )
    epochs = lending_epochs(len(stream.images), updates, batch_size)
    solver = SGD(epochs=epochs, batch_size=batch_size, learning_rate=LEARNING_RATE, method="adam")
    solver.solve(
        program, stream, generator=generator, callback=callback, phase="network that lends gates"
    )
    head = program.head.view(stream.n_classes, geometry.n_cells, -1)
    strength = program.filters.norm(dim=1) * head.norm(dim=(0, 1))
    strongest = program.filters[strength.argsort(descending=True)[:n_gates]]
    unit: Tensor = strongest / strongest.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return unit


def lending_epochs(images: int, updates: int = UPDATES, batch_size: int = BATCH_SIZE) -> int:
    """Passes over so many images that the network that lends gates is trained for."""
    batches = -(-images // batch_size)
    return min(40, max(1, round(updates / batches)))
