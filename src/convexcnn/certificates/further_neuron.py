"""Does any further ReLU neuron help? A search by ascent: what it finds is a lower bound, no proof.

A neuron u, |u| <= 1, that joins a solution with a small head weight, while b moves along, changes
the objective at the rate  beta - s(u)  per unit of its norm. With the negative gradient L of the
loss, centred, its slope is

    s(u) = max over classes c and cells of |(1/n) sum_n l_nc (1/q) sum_{l in cell} (x_nl . u)_+|

or, where classes and cells share filters, the root of the sum of their squares. If no u has a slope
above beta then no network with more or other neurons does better (Ergen & Pilanci 2021; the
column-generation step of Bach 2017). The maximum is not concave in u, so it is only searched for.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from convexcnn.certificates.certificate import GatedBlock, cell_bounds
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.programs.kind import ProgramKind

PASSES = 16
"""Passes over the images per search; each tries one step for every start."""

STARTS = 8
"""Starts of each kind: the strongest gates, random patches, random directions."""

ASCENT_IMAGES = 4_000
"""Images that ascents climb on; what they find is then measured on all."""

MEASURED = 4
"""Neurons that are measured on all images; the best one counts."""

LENGTHEN, SHORTEN = 3.0, 0.3
CHUNK = 100


@dataclass(frozen=True)
class FurtherNeuron:
    """The steepest further neuron that a search found.

    Args:
        slope: s(u) of the best neuron, in float64 by plain convolutions.
        threshold: beta, above which a slope helps; None for l2, which has no threshold.
        violation: slope / threshold - 1, a lower bound of the largest one; None for l2.
        present: largest slope of the filters of the solution itself, beta |v|; None for a norm.
        starts: ascents that were made.
        passes: over the images, in each.
    """

    slope: float
    threshold: float | None
    violation: float | None
    present: float | None
    starts: int
    passes: int

    def words(self) -> str:
        """What the number says, and that it is no proof."""
        search = f"a search from {self.starts} starts, not a proof"
        if self.violation is None:
            return (
                f"with l2 every further neuron helps a little: the best one found has slope "
                f"{self.slope:.2g}, the steepest filter in use {self.present:.2g} ({search})"
            )
        if self.violation <= 0:
            return (
                f"none was found that lowers the objective: the best one reaches "
                f"{1 + self.violation:.3f} of the threshold ({search})"
            )
        return (
            f"yes, one more ReLU neuron lowers the objective: its slope is at least "
            f"{1 + self.violation:.3g} times the threshold ({search})"
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"words": self.words()}


@dataclass(frozen=True)
class Ascent:
    """Neurons (m, d) of unit norm by falling slope, and their slopes (m,)."""

    neurons: Tensor
    slopes: Tensor


def steepest_neurons(
    features: GatedFeatures,
    stream: ImageStream,
    residual: Tensor,
    starts: Tensor,
    *,
    shared: bool,
    passes: int = PASSES,
) -> Ascent:
    """Maximise s(u) over |u| <= 1 from several starts, by normalised ascent.

    maximise s(u), u <- (u + t g) / |u + t g| with the gradient g of s; a start keeps its point
    where a step does not raise s and tries a shorter one next. s is homogeneous: s(u) = <g, u>.

    Args:
        features: geometry and transform; its gates are not looked at.
        stream: training images.
        residual: L, (n, k).
        starts: (m, d).
        shared: whether classes and cells share filters.
        passes: over the images.
    """
    residual = residual.to(starts)
    units = _unit(starts)
    values, gradients = _slopes(features, stream, residual, units, shared)
    steps = torch.ones_like(values)
    for _ in range(passes - 1):
        trial = _unit(units + steps[:, None] * _unit(gradients))
        trial_values, trial_gradients = _slopes(features, stream, residual, trial, shared)
        better = trial_values > values
        units = torch.where(better[:, None], trial, units)
        gradients = torch.where(better[:, None], trial_gradients, gradients)
        values = torch.where(better, trial_values, values)
        steps = steps * torch.where(better, LENGTHEN, SHORTEN)
    values, order = values.sort(descending=True)
    return Ascent(units[order], values)


def find_further_neuron(
    features: GatedFeatures,
    stream: ImageStream,
    residual: Tensor,
    block: GatedBlock,
    kind: ProgramKind,
    generator: torch.Generator,
    *,
    passes: int = PASSES,
) -> FurtherNeuron:
    """Search for the further neuron that helps most, and measure the best one in float64.

    Args:
        features: the operator Phi of the trained block.
        stream: training images, mirrored as in training.
        residual: L, (n, k), of the solution.
        block: the trained block in raw pixels, in float64.
        kind: its program.
        generator: of random starts.
        passes: over the images.
    """
    starts = search_starts(features, stream, block.weights, generator)
    part, part_dual = every_so_many(stream, residual)
    shared = kind.regulariser == "nuclear"
    found = steepest_neurons(features, part, part_dual, starts, shared=shared, passes=passes)
    slope = float(exact_slopes(block, stream, residual, found.neurons[:MEASURED], kind).max())
    if kind.regulariser == "l2":
        present = block.beta * float(block.weights.norm(dim=-1).max())
        return FurtherNeuron(slope, None, None, present, len(starts), passes)
    return FurtherNeuron(slope, block.beta, slope / block.beta - 1, None, len(starts), passes)


def every_so_many(
    stream: ImageStream, residual: Tensor, images: int = ASCENT_IMAGES
) -> tuple[ImageStream, Tensor]:
    """Evenly spaced images of a stream, at most so many, and their rows of a residual (n, k).

    Of several processes, each has and gets the rows of its own images.
    """
    step = -(-len(stream.images) // images)
    rows = residual.view(-1, stream.views, residual.shape[1])[-stream.own.start % step :: step]
    return stream.subset(slice(None, None, step)), rows.flatten(0, 1)


def search_starts(
    features: GatedFeatures, stream: ImageStream, weights: Tensor, generator: torch.Generator
) -> Tensor:
    """The strongest gates, random patches and random directions, (m, d).

    Args:
        features: of the trained block.
        stream: training images.
        weights: (..., k, cells, g, d).
        generator: of the random ones.
    """
    gates = features.gates
    strength = weights.flatten(0, -3).norm(dim=(0, 2)).to(gates.device)
    strongest = gates[strength.argsort(descending=True)[:STARTS]]
    order = torch.randperm(len(stream.images), generator=generator).numpy()
    patches = features.pooling(stream.block(order[:STARTS])[0].to(gates))
    place = torch.randint(patches.shape[1], (len(patches),), generator=generator)
    drawn = patches[torch.arange(len(patches)), place.to(patches.device)]
    directions = torch.randn(STARTS, gates.shape[1], generator=generator).to(gates)
    return torch.cat([strongest, drawn, directions])


def exact_slopes(
    block: GatedBlock, stream: ImageStream, residual: Tensor, neurons: Tensor, kind: ProgramKind
) -> Tensor:
    """s(u) / |u| in float64: one convolution, a ReLU, an average over every cell.

    Args:
        block: in float64; only its coordinates are used.
        stream: training images.
        residual: L, (n, k).
        neurons: u, (m, d), in the coordinates of the block.
        kind: says whether classes and cells share filters.

    Returns:
        (m,).
    """
    units = _unit(neurons.to(block.basis))
    weight = torch.einsum("md,dchw->mchw", units, block.basis)
    bias = units @ block.basis_bias
    residual = residual.to(block.basis)
    sums = residual.new_zeros(residual.shape[1], block.cells**2 * len(units))
    start = 0
    for images, _ in stream.blocks(CHUNK):
        responses = torch.nn.functional.conv2d(
            images.to(weight), weight, bias, block.stride, block.padding
        ).clamp_min(0)
        rows, columns = responses.shape[2:]
        pooled = [
            responses[:, :, top:bottom, left:right].mean((2, 3))
            for top, bottom in cell_bounds(rows, block.cells)
            for left, right in cell_bounds(columns, block.cells)
        ]
        sums += residual[start : start + len(images)].T @ torch.cat(pooled, 1)
        start += len(images)
    stream.processes.add_up(sums)
    slopes = sums.view(-1, len(units)) / len(stream)
    return slopes.norm(dim=0) if kind.regulariser == "nuclear" else slopes.abs().amax(0)


def _unit(vectors: Tensor) -> Tensor:
    unit: Tensor = vectors / vectors.norm(dim=1, keepdim=True).clamp_min(1e-30)
    return unit


def _slopes(
    features: GatedFeatures, stream: ImageStream, residual: Tensor, units: Tensor, shared: bool
) -> tuple[Tensor, Tensor]:
    """s (m,) and its gradient (m, d) at every u: a ReLU neuron is its own gate."""
    own = GatedFeatures(features.geometry, features.transform, units)
    pulled = residual.new_zeros(residual.shape[1], own.n_features)
    start = 0
    for images, _ in stream.blocks(own.block_size):
        pulled.addmm_(residual[start : start + len(images)].T, own(images.to(units)))
        start += len(images)
    stream.processes.add_up(pulled)
    slopes = pulled.view(-1, *units.shape) / len(stream)  # (k cells, m, d)
    values = (slopes * units).sum(-1)
    if shared:
        norm = values.norm(dim=0)
        return norm, (values[..., None] * slopes).sum(0) / norm.clamp_min(1e-30)[:, None]
    best = values.abs().argmax(0)
    at = torch.arange(len(units), device=units.device)
    chosen = values[best, at]
    return chosen.abs(), chosen.sign()[:, None] * slopes[best, at]
