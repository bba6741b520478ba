"""Value, proximal map and conjugate of every regulariser, by their definitions."""

from __future__ import annotations

import pytest
import torch

from convexcnn.errors import SettingError
from convexcnn.programs.regularisers import REGULARISERS, Norm, Regulariser, get_regulariser

SHAPE = (2, 3, 4, 5)  # classes, cells, gates, coordinates


def draw(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(SHAPE, generator=generator, dtype=torch.float64)


@pytest.fixture(params=REGULARISERS)
def regulariser(request: pytest.FixtureRequest) -> Regulariser:
    return get_regulariser(request.param)


@pytest.mark.parametrize("step", [0.0, 0.1, 1.5, 100.0])
def test_prox_minimises_its_definition(regulariser: Regulariser, step: float) -> None:
    point = draw(0)
    best = regulariser.prox(point, step)

    def objective(weights: torch.Tensor) -> float:
        return float(0.5 * (weights - point).square().sum() + step * regulariser.value(weights))

    least = objective(best)
    for seed in range(1, 30):
        for size in (1e-3, 1e-1, 1.0):
            assert objective(best + size * draw(seed)) > least - 1e-12


@pytest.mark.parametrize("step", [0.1, 1.5])
def test_prox_leaves_a_subgradient(regulariser: Regulariser, step: float) -> None:
    # (V - prox V) / step is a subgradient at U = prox V: R(U) + R*(Z) = <Z, U>.
    point = draw(2)
    best = regulariser.prox(point, step)
    slope = (point - best) / step
    inner = (slope * best).sum()
    if isinstance(regulariser, Norm):
        assert regulariser.dual_norm(slope) <= 1 + 1e-12
        assert regulariser.value(best) == pytest.approx(float(inner), rel=1e-10)
    else:
        both = regulariser.value(best) + regulariser.conjugate(slope)
        assert float(both) == pytest.approx(float(inner), rel=1e-12)


def test_the_nuclear_norm_of_vectors_is_that_of_matrices_with_one_row() -> None:
    weights = draw(3)[..., :1]
    by_gate = weights.permute(2, 3, 0, 1).flatten(2)
    left, values, right = torch.linalg.svd(by_gate, full_matrices=False)
    norm = get_regulariser("nuclear")
    assert isinstance(norm, Norm)
    assert float(norm.value(weights)) == pytest.approx(float(values.sum()), rel=1e-12)
    torch.testing.assert_close(norm.gate_norms(weights), values[:, 0])
    for step in (0.0, float(values.median()), 100.0):
        shrunk = (left * (values - step).clamp_min(0)[:, None]) @ right
        expected = shrunk.view(4, 1, 2, 3).permute(2, 3, 0, 1)
        torch.testing.assert_close(norm.prox(weights, step), expected)


def test_fenchel_young_inequality(regulariser: Regulariser) -> None:
    for seed in range(20):
        weights, slopes = draw(seed), draw(100 + seed) / 8
        bound = regulariser.value(weights) + regulariser.conjugate(slopes)
        assert float(bound) >= float((weights * slopes).sum()) - 1e-12


@pytest.mark.parametrize("name", ["group", "nuclear"])
def test_dual_norm_is_attained(name: str) -> None:
    norm = get_regulariser(name)
    assert isinstance(norm, Norm)
    slopes = draw(3)
    # Just below the dual norm, the proximal map of the norm keeps exactly one neuron: the best.
    step = float(norm.dual_norm(slopes)) * (1 - 1e-6)
    best = norm.prox(slopes, step)
    best /= norm.value(best)
    assert float((slopes * best).sum()) == pytest.approx(float(norm.dual_norm(slopes)), rel=1e-6)
    assert norm.conjugate(slopes / norm.dual_norm(slopes) * (1 - 1e-12)) == 0
    assert norm.conjugate(slopes * 1e3) == torch.inf


def test_nuclear_of_one_class_and_cell_is_group() -> None:
    weights = draw(4)[:1, :1]
    group, nuclear = get_regulariser("group"), get_regulariser("nuclear")
    assert float(nuclear.value(weights)) == pytest.approx(float(group.value(weights)))
    torch.testing.assert_close(nuclear.prox(weights, 0.7), group.prox(weights, 0.7))


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(SettingError, match="l2, group, nuclear"):
        get_regulariser("l1")
