"""One convex program to plan for, and the work of its passes over the images."""

from __future__ import annotations

from dataclasses import dataclass

from convexcnn.costs import counts
from convexcnn.costs.work import FeatureShape, Work
from convexcnn.solvers.choose import rows_at_once

IMAGE_PASSES = 8
"""Times that the pixels of a block of images move, as float32, between array and patches."""

KNOWN_PASSES = 6
"""Times that a feature vector which is known moves on its way into a buffer."""

PROBED_ROWS = 2000
"""Rows of dense products, as solvers hold them in memory; probes sum over no more of them."""


@dataclass(frozen=True)
class Rows:
    """How many rows of Phi train, and how many are held out.

    Args:
        train: rows of the training images in all views.
        held_out: rows of the held-out images in all views; 0 where there is one beta only.
        views: of every image.
    """

    train: int
    held_out: int
    views: int

    @classmethod
    def of(cls, images: int, views: int, fraction: float) -> Rows:
        """Divide images: a fraction is held out, none if it is 0."""
        held_out = round(images * fraction)
        return cls((images - held_out) * views, held_out * views, views)

    @property
    def all(self) -> int:
        return self.train + self.held_out

    @property
    def plain(self) -> int:
        """Held-out images, each in one view."""
        return self.held_out // self.views


@dataclass(frozen=True)
class Problem:
    """A program of gated features, or of features that are known for all images at once.

    Args:
        rows: of Phi.
        classes: k.
        size: m, the number of features.
        pixels: numbers per image.
        shape: how Phi is built; None if it is known.
        betas: weights of the regulariser that are asked for; None for the default path.
        loss: ``squared`` or ``cross_entropy``.
        refit: whether the last solution uses the held-out images too.
    """

    rows: Rows
    classes: int
    size: int
    pixels: int
    shape: FeatureShape | None
    betas: tuple[float, ...] | None
    loss: str
    refit: bool = True

    @property
    def chunk(self) -> int:
        """Rows of Phi in memory at once."""
        return rows_at_once(self.size)

    def build(self, rows: float, *, double: bool = False) -> list[Work]:
        """Phi of so many rows, in float32 or float64."""
        if self.shape is None:
            return [carried((12 if double else 4) * KNOWN_PASSES * rows * self.size)]
        kind = "features in float64" if double else "features"
        flops = rows * counts.features(self.shape)
        return [Work(kind, flops, shape=self.shape), carried(4 * IMAGE_PASSES * rows * self.pixels)]

    def thin(self, rows: float, columns: float, *, double: bool = False, times: float = 1) -> Work:
        """Products of Phi, or its transpose, with so many columns: Phi is read every time."""
        return thin(rows, self.size, columns, double=double, times=times)


def moved(size: float, *, divides: bool = True) -> Work:
    """Bytes that pass through the memory of the device and nothing else."""
    return Work("memory", bytes=size, divides=divides)


def carried(size: float) -> Work:
    """Bytes that pass through the memory of the processor: images and maps on their way."""
    return Work("host memory", bytes=size)


def dense(
    flops: float, inner: int, side: int, *, double: bool = False, divides: bool = True
) -> Work:
    """Products of matrices that are large in all directions.

    Args:
        flops: operations.
        inner: summed dimension of one product.
        side: rows and columns of one product.
        double: in float64.
        divides: as for :class:`Work`.
    """
    kind = "products in float64" if double else "products"
    return Work(
        kind, flops, shape=(_rounded(inner, PROBED_ROWS), _rounded(side, 2048)), divides=divides
    )


def thin(
    rows: float,
    size: float,
    columns: float,
    *,
    double: bool = False,
    times: float = 1,
    divides: bool = True,
) -> Work:
    """Products of an (rows, size) matrix with a few columns, which memory limits."""
    kind = "thin products in float64" if double else "thin products"
    width = 8 if double else 4
    flops = times * counts.product(rows, size, columns)
    shape = (_rounded(columns, 512), _rounded(size, 4096))
    return Work(kind, flops, times * width * rows * size, shape=shape, divides=divides)


def _rounded(size: float, most: int) -> int:
    """A size that a probe takes instead: similar sizes share one."""
    if size >= most:
        return most
    return max(8, 8 * round(size / 8))
