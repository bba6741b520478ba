"""How a stack spends a budget of minutes: as much descent for every block that is still to come."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from convexcnn.models.lookahead_network import network_of
from convexcnn.models.neuron_network import BATCH, descent_dtype
from convexcnn.models.stack_settings import Block
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.responses import NeuronFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.patches.whiten import PatchTransform

SPARE = 0.95
"""Part of the budget that is planned; the rest is for what cannot be foreseen."""

HEAD_RATE = 6e10
"""Floating-point operations per second of the products that heads are made of."""

HEAD_PRODUCTS = 150
"""Products with Phi or its transpose that solving and certifying a head takes."""

OVERHEAD = 4.0
"""Seconds of a block that are in no other figure."""

MOST_EPOCHS, MOST_STEPS = 40.0, 4000
"""More than both of them are not worth their time: few images take more epochs."""

PROBED_STEPS = 3
PROBED_IMAGES = 64


@dataclass(frozen=True)
class BlockCost:
    """What one block costs here, measured on random maps of its shape.

    Args:
        descent: seconds per image and epoch of the network that lends its neurons.
        passing: seconds per image that descent of a later block takes to get through this one.
        responses: seconds per view of one image.
        features: of its head, cells g.
    """

    descent: float
    passing: float
    responses: float
    features: int

    @classmethod
    def of(cls, block: Block, geometry: PatchGeometry, device: str, *, last: bool) -> BlockCost:
        """Measure a block."""
        generator = torch.Generator().manual_seed(0)
        dim = geometry.patch_dim
        scaling = PatchTransform(torch.zeros(dim), torch.eye(dim) / dim**0.5, 1.0).to(device)
        network = network_of(block, geometry, scaling, 2, generator, last=last)
        images = torch.randn(BATCH, *geometry.image_shape, generator=generator).to(device)
        images = images.contiguous(memory_format=torch.channels_last)
        rough = images.to(descent_dtype(device))
        network.train_once(rough, torch.eye(2, device=device)[torch.arange(BATCH) % 2])
        start = time.perf_counter()
        for _ in range(PROBED_STEPS):
            network.train_once(rough, torch.eye(2, device=device)[torch.arange(BATCH) % 2])
        descent = (time.perf_counter() - start) / (PROBED_STEPS * BATCH)
        neurons = [part.detach() for part in network.filters()]
        features = NeuronFeatures(geometry, *neurons)
        rough_features = NeuronFeatures(geometry, *(part.to(rough.dtype) for part in neurons))
        start = time.perf_counter()
        for piece in torch.split(rough, rough_features.block_size):
            rough_features.responses(piece).add_(1)
        passing = (time.perf_counter() - start) / BATCH
        start = time.perf_counter()
        found = features.responses(images[:PROBED_IMAGES])
        features.pool(found)
        found.half().cpu()
        responses = (time.perf_counter() - start) / PROBED_IMAGES
        return cls(descent, passing, responses, features.n_features)

    def fixed_seconds(self, images: int, views: int, classes: int) -> float:
        """Foreseen time of everything but descent."""
        rows = images * views
        products = self.features**2 + HEAD_PRODUCTS * 2 * classes * self.features
        return rows * (self.responses + products / HEAD_RATE) + OVERHEAD


class TimePlan:
    """Shares a budget among the blocks of a stack.

    Args:
        minutes: the budget; None for none.
        costs: of all blocks; of no account without a budget.
        images: of the stream, held-out ones counted.
        views: of every image.
        classes: k.
    """

    def __init__(
        self,
        minutes: float | None,
        costs: Sequence[BlockCost] = (),
        *,
        images: int,
        views: int,
        classes: int,
    ) -> None:
        self.minutes, self.costs = minutes, costs
        self.images, self.views, self.classes = images, views, classes
        self.spent = 0.0
        self._start = time.perf_counter()

    @classmethod
    def of(
        cls,
        minutes: float | None,
        blocks: Sequence[Block],
        geometries: Sequence[PatchGeometry],
        stream: ImageStream,
    ) -> TimePlan:
        """The plan of a training on all images of a stream; what blocks cost is measured here."""
        last, costs = len(blocks), list[BlockCost]()
        if minutes is not None:
            costs = [
                BlockCost.of(block, geometry, stream.device, last=number == last)
                for number, (block, geometry) in enumerate(zip(blocks, geometries, strict=True), 1)
            ]
        return cls(
            minutes,
            costs,
            images=len(stream.images),
            views=stream.views,
            classes=stream.n_classes,
        )

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning, and ``spent`` in interrupted trainings before it."""
        return self.spent + time.perf_counter() - self._start

    def leaves_no_time_for(self, number: int) -> bool:
        """Whether a block would not end within the budget, whatever it is trained for."""
        if self.minutes is None:
            return False
        cost = self.costs[number - 1]
        least = cost.fixed_seconds(self.images, self.views, self.classes)
        return self.elapsed + least > SPARE * 60 * self.minutes

    def steps(self, number: int, default: int, batch: int) -> int:
        """Steps of descent of a block: so that all blocks from it on get as many seconds.

        Early blocks are cheap and fit too little, late ones are dear and soon fit too much.

        Args:
            number: of the block, from 1.
            default: steps without a budget.
            batch: images per step.
        """
        if self.minutes is None:
            return default
        to_come = self.costs[number - 1 :]
        fixed = [cost.fixed_seconds(self.images, self.views, self.classes) for cost in to_come]
        left = SPARE * 60 * self.minutes - self.elapsed - sum(fixed)
        per_image = to_come[0].descent
        if self.views > 1:
            per_image += sum(before.passing for before in self.costs[: number - 1])
        affordable = left / len(to_come) / (batch * per_image)
        most = max(MOST_STEPS, MOST_EPOCHS * self.images / batch)
        return max(1, math.floor(min(affordable, most)))
