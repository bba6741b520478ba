"""What the filters of a block look for: strength, gates, frequencies and colours, as numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from convexcnn.data.arguments import check_whole
from convexcnn.errors import DataError, SettingError
from convexcnn.explain.block import block_inputs, block_of
from convexcnn.models.base import ImageClassifier
from convexcnn.patches.float32 import fast_float32

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ClassFilters:
    """The strongest filters of every class, as functions of raw (standardised) pixels.

    Args:
        filters: (k, m, channels, f, f), every class by falling strength.
        biases: (k, m).
        strength: (k, m), the norms |v| in the coordinates that the regulariser weighs.
        gates: (k, m), the gate i behind which a filter lies (of a ReLU network: its neuron).
        cells: (k, m), the pooling cell it works in.
    """

    filters: Floats
    biases: Floats
    strength: Floats
    gates: NDArray[np.int64]
    cells: NDArray[np.int64]


@dataclass(frozen=True)
class Colours:
    """The colours of every class's filters.

    Args:
        mean: (k, channels), mean weight of a channel over pixels and filters, in units of the root
            mean square of the class's weights: positive where a flat patch of that colour, behind
            open gates, speaks for the class.
        share: (k, channels), share of a channel in all squared weights; sums to 1.
        dominant: (k,), the channel with the largest mean weight.
        dominance: (k,), by how much it leads the next, relative to the largest |mean|.
    """

    mean: Floats
    share: Floats
    dominant: NDArray[np.int64]
    dominance: Floats


def strongest_filters(model: ImageClassifier, n_filters: int = 32) -> ClassFilters:
    """Return the filters v_{c,cell,i} of every class, un-whitened, strongest first.

    Of a stack they are those of the block whose head it predicts by, on its scaled input.

    Args:
        model: fitted, with one block, or a stack that predicts by one head.
        n_filters: how many per class, m; all, if there are fewer.

    Raises:
        SettingError: no filter asked for, or a model without such a block or with several heads.
    """
    check_whole("n_filters", n_filters, 1)
    block = block_of(model)
    k, _, g, d = (int(size) for size in block.weights.shape)
    columns = block.weights.flatten(1, 2).cpu()
    strength, order = columns.norm(dim=2).sort(dim=1, descending=True)
    order, strength = order[:, :n_filters], strength[:, :n_filters]
    strongest = torch.gather(columns, 1, order[:, :, None].expand(-1, -1, d))
    filters, biases = block.transform.to("cpu").to_filters(strongest.reshape(-1, d))
    side = block.geometry.filter_size
    return ClassFilters(
        filters.view(k, -1, block.geometry.image_shape[0], side, side).numpy(),
        biases.view(k, -1).numpy(),
        strength.contiguous().numpy(),
        (order % g).numpy(),
        (order // g).numpy(),
    )


def gate_activity(model: ImageClassifier, images: ArrayLike) -> Floats:
    """Return on which share of all patches every gate is open.

    activity_i = (1 / n p) sum over images and patches of 1[x_l . a_i >= 0]

    Of a stack these are the gates of the block whose head it predicts by, and patches of the
    frozen input of that block; ``block_head`` chooses one. Mirror images are not counted.

    Args:
        model: fitted, with one block, or a stack that predicts by one head.
        images: n images, in any layout that ``fit`` takes.

    Returns:
        (g,), between 0 and 1.

    Raises:
        DataError: no images, or images that do not fit the model.
        SettingError: a model without a block of patches and gates, or with several heads.
    """
    block = block_of(model)
    open_, patches = torch.zeros(len(block.gates), dtype=torch.float64), 0
    with torch.no_grad(), fast_float32():
        for scaled in block_inputs(model, images):
            x = block.flat_patches(scaled).flatten(0, 1)
            open_ += (x @ block.gates.T >= 0).sum(0).cpu()
            patches += len(x)
    if not patches:
        raise DataError("images is empty; give at least one")
    share: Floats = (open_ / patches).float().numpy()
    return share


def frequency_response(filters: ArrayLike, size: int = 32) -> Floats:
    """Return how strongly filters answer to waves: the magnitude of their 2-D Fourier transform.

    |sum_{r,s} u[r, s] exp(-2 pi i (a r + b s) / size)|, frequency zero in the middle

    Args:
        filters: (..., f, f).
        size: number of frequencies along each axis, at least f; more is a finer picture.

    Returns:
        (..., size, size); entry (size // 2 + a, size // 2 + b) is the frequency (a, b).

    Raises:
        SettingError: a size below the filter's.
    """
    values = np.asarray(filters, np.float64)
    if size < max(values.shape[-2:]):
        raise SettingError(f"size is {size}; give at least the side of a filter")
    spectrum = np.fft.fftshift(np.fft.fft2(values, (size, size)), axes=(-2, -1))
    magnitude: Floats = np.abs(spectrum).astype(np.float32)
    return magnitude


def class_colours(filters: ClassFilters) -> Colours:
    """Measure which colour the filters of every class look for.

    Args:
        filters: of a model; the more per class the better.
    """
    weights = filters.filters.astype(np.float64)
    size = np.sqrt(np.square(weights).mean((1, 2, 3, 4)))
    mean = weights.mean((1, 3, 4)) / np.maximum(size, 1e-30)[:, None]
    squares = np.square(weights).sum((1, 3, 4))
    share = squares / np.maximum(squares.sum(1, keepdims=True), 1e-30)
    ordered = np.sort(mean, axis=1)
    lead = ordered[:, -1] - ordered[:, -2] if mean.shape[1] > 1 else np.zeros(len(mean))
    largest = np.maximum(np.abs(mean).max(1), 1e-30)
    return Colours(
        mean.astype(np.float32),
        share.astype(np.float32),
        mean.argmax(1),
        (lead / largest).astype(np.float32),
    )
