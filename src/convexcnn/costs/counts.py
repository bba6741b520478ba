"""Floating-point operations of every part of a training, as formulas beside their mathematics.

n rows (images times their views), p patches per image, q patches per pooling cell (so that cells q
is p, or more where cells overlap), raw numbers per raw patch, r directions kept of them, d numbers
per projected patch, g gates, k classes, m = cells g d features. A product of an (a, b) and a (b, c)
matrix is 2 a b c operations. Tests count the same with torch's own counter.
"""

from __future__ import annotations

import math

from convexcnn.costs.work import FeatureShape
from convexcnn.models.lookahead_network import further_layers
from convexcnn.models.stack_settings import Block
from convexcnn.patches.extract import PatchGeometry
from convexcnn.solvers.lbfgs import GRAM_BLOCK, ROWS_PER_FEATURE
from convexcnn.solvers.linear_algebra.cholesky import BAND, BLOCK
from convexcnn.solvers.ridge import statistics

MUON_STEPS = 5
"""Newton-Schulz iterations of an orthogonalised step."""


def patches(geometry: PatchGeometry) -> int:
    """p."""
    return geometry.grid[0] * geometry.grid[1]


def celled(geometry: PatchGeometry) -> int:
    """cells q: patches sorted by cell, padded to the largest one."""
    return geometry.cell_order.numel()


def product(rows: float, inner: float, columns: float) -> float:
    """A (rows, inner) times an (inner, columns) matrix."""
    return 2.0 * rows * inner * columns


def features(shape: FeatureShape) -> float:
    """Phi of one row: projection, gate bits [x . a_i >= 0], and D_i' X for every cell and gate."""
    places = celled(shape.geometry)
    projected = product(patches(shape.geometry), shape.geometry.patch_dim, shape.rank)
    bits = product(places, shape.dim, shape.gates)
    pooled = product(places, shape.gates, shape.dim)
    return projected + bits + pooled


def plain_features(shape: FeatureShape) -> float:
    """Phi of one row by the certificate: convolutions with g gates and d directions, then D' X."""
    geometry = shape.geometry
    filters = shape.gates + shape.dim
    convolved = product(patches(geometry), geometry.patch_dim, filters)
    return convolved + product(int(geometry.cell_sizes.sum()), shape.gates, shape.dim)


def relu_descent(shape: FeatureShape, classes: int) -> float:
    """One image in one step of the network that lends gates, or of the non-convex program.

    Of ``shape.gates`` filters: projection, responses X U', their gradient R' X, and three products
    of pooled responses with the head: scores, its gradient, and back.
    """
    geometry = shape.geometry
    projected = product(patches(geometry), geometry.patch_dim, shape.rank)
    filters = 2 * product(celled(geometry), shape.dim, shape.gates)
    return projected + filters + 3 * product(1, geometry.n_cells * shape.gates, classes)


def neuron_responses(geometry: PatchGeometry, neurons: int) -> float:
    """One view: a convolution with all neurons, and averages over cells."""
    convolved = product(patches(geometry), geometry.patch_dim, neurons)
    return convolved + product(geometry.n_cells, patches(geometry), neurons)


def neuron_passing(geometry: PatchGeometry, neurons: int) -> float:
    """One image on its way through a frozen block to a later one that learns: the convolution."""
    return product(patches(geometry), geometry.patch_dim, neurons)


def neuron_descent(geometry: PatchGeometry, neurons: int, classes: int) -> float:
    """One image in one step of the network of a stack's block: forwards, and twice backwards."""
    head = product(1, geometry.n_cells * neurons, classes)
    return 2 * neuron_responses(geometry, neurons) + 3 * head


def neuron_step(geometry: PatchGeometry, neurons: int) -> float:
    """What a step of that network costs whatever the batch: filters in pixels, and their step.

    Filters a_i = W u_i and the gradient by u_i; then X <- a X + (b X X' + c (X X')^2) X five times.
    """
    raw = geometry.patch_dim
    return 2 * product(neurons, raw, raw) + orthogonalised(neurons, raw)


def orthogonalised(rows: int, columns: int) -> float:
    """An orthogonalised step on a matrix."""
    short, long = min(rows, columns), max(rows, columns)
    return MUON_STEPS * (2 * product(short, long, short) + product(short, short, short))


def lookahead_descent(block: Block, geometry: PatchGeometry, classes: int) -> float:
    """What further convolutions add to that: forwards, and backwards to filters and maps."""
    further = further_layers(block, geometry)
    convolved = sum(neuron_passing(*layer) for layer in further)
    top, width = further[-1]
    pooled = product(top.n_cells, patches(top), width)
    return 3 * (convolved + pooled + product(1, top.n_cells * width, classes))


def block_descent(block: Block, geometry: PatchGeometry, classes: int) -> float:
    """One image in one step of the network that lends a block its neurons."""
    further = lookahead_descent(block, geometry, classes) if block.gates == "lookahead" else 0.0
    return neuron_descent(geometry, block.n_gates, classes) + further


def block_step(block: Block, geometry: PatchGeometry) -> float:
    """What a step of that network costs whatever the batch."""
    own = neuron_step(geometry, block.n_gates)
    if block.gates != "lookahead":
        return own
    further = further_layers(block, geometry)
    return own + sum(orthogonalised(width, layer.patch_dim) for layer, width in further)


def gram(rows: float, size: int, band: int = statistics.BAND) -> float:
    """The lower blocks of Phi' Phi, by bands of columns: about n m (m + band)."""
    lefts = range(0, size, band)
    return sum(product(size - left, rows, min(band, size - left)) for left in lefts)


def metric_gram(rows: int, size: int, block: int = GRAM_BLOCK) -> float:
    """The lower blocks of C for L-BFGS, from about ``ROWS_PER_FEATURE`` rows per feature."""
    used = -(-rows // max(1, rows // (ROWS_PER_FEATURE * size)))
    stops = (min(size, start + block) for start in range(0, size, block))
    return sum(
        product(stop - start, used, stop)
        for start, stop in zip(range(0, size, block), stops, strict=True)
    )


def _bands(rows: int, chunk: int) -> list[tuple[int, int]]:
    """Rows of every band of the lower triangle of Phi Phi', and columns in whole half chunks."""
    half = max(1, chunk // 2)
    stops = [min(rows, start + chunk) for start in range(0, rows, chunk)]
    return [
        (stop - start, min(rows, half * -(-stop // half)))
        for start, stop in zip(range(0, rows, chunk), stops, strict=True)
    ]


def kernel_columns(rows: int, chunk: int) -> float:
    """Pairs of rows whose inner product is made: about n (n + chunk) / 2."""
    return sum(height * width for height, width in _bands(rows, chunk))


def kernel_rebuilt(rows: int, chunk: int) -> float:
    """Rows of Phi that are built for it: every band, and its columns with half a chunk beyond."""
    half = max(1, chunk // 2)
    return rows + sum(min(rows, width + half) for _, width in _bands(rows, chunk))


def cholesky(size: int, block: int = BLOCK, band: int = BAND) -> float:
    """Products of a blocked factorisation: panels and trailing bands, about m^3 / 3."""
    total = 0.0
    for start in range(0, size, block):
        stop = min(start + block, size)
        if stop == size:
            break
        total += product(size - stop, stop - start, stop - start)
        for left in range(stop, size, band):
            total += product(size - left, stop - start, min(band, size - left))
    return total


def factor_solve(size: int, columns: int, block: int = BLOCK) -> float:
    """L' \\ (L \\ B) for B (m, columns): about 2 m^2 operations per column."""
    total = 0.0
    for start in range(0, size, block):
        stop = min(start + block, size)
        total += product(stop - start, start, columns) + product(
            stop - start, stop - start, columns
        )
        total += product(stop - start, size - stop, columns)
        total += product(stop - start, stop - start, columns)
    return total


def lanczos_steps(ratio: float, tolerance: float, most: int = 80) -> int:
    """Steps of Lanczos on (A + s_0 I)^-1 for a shift with s / s_0 or s_0 / s equal to ``ratio``.

    The bound of conjugate gradients on a matrix of condition ``ratio``:
    (1/2) sqrt(ratio) log(2 / tolerance).
    """
    bound = 0.5 * math.sqrt(ratio) * math.log(2 / tolerance)
    return max(1, min(most, math.ceil(bound)))
