"""What every block likes best: images that maximise the scores of its head, and its filters."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convexcnn.explain.ascent_cost import affordable_classes, images_at_once
from convexcnn.explain.block import PatchBlock, block_of
from convexcnn.explain.maximise import maximise_input
from convexcnn.explain.scorer import Progress, picked
from convexcnn.explain.stack import (
    averages_mirror_images,
    block_head,
    is_stack,
    spread_through,
)
from convexcnn.models.base import ImageClassifier
from convexcnn.models.neuron_block import NeuronBlock
from convexcnn.models.torch_module import Standardise
from convexcnn.models.torch_stack import Coordinates, GatedHead
from convexcnn.patches.float32 import fast_float32

CLASSES, FILTERS, STARTS, STEPS = 10, 2, 2, 20
"""Defaults: how many classes of a block, filters of a class, starts of an ascent, and steps."""

SPREAD = 0.2
"""Standard deviation of starts around the middle, as a part of the range between the bounds; where
all pixels are alike many gates are closed and nothing leads anywhere."""

CLOSED = 1e3
"""What is taken off while a gate is closed, so that ascent opens it first."""

OPPOSED = -0.999
"""Cosine of filter and gate below which a filter has no positive response."""


@dataclass(frozen=True)
class BlockMaximisers:
    """What ascent on the pixels found for one block; every value is that of the picture as kept.

    Args:
        class_images: (k', channels, height, width) uint8, the best of all starts for the score of
            every class; level 0 is the lower pixel bound and 255 the upper.
        class_values: (k', starts), the score reached from every start.
        filter_images: (k', m, channels, height, width) uint8, the same for the responses of every
            class's strongest filters at one patch.
        filter_values: (k', m, starts), those responses, of filters of unit norm; NaN where the
            gate was never opened.
        filter_gates: (k', m), the gate that a filter lies behind.
        filter_boxes: (k', m, 4), top, left, bottom and right of what that patch sees.
        seconds: (1,), what it took.
    """

    class_images: NDArray[np.uint8]
    class_values: NDArray[np.float32]
    filter_images: NDArray[np.uint8]
    filter_values: NDArray[np.float32]
    filter_gates: NDArray[np.int64]
    filter_boxes: NDArray[np.int64]
    seconds: NDArray[np.float32]


@dataclass(frozen=True)
class FilterUnits:
    """The strongest filters of every class's head, and where each is looked at.

    r(x) = 1[x_l . a >= 0] x_l . v / |v|

    Args:
        filters: (k' m, d), v / |v|.
        gates: (k' m, d), a / |a|.
        patches: (k' m,), the patch l in the middle of the filter's cell, row by row.
        names: (k', m), which gate that is.
    """

    filters: Tensor
    gates: Tensor
    patches: Tensor
    names: Tensor

    @classmethod
    def strongest(cls, block: PatchBlock, k: int, m: int) -> FilterUnits:
        """The m strongest filters v_{c,cell,i} of the first k classes that can respond at all."""
        weights = block.weights[:k].flatten(1, 2)
        g, d = block.gates.shape
        gates = torch.nn.functional.normalize(block.gates, dim=1).repeat(block.geometry.n_cells, 1)
        strength = weights.norm(dim=2)
        along = (weights * gates).sum(2)
        strength = torch.where(along < OPPOSED * strength, -strength, strength)
        order = strength.sort(dim=1, descending=True).indices[:, :m]
        filters = torch.gather(weights, 1, order[:, :, None].expand(-1, -1, d)).flatten(0, 1)
        middles = _middles(block)[(order // g).flatten()]
        unit = torch.nn.functional.normalize(filters, dim=1)
        return cls(unit, gates[order.flatten()], middles, order % g)

    @classmethod
    def of_neurons(cls, block: NeuronBlock, k: int, m: int) -> FilterUnits:
        """The m strongest neurons of the first k classes, in coordinates that are their responses.

        v = w a, so r(x) is (x_l . a)_+ / |a|, or its negative where w is negative: these come last.
        """
        sizes, cells = block.gates.norm(dim=1), block.geometry.n_cells
        weights = block.weights[:k, :, :, 0].flatten(1) * sizes.repeat(cells)
        order = weights.sort(dim=1, descending=True).indices[:, :m]
        names = order % len(sizes)
        units = torch.eye(len(sizes))[names.flatten()] / sizes[names.flatten(), None]
        signs = torch.gather(weights, 1, order).flatten()[:, None].sign()
        return cls(signs * units, units, _middles(block)[(order // len(sizes)).flatten()], names)

    def take(self, rows: Tensor) -> FilterUnits:
        """Some of the filters, in a row."""
        return FilterUnits(
            self.filters[rows], self.gates[rows], self.patches[rows], self.names.flatten()[rows]
        )

    def responses(self, patches: Tensor, starts: int) -> Tensor:
        """Responses (k' m starts,) of as many images, all starts of a filter in a row.

        Where a gate is closed it is the gate's own response, below any of an open one.

        Args:
            patches: (k' m starts, d, rows, columns).
            starts: of every filter.
        """
        unit = torch.arange(len(self.patches)).repeat_interleave(starts)
        x = patches.flatten(2)[torch.arange(len(patches)), :, self.patches[unit]]
        gate, value = (x * self.gates[unit]).sum(1), (x * self.filters[unit]).sum(1)
        return torch.where(gate >= 0, value, gate - CLOSED)


def maximise_blocks(
    model: ImageClassifier,
    *,
    lower: float = 0.0,
    upper: float = 255.0,
    classes: int = CLASSES,
    filters: int = FILTERS,
    starts: int = STARTS,
    steps: int = STEPS,
    random_state: int = 0,
    progress: Progress | None = None,
) -> list[BlockMaximisers]:
    """Climb on the pixels to what every block's head and strongest filters like best.

    All starts of all classes and filters of a block climb together, in as few batches as memory
    allows. Of large images or blocks fewer classes are looked at (``ascent_cost.WORK``). Filters
    are those of the head, v_{c,cell,i}, strongest first, at the patch in the middle of their cell;
    of the first block they are pictures themselves, and none are maximised.

    Args:
        model: fitted; a two-layer classifier is one block.
        lower: rho_min, for all pixels.
        upper: rho_max.
        classes: the first so many are looked at, if there is time.
        filters: per class.
        starts: images of noise around the middle between the bounds.
        steps: of the ascent.
        random_state: seed of the starts.
        progress: called with the number of blocks done and of all.

    Returns:
        One per block.

    Raises:
        SettingError: a model without blocks of patches and gates.

    Source: Chang & Lee, *Peeking into the Black Box*, eq. (4); Erhan et al. 2009, *Visualizing
    Higher-Layer Features of a Deep Network*.
    """
    heads: list[ImageClassifier] = [model]
    if is_stack(model):
        heads = [block_head(model, number) for number in range(1, len(model.blocks_) + 1)]
    generator = torch.Generator().manual_seed(random_state)
    share = 0.5 + SPREAD * torch.randn(starts, *model.image_shape_, generator=generator)
    first = lower + share.clamp(0, 1) * (upper - lower)
    k = affordable_classes(model, classes, filters, starts, steps)
    found = []
    for number, head in enumerate(heads, 1):
        with fast_float32():
            m = filters if number > 1 else 0
            found.append(_of_head(head, k, m, first, (lower, upper), steps))
        if progress is not None:
            progress(number, len(heads))
    return found


def _of_head(
    head: ImageClassifier,
    k: int,
    m: int,
    first: Tensor,
    bounds: tuple[float, float],
    steps: int,
) -> BlockMaximisers:
    """Climb for the first k classes of one head, and m filters of each, from every start."""
    begin = time.perf_counter()
    starts, shape = len(first), first.shape[1:]
    units = _units_of(head, k, m)
    layers, mirror = _last_block(head), averages_mirror_images(head)
    parts = []
    at_once = max(1, images_at_once(head) // starts)
    for part in torch.split(torch.arange(k + len(units.patches)), at_once):
        some = part[part < k], units.take(part[part >= k] - k)
        parts.append(
            _climb(
                _objective(layers, *some, starts, mirror=mirror), len(part), first, bounds, steps
            )
        )
    images, values = (np.concatenate(found) for found in zip(*parts, strict=True))
    responses = values[k:].reshape(k, -1, starts)
    return BlockMaximisers(
        class_images=images[:k],
        class_values=values[:k],
        filter_images=images[k:].reshape(k, -1, *shape),
        filter_values=np.where(responses < -CLOSED / 2, np.float32(np.nan), responses),
        filter_gates=units.names.numpy(),
        filter_boxes=_boxes(head, units).reshape(k, -1, 4),
        seconds=np.array([time.perf_counter() - begin], np.float32),
    )


def _climb(
    value: Callable[[Tensor], Tensor],
    n: int,
    first: Tensor,
    bounds: tuple[float, float],
    steps: int,
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Climb for n classes and filters from every start.

    Returns:
        The best image of each in 256 levels, (n, channels, height, width), and the values of the
        images in these levels, (n, starts).
    """
    (lower, upper), (starts, *shape) = bounds, first.shape
    step = np.float32((upper - lower) / 255 or 1)
    climbed = maximise_input(
        value,
        image_shape=shape,
        lower=lower,
        upper=upper,
        starts=first.repeat(n, 1, 1, 1).numpy(),
        steps=steps,
    )
    levels = np.rint((climbed.images - lower) / step).astype(np.uint8)
    with torch.no_grad():
        values = value(torch.from_numpy(lower + levels * step)).view(n, starts).numpy()
    best = levels.reshape(n, starts, *shape)[np.arange(n), values.argmax(1)]
    return best, values


Layers: TypeAlias = tuple[Callable[[Tensor], tuple[Tensor, Tensor]], nn.Module]
"""Pixels to patches and open gates of a head's block, and these to its scores."""


def _objective(
    layers: Layers, classes: Tensor, units: FilterUnits, starts: int, *, mirror: bool
) -> Callable[[Tensor], Tensor]:
    """A function from images (n,) in turn, all starts of a class or filter in a row, to values."""
    targets = classes.repeat_interleave(starts)
    of_block, scores_of = layers

    def value(images: Tensor) -> Tensor:
        patches, on = of_block(images)
        scores = picked(scores_of(patches[: len(targets)], on[: len(targets)]), targets)
        if mirror and len(targets):
            mirrored = scores_of(*of_block(images[: len(targets)].flip(3)))
            scores = (scores + picked(mirrored, targets)) / 2
        return torch.cat([scores, units.responses(patches[len(targets) :], starts)])

    return value


def _units_of(head: ImageClassifier, k: int, m: int) -> FilterUnits:
    """The strongest filters of the block whose head it is, in the coordinates of its network."""
    if is_stack(head) and isinstance(block := head.blocks_[-1], NeuronBlock):
        return FilterUnits.of_neurons(block.to("cpu"), k, m)
    return FilterUnits.strongest(block_of(head).to("cpu"), k, m)


def _last_block(head: ImageClassifier) -> Layers:
    """The block whose head it is, and what comes before it."""
    if is_stack(head):
        network = head.to_torch()

        def of_last(images: Tensor) -> tuple[Tensor, Tensor]:
            *_, (_, patches, on) = network.steps(images)
            return patches, on

        return of_last, network.last.head
    block = block_of(head).to("cpu")
    where = block.geometry, block.transform, block.gates
    layers = nn.Sequential(Standardise(head.scaler_), Coordinates(*where))
    return layers, GatedHead(block.geometry, block.weights, block.gates, block.intercept)


def _middles(block: PatchBlock | NeuronBlock) -> Tensor:
    """(cells,): the patch nearest to the middle of every pooling cell, if any not all padding."""
    geometry, columns = block.geometry, block.geometry.grid[1]
    first = [torch.arange(size) * geometry.stride - geometry.padding for size in geometry.grid]
    inside = [
        (start < side) & (start + geometry.filter_size > 0)
        for start, side in zip(first, geometry.image_shape[1:], strict=True)
    ]
    middles = []
    for members, size in zip(block.geometry.cell_order, block.geometry.cell_sizes, strict=True):
        places = torch.stack([members[:size] // columns, members[:size] % columns], 1).float()
        far = (places - places.mean(0)).norm(dim=1)
        row, column = places.long().T
        far = torch.where(inside[0][row] & inside[1][column], far, far + len(far))
        middles.append(members[far.argmin()])
    return torch.stack(middles)


def _boxes(head: ImageClassifier, units: FilterUnits) -> NDArray[np.int64]:
    """(units, 4): top, left, bottom and right of the pixels that every unit's patch sees.

    All pixels for a patch that lies wholly in the padding, and sees none.
    """
    if not is_stack(head) or not len(units.patches):
        return np.zeros((0, 4), np.int64)
    depth = len(head.blocks_)
    rows, columns = head.blocks_[-1].geometry.grid
    lit = torch.nn.functional.one_hot(units.patches, rows * columns).view(-1, rows, columns)
    seen = spread_through(head, depth, lit.float().numpy()) > 0
    boxes = []
    for area in seen:
        area = area if area.any() else np.ones_like(area)
        down, across = np.flatnonzero(area.any(1)), np.flatnonzero(area.any(0))
        boxes.append((down[0], across[0], down[-1] + 1, across[-1] + 1))
    return np.array(boxes, np.int64)
