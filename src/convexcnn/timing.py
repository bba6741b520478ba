"""How fast this machine does a piece of work: short measurements, for costs that are foreseen."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

SECONDS = 0.15
"""What one measurement takes at least, after a first run that does not count."""

LEAST_RUNS, MOST_RUNS = 3, 200


def rate(run: Callable[[], object], amount: float, device: str) -> float:
    """Amount of work per second, in the fastest of several runs: other work disturbs it least.

    Args:
        run: the work.
        amount: of it.
        device: where it is done; waited for.
    """
    run()
    wait_for(device)
    taken: list[float] = []
    while len(taken) < MOST_RUNS and (len(taken) < LEAST_RUNS or sum(taken) < SECONDS):
        start = time.perf_counter()
        run()
        wait_for(device)
        taken.append(time.perf_counter() - start)
    return amount / max(min(taken), 1e-9)


def mean_seconds(run: Callable[[], object], times: int, device: str) -> float:
    """Mean time of a piece of work, beside whatever else this machine does, after a first run."""
    run()
    wait_for(device)
    start = time.perf_counter()
    for _ in range(times):
        run()
    wait_for(device)
    return (time.perf_counter() - start) / times


def wait_for(device: str) -> None:
    """Return when a GPU has done what it was asked; there is nothing to wait for on a processor."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
