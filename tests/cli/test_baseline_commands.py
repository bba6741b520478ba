"""Networks trained beside a stack from the command line, and what the run says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from commands import typed
from convexcnn.cli.baseline_training import BASELINES, GREEDY
from convexcnn.models import EndToEndCNN, end_to_end
from convexcnn.models import networks as networks_module
from small import stripes_file

STACK = ["--model", "layerwise", "--n-gates", "3", "--budget", "0.004"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stripes_file(tmp_path_factory.mktemp("data") / "stripes.npz", 80, test=30)


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks_module, "VGG11_WIDTHS", ((8,), (8,), (8, 8)))


def test_a_stack_is_shown_beside_its_baselines(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = typed("fit", data, "--out", run, *STACK, "--baselines", "vgg11, alexnet")
    assert done.code == 0
    assert "against descent" in done.out
    assert "baseline vgg11" in done.err
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
    assert typed("report", run).code == 0
    assert (run / "report.html").read_text("utf-8") == page


def test_the_same_blocks_by_sgd_are_a_baseline(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = typed("fit", data, "--out", run, *STACK, "--baselines", "greedy")
    assert done.code == 0
    (entry,) = json.loads((run / "result.json").read_text())["baselines"]
    assert entry["network"] == "greedy"
    assert len(entry["blocks"]) == 4  # all of `small`, whatever the budget left of the stack
    assert all(0 <= accuracy <= 1 for accuracy in entry["blocks"])
    assert entry["validation"]["accuracy"] == entry["blocks"][-1]
    assert "greedy SGD" in (run / "report.html").read_text("utf-8")


def test_the_settings_of_a_run_name_its_baselines(data: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('baselines = ["vgg11"]\naugment = "none"\n')
    out = tmp_path / "run"
    done = typed("fit", data, "--out", out, *STACK, "--config", config, "--json")
    assert done.code == 0
    (entry,) = done.json()["baselines"]
    assert (entry["network"], entry["augment"]) == ("vgg11", "crop")


def test_an_interrupted_run_keeps_its_blocks_and_finished_baselines(
    data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupt(event: dict[str, Any]) -> None:
        if event["phase"] == "baseline alexnet":
            raise KeyboardInterrupt

    fit = ["fit", data, "--out", tmp_path / "run", *STACK, "--baselines", "vgg11,alexnet"]
    with monkeypatch.context() as patch:
        patch.setattr("convexcnn.cli.console._plain_progress", lambda _: interrupt)
        done = typed(*fit)
    assert done.code == 1
    assert "run the same command again to continue" in done.err
    kept = json.loads((tmp_path / "run.partial" / "baselines" / "vgg11.json").read_text())
    done = typed(*fit)
    assert done.code == 0
    assert "block 1: gates" not in done.err
    assert "baseline vgg11" not in done.err
    assert "baseline alexnet" in done.err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["baselines"][0] == kept


def test_a_baseline_that_fails_does_not_cost_the_stack(
    data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(end_to_end, "LEARNING_RATE", float("inf"))  # one step is enough
    done = typed("fit", data, "--out", tmp_path / "run", *STACK, "--baselines", "vgg11")
    assert done.code == 0
    assert "Warning: the baseline vgg11 is left out (the loss diverged" in done.err
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
    data: Path, tmp_path: Path, options: list[str], complaint: str
) -> None:
    done = typed("fit", data, "--out", tmp_path / "run", *options, "--json")
    assert done.code == 2
    assert complaint in done.json()["error"]
    assert not (tmp_path / "run").exists()


def test_the_names_are_those_of_the_networks() -> None:
    assert set(BASELINES) == {*networks_module.NETWORKS, GREEDY}
    assert EndToEndCNN().network in BASELINES
