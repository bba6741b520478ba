"""The two-layer programs written out: slow, obvious, float64 NumPy with a loop per index.

The oracle of the tests and the text for teachers. Nothing here shares code with the fast version.
Axes: n images, p patches per image on a grid of rows and columns, d numbers per patch, a x a
pooling cells, g gates (or m filters), k classes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def patches(images: ArrayLike, filter_size: int, stride: int = 1, padding: int = 0) -> Array:
    """Cut images into the patches that a convolution sees.

    Args:
        images: (n, channels, height, width).
        filter_size: side of a patch, in pixels.
        stride: distance between neighbouring patches, in pixels.
        padding: zeros added on every side, in pixels.

    Returns:
        (n, rows, columns, d), every patch in the order channel, row, column.
    """
    x = np.asarray(images, np.float64)
    n, channels, height, width = x.shape
    padded = np.zeros((n, channels, height + 2 * padding, width + 2 * padding))
    padded[:, :, padding : padding + height, padding : padding + width] = x
    rows = (padded.shape[2] - filter_size) // stride + 1
    columns = (padded.shape[3] - filter_size) // stride + 1
    out = np.empty((n, rows, columns, channels * filter_size**2))
    for i in range(n):
        for row in range(rows):
            for column in range(columns):
                top, left = row * stride, column * stride
                window = padded[i, :, top : top + filter_size, left : left + filter_size]
                out[i, row, column] = window.flatten()
    return out


def coordinates(x: Array, mean: ArrayLike, projection: ArrayLike, constant: float = 0.0) -> Array:
    """Map patches x (..., d_raw) to [(x - mean) W, c], without c if the constant is 0.

    Args:
        x: raw patches.
        mean: (d_raw,).
        projection: W, (d_raw, r).
        constant: c.

    Returns:
        (..., r) or (..., r + 1).
    """
    projected = (x - np.asarray(mean, np.float64)) @ np.asarray(projection, np.float64)
    if constant == 0:
        return projected
    return np.concatenate([projected, np.full((*x.shape[:-1], 1), constant)], axis=-1)


def pooling_cells(rows: int, columns: int, cells: int) -> Iterator[list[tuple[int, int]]]:
    """Yield the grid positions (row, column) of each of the cells^2 pooling cells.

    Cell i of a axis of m positions reaches from floor(i m / a) to ceil((i + 1) m / a): cells
    overlap where a does not divide m.
    """

    def interval(index: int, positions: int) -> range:
        start = int(np.floor(index * positions / cells))
        stop = int(np.ceil((index + 1) * positions / cells))
        return range(start, stop)

    for i in range(cells):
        for j in range(cells):
            yield [(row, column) for row in interval(i, rows) for column in interval(j, columns)]


def gated_features(x: Array, gates: ArrayLike, cells: int = 1) -> Array:
    """phi_i = (1/q) sum_{l in cell} 1[x_l . a_i >= 0] x_l for every image, cell and gate.

    Args:
        x: (n, rows, columns, d) patches.
        gates: a, (g, d).
        cells: pooling cells per side.

    Returns:
        Phi, (n, cells^2, g, d).
    """
    a = np.asarray(gates, np.float64)
    n, rows, columns, d = x.shape
    out = np.zeros((n, cells**2, len(a), d))
    for image in range(n):
        for cell, members in enumerate(pooling_cells(rows, columns, cells)):
            for gate in range(len(a)):
                for row, column in members:
                    patch = x[image, row, column]
                    if patch @ a[gate] >= 0:
                        out[image, cell, gate] += patch / len(members)
    return out


def max_gated_features(x: Array, gates: ArrayLike, cells: int = 1) -> Array:
    """phi_i = 1[x_m . a_i >= 0] x_m, with x_m the patch of the cell with the largest x_l . a_i.

    Args:
        x: (n, rows, columns, d) patches.
        gates: a, (g, d).
        cells: pooling cells per side.

    Returns:
        Phi of max pooling, (n, cells^2, g, d).
    """
    a = np.asarray(gates, np.float64)
    n, rows, columns, d = x.shape
    out = np.zeros((n, cells**2, len(a), d))
    for image in range(n):
        for cell, members in enumerate(pooling_cells(rows, columns, cells)):
            for gate in range(len(a)):
                responses = [x[image, row, column] @ a[gate] for row, column in members]
                best = int(np.argmax(responses))
                if responses[best] >= 0:
                    out[image, cell, gate] = x[image][members[best]]
    return out


def relu_features(x: Array, filters: ArrayLike, cells: int = 1) -> Array:
    """(1/q) sum_{l in cell} (x_l . u_j)_+ for every image, cell and filter.

    Args:
        x: (n, rows, columns, d) patches.
        filters: u, (m, d).
        cells: pooling cells per side.

    Returns:
        (n, cells^2, m).
    """
    u = np.asarray(filters, np.float64)
    n, rows, columns, _ = x.shape
    out = np.zeros((n, cells**2, len(u)))
    for image in range(n):
        for cell, members in enumerate(pooling_cells(rows, columns, cells)):
            for j in range(len(u)):
                for row, column in members:
                    out[image, cell, j] += max(x[image, row, column] @ u[j], 0.0) / len(members)
    return out


def squared_loss(scores: ArrayLike, targets: ArrayLike) -> float:
    """(1/2n) sum |F - Y|^2 over images and classes."""
    difference = np.asarray(scores, np.float64) - np.asarray(targets, np.float64)
    return float(0.5 * np.square(difference).sum() / len(difference))


def cross_entropy(scores: ArrayLike, targets: ArrayLike) -> float:
    """(1/n) sum of log sum_c exp(f_c) - y . f over images."""
    total = 0.0
    for f, y in zip(np.asarray(scores, np.float64), np.asarray(targets, np.float64), strict=True):
        total += f.max() + np.log(np.exp(f - f.max()).sum()) - y @ f
    return float(total / len(np.asarray(scores)))


LOSSES = {"squared": squared_loss, "cross_entropy": cross_entropy}


def gated_objective(
    phi: ArrayLike,
    weights: ArrayLike,
    bias: ArrayLike,
    targets: ArrayLike,
    beta: float,
    loss: str = "squared",
) -> float:
    """Objective (G) with `l2`: (1/n) loss(Phi V + 1 b', Y) + (beta/2) |V|^2.

    Args:
        phi: (n, features).
        weights: V, (k, features).
        bias: b, (k,).
        targets: Y, (n, k) one-hot.
        beta: weight of the regulariser.
        loss: a key of ``LOSSES``.
    """
    v = np.asarray(weights, np.float64)
    scores = np.asarray(phi, np.float64) @ v.T + np.asarray(bias, np.float64)
    return LOSSES[loss](scores, targets) + 0.5 * beta * float(np.square(v).sum())


def relu_objective(
    x: Array,
    filters: ArrayLike,
    head: ArrayLike,
    bias: ArrayLike,
    targets: ArrayLike,
    beta: float,
    *,
    cells: int = 1,
    loss: str = "squared",
) -> float:
    """Objective (P): (1/n) loss(F, Y) + (beta/2) sum_j (|u_j|^2 + |w_j|^2).

    Args:
        x: (n, rows, columns, d) patches.
        filters: U, (m, d).
        head: w, (k, cells^2 * m).
        bias: b, (k,).
        targets: Y, (n, k) one-hot.
        beta: weight of the regulariser.
        cells: pooling cells per side.
        loss: a key of ``LOSSES``.
    """
    u, w = np.asarray(filters, np.float64), np.asarray(head, np.float64)
    pooled = relu_features(x, u, cells).reshape(len(x), -1)
    scores = pooled @ w.T + np.asarray(bias, np.float64)
    norms = float(np.square(u).sum() + np.square(w).sum())
    return LOSSES[loss](scores, targets) + 0.5 * beta * norms


def ridge_optimum(phi: ArrayLike, targets: ArrayLike, beta: float) -> tuple[Array, Array]:
    """Minimise (1/2n) |Phi V + 1 b' - Y|^2 + (beta/2) |V|^2 by one dense solve.

    With both centred over the images, (Phi' Phi + n beta I) V = Phi' Y.

    Args:
        phi: (n, features).
        targets: Y, (n, k).
        beta: weight of the regulariser, > 0.

    Returns:
        V (k, features) and b (k,).
    """
    p, y = np.asarray(phi, np.float64), np.asarray(targets, np.float64)
    phi_mean, y_mean = p.mean(axis=0), y.mean(axis=0)
    centred = p - phi_mean
    system = centred.T @ centred + len(p) * beta * np.eye(p.shape[1])
    v = np.linalg.solve(system, centred.T @ (y - y_mean)).T
    return v, y_mean - v @ phi_mean


def ridge_bound(phi: ArrayLike, targets: ArrayLike, beta: float, dual: ArrayLike) -> float:
    """The lower bound of (G) with squared loss and `l2` that a dual point L proves.

    (1/n) <L, Y> - (1/2n) |L|^2 - |Phi' L|^2 / (2 beta n^2), for any L whose columns sum to zero.

    Args:
        phi: (n, features).
        targets: Y, (n, k).
        beta: weight of the regulariser, > 0.
        dual: L, (n, k); its column means are taken off first.
    """
    p, y = np.asarray(phi, np.float64), np.asarray(targets, np.float64)
    d = np.asarray(dual, np.float64)
    d = d - d.mean(axis=0)
    n = len(p)
    pulled = np.square(p.T @ d).sum() / (2 * beta * n**2)
    return float((d * y).sum() / n - np.square(d).sum() / (2 * n) - pulled)


def cone_penalty(x: Array, gates: ArrayLike, weights: ArrayLike, cells: int = 1) -> float:
    """How far weights are outside their gates' cones: 0 exactly if all are inside.

    The sum over images, cells, gates and classes of
    (1/q) sum_{l in cell} (-(2 * 1[x_l . a_i >= 0] - 1) x_l . v_ic)_+.

    Args:
        x: (n, rows, columns, d) patches.
        gates: a, (g, d).
        weights: v, (k, cells^2, g, d).
        cells: pooling cells per side.
    """
    a, v = np.asarray(gates, np.float64), np.asarray(weights, np.float64)
    n, rows, columns, _ = x.shape
    total = 0.0
    for image in range(n):
        for cell, members in enumerate(pooling_cells(rows, columns, cells)):
            for row, column in members:
                patch = x[image, row, column]
                for gate in range(len(a)):
                    side = 1.0 if patch @ a[gate] >= 0 else -1.0
                    inside = side * (v[:, cell, gate] @ patch)
                    total += np.maximum(-inside, 0.0).sum() / len(members)
    return float(total)
