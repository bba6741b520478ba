"""Rows that are gathered block by block, and the memory that certificates take for them."""

from __future__ import annotations

import pytest
import torch

from convexcnn.certificates.growing_rows import GrowingRows


@pytest.mark.parametrize("sizes", [[1], [3, 5, 1], [2] * 40])
def test_rows_are_those_that_were_added(sizes):
    blocks = [torch.randn(size, 4, dtype=torch.float64) for size in sizes]
    gathered = GrowingRows()
    for block in blocks:
        gathered.add(block)
    torch.testing.assert_close(gathered.rows, torch.cat(blocks), rtol=0, atol=0)


def test_the_memory_is_moved_a_few_times_only():
    gathered, places = GrowingRows(), set()
    for _ in range(1000):
        gathered.add(torch.ones(3, 2))
        places.add(gathered.rows.untyped_storage().nbytes())
    assert len(places) <= 12
    assert max(places) <= 2 * 3000 * 2 * 4 + 64


def test_nothing_added_is_a_mistake():
    with pytest.raises(AssertionError, match="no row was added"):
        _ = GrowingRows().rows
