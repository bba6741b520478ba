"""The paper protocol on a handful of images: its result, its files, and going on after Ctrl-C."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from convexcnn.data.dataset import ImageDataset, ImageSplit
from convexcnn.errors import DataError, RunError
from convexcnn.models import ConvexConvClassifier, NonConvexConvClassifier, load_model
from convexcnn.models.paper import FORMULATIONS, LOSS_SCALE, PAPER, run_paper_protocol
from convexcnn.solvers.sgd import SGD
from small import stripes

SETTINGS = {
    "seeds": (0, 5),
    "epochs": 4,
    "batch_size": 15,
    "filters": 6,
    "filter_size": 3,
    "stride": 2,
    "learning_rate": 0.004,
    "device": "cpu",
}
STEPS = 4 * 4  # 60 images in batches of 15, 4 epochs
UNITS = [(formulation, seed) for seed in (0, 5) for formulation in FORMULATIONS]


@pytest.fixture(scope="module")
def dataset():
    train, test = (ImageSplit(*stripes(n, channels=3, seed=n)) for n in (60, 30))
    return ImageDataset("stripes", train, test, ("across", "along", "askew"), "made for a test")


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    """The protocol's result, its folder, and the events that it told."""
    folder = tmp_path_factory.mktemp("paper")
    events = []
    result = run_paper_protocol(dataset, folder=folder, callback=events.append, **SETTINGS)
    return result, folder, events


def untimed(value):
    """A result without what differs between two runs: times and memory."""
    if isinstance(value, dict):
        noise = ("seconds", "peak_memory_bytes")
        return {k: untimed(v) for k, v in value.items() if k not in noise}
    return [untimed(v) for v in value] if isinstance(value, list) else value


def test_the_result_holds_what_the_report_reads(finished, dataset):
    result, _, _ = finished
    assert {"format": 1, "kind": "compare", "loss_scale": LOSS_SCALE}.items() <= result.items()
    assert result["data"] == dataset.describe()
    assert result["paper"] == {}
    assert [(run["formulation"], run["seed"]) for run in result["runs"]] == UNITS
    for run in result["runs"]:
        assert run["steps"] == STEPS
        assert run["seconds"] > 0
        for split in ("train", "test"):
            assert 0 <= run[split]["accuracy"] <= 1
            assert run[split]["loss"] > 0
        step = run["steps_to_accuracy"]["0.4"]
        assert step is None or 1 <= step <= STEPS
    assert result["seconds"] == pytest.approx(sum(run["seconds"] for run in result["runs"]))
    assert json.loads(json.dumps(result)) == result


def test_the_summary_is_mean_and_spread_over_seeds(finished):
    result, _, _ = finished
    assert set(result["summary"]) == set(FORMULATIONS)
    for formulation, summary in result["summary"].items():
        runs = [run for run in result["runs"] if run["formulation"] == formulation]
        assert set(summary) == {"train_loss", "train_accuracy", "test_loss", "test_accuracy"}
        for name, found in summary.items():
            split, measure = name.split("_")
            values = [run[split][measure] for run in runs]
            assert found["mean"] == pytest.approx(np.mean(values))
            assert found["std"] == pytest.approx(np.std(values, ddof=1))


def test_confusion_counts_the_test_images_of_the_first_seed(finished, dataset):
    result, _, _ = finished
    for run in result["runs"][:2]:
        matrix = np.array(result["confusion"][run["formulation"]])
        assert matrix.sum(1).tolist() == np.bincount(dataset.test.labels).tolist()
        assert np.trace(matrix) / matrix.sum() == pytest.approx(run["test"]["accuracy"])


def test_curves_are_written_for_every_run(finished):
    result, folder, _ = finished
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    fields = {"formulation", "seed", "step", "epoch", "seconds", "train_loss", "train_accuracy"}
    assert all(fields <= set(line) for line in lines)
    assert all("phase" not in line for line in lines)
    for run in result["runs"]:
        mine = [
            line["step"]
            for line in lines
            if (line["formulation"], line["seed"]) == (run["formulation"], run["seed"])
        ]
        assert mine == sorted(mine)
        assert mine[-1] == STEPS


def test_filters_and_models_are_those_of_the_first_seed(finished, dataset):
    result, folder, _ = finished
    filters = load_file(folder / "filters.safetensors")
    assert filters["convex"].shape == (3, 6, 3, 3, 3)
    assert filters["convex_strength"].shape == (3, 6)
    assert filters["non_convex"].shape == (6, 3, 3, 3)
    assert filters["non_convex_strength"].shape == (6,)
    kinds = {"gated": ConvexConvClassifier, "non-convex": NonConvexConvClassifier}
    for run in result["runs"][:2]:
        model = load_model(folder / "models" / run["formulation"])
        assert type(model) is kinds[run["formulation"]]
        assert model.random_state == 0
        assert model.class_names == dataset.classes
        assert model.fingerprint_ == dataset.fingerprint()
        accuracy = model.score(dataset.test.images, dataset.test.labels)
        assert accuracy == pytest.approx(run["test"]["accuracy"])


def test_both_networks_are_trained_as_the_paper_says(finished, dataset):
    """Raw centred pixels, one pooling cell, squared loss, no regulariser, SGD with momentum 0.9."""
    _, folder, _ = finished
    settings = {
        "filter_size": 3,
        "stride": 2,
        "pooling": 1,
        "whiten": None,
        "centre": True,
        "augment": "none",
        "loss": "squared",
        "solver": SGD(4, 15, 0.004 * LOSS_SCALE, 0.9),
    }
    models = {
        "gated": ConvexConvClassifier(n_gates=6, gates="gaussian", betas=0.0, **settings),
        "non-convex": NonConvexConvClassifier(n_filters=6, validation_fraction=0.0, **settings),
    }
    for formulation, model in models.items():
        model.fit(dataset.train.images, dataset.train.labels)
        found = load_model(folder / "models" / formulation)
        for name in model.tensors:
            assert torch.equal(getattr(found, name), getattr(model, name))


def test_events_name_formulation_and_seed(finished):
    _, _, events = finished
    phases = [event["phase"] for event in events if "train_loss" in event]
    assert list(dict.fromkeys(phases)) == [f"{name}, seed {seed}" for name, seed in UNITS]
    json.dumps(events)


@pytest.mark.parametrize("unit", range(len(UNITS)))
def test_an_interrupted_run_goes_on_where_it_stopped(finished, dataset, tmp_path, unit):
    expected, _, _ = finished
    stop_at = "{}, seed {}".format(*UNITS[unit])

    def interrupt(event):
        if event["phase"] == stop_at and event.get("step") == STEPS:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_paper_protocol(dataset, folder=tmp_path, callback=interrupt, **SETTINGS)
    assert len(list(tmp_path.glob("units/*/unit.json"))) == unit
    assert not (tmp_path / "metrics.jsonl").exists()
    events = []
    result = run_paper_protocol(dataset, folder=tmp_path, callback=events.append, **SETTINGS)
    told = {event["phase"] for event in events}
    assert told == {f"{name}, seed {seed}" for name, seed in UNITS[unit:]}
    assert untimed(result) == untimed(expected)


def test_a_finished_run_is_not_trained_again(finished, dataset):
    result, folder, _ = finished

    def forbid(event):
        raise AssertionError("nothing was left to train")

    assert run_paper_protocol(dataset, folder=folder, callback=forbid, **SETTINGS) == result


def test_the_papers_figures_stand_beside_cifar10_only(finished, dataset, tmp_path):
    renamed = ImageDataset("cifar10", dataset.train, dataset.test, dataset.classes, dataset.source)
    settings = SETTINGS | {"seeds": (0,), "epochs": 1}
    result = run_paper_protocol(renamed, folder=tmp_path, **settings)
    assert result["paper"] == PAPER
    assert all(v["std"] == 0 for s in result["summary"].values() for v in s.values())


def test_data_without_test_images_is_refused(dataset, tmp_path):
    alone = ImageDataset("stripes", dataset.train, None, dataset.classes, dataset.source)
    with pytest.raises(DataError, match="stripes has no test images; compare needs some"):
        run_paper_protocol(alone, folder=tmp_path, **SETTINGS)
    assert not list(tmp_path.iterdir())


def test_finished_models_of_other_images_are_refused(dataset, tmp_path):
    few = {**SETTINGS, "seeds": (0,), "epochs": 1}
    run_paper_protocol(dataset, folder=tmp_path, callback=None, **few)
    train = ImageSplit(255 - dataset.train.images, dataset.train.labels)
    other = ImageDataset("stripes", train, dataset.test, dataset.classes, dataset.source)
    with pytest.raises(RunError, match=r"was trained on other images, .*; remove .* to train anew"):
        run_paper_protocol(other, folder=tmp_path, callback=None, **few)
