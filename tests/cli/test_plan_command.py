"""`convexcnn plan`: the options of fit, a table or JSON, and refusals in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from convexcnn.cli.application import main
from convexcnn.cli.fit import command as fit
from convexcnn.cli.plan import NOT_PLANNED, scaled
from convexcnn.cli.plan import command as plan
from convexcnn.costs import hardware
from convexcnn.models.time_plan import BlockCost, HeadRates

NUMBERS = ["--images", "1280000", "--test-images", "50000", "--shape", "3,224,224"]
H100 = ["--gpus", "8", "--tflops", "989", "--bandwidth", "3350"]


@pytest.fixture(autouse=True)
def no_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates that are said, not measured: a table of them is in tests/costs."""
    monkeypatch.setattr(hardware, "measure", lambda kind, shape, device: 1e9)
    cost = BlockCost(1e-3, 1e-4, 1e-3, 100)
    rates = HeadRates(1e12, 1e11)
    monkeypatch.setattr(hardware.ThisMachine, "head_rates", lambda self, classes: rates)
    monkeypatch.setattr(hardware, "block_cost", lambda block, geometry, device: cost)


def finish(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main(["plan", *arguments])
    assert isinstance(exit_.value.code, int)
    captured = capsys.readouterr()
    return exit_.value.code, captured.out, captured.err


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code, out, _ = finish(capsys, *arguments, "--json")
    assert code == 0
    found: dict[str, Any] = json.loads(out)
    return found


def test_it_has_the_options_of_fit() -> None:
    theirs = {parameter.name for parameter in fit.params}
    mine = [parameter.name for parameter in plan.params]
    assert theirs - {*NOT_PLANNED} <= set(mine)
    assert len(mine) == len(set(mine))


def test_a_table_and_its_sums(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = finish(capsys, "cifar10", "--n-gates", "16")
    assert code == 0
    assert not err
    for words in ("statistics", "certificate", "Solver: direct", "Peak memory:", "Disk:", "Time:"):
        assert words in out


def test_settings_come_from_a_file_and_options(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "settings.toml"
    config.write_text('model = "layerwise"\nblocks = "vgg11"\nlimit = 5000\n')
    found = planned(capsys, "cifar10", "--config", str(config), "--blocks", "small")
    assert found["data"]["n_train"] == 5000
    assert {phase["block"] for phase in found["phases"]} == {None, 1, 2, 3, 4}


def test_imagenet_without_having_it(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*NUMBERS, "--classes", "1000", "--model", "layerwise", "--blocks", "imagenet"]
    words += ["--memory-gb", "1000"]
    found = planned(capsys, *words, *H100)
    assert found["hardware"]["gpus"] == 8
    assert found["data"]["files"] == 1_330_000
    assert found["flops"] > 1e16


def test_a_program_whose_steps_are_not_foreseen_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["digits", "--formulation", "relu", "--regulariser", "group", "--n-gates", "2"]
    code, out, err = finish(capsys, *words)
    assert code == 0
    assert "at least" in out
    assert "lower bound" in err


def test_nothing_is_trained_or_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    planned(capsys, "cifar10", "--model", "layerwise", "--budget", "10")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give DATA, or --images, --shape, --classes"),
        (["--images", "100", "--shape", "3,8,8"], "give DATA, or --classes"),
        (["digits", "--images", "100"], "leave out --images"),
        (["digits", "--test-images", "100"], "leave out --test-images"),
        ([*NUMBERS[:4], "--shape", "3x224", "--classes", "10"], "'3x224' is no shape"),
        ([*NUMBERS[:4], "--shape", "3,0,8", "--classes", "10"], "'3,0,8' is no shape"),
        ([*NUMBERS, "--classes", "1"], "classes is 1; give at least 2"),
        (["digits", "--gpus", "2"], "give their --tflops too"),
        (["digits", "--tflops", "0"], "--tflops"),
        (["digits", "--filter-size", "99"], "filter_size 99"),
        (["digits", "--n-filters", "3"], "there is no setting 'n_filters'"),
        (["digits", "--baselines", "vgg11"], "baselines are for stacks"),
        (["digits", "--out", "run"], "No such option"),
    ],
)
def test_wrong_use_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    code, out, err = finish(capsys, *arguments)
    assert code == 2
    assert not out
    assert len(err.strip().splitlines()) == 1
    assert words in err


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("model = 'layerwise'\nbudget = -1.0", "budget is -1.0"),
        ("model = 'layerwise'\nvalidation_fraction = 1.0", "validation_fraction is 1.0"),
        ("validation_fraction = 2.0", "validation_fraction is 2.0"),
        ("formulation = 'non-convex'\nvalidation_fraction = 2.0", "validation_fraction is 2.0"),
        ("baselines = 5", "baselines is 5; give names"),
    ],
)
def test_what_fit_would_refuse_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, setting: str, words: str
) -> None:
    (tmp_path / "settings.toml").write_text(setting)
    code, out, err = finish(capsys, "digits", "--config", str(tmp_path / "settings.toml"))
    assert (code, out) == (2, "")
    assert words in err


def test_data_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = finish(capsys, "cifar11")
    assert code == 1
    assert "did you mean cifar10" in err


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.0, "-"), (950.0, "0.95 kB"), (1.25e9, "1.25 GB"), (3e15, "3 PB"), (999.9e6, "1 GB")],
)
def test_numbers_as_people_read_them(value: float, words: str) -> None:
    assert scaled(value, "B") == words
