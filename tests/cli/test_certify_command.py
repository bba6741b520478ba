"""`convexcnn certify`: the certificate again, from the files of a run and its data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from convexcnn.cli.application import main
from small import stripes

SMALL = ["--filter-size", "3", "--whiten", "4", "--gates", "patches", "--n-gates", "3"]
GROUP = ["--regulariser", "group", "--beta", "0.02", "--tolerance", "1e-4"]

Certify = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "stripes.npz"
    images, labels = stripes(60)
    np.savez(path, images=images, labels=labels)
    return path


@pytest.fixture(scope="module", params=["l2", "group", "relu"])
def run(
    request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run on some of the images only, by a seed of its own."""
    out = tmp_path_factory.mktemp("runs") / request.param
    program = {"l2": [], "group": GROUP, "relu": [*GROUP, "--formulation", "relu"]}[request.param]
    with pytest.raises(SystemExit) as exit_:
        main(
            ["fit", str(data), "--out", str(out), "--limit", "30", "--seed", "5", *SMALL, *program]
        )
    assert exit_.value.code == 0
    return out


@pytest.fixture
def certify(capsys: pytest.CaptureFixture[str]) -> Certify:
    def type_command(*arguments: str | Path) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main(["certify", *map(str, arguments), "--json"])
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, json.loads(capsys.readouterr().out)

    return type_command


def test_a_run_passes_on_its_own_data(run: Path, data: Path, certify: Certify) -> None:
    code, found = certify(run, data)
    recorded = json.loads((run / "result.json").read_text())["blocks"][0]
    assert (code, found["passed"], found["problems"]) == (0, True, [])
    assert found["certificate"]["primal"] == pytest.approx(recorded["certificate"]["primal"])
    assert found["recorded"] == recorded["certificate"]
    assert found["certificate"]["relative_gap"] < 1e-3
    assert found["data"]["n_train"] == 30
    for name in ("further_neuron", "relu_network"):
        assert found[name]["words"]
        assert recorded[name]["words"]


def test_it_says_so_in_words(run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["certify", str(run), str(data)])
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert "these 3 gates, to " in out
    assert "not a proof" in out
    assert "ReLU network: " in out
    assert out.endswith("Passed: the data are those of the run, and the certificate holds.\n")


@pytest.mark.parametrize("options", [["--seed", "0"], ["--limit", "40"]])
def test_other_images_are_named(
    run: Path, data: Path, certify: Certify, options: list[str]
) -> None:
    code, found = certify(run, data, *options)
    assert code == 1
    assert not found["passed"]
    assert "is not the data that the model was trained on" in found["problems"][0]


def test_changed_weights_are_found_out(
    run: Path, data: Path, certify: Certify, tmp_path: Path
) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(run, changed)
    tensors = load_file(changed / "model.safetensors")
    tensors["coef_"] = tensors["coef_"] * np.float32(1.1)
    save_file(tensors, changed / "model.safetensors")
    code, found = certify(changed, data)
    assert code == 1
    assert "the model or its result.json was changed" in found["problems"][0]


def test_what_cannot_be_certified_is_wrong_use(
    data: Path, certify: Certify, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--filter-size", "3", "--whiten", "4", "--n-filters", "4"]
    options += ["--formulation", "non-convex"]
    with pytest.raises(SystemExit):
        main(["fit", str(data), "--out", str(tmp_path / "run"), *options])
    code, found = certify(tmp_path / "run", data)
    assert code == 2
    assert "non-convex network" in found["error"]
    code, found = certify(tmp_path / "nowhere", data)
    assert code == 1
    assert "there is no such run" in found["error"]


def test_class_weights_of_a_run_are_those_of_its_certificate(
    certify: Certify, tmp_path: Path
) -> None:
    images, labels = stripes(60)
    kept = np.flatnonzero((labels > 0) | (np.arange(60) < 20))
    np.savez(tmp_path / "data.npz", images=images[kept], labels=labels[kept])
    gaps, primals = [], []
    for weights in ("", 'class_weight = "balanced"'):
        (tmp_path / "settings.toml").write_text(f"betas = [0.1]\n{weights}")
        config, out = ["--config", str(tmp_path / "settings.toml")], tmp_path / f"run{weights[:1]}"
        with pytest.raises(SystemExit) as exit_:
            main(["fit", str(tmp_path / "data.npz"), "--out", str(out), *SMALL, *config])
        assert exit_.value.code == 0
        code, found = certify(out, tmp_path / "data.npz")
        assert (code, found["problems"]) == (0, [])
        gaps.append(found["certificate"]["relative_gap"])
        primals.append(found["certificate"]["primal"])
    assert max(gaps) < 1e-6
    assert primals[0] != pytest.approx(primals[1], rel=1e-3)
