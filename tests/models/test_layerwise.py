"""Stacks of convex blocks: every block is optimal given its input, as the reference makes it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from convexcnn import reference
from convexcnn.data.split import train_validation_split
from convexcnn.errors import DataError, RunError, SettingError
from convexcnn.models import Block, LayerwiseConvexCNN, load_model, memory_plan, save_model
from convexcnn.models.head_combination import choose_heads
from convexcnn.models.memory_plan import MemoryPlan
from convexcnn.models.patch_block import strongest_neurons
from convexcnn.models.stack_settings import PRESETS, plan_geometries, read_blocks
from small import generator, one_hot, stripe_stream, stripes
from tiny_models import ON_PATCHES, TINY_BLOCKS
from tiny_models import layerwise as stack

IMAGES, LABELS = stripes(90, channels=2)
TAKEN = 10 - MemoryPlan.of(10.0, IMAGES, 3 * 90 * 3).usable_gb
"""Memory in GB of Python, torch and these images."""
KEPT, HELD_OUT = train_validation_split(LABELS, 0.1, 0)


@pytest.fixture(scope="module")
def model():
    """A trained stack; not to be changed."""
    return stack().fit(IMAGES, LABELS)


def scaled(model, images=IMAGES):
    return torch.cat(list(model.scaled_blocks(images)))


def reference_maps(block, images):
    """Gated responses (n, m, rows, columns) by loops, in float64."""
    settings, transform = block.settings, block.transform.double()
    raw = reference.patches(images, settings.filter_size, settings.stride, settings.padding)
    x = reference.coordinates(raw, transform.mean, transform.projection, transform.constant)
    gates = block.gates.double().numpy()[block.neuron_gates.numpy()]
    responses = np.where(x @ gates.T >= 0, x @ block.neurons.double().numpy().T, 0)
    return np.moveaxis(responses, 3, 1)


def test_every_block_is_certified_and_again_to_the_last_bit(model):
    assert [c.relative_gap <= 1e-4 for c in model.certificates_] == [True] * 3
    assert model.certify(IMAGES, LABELS) == model.certificates_
    assert "these 4 gates, given the frozen input of the block" in model.certificates_[1].scope
    assert all(c.primal < 0.5 for c in model.certificates_)  # better than predicting zero


def test_shapes(model):
    first, second, last = model.blocks_
    assert first.map_shape == (6, 4, 4)
    assert second.geometry.image_shape == (6, 4, 4)
    assert second.map_shape == (5, 2, 2)
    assert last.geometry.image_shape == (5, 2, 2)
    assert last.transform.dim == 5 * 9
    assert len(last.neurons) == 0
    assert last.scaler is None
    assert [block.n_neurons for block in model.blocks_[:2]] == [6, 5]
    assert 0 < last.n_neurons <= 3 * 3
    assert model.scores(IMAGES).shape == (90, 3)
    assert model.block_scores(IMAGES[:7]).shape == (3, 7, 3)
    assert model.scores(IMAGES[:0]).shape == (0, 3)
    assert model.block_scores(IMAGES[:0]).shape == (3, 0, 3)


def test_every_head_is_the_optimum_of_the_reference_on_the_maps_before_it(model):
    images = [scaled(model)[KEPT], scaled(model, IMAGES[..., ::-1])[KEPT]]
    targets = np.concatenate([one_hot(LABELS[KEPT], 3)] * 2)
    for block in model.blocks_:
        phi = torch.cat([block.features(part) for part in images]).double().numpy()
        weights, bias = reference.ridge_optimum(phi, targets, block.beta)
        best = reference.gated_objective(phi, weights, bias, targets, block.beta)
        found = reference.gated_objective(
            phi, block.weights.flatten(1), block.bias, targets, block.beta
        )
        assert best * (1 - 1e-9) <= found <= best * (1 + 1e-5)
        if block.scaler is not None:
            images = [block.next_images(part) for part in images]


def test_maps_are_the_gated_responses_of_the_reference(model):
    block = model.blocks_[0]
    images = scaled(model)[:5]
    found = block.maps(images)
    assert found.dtype == torch.float16
    np.testing.assert_allclose(found, reference_maps(block, images.numpy()), atol=5e-3, rtol=2e-3)


@pytest.mark.parametrize("how", ["none", "average", "space-to-depth"])
@pytest.mark.parametrize("padding", [0, 1])
def test_maps_are_halved_as_asked_and_an_odd_line_is_cut(how, padding):
    first = Block(padding=padding, n_gates=3, gates="patches", n_neurons=4, whiten=5, **ON_PATCHES)
    blocks = (replace(first, stride=1 + padding, downsample=how), TINY_BLOCKS[1])
    images = np.pad(IMAGES, ((0, 0), (0, 0), (0, padding), (0, padding)), mode="edge")
    model = stack(blocks=blocks).fit(images, LABELS)
    block = model.blocks_[0]
    inside = scaled(model, images)[:3]
    maps, whole = block.maps(inside).float().numpy(), reference_maps(block, inside.numpy())
    half = whole.shape[2] // 2
    whole = whole if how == "none" else whole[:, :, : 2 * half, : 2 * half]
    if how == "average":
        whole = whole.reshape(3, 4, half, 2, half, 2).mean((3, 5))
    if how == "space-to-depth":
        whole = whole.reshape(3, 4, half, 2, half, 2).transpose(0, 1, 3, 5, 2, 4)
        whole = whole.reshape(3, 16, half, half)
    assert block.map_shape == maps.shape[1:]
    np.testing.assert_allclose(maps, whole, atol=5e-3, rtol=2e-3)


def test_neurons_are_the_strongest_singular_factors_of_all_gates():
    weights = torch.randn(3, 4, 5, 7, generator=generator())
    neurons, gates = strongest_neurons(weights, 1000)
    assert neurons.shape == (35, 7)
    torch.testing.assert_close(neurons.norm(dim=1), torch.ones(35))
    for i in range(5):
        matrix = weights[:, :, i].flatten(0, 1)
        strengths = (matrix @ neurons[gates == i].T).norm(dim=0)
        torch.testing.assert_close(strengths, torch.linalg.svdvals(matrix))
    few, their_gates = strongest_neurons(weights, 3)
    assert torch.equal(few, neurons[:3])
    assert torch.equal(their_gates, gates[:3])


def test_held_out_images_only_choose_betas_and_weigh_heads():
    """Given one beta per block, other pictures in their place leave all blocks as they are."""
    blocks = [replace(block, betas=0.1) for block in TINY_BLOCKS]
    other = IMAGES.copy()
    other[HELD_OUT] = IMAGES[HELD_OUT[::-1]]
    before, after = (stack(blocks=blocks).fit(X, LABELS) for X in (IMAGES, other))
    for one, two in zip(before.blocks_, after.blocks_, strict=True):
        torch.testing.assert_close(one.weights, two.weights, rtol=1e-3, atol=1e-4)
        assert one.measures["validation"]["loss"] != two.measures["validation"]["loss"]


def test_measures_are_those_of_the_scores(model):
    heads = model.block_scores(IMAGES)
    for head, block in zip(heads, model.blocks_, strict=True):
        for name, rows in {"train": KEPT, "validation": HELD_OUT}.items():
            accuracy = (head[rows].argmax(1) == LABELS[rows]).mean()
            assert block.measures[name]["accuracy"] == pytest.approx(accuracy)
    stacked = model.scores(IMAGES[HELD_OUT])
    expected = np.tensordot(model.head_weights_.numpy(), heads[:, HELD_OUT], 1)
    np.testing.assert_allclose(stacked, expected, atol=1e-4)
    loss = reference.squared_loss(stacked, one_hot(LABELS[HELD_OUT], 3))
    assert model.blocks_[-1].measures["stack"]["loss"] == pytest.approx(loss, rel=1e-3)


def test_heads_are_weighed_within_the_simplex(model):
    assert model.head_weights_.shape == (3,)
    assert float(model.head_weights_.min()) >= 0
    assert float(model.head_weights_.sum()) == pytest.approx(1)


@pytest.mark.parametrize("first_is_right", [True, False])
def test_the_last_head_is_taken_alone_only_if_it_classifies_better(first_is_right):
    """It is right everywhere, but its loss is large: the combination prefers the first head."""
    stream = stripe_stream(30)
    targets = torch.eye(3)[torch.from_numpy(stream.labels)]
    first = targets if first_is_right else targets.roll(1, 1)
    weights = choose_heads(torch.stack([first, targets + 50]), stream.labels, "squared")
    assert weights.tolist() == pytest.approx([1, 0] if first_is_right else [0, 1])


def test_two_classes_labels_of_any_kind_and_probabilities():
    names = np.array(["ash", "beech"])[LABELS % 2]
    model = stack().fit(IMAGES, names)
    assert model.decision_function(IMAGES).shape == (90,)
    np.testing.assert_allclose(model.predict_proba(IMAGES).sum(1), 1)
    assert set(model.predict(IMAGES)) <= {"ash", "beech"}


@pytest.mark.parametrize(
    ("X", "image_shape"),
    [
        (IMAGES.astype(np.float64), None),
        (torch.from_numpy(IMAGES), None),
        (IMAGES.reshape(90, -1), (2, 8, 8)),
    ],
    ids=["float", "torch", "flattened"],
)
def test_every_layout_trains_the_same_model(model, X, image_shape):
    found = stack(image_shape=image_shape).fit(X, LABELS)
    assert found.n_features_in_ == 128
    np.testing.assert_allclose(found.scores(X), model.scores(IMAGES), atol=1e-2)
    np.testing.assert_array_equal(found.predict(IMAGES.reshape(90, -1)), found.predict(IMAGES))


def test_training_twice_gives_the_same_bits(model):
    again = stack().fit(IMAGES, LABELS)
    np.testing.assert_array_equal(again.scores(IMAGES), model.scores(IMAGES))
    other = stack(random_state=1).fit(IMAGES, LABELS)
    assert not np.array_equal(other.scores(IMAGES), model.scores(IMAGES))


def test_maps_in_a_file_train_the_same_model(model, monkeypatch):
    monkeypatch.setattr(memory_plan, "MAPS_SHARE", 0.0)
    again = stack().fit(IMAGES, LABELS)
    np.testing.assert_array_equal(again.scores(IMAGES), model.scores(IMAGES))
    assert again.certify(IMAGES, LABELS) == model.certificates_


@pytest.mark.parametrize("augment", ["flip", "none"])
@pytest.mark.parametrize("gates", ["gaussian", "patches", "sgd"])
def test_every_gate_strategy_without_and_with_mirror_images(gates, augment):
    blocks = [replace(TINY_BLOCKS[0], gates=gates), replace(TINY_BLOCKS[1], gates=gates)]
    model = stack(blocks=blocks, augment=augment).fit(IMAGES, LABELS)
    assert all(c.relative_gap < 1e-4 for c in model.certificates_)
    assert model.certify(IMAGES, LABELS) == model.certificates_
    assert model.score(IMAGES, LABELS) > 0.7


def test_one_block_is_the_convex_classifier_on_the_training_images():
    model = stack(blocks=TINY_BLOCKS[:1], certificates=False).fit(IMAGES, LABELS)
    assert model.head_weights_.tolist() == [1]
    assert model.certificates_ == []
    assert len(model.certify(IMAGES, LABELS)) == 1


def test_filters_are_those_of_the_first_block(model):
    found = model.filters(5)
    assert found["convex"].shape == (3, 5, 2, 3, 3)
    assert found["convex_strength"].shape == (3, 5)


def test_every_event_names_its_block():
    events = []
    stack(callback=events.append).fit(IMAGES, LABELS)
    assert {event["block"] for event in events} == {1, 2, 3}
    assert all(event["phase"].startswith(f"block {event['block']}: ") for event in events)
    json.dumps(events)


# Presets and settings


def test_the_presets_fit_small_pictures():
    for name, shape in {"small": (3, 32, 32), "vgg11": (3, 32, 32)}.items():
        geometries = plan_geometries(PRESETS[name], shape)
        assert all(geometry.n_cells >= 4 for geometry in geometries)
    for name in PRESETS:
        for block, geometry in zip(
            blocks := read_blocks(name, None, (1, 8, 8)),
            plan_geometries(blocks, (1, 8, 8)),
            strict=True,
        ):
            assert block.pooling <= min(geometry.grid)
    assert [g.grid[0] for g in plan_geometries(PRESETS["vgg11"], (3, 32, 32))] == [
        32,
        16,
        8,
        8,
        4,
        4,
        2,
        2,
    ]


@pytest.mark.parametrize(
    ("name", "side", "grids"),
    [
        ("small", 32, [32, 16, 8, 4]),
        ("small", 47, [47, 23, 11, 5]),
        ("small", 64, [32, 32, 16, 8]),
        ("vgg11", 64, [32, 32, 16, 16, 8, 8, 4, 4]),
        ("imagenet", 224, [56, 28, 14, 7]),
    ],
)
def test_the_first_block_of_a_preset_is_coarse_on_large_images(name, side, grids):
    shape = (3, side, side)
    geometries = plan_geometries(read_blocks(name, None, shape), shape)
    assert [geometry.grid[0] for geometry in geometries] == grids


@pytest.mark.parametrize(("side", "name"), [(32, "small"), (127, "small"), (128, "imagenet")])
def test_the_stack_that_is_taken_by_default_suits_the_size_of_images(side, name):
    shape = (3, side, side)
    assert stack(blocks=None).read_blocks(shape) == read_blocks(name, None, shape)
    assert LayerwiseConvexCNN().blocks is None


def test_the_number_of_gates_can_be_set_for_all_blocks():
    assert [block.n_gates for block in read_blocks("small", {"n_gates": 5})] == [5] * 4
    model = stack(blocks="small", n_gates=3, gates="patches", tolerance=0.01, regulariser="group")
    for block in model.fit(IMAGES, LABELS).blocks_:
        settings = block.settings
        assert (block.n_gates, settings.gates, settings.regulariser) == (3, "patches", "group")
        assert 0 <= block.certificate.relative_gap <= 0.01


CASES = [
    (
        {"blocks": "huge"},
        "blocks 'huge' is not known; choose one of small, vgg11, imagenet, or give a list",
    ),
    ({"blocks": []}, "blocks is empty; give at least one Block"),
    ({"blocks": [3]}, "block 1 is 3; give a Block, or a mapping of filter_size"),
    ({"blocks": [{"colour": 3}]}, "block 1: there is no setting 'colour'; there are filt"),
    (
        {"blocks": [{}, {"gate": "sgd"}]},
        "block 2: .* no setting 'gate'; did you mean 'gates'",
    ),
    ({"blocks": 3}, "blocks is 3; give a name, or a list of Block"),
    ({"blocks": [{"gates": "garden"}]}, "block 1: gates 'garden' is not known to a block; choose"),
    ({"blocks": [{"regulariser": "l7"}]}, "block 1: regulariser 'l7' is not known to a block"),
    ({"blocks": [{"tolerance": 0.0}]}, r"block 1: tolerance is 0\.0; give a positive number"),
    (
        {"gates": "garden"},
        "gates 'garden' is not known to a block; choose one of gaussian, patches",
    ),
    ({"regulariser": "l7"}, "regulariser 'l7' is not known to a block; choose one of l2, group"),
    ({"tolerance": -1.0}, r"tolerance is -1\.0; give a positive number, or None"),
    ({"tolerance": "small"}, "tolerance is 'small'; give a number or None"),
    ({"blocks": [{"downsample": "least"}]}, "downsample 'least' is not known"),
    ({"blocks": [{"n_neurons": 0}]}, "n_neurons is 0; give at least 1"),
    ({"blocks": [{"lookahead": 3}]}, "lookahead is 3; give 1 or 2 convolutions"),
    ({"blocks": [{"whiten": 0}]}, "whiten is 0; keep at least 1 direction, or None"),
    ({"blocks": [{"betas": [0.1, 0.0]}]}, r"betas is \[0\.1, 0\.0\]; give positive numbers"),
    ({"blocks": [{"betas": []}]}, r"betas is \[\]; give positive numbers"),
    ({"n_gates": 0}, "n_gates is 0; give at least 1"),
    ({"blocks": [Block(), Block(filter_size=30)]}, "block 2: filter_size 30 is larger than the"),
    ({"blocks": [Block(pooling=9)]}, "block 1: pooling 9 asks for more cells per side"),
    (
        {"blocks": [Block(filter_size=8, padding=0, pooling=1, downsample="average"), Block()]},
        "block 1: downsample 'average' leaves nothing of its 1x1 grid of patches; use none",
    ),
    ({"memory_gb": 0}, "memory_gb is 0; give a positive number"),
    ({"memory_gb": 1e-6}, r"memory_gb is 1e-06, and Python, torch and these images take 0\.90"),
    (
        {"memory_gb": TAKEN + 1e-6},
        r"block 1: .* need .* GB with solver .*; lower n_gates \(now 4\)",
    ),
    ({"budget": float("inf")}, "budget is inf; give a positive number of minutes"),
    ({"budget": 0}, "budget is 0; give a positive number of minutes"),
    ({"validation_fraction": 0.0}, r"validation_fraction is 0\.0; give a number between"),
    ({"augment": "rotate"}, "augment 'rotate' is not known"),
    ({"device": "abacus"}, "device 'abacus' is not known"),
]


@pytest.mark.parametrize(("settings", "complaint"), CASES, ids=str)
def test_a_setting_that_cannot_work_is_named(settings, complaint):
    with pytest.raises(SettingError, match=complaint) as caught:
        model = stack(**settings)
        before = dict(vars(model))
        model.fit(IMAGES, LABELS)
    assert "\n" not in str(caught.value)
    assert vars(model) == before


def test_other_images_are_refused(model):
    with pytest.raises(DataError, match="the model was trained on"):
        model.certify(IMAGES[:, :1], LABELS)
    with pytest.raises(DataError, match="one label for each"):
        model.certify(IMAGES, LABELS[1:])
    with pytest.raises(DataError, match="too few images to hold any out; give two of some class"):
        stack().fit(IMAGES[:3], LABELS[:3])
    with pytest.raises(NotFittedError, match="call fit first"):
        stack().predict(IMAGES)


# scikit-learn and files


def test_a_clone_has_the_parameters_and_nothing_learned(model):
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    assert not hasattr(copy, "blocks_")
    assert copy.set_params(n_gates=2).n_gates == 2


@pytest.mark.parametrize("settings", [{}, {"blocks": "small", "n_gates": 3}, {"augment": "none"}])
def test_a_stack_survives_its_files(settings, tmp_path):
    model = stack(**settings).fit(IMAGES, LABELS)
    save_model(model, tmp_path)
    found = load_model(tmp_path)
    assert isinstance(found, LayerwiseConvexCNN)
    assert found.get_params() == model.get_params()
    np.testing.assert_array_equal(found.scores(IMAGES), model.scores(IMAGES))
    np.testing.assert_array_equal(found.predict_proba(IMAGES), model.predict_proba(IMAGES))
    assert [b.measures for b in found.blocks_] == [b.measures for b in model.blocks_]
    for one, other in zip(found.certify(IMAGES, LABELS), model.certificates_, strict=True):
        assert one.primal == pytest.approx(other.primal, rel=1e-6)
        assert one.gap == pytest.approx(other.gap, abs=1e-6)
    refitted = clone(found).fit(IMAGES, LABELS)
    np.testing.assert_array_equal(refitted.scores(IMAGES), model.scores(IMAGES))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("head_weights", [1.0]),
        ("head_weights", [-1.0, 1.0, 1.0]),
        ("head_weights", [0.5, 0.5, 0.5]),
        ("temperature", float("nan")),
        ("temperature", -1.0),
        ("temperature", 0.0),
        ("settings", [{}]),
        ("settings", [{"stride": 3}, {}, {}]),
        ("blocks", []),
        ("blocks", [{"constant": 1.0, "beta": 1.0, "scaler": None, "measures": {}}] * 3),
    ],
)
def test_a_damaged_description_is_refused(model, key, value, tmp_path):
    save_model(model, tmp_path)
    path = tmp_path / "config.json"
    description = json.loads(path.read_text())
    description["stack"][key] = value
    path.write_text(json.dumps(description))
    with pytest.raises(RunError, match="do not fit together"):
        load_model(tmp_path)
