"""Gate strategies by name: shapes, determinism, and learned gates that have learned."""

from __future__ import annotations

import pytest
import torch

from convexcnn.errors import SettingError
from convexcnn.models import gates
from convexcnn.models.gates import STRATEGIES, choose_gates, learned_gates
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.whiten import fit_whitening, identity_transform
from convexcnn.programs.losses import get_loss
from convexcnn.programs.relu_cnn import ReluProgram
from small import generator, stripe_stream

GEOMETRY = PatchGeometry((1, 8, 8), 3, stride=2, cells=2)
STREAM = stripe_stream(60)
WHITENED = fit_whitening(STREAM.block(slice(None))[0], GEOMETRY, 5)
RAW = identity_transform(GEOMETRY.patch_dim)


def chosen(strategy, transform=WHITENED, seed=0, n_gates=6):
    with torch.no_grad():
        return choose_gates(strategy, n_gates, STREAM, GEOMETRY, transform, generator(seed))


@pytest.mark.parametrize("transform", [RAW, WHITENED], ids=["raw", "whitened"])
@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "dual"])
def test_every_strategy_is_one_draw_of_the_generator(strategy, transform):
    found = chosen(strategy, transform)
    assert found.shape == (6, transform.dim)
    assert torch.isfinite(found).all()
    assert torch.equal(found, chosen(strategy, transform))
    assert not torch.equal(found, chosen(strategy, transform, seed=1))


def test_patches_are_drawn_from_a_sample_of_the_images(monkeypatch):
    monkeypatch.setattr(gates, "SAMPLE", 1)
    assert chosen("patches", n_gates=50).shape == (9, WHITENED.dim)  # all there are in one image


def test_column_generation_needs_a_solver():
    with pytest.raises(SettingError, match="alternate with a solver"):
        chosen("dual")


def test_an_unknown_strategy_is_a_wrong_setting():
    with pytest.raises(SettingError, match="gates 'magic' is not known; choose one of gaussian,"):
        chosen("magic")


def test_learned_gates_are_the_strongest_filters_of_a_trained_network(monkeypatch):
    """The strength of a filter is |u_j| |w_j|; gates have unit norm."""
    networks = []

    class Recorded(ReluProgram):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            networks.append((self, self.filters.clone()))

    monkeypatch.setattr(gates, "ReluProgram", Recorded)
    with torch.no_grad():
        found = learned_gates(6, STREAM, GEOMETRY, WHITENED, generator(), width=10)
    ((network, start),) = networks
    assert not torch.equal(network.filters, start)
    assert len(network.filters) == 10
    assert type(network.loss) is type(get_loss("cross_entropy"))
    head = network.head.view(3, 4, 10)
    strength = [
        float(network.filters[j].norm() * head[:, :, j].square().sum().sqrt()) for j in range(10)
    ]
    order = sorted(range(10), key=strength.__getitem__, reverse=True)[:6]
    units = network.filters[order] / network.filters[order].norm(dim=1, keepdim=True)
    torch.testing.assert_close(found, units)


def test_more_gates_than_the_width_widen_the_network():
    with torch.no_grad():
        found = learned_gates(12, STREAM, GEOMETRY, WHITENED, generator(), width=4, updates=1)
    assert found.shape == (12, WHITENED.dim)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(12))


def test_training_the_network_that_lends_its_gates_is_told_step_by_step():
    events: list[dict[str, object]] = []
    learned_gates(2, STREAM, GEOMETRY, WHITENED, generator(), callback=events.append)
    assert {event["phase"] for event in events} == {"network that lends gates"}
    assert events[-1]["step"] == events[-1]["steps"]
    assert all("train_accuracy" in event for event in events)
