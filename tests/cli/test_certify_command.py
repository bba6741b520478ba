"""`convexcnn certify`: the certificate again, from the files of a run and its data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from commands import typed
from small import stripes, stripes_file

SMALL = ["--filter-size", "3", "--whiten", "4", "--gates", "patches", "--n-gates", "3"]
GROUP = ["--regulariser", "group", "--beta", "0.02", "--tolerance", "1e-4"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stripes_file(tmp_path_factory.mktemp("data") / "stripes.npz", 60)


@pytest.fixture(scope="module", params=["l2", "group", "relu"])
def run(
    request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run on some of the images only, by a seed of its own."""
    out = tmp_path_factory.mktemp("runs") / request.param
    program = {"l2": [], "group": GROUP, "relu": [*GROUP, "--formulation", "relu"]}[request.param]
    some = ["--limit", "30", "--seed", "5"]
    assert typed("fit", data, "--out", out, *some, *SMALL, *program).code == 0
    return out


def test_a_run_passes_on_its_own_data(run: Path, data: Path) -> None:
    done = typed("certify", run, data, "--json")
    found = done.json()
    recorded = json.loads((run / "result.json").read_text())["blocks"][0]
    assert (done.code, found["passed"], found["problems"]) == (0, True, [])
    assert found["certificate"]["primal"] == pytest.approx(recorded["certificate"]["primal"])
    assert found["recorded"] == recorded["certificate"]
    assert found["certificate"]["relative_gap"] < 1e-3
    assert found["data"]["n_train"] == 30
    for name in ("further_neuron", "relu_network"):
        assert found[name]["words"]
        assert recorded[name]["words"]


def test_it_says_so_in_words(run: Path, data: Path) -> None:
    done = typed("certify", run, data)
    assert done.code == 0
    assert "these 3 gates, to " in done.out
    assert "not a proof" in done.out
    assert "ReLU network: " in done.out
    assert done.out.endswith("Passed: the data are those of the run, and the certificate holds.\n")


@pytest.mark.parametrize("options", [["--seed", "0"], ["--limit", "40"]])
def test_other_images_are_named(run: Path, data: Path, options: list[str]) -> None:
    done = typed("certify", run, data, *options, "--json")
    assert done.code == 1
    assert not done.json()["passed"]
    (problem,) = done.json()["problems"]
    assert "is not the data that the model was trained on" in problem


def test_changed_weights_are_found_out(run: Path, data: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(run, changed)
    tensors = load_file(changed / "model.safetensors")
    tensors["coef_"] = tensors["coef_"] * np.float32(1.1)
    save_file(tensors, changed / "model.safetensors")
    done = typed("certify", changed, data, "--json")
    assert done.code == 1
    assert "the model or its result.json was changed" in done.json()["problems"][0]


def test_what_cannot_be_certified_is_wrong_use(data: Path, tmp_path: Path) -> None:
    options = ["--filter-size", "3", "--whiten", "4", "--n-filters", "4"]
    options += ["--formulation", "non-convex"]
    typed("fit", data, "--out", tmp_path / "run", *options)
    done = typed("certify", tmp_path / "run", data, "--json")
    assert done.code == 2
    assert "non-convex network" in done.json()["error"]
    done = typed("certify", tmp_path / "nowhere", data, "--json")
    assert done.code == 1
    assert "there is no such run" in done.json()["error"]


def test_class_weights_of_a_run_are_those_of_its_certificate(tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    images, labels = stripes(60)
    kept = np.flatnonzero((labels > 0) | (np.arange(60) < 20))
    np.savez(data, images=images[kept], labels=labels[kept])
    gaps, primals = [], []
    for weights in ("", 'class_weight = "balanced"'):
        (tmp_path / "settings.toml").write_text(f"betas = [0.1]\n{weights}")
        config, out = ["--config", tmp_path / "settings.toml"], tmp_path / f"run{weights[:1]}"
        assert typed("fit", data, "--out", out, *SMALL, *config).code == 0
        done = typed("certify", out, data, "--json")
        found = done.json()
        assert (done.code, found["problems"]) == (0, [])
        gaps.append(found["certificate"]["relative_gap"])
        primals.append(found["certificate"]["primal"])
    assert max(gaps) < 1e-6
    assert primals[0] != pytest.approx(primals[1], rel=1e-3)
