"""The non-convex twin of a block, trained by stochastic descent: where learned neurons come from.

Convolution - ReLU - average per cell - linear, one hidden layer: the greedy block of Belilovsky,
Eickenberg & Oyallon (2019), whose filters a convex block takes as its gates. Filters are rows of
unit norm in coordinates in which patches are white, and take orthogonalised steps (Jordan 2024),
which together stand in for batch normalisation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import chain

import torch
from torch import Tensor

from convexcnn.distributed import ALONE, Processes
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.responses import pooled_relu
from convexcnn.patches.stream import ImageStream, MiniBatch
from convexcnn.patches.whiten import PatchTransform
from convexcnn.solvers.result import Callback

DIRECTION_RATE = 0.02
"""Length of an orthogonalised step on the filters, at its largest."""

HEAD_RATE = 5e-3
"""Step of Adam on thresholds and head, at its largest."""

WARM_UP = 0.1
"""Part of the steps in which they grow; then they shrink to zero."""

SMOOTHING = 0.1
"""Share of every label that is spread over all classes."""

BATCH = 256
UPDATES = 750
EPOCHS = (3, 40)
"""Without other orders: epochs for about so many updates, between these."""

LOG_EVERY = 20


class NeuronNetwork:
    """A network of one hidden layer on the inputs of a block.

    Args:
        geometry: where patches and pooling cells lie.
        transform: raw patch -> white coordinates and a constant.
        n_neurons: width, g.
        n_classes: k.
        generator: initial directions.
    """

    def __init__(
        self,
        geometry: PatchGeometry,
        transform: PatchTransform,
        n_neurons: int,
        n_classes: int,
        generator: torch.Generator,
    ) -> None:
        self.geometry, self.transform = geometry, transform
        device = transform.mean.device
        directions = torch.randn(n_neurons, transform.dim - 1, generator=generator)
        self.directions = (directions / directions.norm(dim=1, keepdim=True)).to(device)
        self.thresholds = torch.zeros(n_neurons, device=device)
        self.head = torch.zeros(n_classes, geometry.n_cells * n_neurons, device=device)
        self.bias = torch.zeros(n_classes, device=device)
        self.centre = torch.zeros(geometry.n_cells * n_neurons, device=device)
        self.scale = 1.0

    @cached_property
    def optimisers(self) -> list[torch.optim.Optimizer]:
        """Muon for rows of unit norm, Adam for everything else."""
        for parameter in self.parameters:
            parameter.requires_grad_()
        rows = self.unit_rows
        others = [p for p in self.parameters if all(p is not row for row in rows)]
        muon = torch.optim.Muon(rows, lr=DIRECTION_RATE, weight_decay=0.0, adjust_lr_fn="original")
        return [muon, torch.optim.Adam(others, lr=HEAD_RATE, betas=(0.9, 0.99))]

    @property
    def parameters(self) -> list[Tensor]:
        """Everything that is learned."""
        return [self.directions, self.thresholds, self.head, self.bias]

    @property
    def unit_rows(self) -> list[Tensor]:
        """Those of them whose rows keep unit norm and take orthogonalised steps."""
        return [self.directions]

    def filters(self) -> tuple[Tensor, Tensor]:
        """Neurons (g, channels, f, f) and thresholds (g,) in (scaled) pixels."""
        gates = torch.cat([self.directions, self.thresholds[:, None]], 1)
        filters, thresholds = self.transform.to_filters(gates)
        side = self.geometry.filter_size
        return filters.view(len(filters), -1, side, side), thresholds

    def standardise(self, images: Tensor, processes: Processes = ALONE) -> None:
        """Let the head see pooled responses less their means, over their spread, from now on.

        Without their means, which are positive, the first steps of the head would all go the same
        way: with 2,048 features the loss rose to 12 before it fell.

        Args:
            images: of a mini-batch, or a process's own share of them.
            processes: that share the mini-batch.
        """
        with torch.no_grad():
            pooled = pooled_relu(images, *self.filters(), self.geometry).flatten(1).double()
        sums = torch.cat([pooled.sum(0), pooled.new_tensor([len(pooled)])])
        processes.add_up(sums)
        mean = sums[:-1] / sums[-1]
        spread = processes.total(float((pooled - mean).square().sum())) / sums[-1] / len(mean)
        self.centre = mean.to(self.centre)
        self.scale = 1 / max(float(spread) ** 0.5, 1e-6)

    def own_head(self) -> tuple[Tensor, Tensor]:
        """The head as weights (k, cells g) and bias (k,) of pooled responses as they are."""
        weights = self.scale * self.head
        return weights, self.bias - weights @ self.centre

    def scores(self, images: Tensor) -> Tensor:
        """Scores (n, k) of images in the precision of descent, channels last."""
        pooled = pooled_relu(images, *self.filters(), self.geometry)
        weights, bias = self.own_head()
        return torch.addmm(bias, pooled.flatten(1), weights.T)

    def train_once(
        self,
        pieces: Iterable[tuple[Tensor, Tensor]],
        size: int,
        processes: Processes = ALONE,
    ) -> tuple[float, float]:
        """One step down the cross-entropy with smoothed labels.

        Args:
            pieces: of a mini-batch: images (n, channels, height, width) in the precision of
                descent, channels last, and targets (n, k), one-hot.
            size: images in all of them.
            processes: that share a mini-batch; each has its own images of it.

        Returns:
            The mean loss before the step, of these images, and how many of them were right.
        """
        loss = correct = 0.0
        for images, targets in pieces:
            if len(images):  # the last mini-batch of an epoch can be smaller than the job
                own, scores = self.add_gradient(images, targets, len(images) / size)
                loss += own * len(images) / size
                correct += float((scores.argmax(1) == targets.argmax(1)).sum())
        self.take_step(size, processes)
        return loss, correct

    def add_gradient(self, images: Tensor, targets: Tensor, share: float) -> tuple[float, Tensor]:
        """Add the gradient of images, weighed by their share of the mini-batch.

        Returns:
            Their mean loss and their scores (n, k).
        """
        for parameter in self.parameters:
            parameter.requires_grad_()
        with torch.enable_grad():
            objective, own, scores = self.objective(images, targets)
        torch.autograd.backward(objective, objective.new_tensor(share))
        return float(own.detach()), scores.detach()

    def take_step(self, size: int, processes: Processes = ALONE) -> None:
        """Move everything that is learned by the gradients of so many images of this process."""
        optimisers = self.optimisers
        self._average_gradients(size, processes)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        with torch.no_grad():
            for rows in self.unit_rows:
                rows.div_(rows.norm(dim=1, keepdim=True))

    def objective(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What descent goes down, the loss of the head, and its scores (n, k)."""
        scores = self.scores(images)
        loss = torch.nn.functional.cross_entropy(scores, targets, label_smoothing=SMOOTHING)
        return loss, loss, scores

    def _average_gradients(self, images: int, processes: Processes) -> None:
        """Make means over the images of each process those over the images of all."""
        if processes.size == 1:
            return
        groups = (group for optimiser in self.optimisers for group in optimiser.param_groups)
        trained: list[Tensor] = [parameter for group in groups for parameter in group["params"]]
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        count = found[0].new_tensor([images])
        together = torch.cat([*(images * gradient.flatten() for gradient in found), count])
        processes.add_up(together)
        shares = torch.split(together[:-1] / together[-1], [g.numel() for g in found])
        for parameter, share in zip(trained, shares, strict=True):
            parameter.grad = share.view_as(parameter)

    def frozen_head(self) -> tuple[Tensor, Tensor]:
        """The head as weights (k, cells, g, 1) of pooled responses, and its bias (k,)."""
        shape = len(self.bias), self.geometry.n_cells, len(self.thresholds), 1
        weights, bias = self.own_head()
        return weights.detach().view(shape), bias.detach()


class NeuronDescent:
    """Trains a :class:`NeuronNetwork` on the random views of a stream.

    Args:
        network: changed in place.
        stream: training images, or maps.
        generator: order of the images and their views.
        at_once: images of a piece of a mini-batch, at most.
    """

    def __init__(
        self,
        network: NeuronNetwork,
        stream: ImageStream,
        generator: torch.Generator,
        at_once: int = BATCH,
    ) -> None:
        self.network, self.stream, self.generator = network, stream, generator
        self.at_once = at_once
        self.batch_size = min(BATCH, len(stream.images))
        self.batches = -(-len(stream.images) // self.batch_size)

    def default_steps(self) -> int:
        """Steps without other orders: more epochs for fewer images."""
        return default_steps(self.batches)

    def run(self, steps: int, callback: Callback | None = None) -> None:
        """Descend for so many steps: rates grow over the first tenth and then shrink to zero."""
        network, start = self.network, time.perf_counter()
        processes = self.stream.processes
        batches = endless_batches(self.stream, self.batch_size, self.generator, self.at_once)
        schedules = [
            torch.optim.lr_scheduler.LambdaLR(optimiser, one_cycle(steps))
            for optimiser in network.optimisers
        ]
        loss_sum = correct = seen = 0.0
        for step in range(1, steps + 1):
            size, pieces = next(batches)
            if step == 1:
                first = next(pieces)
                network.standardise(first[0], processes)
                pieces = chain([first], pieces)
                del first
            loss, right = network.train_once(pieces, size, processes)
            for schedule in schedules:
                schedule.step()
            correct, loss_sum, seen = correct + right, loss_sum + loss * size, seen + size
            if step % LOG_EVERY and step != steps:
                continue
            loss_sum, correct, seen = map(processes.total, (loss_sum, correct, seen))
            event = {"phase": "network that lends neurons", "step": step, "steps": steps}
            event |= {"train_loss": loss_sum / seen, "train_accuracy": correct / seen}
            if callback is not None:
                callback(event | {"seconds": time.perf_counter() - start})
            loss_sum = correct = seen = 0.0


def default_steps(batches: int) -> int:
    """Steps for so many mini-batches per epoch: more epochs for fewer images."""
    fewest, most = EPOCHS
    return batches * min(most, max(fewest, round(UPDATES / batches)))


def endless_batches(
    stream: ImageStream, size: int, generator: torch.Generator, at_once: int
) -> Iterator[MiniBatch]:
    """Own shares of mini-batches, without end, in the precision of descent, channels last.

    Args:
        stream: images, or maps.
        size: of a mini-batch.
        generator: of their order and views.
        at_once: images of a piece, at most.
    """
    dtype, share = descent_dtype(stream.device), stream.processes.share

    def rough(pieces: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        for images, targets in pieces:
            images = images.to(dtype).contiguous(memory_format=torch.channels_last)
            yield images, targets

    while True:
        for own, pieces in stream.mini_batches(size, generator, share=share, at_once=at_once):
            yield own, rough(pieces)


def one_cycle(steps: int) -> Callable[[int], float]:
    """Factor of the learning rate at a step: up over the first tenth, then down to zero."""
    top = max(1.0, WARM_UP * steps)

    def factor(step: int) -> float:
        return min((step + 1) / top, max(0.0, (steps - step) / max(1.0, steps - top)))

    return factor


def descent_dtype(device: str) -> torch.dtype:
    """bfloat16 where the processor multiplies it, float32 elsewhere; only where gates come from."""
    if device.startswith("cuda"):
        return torch.bfloat16
    capable = torch.cpu.get_capabilities().get("avx512_bf16", False)
    return torch.bfloat16 if capable else torch.float32
