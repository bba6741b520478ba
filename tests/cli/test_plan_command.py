"""`convexcnn plan`: the options of fit, a table or JSON, and refusals in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands import typed
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


def test_it_has_the_options_of_fit() -> None:
    theirs = {parameter.name for parameter in fit.params}
    mine = [parameter.name for parameter in plan.params]
    assert theirs - {*NOT_PLANNED} <= set(mine)
    assert len(mine) == len(set(mine))


def test_a_table_and_its_sums() -> None:
    done = typed("plan", "cifar10", "--n-gates", "16")
    assert done.code == 0
    assert not done.err
    for words in ("statistics", "certificate", "Solver: direct", "Peak memory:", "Disk:", "Time:"):
        assert words in done.out


def test_settings_come_from_a_file_and_options(tmp_path: Path) -> None:
    config = tmp_path / "settings.toml"
    config.write_text('model = "layerwise"\nblocks = "vgg11"\nlimit = 5000\n')
    done = typed("plan", "cifar10", "--config", config, "--blocks", "small", "--json")
    assert done.code == 0
    assert done.json()["data"]["n_train"] == 5000
    assert {phase["block"] for phase in done.json()["phases"]} == {None, 1, 2, 3, 4}


def test_imagenet_without_having_it() -> None:
    words = [*NUMBERS, "--classes", "1000", "--model", "layerwise", "--blocks", "imagenet"]
    words += ["--memory-gb", "1000"]
    done = typed("plan", *words, *H100, "--json")
    assert done.code == 0
    found = done.json()
    assert found["hardware"]["gpus"] == 8
    assert found["data"]["files"] == 1_330_000
    assert found["flops"] > 1e16


@pytest.mark.parametrize(
    "options",
    [
        ["--n-gates", "2", "--filter-size", "3"],
        ["--model", "layerwise", "--n-gates", "4", "--regulariser", "nuclear"],
        ["--model", "layerwise", "--n-gates", "4", "--regulariser", "group"],
    ],
)
def test_small_programs(options: list[str]) -> None:
    done = typed("plan", "digits", *options)
    assert done.code == 0, done.err
    assert "Time:" in done.out


def test_a_program_whose_steps_are_not_foreseen_says_so() -> None:
    words = ["digits", "--formulation", "relu", "--regulariser", "group", "--n-gates", "2"]
    done = typed("plan", *words)
    assert done.code == 0
    assert "at least" in done.out
    assert "lower bound" in done.err


def test_nothing_is_trained_or_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = typed("plan", "cifar10", "--model", "layerwise", "--budget", "10", "--json")
    assert done.code == 0
    assert done.json()
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
def test_wrong_use_is_one_line(arguments: list[str], words: str) -> None:
    done = typed("plan", *arguments)
    assert done.code == 2
    assert not done.out
    assert len(done.err.strip().splitlines()) == 1
    assert words in done.err


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
def test_what_fit_would_refuse_is_refused(tmp_path: Path, setting: str, words: str) -> None:
    (tmp_path / "settings.toml").write_text(setting)
    done = typed("plan", "digits", "--config", tmp_path / "settings.toml")
    assert (done.code, done.out) == (2, "")
    assert words in done.err


def test_data_that_is_not_there() -> None:
    done = typed("plan", "cifar11")
    assert done.code == 1
    assert "did you mean cifar10" in done.err


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.0, "-"), (950.0, "0.95 kB"), (1.25e9, "1.25 GB"), (3e15, "3 PB"), (999.9e6, "1 GB")],
)
def test_numbers_as_people_read_them(value: float, words: str) -> None:
    assert scaled(value, "B") == words


def test_gates_whose_rounds_nobody_foresees_are_marked_in_stacks_too() -> None:
    options = ["--model", "layerwise", "--budget", "10", "--json"]
    assert typed("plan", "cifar10", *options).json()["complete"] is True
    assert typed("plan", "cifar10", *options, "--gates", "dual").json()["complete"] is False
