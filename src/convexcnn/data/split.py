"""Stratified choices: every class keeps its share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from convexcnn.data.arguments import check_whole
from convexcnn.errors import SettingError


def train_validation_split(
    labels: NDArray[Any], fraction: float, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Divide the images so that a fraction of every class is held out.

    A class of m images gives round(fraction * m) of them: at least one, and never its last.

    Args:
        labels: (n,), one label per image.
        fraction: the part to hold out, between 0 and 1 (both excluded).
        seed: chooses which.

    Returns:
        Indices of the training and of the held-out images, both ascending.

    Raises:
        SettingError: ``fraction`` is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise SettingError(f"fraction is {fraction}; give a number between 0 and 1")
    sizes = np.unique(labels, return_counts=True)[1]
    wanted = np.rint(fraction * sizes).astype(np.intp)
    held_out = _choose(labels, np.minimum(np.maximum(wanted, 1), sizes - 1), seed)
    kept = np.ones(len(labels), dtype=bool)
    kept[held_out] = False
    return np.flatnonzero(kept), held_out


def stratified_subset(labels: NDArray[Any], n: int, seed: int) -> NDArray[np.intp]:
    """Choose ``n`` images with the classes in the same proportions, at least one of each.

    Args:
        labels: (total,), one label per image.
        n: how many to choose; all of them if there are fewer.
        seed: chooses which.

    Returns:
        (n,), ascending indices.

    Raises:
        SettingError: ``n`` is no whole number, or smaller than the number of classes that occur.
    """
    check_whole("limit", n, 0)
    if n >= len(labels):
        return np.arange(len(labels))
    sizes = np.unique(labels, return_counts=True)[1]
    if n < len(sizes):
        raise SettingError(
            f"limit is {n}, but there are {len(sizes)} classes; give at least {len(sizes)}"
        )
    return _choose(labels, _shares(sizes, n), seed)


def _shares(sizes: NDArray[np.intp], n: int) -> NDArray[np.intp]:
    """Divide n among classes in proportion to size, by largest remainder, at least one each."""
    exact = n * sizes / sizes.sum()
    shares: NDArray[np.intp] = np.maximum(np.floor(exact).astype(np.intp), 1)
    while shares.sum() != n:
        step = 1 if shares.sum() < n else -1
        distance = np.where(shares + step >= 1, step * (exact - shares), -np.inf)
        shares[np.argmax(distance)] += step
    return shares


def _choose(labels: NDArray[Any], counts: NDArray[np.intp], seed: int) -> NDArray[np.intp]:
    """Choose ``counts[c]`` images of every class c (in sorted order), without replacement."""
    check_whole("seed", seed, 0)
    rng = np.random.default_rng(seed)
    _, index = np.unique(labels, return_inverse=True)
    members = (np.flatnonzero(index == c) for c in range(len(counts)))
    chosen = [rng.permutation(rows)[:count] for rows, count in zip(members, counts, strict=True)]
    return np.sort(np.concatenate(chosen)) if chosen else np.arange(0)
