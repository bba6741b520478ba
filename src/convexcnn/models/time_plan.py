"""How a stack spends a budget of minutes: as many epochs for every block that is still to come."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from convexcnn.models.stack_settings import Block
from convexcnn.patches.extract import PatchGeometry

SPARE = 0.97
"""Part of the budget that is planned; the rest is for what cannot be foreseen."""

PASS_COST = 0.8
"""Time of the responses of one view, relative to one step of descent on one image."""

HEAD_RATE = 1e11
"""Floating-point operations per second of the products that heads are made of."""

HEAD_PRODUCTS = 150
"""Products with Phi or its transpose that solving and certifying a head takes."""

MOST_EPOCHS = 40.0
"""More of them are not worth their time."""


@dataclass(frozen=True)
class BlockCost:
    """What one block costs.

    Args:
        multiplications: of the responses of one view of one image.
        features: of its head, cells g.
    """

    multiplications: int
    features: int

    @classmethod
    def of(cls, block: Block, geometry: PatchGeometry) -> BlockCost:
        rows, columns = geometry.grid
        return cls(
            rows * columns * geometry.patch_dim * block.n_gates, geometry.n_cells * block.n_gates
        )

    def head_seconds(self, rows: int, classes: int) -> float:
        """Foreseen time of its head on so many rows."""
        products = self.features**2 + HEAD_PRODUCTS * 2 * classes * self.features
        return rows * products / HEAD_RATE


class TimePlan:
    """Shares a budget among the blocks of a stack.

    Args:
        minutes: the budget; None for none.
        costs: of all blocks.
        images: of the stream, held-out ones counted.
        views: of every image.
        classes: k.
    """

    def __init__(
        self,
        minutes: float | None,
        costs: Sequence[BlockCost],
        *,
        images: int,
        views: int,
        classes: int,
    ) -> None:
        self.minutes, self.costs = minutes, costs
        self.images, self.views, self.classes = images, views, classes
        self.spent = 0.0
        self._start = time.perf_counter()

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning, and ``spent`` in interrupted trainings before it."""
        return self.spent + time.perf_counter() - self._start

    @property
    def over(self) -> bool:
        """Whether the budget is used up."""
        return self.minutes is not None and self.elapsed > SPARE * 60 * self.minutes

    def steps(
        self, number: int, seconds_per_step: Callable[[], float], default: int, batch: int
    ) -> int:
        """Steps of descent of a block: so that all blocks from it on get as many epochs.

        Args:
            number: of the block, from 1.
            seconds_per_step: measures one of its steps.
            default: steps without a budget.
            batch: images per step.
        """
        if self.minutes is None:
            return default
        own, to_come = self.costs[number - 1], self.costs[number - 1 :]
        per_image = seconds_per_step() / batch
        rows = self.images * self.views
        left = SPARE * 60 * self.minutes - self.elapsed
        units = 0.0
        for cost in to_come:
            unit = self.images * per_image * cost.multiplications / own.multiplications
            left -= PASS_COST * self.views * unit + cost.head_seconds(rows, self.classes)
            units += unit
        epochs = min(MOST_EPOCHS, left / units)
        return max(1, math.floor(epochs * self.images / batch))
