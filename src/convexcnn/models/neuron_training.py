"""Train a block on its own neurons: filters, one pass for features and maps, the exact head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convexcnn.certificates.certify_neurons import certify_neurons
from convexcnn.data.preprocess import ImageScaler
from convexcnn.data.rows import ImageRows, RowView
from convexcnn.data.stored_rows import allocate_rows
from convexcnn.models.block_training import (
    BlockOutcome,
    BlockTask,
    default_betas,
    solver_outcome,
    split_measures,
)
from convexcnn.models.frozen_maps import SMALLER, MapStore, MapStream, every_view
from convexcnn.models.gates import choose_gates
from convexcnn.models.lookahead_network import network_of
from convexcnn.models.neuron_block import NeuronBlock
from convexcnn.models.neuron_columns import as_filters, dual_neurons
from convexcnn.models.neuron_network import BATCH, NeuronDescent, default_steps, descent_dtype
from convexcnn.models.stack_settings import LEARNED
from convexcnn.patches.responses import KnownFeatures, NeuronFeatures
from convexcnn.patches.whiten import PatchTransform, fit_triangular_whitening
from convexcnn.programs.losses import get_loss
from convexcnn.programs.regularisers import get_regulariser
from convexcnn.solvers.result import PhaseClock

PIXELS_REGULARISATION, MAPS_REGULARISATION = 3e-2, 5.0
"""Variance, relative to the mean, below which a direction is not blown up: in maps it is noise."""

SAMPLE = 5000
"""Images that the spread of features and of maps is taken from."""

CERTIFIED_AT_ONCE = 4000
"""Rows of Phi in float64 at once."""

SCORED_AT_ONCE = 4096
"""Rows of Phi that are scored at once."""


@dataclass(frozen=True)
class Neurons:
    """Filters of a block, and the head that they were learned with, if they were.

    Args:
        filters: (g, channels, f, f).
        thresholds: (g,).
        head: weights (k, cells, g, 1) and bias (k,) of the network that lent them.
    """

    filters: Tensor
    thresholds: Tensor
    head: tuple[Tensor, Tensor] | None = None

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Neurons:
        """The same with its tensors changed."""
        head = None if self.head is None else (change(self.head[0]), change(self.head[1]))
        return Neurons(change(self.filters), change(self.thresholds), head)


def train_neuron_block(task: BlockTask) -> BlockOutcome:
    """Train a block with head ``neurons``.

    Raises:
        SettingError: a program that does not fit into the memory.
        RunError: features or maps that no disk holds.
    """
    clock = PhaseClock(task.callback)
    processes = task.stream.processes
    share = MAPS_REGULARISATION if task.earlier else PIXELS_REGULARISATION
    transform = fit_triangular_whitening(task.sample(), task.geometry, regularisation=share)
    transform = transform.mapped(processes.agree)
    clock.lap("whitening")
    neurons = _choose_neurons(task, transform).mapped(processes.agree)
    clock.lap("gates")
    k, cells, g = task.stream.n_classes, task.geometry.n_cells, len(neurons.filters)
    block = NeuronBlock(
        settings=task.block,
        geometry=task.geometry,
        filters=neurons.filters,
        thresholds=neurons.thresholds,
        weights=neurons.filters.new_zeros(k, cells, g, 1),
        bias=neurons.filters.new_zeros(k),
        beta=0.0,
    )
    phi, maps = _respond(block, task)
    clock.lap("responses")
    train = known_stream(phi, task, task.split.kept)
    sample, _ = known_stream(phi[:1], task, spread(task.split.kept)).sample(slice(None))
    solver, reason = task.solver(g, default_betas(task, sample.flatten(1)))
    held_out = known_stream(phi[:1], task, task.split.held_out)
    features = KnownFeatures(block.features.shape, task.stream.device)
    solution = solver.solve(features, train, held_out, task.callback)
    after = PhaseClock(task.callback)
    weights = solution.weights.reshape(block.weights.shape).to(block.weights).contiguous()
    bias = solution.bias.to(weights).contiguous()
    scores = _scores(task, phi[0], weights, bias)
    measures = split_measures(scores, task)
    if neurons.head is not None:
        measures["descent"] = _compare(task, phi, neurons.head, solution.beta, (weights, bias))
    block = replace(
        block,
        weights=weights,
        bias=bias,
        beta=solution.beta,
        scaler=None if maps is None else maps.scaler,
        measures=measures,
        path=tuple(point.to_dict() for point in solution.path),
        solver=solver_outcome(solution, reason),
    )
    after.lap("accuracy")
    if task.certificate:
        rows = _rows(phi, task)
        proof = certify_neurons(rows, weights, bias, solution.beta, block.kind, processes)
        block = replace(block, certificate=proof)
        after.lap("certificate")
    seconds = {**clock.seconds, **solution.seconds, **after.seconds}
    return BlockOutcome(replace(block, seconds=seconds), scores, maps)


def _choose_neurons(task: BlockTask, transform: PatchTransform) -> Neurons:
    """Filters by the block's strategy, in white coordinates."""
    block, geometry, generator = task.block, task.geometry, task.generator
    if block.gates not in LEARNED:
        where = task.train, geometry, transform, generator
        gates = choose_gates(block.gates, block.n_gates, *where, task.callback)
        return Neurons(*as_filters(gates, transform, geometry))
    images = task.descent_stream(descent_dtype(task.stream.device))
    batch = min(BATCH, len(images.images))
    batches = -(-len(images.images) // batch)
    if block.epochs is None:
        steps = task.steps(default_steps(batches))
    else:
        steps = max(1, round(block.epochs * batches))
    if block.gates == "dual":
        gates = dual_neurons(task, transform, images, batch, steps)
        return Neurons(*as_filters(gates, transform, geometry))
    k = task.stream.n_classes
    network = network_of(block, geometry, transform, k, generator, last=task.last)
    NeuronDescent(network, images, generator, task.at_once).run(steps, task.callback)
    with torch.no_grad():
        filters, thresholds = network.filters()
    return Neurons(filters.detach(), thresholds.detach(), network.frozen_head())


def _respond(block: NeuronBlock, task: BlockTask) -> tuple[list[ImageRows], MapStream | None]:
    """One pass over all views: pooled responses, and maps if a block follows.

    Returns:
        Phi: 1 + views arrays (n, cells g, 1, 1) of its own images; the first is what predictions
        use: the mean of an image and its mirror image if these train, else the image. The others
        are the views.
    """
    stream, features, own = task.stream, block.features, task.stream.own
    views, n = stream.views, own.stop - own.start
    size = n, features.n_features, 1, 1
    in_memory = task.memory.keeps(4 * (1 + views) * int(np.prod(size)))
    phi = [
        allocate_rows(
            size, np.float32, in_memory=in_memory, what="the features of a block", advice=SMALLER
        )
        for _ in range(1 + views)
    ]
    store = None
    if not task.last:
        needed = 2 * views * n * int(np.prod(block.map_shape))
        store = MapStore(
            stream,
            block.map_shape,
            spread(task.split.kept),
            in_memory=task.memory.keeps(needed),
        )
    for rows, images in every_view(stream):
        place = slice(rows.start - own.start, rows.stop - own.start)
        found = [_pooled_and_maps(block, features, view, last=task.last) for view in images]
        pooled = [of_view.cpu().numpy()[:, :, None, None] for of_view, _ in found]
        for part, of_view in zip(phi[1:], pooled, strict=True):
            part[place] = of_view
        if store is not None:
            maps = [of_view for _, of_view in found if of_view is not None]
            store.write(rows, maps)
        phi[0][place] = np.stack(pooled[: 1 + stream.mirror]).mean(0)
    return list(phi), None if store is None else store.stream()


def spread(rows: NDArray[np.intp], most: int = SAMPLE) -> NDArray[np.intp]:
    """At most so many of some rows, at even distances: images may lie class by class."""
    places = np.arange(min(most, len(rows))) * len(rows) // max(1, min(most, len(rows)))
    return rows[places]


def _pooled_and_maps(
    block: NeuronBlock, features: NeuronFeatures, images: Tensor, *, last: bool
) -> tuple[Tensor, Tensor | None]:
    """Phi and the maps of images, from responses that stay in cache; no maps of the last block."""
    pooled, maps = [], []
    for piece in torch.split(images, features.block_size):
        responses = features.responses(piece)
        pooled.append(features.pool(responses))
        if not last:
            maps.append(block.maps_of(responses))
    return torch.cat(pooled), None if last else torch.cat(maps)


def known_stream(phi: Sequence[ImageRows], task: BlockTask, rows: NDArray[np.intp]) -> MapStream:
    """Some images as feature vectors: in all views, or only as predictions use them.

    Args:
        phi: 1 + views arrays (n, m, 1, 1) of its own images, or only the first.
        task: whose images they are.
        rows: which of them.
    """
    stream = task.stream
    parts = phi[1:] if len(phi) > 1 else phi
    every = [RowView(part, rows, first=stream.own.start) for part in parts]
    in_views = len(phi) > 1
    m = phi[0].shape[1]
    return MapStream(
        every[0],
        stream.labels[rows],
        stream.n_classes,
        ImageScaler((0.0,) * m, (1.0,) * m),
        stream.mirror and in_views,
        stream.device,
        stream.shifts if in_views else 0,
        tuple(every[1:]),
        processes=stream.processes,
        cuts=stream.cuts_of(rows),
    )


def _flat(phi: ImageRows, rows: slice | NDArray[np.intp]) -> Tensor:
    """Some rows of features (n, m, 1, 1) as a matrix (b, m)."""
    return torch.from_numpy(phi[rows]).flatten(1)


def _scores(task: BlockTask, phi: ImageRows, weights: Tensor, bias: Tensor) -> Tensor:
    """Scores (n, k) of all images by a head, from the features (m, 1, 1) of its own."""
    found, flat, constant = [], weights.cpu().flatten(1).T, bias.cpu()
    for start in range(0, len(phi), SCORED_AT_ONCE):
        block = _flat(phi, slice(start, start + SCORED_AT_ONCE))
        found.append(torch.addmm(constant, block, flat))
    stream = task.stream
    return stream.processes.gather(torch.cat(found), len(stream.images), stream.own)


def _rows(phi: Sequence[ImageRows], task: BlockTask) -> Iterator[tuple[Tensor, Tensor]]:
    """Phi and targets of its own training images in all views, view by view."""
    own, k = task.stream.own, task.stream.n_classes
    kept = task.split.kept[task.train.own]
    for view in phi[1:]:
        for start in range(0, len(kept), CERTIFIED_AT_ONCE):
            rows = kept[start : start + CERTIFIED_AT_ONCE]
            labels = torch.from_numpy(task.stream.labels[rows])
            yield _flat(view, rows - own.start), torch.nn.functional.one_hot(labels, k)


def _compare(
    task: BlockTask,
    phi: Sequence[ImageRows],
    head: tuple[Tensor, Tensor],
    beta: float,
    solution: tuple[Tensor, Tensor],
) -> dict[str, float]:
    """The head that the filters were learned with, beside the optimum: accuracy and objective.

    Returns:
        Validation loss and accuracy of the learned head, its training objective, and that of the
        optimum (``optimal_objective``), both at ``beta``.
    """
    measures = split_measures(_scores(task, phi[0], *head), task)["validation"]
    loss, regulariser = get_loss(task.block.loss), get_regulariser(task.block.regulariser)
    processes = task.stream.processes
    objectives = []
    for w, b in (head, solution):
        flat, constant = w.cpu().flatten(1), b.cpu()
        total = rows = 0.0
        for part, targets in _rows(phi, task):
            total += float(loss.value(torch.addmm(constant, part, flat.T), targets.float()))
            rows += len(part)
        mean = processes.total(total) / processes.total(rows)
        objectives.append(mean + beta * float(regulariser.value(w)))
    return {**measures, "objective": objectives[0], "optimal_objective": objectives[1]}
