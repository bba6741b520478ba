"""Filters as numbers: order, gates, frequencies and colours."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convexcnn.errors import DataError, SettingError
from convexcnn.explain.block import block_of
from convexcnn.explain.filters import (
    ClassFilters,
    class_colours,
    frequency_response,
    gate_activity,
    strongest_filters,
)
from convexcnn.patches.extract import extract_patches


def test_filters_are_those_of_the_program_on_pixels(model, data) -> None:
    block, found = block_of(model), strongest_filters(model, 5)
    assert (np.diff(found.strength, axis=1) <= 0).all()
    scaled = torch.from_numpy(model.scaler_.transform(data[0][:2]))
    raw = extract_patches(scaled, block.geometry).flatten(0, 1)
    x = model.transform_(raw)
    for c in range(3):
        v = block.weights[c, found.cells[c, 0], found.gates[c, 0]]
        on_pixels = raw @ torch.from_numpy(found.filters[c, 0]).flatten() + found.biases[c, 0]
        torch.testing.assert_close(on_pixels, x @ v, rtol=1e-4, atol=1e-5)
        assert found.strength[c, 0] == pytest.approx(float(v.norm()), rel=1e-5)


def test_convex_filters_agree_with_the_estimator(convex_model) -> None:
    np.testing.assert_allclose(
        strongest_filters(convex_model, 7).filters, convex_model.filters(7)["convex"], rtol=1e-5
    )


def test_activity_counts_open_gates(model, data) -> None:
    block = block_of(model)
    scaled = torch.from_numpy(model.scaler_.transform(data[0]))
    x = model.transform_(extract_patches(scaled, block.geometry)).flatten(0, 1)
    expected = (x @ block.gates.T >= 0).float().mean(0)
    # Filters of (R) have patches on their border, where rounding decides.
    np.testing.assert_allclose(gate_activity(model, data[0]), expected, atol=5e-3)


def test_a_wave_answers_at_its_own_frequency() -> None:
    row = np.arange(8)
    wave = np.cos(2 * np.pi * 2 * row / 8)[:, None] * np.ones(8)
    response = frequency_response(wave, 8)
    peaks = {tuple(place) for place in np.argwhere(response > 0.5 * response.max())}
    assert peaks == {(4 - 2, 4), (4 + 2, 4)}
    assert frequency_response(np.ones((2, 3, 3, 3)), 16).shape == (2, 3, 16, 16)
    assert frequency_response(np.ones((3, 3)), 16)[8, 8] == pytest.approx(9)


def test_colours_are_measured_per_class() -> None:
    filters = np.zeros((2, 2, 3, 2, 2), np.float32)
    filters[0, :, 2], filters[0, :, 0] = 2.0, 1.0  # bluish
    filters[1, :, 1] = 3.0  # green
    ones = np.ones((2, 2), np.float32)
    colours = class_colours(ClassFilters(filters, ones, ones, ones.astype(int), ones.astype(int)))
    assert colours.dominant.tolist() == [2, 1]
    root = np.sqrt([[5 / 3], [3]])
    np.testing.assert_allclose(colours.mean, np.array([[1, 0, 2], [0, 3, 0]]) / root, rtol=1e-6)
    np.testing.assert_allclose(colours.share, [[0.2, 0, 0.8], [0, 1, 0]], rtol=1e-6)
    np.testing.assert_allclose(colours.dominance, [0.5, 1])


def test_what_cannot_work_is_refused(convex_model, data) -> None:
    with pytest.raises(SettingError, match="1 or more"):
        strongest_filters(convex_model, 0)
    with pytest.raises(SettingError, match="side of a filter"):
        frequency_response(np.ones((6, 6)), 4)
    with pytest.raises(DataError, match="at least one"):
        gate_activity(convex_model, data[0][:0])
