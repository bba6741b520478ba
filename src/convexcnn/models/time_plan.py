"""How a stack spends a budget of minutes: as much descent for every block that is still to come."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from convexcnn.data.preprocess import ImageScaler
from convexcnn.models.block_training import SOLVED_BETAS
from convexcnn.models.descent_memory import FEWEST, images_at_once
from convexcnn.models.frozen_maps import standardise
from convexcnn.models.lookahead_network import network_of
from convexcnn.models.neuron_network import BATCH, NeuronNetwork, descent_dtype
from convexcnn.models.stack_settings import Block
from convexcnn.models.trained_block import downsampled
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.responses import NeuronFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.patches.whiten import PatchTransform
from convexcnn.timing import mean_seconds, rate, wait_for

SPARE = 0.95
"""Part of the budget that is planned; the rest is for what cannot be foreseen."""

EVALUATIONS = 50
"""Of a head's objective and gradient per beta, by quasi-Newton steps, its certificate included."""

LOSS = 200
"""Features whose products take as long as the loss of an image and its gradient."""

OVERHEAD = 8.0
"""Seconds of a block that are in no other figure, whitening above all."""

MOST_EPOCHS, MOST_STEPS = 40.0, 4000
"""More than both of them are not worth their time: few images take more epochs."""

FEWEST_STEPS, FEWEST_EPOCHS = 200, 2.0
"""Less than the smaller of them is not worth the rest of a block."""

BEGUN = 0.5
"""Part of that time with which a block is begun that was planned when there seemed to be more."""

PROBES = "probes"
"""Name of the phase in which costs are measured."""

PROBED_STEPS = 2
"""On a mini-batch, or a piece of one."""

PROBED_IMAGES, PASSES = 64, 3
"""Images that are taken through a block, and how often."""

ENOUGH_SECONDS = 0.5
"""What a step takes that is not measured again."""

RELEASED_BYTES = 24 * 2**20
"""Once so much memory is released together, parts of it are kept and found again at once, as they
are in a training; until then responses take up to three times as long."""

LOADED_NUMBERS = 2**23
"""In the images whose loading is measured, at most."""

PROBED_ROWS, PROBED_FEATURES = 8192, 1024


@dataclass(frozen=True)
class HeadRates:
    """Floating-point operations per second of the products that heads are made of.

    Args:
        large: of Phi' Phi.
        thin: of Phi, and of its transpose, with a row per class, as the solver has them.
    """

    large: float = 3e11
    thin: float = 4e10

    @classmethod
    def of(cls, classes: int, device: str) -> HeadRates:
        """Measure them here."""
        phi = torch.ones(PROBED_ROWS, PROBED_FEATURES, device=device)
        weights = torch.ones(classes, PROBED_FEATURES, device=device)
        slopes = torch.ones(classes, PROBED_ROWS, device=device)
        products = 2.0 * phi.numel()
        return cls(
            large=rate(lambda: phi.T @ phi, products * PROBED_FEATURES, device),
            thin=rate(lambda: (weights @ phi.T, slopes @ phi), 2 * products * classes, device),
        )


@dataclass(frozen=True)
class BlockCost:
    """What one block costs here, measured on random maps of its shape.

    Args:
        descent: seconds per image and epoch of the network that lends its neurons.
        passing: seconds per image that descent of a later block takes to get through this one.
        responses: seconds per view of one image, from its stored maps to those of the next block.
        features: of its head, cells g.
        evaluations: of its objective that solving the head takes, all betas together.
        descends: whether minutes decide how long its neurons are learned.
        epochs: of learning them, where the block's settings decide.
    """

    descent: float
    passing: float
    responses: float
    features: int
    evaluations: int = EVALUATIONS * SOLVED_BETAS
    descends: bool = True
    epochs: float = 0

    @classmethod
    def of(cls, block: Block, geometry: PatchGeometry, device: str, *, last: bool) -> BlockCost:
        """Measure a block."""
        generator = torch.Generator().manual_seed(0)
        dim = geometry.patch_dim
        scaling = PatchTransform(torch.zeros(dim), torch.eye(dim) / dim**0.5, 1.0).to(device)
        network = network_of(block, geometry, scaling, 2, generator, last=last)
        at_once = images_at_once(block, geometry, geometry.image_shape, device, last=last)
        images = torch.randn(at_once, *geometry.image_shape, generator=generator).to(device)
        images = images.contiguous(memory_format=torch.channels_last)
        rough = images.to(descent_dtype(device))
        targets = torch.eye(2, device=device)[torch.arange(at_once) % 2]
        step = seconds_of_a_step(network, rough, targets)
        images, rough = images[:PROBED_IMAGES], rough[:PROBED_IMAGES]
        n = len(images)
        torch.empty(RELEASED_BYTES, dtype=torch.uint8)
        neurons = [part.detach() for part in network.filters()]
        features = NeuronFeatures(geometry, *neurons)
        rough_features = NeuronFeatures(geometry, *(part.to(rough.dtype) for part in neurons))
        channels = geometry.image_shape[0]
        scaler, stored = ImageScaler((0.0,) * channels, (1.0,) * channels), images.half()
        written = torch.empty(
            n, *block.next_shape(geometry, block.n_gates), dtype=torch.float16
        ).contiguous(memory_format=torch.channels_last)

        def get_through() -> None:
            for piece in torch.split(rough, rough_features.block_size):
                rough_features.responses(piece).add_(1)

        def respond() -> None:
            views = torch.split(standardise(stored, scaler), features.block_size)
            for view, kept in zip(views, torch.split(written, features.block_size), strict=True):
                found = features.responses(view)
                features.pool(found)
                if not last:
                    kept.copy_(downsampled(found, block.downsample))

        passing = mean_seconds(get_through, PASSES, device) / n
        responses = mean_seconds(respond, PASSES, device) / n
        evaluations = EVALUATIONS * n_betas(block) if block.loss == "cross_entropy" else 1
        shared = step / BATCH, passing, responses, features.n_features
        return cls(*shared, evaluations, descends=block.descends, epochs=block.own_epochs)

    def fixed_seconds(self, images: int, views: int, classes: int, rates: HeadRates) -> float:
        """Foreseen time of everything but descent."""
        rows = images * views
        gram = self.features**2 / rates.large
        evaluated = self.evaluations * 4 * classes * (self.features + LOSS) / rates.thin
        return rows * (self.responses + gram + evaluated) + OVERHEAD


def n_betas(block: Block) -> int:
    """How many weights of the regulariser a head is solved for, about."""
    if block.betas is None:
        return SOLVED_BETAS
    return 1 if isinstance(block.betas, (int, float, np.number)) else len(block.betas)


def seconds_of_a_step(network: NeuronNetwork, images: Tensor, targets: Tensor) -> float:
    """What a step of descent takes with a whole mini-batch, from one piece of it.

    A first step on a few images does not count; the last one does, which is the second one unless
    a step takes long.
    """
    device, gradient, moving = str(images.device), 0.0, 0.0
    network.train_once([(images[:FEWEST], targets[:FEWEST])], len(images[:FEWEST]))
    for _ in range(PROBED_STEPS):
        gradient = _seconds(lambda: network.add_gradient(images, targets, 1.0), device)
        moving = _seconds(lambda: network.take_step(len(images)), device)
        if gradient + moving > ENOUGH_SECONDS:
            break
    return BATCH / len(images) * gradient + moving


def _seconds(run: Callable[[], object], device: str) -> float:
    """Time of a piece of work that is done once."""
    start = time.perf_counter()
    run()
    wait_for(device)
    return time.perf_counter() - start


def seconds_to_load(stream: ImageStream) -> float:
    """What an image takes to be read, scaled and augmented, by a part of a mini-batch."""
    most = max(1, min(PROBED_IMAGES, stream.images_of(LOADED_NUMBERS)))
    images = stream.subset(slice(0, most))
    start = time.perf_counter()
    found, _ = next(images.shuffled(most, torch.Generator()))
    found = found.to(descent_dtype(stream.device), memory_format=torch.channels_last)
    found.flatten()[0].item()
    return (time.perf_counter() - start) / len(found)


REFERENCE = HeadRates()
"""Of two cores."""


class TimePlan:
    """Shares a budget among the blocks of a stack.

    Args:
        minutes: the budget; None for none.
        costs: of all blocks; of no account without a budget.
        images: of the stream, held-out ones counted.
        views: of every image that programs see.
        augmented: whether descent sees other views, and takes them through all earlier blocks.
        classes: k.
        rates: of the products that heads are made of.
        loading: seconds that an image takes from its row to a mini-batch of views.
        start: when the time that the budget is of began, by ``time.perf_counter``; None for now.
    """

    def __init__(
        self,
        minutes: float | None,
        costs: Sequence[BlockCost] = (),
        *,
        images: int,
        views: int,
        augmented: bool,
        classes: int,
        rates: HeadRates = REFERENCE,
        loading: float = 0.0,
        start: float | None = None,
    ) -> None:
        self.minutes, self.costs = minutes, costs
        self.images, self.views, self.classes, self.rates = images, views, classes, rates
        self.augmented, self.loading, self.spent = augmented, loading, 0.0
        now = time.perf_counter()
        self._start = now if start is None else start
        self.probing = now - self._start

    @classmethod
    def of(
        cls,
        minutes: float | None,
        blocks: Sequence[Block],
        geometries: Sequence[PatchGeometry],
        stream: ImageStream,
    ) -> TimePlan:
        """The plan of a training on all images of a stream; what blocks cost is measured here.

        The measurements are part of the budget.
        """
        start = time.perf_counter()
        last, costs, rates, loading = len(blocks), list[BlockCost](), REFERENCE, 0.0
        if minutes is not None:
            rates = HeadRates.of(stream.n_classes, stream.device)
            loading = seconds_to_load(stream)
            costs = [
                BlockCost.of(block, geometry, stream.device, last=number == last)
                for number, (block, geometry) in enumerate(zip(blocks, geometries, strict=True), 1)
            ]
        return cls(
            minutes,
            costs,
            images=len(stream.images),
            views=stream.paired().views,
            augmented=stream.views > 1,
            classes=stream.n_classes,
            rates=rates,
            loading=loading,
            start=None if minutes is None else start,
        )

    def _fixed(self, number: int) -> float:
        """Seconds of a block that minutes do not decide about."""
        cost = self.costs[number - 1]
        learned = cost.epochs * self.images * self._step(number, 1)
        return learned + cost.fixed_seconds(self.images, self.views, self.classes, self.rates)

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning, and ``spent`` in interrupted trainings before it."""
        return self.spent + time.perf_counter() - self._start

    def leaves_no_time_for(self, number: int) -> bool:
        """Whether a block would not end within the budget, or not be learned for long enough."""
        if self.minutes is None:
            return False
        enough = BEGUN * self._least(number, min(BATCH, self.images))
        return self._left(number, number) < enough

    def steps(self, number: int, default: int, batch: int) -> int:
        """Steps of descent of a block: so that all blocks from it on get as many seconds.

        Early blocks are cheap and fit too little, late ones are dear and soon fit too much. Blocks
        at the end for which there is too little time are not counted.

        Args:
            number: of the block, from 1.
            default: steps without a budget.
            batch: images per step.
        """
        if self.minutes is None:
            return default
        affordable = self._share(number, self._last(number, batch)) / self._step(number, batch)
        most = max(MOST_STEPS, MOST_EPOCHS * self.images / batch)
        return max(1, math.floor(min(affordable, most)))

    def _last(self, number: int, batch: int) -> int:
        """The last block for which there is time enough, if all from a block to it get as much."""
        for last in range(len(self.costs), number, -1):
            share, blocks = self._share(number, last), range(number, last + 1)
            if all(share >= self._least(block, batch) for block in blocks):
                return last
        return number

    def _share(self, number: int, last: int) -> float:
        """Seconds of descent of every block between two of them, both counted, that descends."""
        descending = sum(cost.descends for cost in self.costs[number - 1 : last])
        return self._left(number, last) / max(1, descending)

    def _left(self, number: int, last: int) -> float:
        """Seconds that are left for the descent of all blocks between two of them."""
        assert self.minutes is not None
        fixed = sum(self._fixed(block) for block in range(number, last + 1))
        return SPARE * 60 * self.minutes - self.elapsed - fixed

    def _least(self, number: int, batch: int) -> float:
        """Seconds of descent without which a block is not worth the rest of it."""
        if not self.costs[number - 1].descends:
            return 0.0
        fewest = min(FEWEST_STEPS, FEWEST_EPOCHS * self.images / batch)
        return fewest * self._step(number, batch)

    def _step(self, number: int, batch: int) -> float:
        """Seconds of a step of descent of a block."""
        per_image = self.costs[number - 1].descent
        if number == 1 or self.augmented:
            per_image += self.loading
        if self.augmented:
            per_image += sum(before.passing for before in self.costs[: number - 1])
        return batch * per_image
