"""Neurons of a block by column generation: solve its head, add those that would lower it most.

A neuron a with |a| = 1 that joins a head with a small weight v, while b moves along, changes the
objective at the rate  beta R'(v) - <S(a), v>. With the dual point L of the optimum, the negative
gradient of the loss less its mean, its slope is the matrix over classes and cells

    S(a) = (1/n) sum_x L(x)' phi_a(x),    phi_a(x) = averages over cells of max(0, x_l . a)

so that the neurons of the largest |S(a)| are sought, by projected ascent on the unit sphere of
white coordinates, over mini-batches of newly augmented images. The neurons of a round contain those
of the last one, so the optimum at a fixed beta never rises (Bach 2017, *Breaking the Curse of
Dimensionality with Convex Neural Networks*, section 4).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convexcnn.certificates.dual_bound import centred_residual
from convexcnn.data.preprocess import ImageScaler
from convexcnn.data.rows import RowView
from convexcnn.models.block_training import BlockTask, default_betas
from convexcnn.models.column_generation import unlike
from convexcnn.models.frozen_maps import MapStream
from convexcnn.models.neuron_network import DIRECTION_RATE, LOG_EVERY, endless_batches, one_cycle
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.gates import patch_gates
from convexcnn.patches.responses import KnownFeatures, NeuronFeatures, pooled_relu
from convexcnn.patches.stream import ImageStream, MiniBatch
from convexcnn.patches.whiten import PatchTransform
from convexcnn.programs.losses import get_loss
from convexcnn.programs.regularisers import get_regulariser

ROUNDS = 4
"""Times that neurons are added; the first ones are those of the head without any."""

CANDIDATES = 2
"""Ascents per neuron that is added: the steepest of them are."""

START_IMAGES = 100
"""Images that the patches where ascents start are drawn from."""

ROUND_ROWS = 20_000
"""Images, all views counted, that the head of a round is solved on."""

MEMORY = 0.9
"""Share of the last mini-batches in the slope that an ascent goes along."""


def dual_neurons(
    task: BlockTask, transform: PatchTransform, images: ImageStream, batch: int, steps: int
) -> Tensor:
    """Return gates (g, d) in white coordinates, found round by round.

    Args:
        task: the block; its callback is told the objective of every round, which never rises.
        transform: raw patch -> white coordinates and a constant.
        images: training images, or maps, whose mini-batches are augmented anew.
        batch: images per step.
        steps: of all ascents together.
    """
    wanted = task.block.n_gates
    rounds = min(ROUNDS, wanted)
    batches = endless_batches(images, batch, task.generator, task.at_once)
    head = _GrowingHead(task, transform)
    for round_ in range(1, rounds + 1):
        new = wanted * round_ // rounds - len(head.gates)
        starts = _starts(CANDIDATES * new, task, transform)
        found, slopes = _ascend(head, starts, batches, max(1, steps // rounds))
        head.add(unlike(head.gates, found, new))
        if round_ < rounds:
            objective = head.solve()
            if task.callback is not None:
                event = {"phase": "column generation", "step": round_, "steps": rounds}
                event |= {"objective": objective, "slope": float(slopes[0]), "beta": head.beta}
                task.callback(event)
    return head.gates


class _GrowingHead:
    """The head on the neurons so far, solved on a part of the training images.

    Args:
        task: the block.
        transform: raw patch -> white coordinates and a constant.
    """

    def __init__(self, task: BlockTask, transform: PatchTransform) -> None:
        self.task, self.transform = task, transform
        self.geometry, self.k = task.geometry, task.stream.n_classes
        self.gates = transform.mean.new_empty(0, transform.dim)
        self.weights, self.bias = self.gates.new_zeros(self.k, 0), self.gates.new_zeros(self.k)
        self.beta: float | None = None
        train, every = task.train, len(task.train) // ROUND_ROWS + 1
        self.parts = (train.subset(slice(None, None, every)), task.held_out.plain())
        self.phi = [
            np.empty((len(part), self.geometry.n_cells, 0), np.float32) for part in self.parts
        ]

    def add(self, gates: Tensor) -> None:
        """Take further neurons (m, d), and what they respond to the images."""
        self.gates = torch.cat([self.gates, gates])
        features = NeuronFeatures(self.geometry, *as_filters(gates, self.transform, self.geometry))
        for place, part in enumerate(self.parts):
            blocks = [features(images) for images, _ in part.blocks(features.block_size)]
            new = torch.cat(blocks).view(-1, *features.shape[:2]).cpu().numpy()
            self.phi[place] = np.concatenate([self.phi[place], new], 2)

    def solve(self) -> float:
        """Solve the head; the first time, held-out images choose the beta of all rounds.

        Returns:
            The objective.
        """
        task, block = self.task, self.task.block
        train, held_out = (self._known(place) for place in range(2))
        betas = default_betas(task, torch.from_numpy(self.phi[0]).flatten(1))
        if self.beta is not None:
            task = replace(task, block=replace(block, betas=self.beta))
        solver, _ = task.solver(len(self.gates), betas)
        shape = self.geometry.n_cells, len(self.gates), 1
        features = KnownFeatures(shape, task.stream.device)
        solution = solver.solve(features, train, held_out)
        self.beta = solution.beta
        weights = solution.weights.reshape(self.k, *shape).to(self.gates)
        self.weights, self.bias = weights.flatten(1), solution.bias.to(self.gates)
        images, targets = train.block(slice(None))
        scores = torch.addmm(self.bias, images.flatten(1), self.weights.T)
        loss = float(get_loss(block.loss).value(scores.double(), targets.double())) / len(targets)
        return loss + self.beta * float(get_regulariser(block.regulariser).value(weights.double()))

    def _known(self, place: int) -> MapStream:
        """The features of one part, as a stream of vectors."""
        part, n = self.parts[place], len(self.phi[place])
        phi: NDArray[Any] = self.phi[place].reshape(n, -1, 1, 1)
        m = phi.shape[1]
        return MapStream(
            RowView(phi, np.arange(n)),
            part.labels.repeat(part.views),
            self.k,
            ImageScaler((0.0,) * m, (1.0,) * m),
            device=part.device,
        )

    def dual_point(self, images: Tensor, targets: Tensor) -> Tensor:
        """L (n, k) of images in the precision of ascents: what the head leaves of their targets."""
        scores = self.bias.expand(len(targets), -1)
        if self.weights.numel():
            filters = as_filters(self.gates, self.transform, self.geometry)
            pooled = pooled_relu(images, *filters, self.geometry).flatten(1)
            scores = torch.addmm(self.bias, pooled, self.weights.T)
        return centred_residual(self.task.block.loss, scores, targets, True)


def _starts(count: int, task: BlockTask, transform: PatchTransform) -> Tensor:
    """Patches of some training images in white coordinates, each on for half of the others."""
    order = torch.randperm(len(task.split.kept), generator=task.generator).numpy()
    images, _ = task.train.block(order[:START_IMAGES])
    found = patch_gates(count, images, task.geometry, transform, task.generator)
    return torch.nn.functional.normalize(found, dim=1)


def _ascend(
    head: _GrowingHead, starts: Tensor, batches: Iterator[MiniBatch], steps: int
) -> tuple[Tensor, Tensor]:
    """Climb |S(a)| from every start, all at once, by orthogonalised steps on the unit sphere.

    maximise <S(a), D>, D = |S(a)| seen lately, normalised

    On one mini-batch alone |S(a)| would mostly be noise; what earlier ones say of its direction D
    is independent of that. Orthogonalised steps keep ascents from all climbing the same hill.

    Returns:
        Neurons (m, d) of unit norm by falling slope, and the slopes (m,).
    """
    geometry, transform, callback = head.geometry, head.transform, head.task.callback
    units = starts.clone().requires_grad_()
    muon: torch.optim.Optimizer = torch.optim.Muon(
        [units], lr=DIRECTION_RATE, weight_decay=0.0, adjust_lr_fn="original"
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(muon, one_cycle(steps))
    recent = units.new_zeros(len(units), head.k * geometry.n_cells)
    for step in range(1, steps + 1):
        size, pieces = next(batches)
        slopes = torch.zeros_like(recent)
        for images, targets in pieces:
            left = head.dual_point(images, targets) / size
            with torch.enable_grad():
                filters = as_filters(units, transform, geometry)
                pooled = pooled_relu(images, *filters, geometry)
                part = torch.einsum("bk,bcm->mkc", left, pooled).flatten(1)
                known = part.detach() if step == 1 else recent
                along = torch.nn.functional.normalize(known, dim=1)
                torch.autograd.backward(-(part * along).sum())
            slopes += part.detach()
        muon.step()
        schedule.step()
        muon.zero_grad()
        with torch.no_grad():
            units.div_(units.norm(dim=1, keepdim=True))
        share = min(MEMORY, 1 - 1 / step)
        recent = share * recent + (1 - share) * slopes
        if callback is not None and (step % LOG_EVERY == 0 or step == steps):
            event = {"phase": "ascent to further neurons", "step": step, "steps": steps}
            callback(event | {"slope": float(recent.norm(dim=1).mean())})
    lengths, order = recent.norm(dim=1).sort(descending=True, stable=True)
    return units.detach()[order], lengths


def as_filters(
    gates: Tensor, transform: PatchTransform, geometry: PatchGeometry
) -> tuple[Tensor, Tensor]:
    """Gates (m, d) in white coordinates as filters (m, channels, f, f) and thresholds (m,)."""
    filters, thresholds = transform.to_filters(gates)
    side = geometry.filter_size
    return filters.view(len(filters), -1, side, side), thresholds
