"""Make float32 matrix products run at the processor's full rate, where that costs no accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any

import torch

LARGEST = torch.finfo(torch.float32).max
"""The largest number that float32 holds."""

ROUNDING = 2e-6
"""Relative error that a float32 product of 512 terms may have."""


@contextmanager
def fast_float32() -> Iterator[None]:
    """Route float32 products on the CPU to oneDNN's kernels while the context lasts.

    torch sends them to MKL, which leaves the wide vectors of some processors unused. Asking for
    oneDNN's fast mode selects its own kernels; on processors without matrix units these still
    compute in float32, at twice the rate. Where a probe shows that they round to a shorter
    format, nothing is changed.
    """
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    if matmul is None or not hasattr(matmul, "fp32_precision") or not _keeps_accuracy():
        yield
        return
    _FAST.begin(matmul)
    try:
        yield
    finally:
        _FAST.end(matmul)


class _Shared:
    """The setting of a process while any of its threads wants it."""

    def __init__(self) -> None:
        self.lock, self.users, self.before = Lock(), 0, ""

    def begin(self, matmul: Any) -> None:
        """Turn it on for the first one."""
        with self.lock:
            if not self.users:
                self.before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
            self.users += 1

    def end(self, matmul: Any) -> None:
        """Put it back after the last one."""
        with self.lock:
            self.users -= 1
            if not self.users:
                matmul.fp32_precision = self.before


_FAST = _Shared()


@cache
def _keeps_accuracy() -> bool:
    """Whether oneDNN's fast mode multiplies float32 matrices to float32 accuracy here."""
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(256, 512, generator=generator)
    right = torch.randn(512, 256, generator=generator)
    exact = left.double() @ right.double()
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        fast = left @ right
    finally:
        matmul.fp32_precision = before
    return bool((fast.double() - exact).norm() <= ROUNDING * exact.norm())
