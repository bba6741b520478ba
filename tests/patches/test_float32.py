"""Fast float32 products stay float32, and the setting behind them is put back."""

from __future__ import annotations

import pytest
import torch

from convexcnn.patches import float32
from convexcnn.patches.float32 import ROUNDING, fast_float32
from small import generator


def setting() -> str:
    """What torch lets oneDNN do with float32 matrices."""
    return str(torch.backends.mkldnn.matmul.fp32_precision)  # type: ignore[attr-defined]


def product_error() -> float:
    left = torch.randn(300, 512, generator=generator(1))
    right = torch.randn(512, 200, generator=generator(2))
    exact = left.double() @ right.double()
    return float(((left @ right).double() - exact).norm() / exact.norm())


def test_products_are_as_accurate_inside_as_outside():
    assert product_error() <= ROUNDING
    with fast_float32():
        assert product_error() <= ROUNDING


def test_the_setting_is_restored():
    before = setting()
    with fast_float32(), fast_float32():
        pass
    assert setting() == before


def test_the_setting_is_restored_after_an_error():
    before = setting()
    with pytest.raises(KeyboardInterrupt), fast_float32():
        raise KeyboardInterrupt
    assert setting() == before


def test_nothing_changes_where_fast_means_short(monkeypatch):
    monkeypatch.setattr(float32, "_keeps_accuracy", lambda: False)
    before = setting()
    with fast_float32():
        assert setting() == before


def test_an_older_torch_without_the_setting_is_left_alone(monkeypatch):
    monkeypatch.setattr(torch.backends, "mkldnn", object())
    with fast_float32():
        assert product_error() <= ROUNDING


def test_the_setting_lasts_as_long_as_any_training_in_a_thread():
    before, first, second = setting(), fast_float32(), fast_float32()
    first.__enter__()
    inside = setting()
    second.__enter__()
    first.__exit__(None, None, None)
    assert setting() == inside
    second.__exit__(None, None, None)
    assert setting() == before
