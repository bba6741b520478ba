"""Networks trained beside a stack from the command line, and what the run says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convexcnn.cli.application import main
from convexcnn.cli.baseline_training import BASELINES
from convexcnn.models import EndToEndCNN, end_to_end
from convexcnn.models import networks as networks_module
from small import stripes

STACK = ["--model", "layerwise", "--n-gates", "3", "--budget", "0.004"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "stripes.npz"
    images, labels = stripes(80)
    test_images, test_labels = stripes(30, seed=1)
    np.savez(path, images=images, labels=labels, test_images=test_images, test_labels=test_labels)
    return path


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks_module, "VGG11_WIDTHS", ((8,), (8,), (8, 8)))


def finish(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


def printed(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, Any]:
    capsys.readouterr()
    code = finish(*arguments, "--json")
    return code, json.loads(capsys.readouterr().out)


def test_a_stack_is_shown_beside_its_baselines(
    data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert finish("fit", data, "--out", run, *STACK, "--baselines", "vgg11, alexnet") == 0
    output = capsys.readouterr()
    assert "against back-propagation" in output.out
    assert "baseline vgg11" in output.err
    result = json.loads((run / "result.json").read_text())
    assert [entry["network"] for entry in result["baselines"]] == ["vgg11", "alexnet"]
    for entry in result["baselines"]:
        assert 0 < entry["minutes"] < 0.2
        assert entry["epochs"] > 0
        assert entry["parameters"] > 1000
        assert entry["augment"] == "flip+crop"
        assert entry["curve"][-1]["seconds"] == pytest.approx(60 * entry["minutes"])
        for part in ("train", "validation", "test"):
            assert 0 <= entry[part]["accuracy"] <= 1
    assert not any("baseline" in phase for phase in result["phases"])
    assert result["settings"]["baselines"] == ["vgg11", "alexnet"]
    assert not (run / "baselines").exists()
    assert not (run / "blocks").exists()
    page = (run / "report.html").read_text("utf-8")
    assert "Accuracy against time" in page
    assert "VGG-11" in page
    (run / "report.html").unlink()
    assert finish("report", run) == 0
    assert (run / "report.html").read_text("utf-8") == page


def test_the_settings_of_a_run_name_its_baselines(
    data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text('baselines = ["vgg11"]\naugment = "none"\n')
    out = tmp_path / "run"
    code, found = printed(capsys, "fit", data, "--out", out, *STACK, "--config", config)
    assert code == 0
    (entry,) = found["baselines"]
    assert (entry["network"], entry["augment"]) == ("vgg11", "crop")


def test_an_interrupted_run_keeps_its_blocks_and_finished_baselines(
    data: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def interrupt(event: dict[str, Any]) -> None:
        if event["phase"] == "baseline alexnet":
            raise KeyboardInterrupt

    fit = ["fit", data, "--out", tmp_path / "run", *STACK, "--baselines", "vgg11,alexnet"]
    with monkeypatch.context() as patch:
        patch.setattr("convexcnn.cli.console._plain_progress", lambda _: interrupt)
        assert finish(*fit) == 1
    assert "run the same command again to continue" in capsys.readouterr().err
    kept = json.loads((tmp_path / "run.partial" / "baselines" / "vgg11.json").read_text())
    assert finish(*fit) == 0
    output = capsys.readouterr()
    assert "block 1: gates" not in output.err
    assert "baseline vgg11" not in output.err
    assert "baseline alexnet" in output.err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["baselines"][0] == kept


def test_a_baseline_that_fails_does_not_cost_the_stack(
    data: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(end_to_end, "LEARNING_RATE", 1e30)
    assert finish("fit", data, "--out", tmp_path / "run", *STACK, "--baselines", "vgg11") == 0
    assert "Warning: the baseline vgg11 is left out (the loss diverged" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "result.json").read_text())["baselines"] == []


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([*STACK, "--baselines", "lenet"], "baseline 'lenet' is not known; choose from alexnet"),
        (["--baselines", "vgg11"], "baselines are for stacks; add --model layerwise"),
        (["--model", "layerwise", "--baselines", "vgg11"], "give --budget too"),
    ],
)
def test_options_that_cannot_work_are_wrong_use(
    data: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    options: list[str],
    complaint: str,
) -> None:
    code, found = printed(capsys, "fit", data, "--out", tmp_path / "run", *options)
    assert code == 2
    assert complaint in found["error"]
    assert not (tmp_path / "run").exists()


def test_the_names_are_those_of_the_networks() -> None:
    assert set(BASELINES) == set(networks_module.NETWORKS)
    assert EndToEndCNN().network in BASELINES
