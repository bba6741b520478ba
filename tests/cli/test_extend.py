"""`fit --extend`: a new run with the blocks of another and further ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from commands import typed
from convexcnn.models import load_model, time_plan
from small import stripes_file

TWO = """
model = "layerwise"
augment = "flip"

[[blocks]]
n_gates = 4
gates = "patches"
loss = "squared"

[[blocks]]
n_gates = 3
gates = "patches"
loss = "squared"
"""
FURTHER = """
[[blocks]]
n_gates = 5
gates = "patches"
loss = "squared"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data.npz`, `two.toml` and `three.toml`, and the runs `two` and `three` of them."""
    path = tmp_path_factory.mktemp("extend")
    data = stripes_file(path / "data.npz", 60, test=30)
    for name, text in {"two": TWO, "three": TWO + FURTHER}.items():
        (path / f"{name}.toml").write_text(text, "utf-8")
        words = "--out", path / name, "--config", path / f"{name}.toml"
        assert typed("fit", data, *words).code == 0
    return path


def content(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def result(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "result.json").read_text())
    return found


def extend(folder: Path, out: Path, *words: object, of: str = "two") -> tuple[object, ...]:
    return "fit", folder / "data.npz", "--out", out, "--extend", folder / of, *words


def test_a_run_is_extended_and_stays_as_it_was(folder: Path, tmp_path: Path) -> None:
    before, new = content(folder / "two"), tmp_path / "new"
    done = typed(*extend(folder, new, "--config", folder / "three.toml"))
    assert done.code == 0
    assert content(folder / "two") == before
    assert content(new).keys() == content(folder / "three").keys()
    assert "block 1: gates" not in done.err
    assert "block 3: gates" in done.err
    assert "2 (kept)" in done.out
    assert "3 (kept)" not in done.out
    found, earlier, whole = (result(run) for run in (new, folder / "two", folder / "three"))
    assert [block["kept"] for block in found["blocks"]] == [True, True, False]
    for block, was in zip(found["blocks"], earlier["blocks"], strict=False):
        for name in ("certificate", "path", "solver", "validation", "stack", "beta", "test"):
            assert block[name] == was[name], name
    phases = sum(t for name, t in found["phases"].items() if name.startswith("block 1: "))
    assert found["blocks"][0]["seconds"] == pytest.approx(phases)
    assert found["blocks"][2]["certificate"] == whole["blocks"][2]["certificate"]
    assert found["settings"]["extend"] == str(folder / "two")
    page = (new / "report.html").read_text("utf-8")
    assert page.count("kept from an earlier run") == 2
    tensors, expected = (load_file(run / "model.safetensors") for run in (new, folder / "three"))
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(tensors[name], tensor)
    assert typed("certify", new, folder / "data.npz", "--json").json()["problems"] == []
    assert load_model(new).warm_start is False  # to train it on other images is no extension
    again = typed(
        "fit", folder / "data.npz", "--out", tmp_path / "b", "--config", new / "config.toml"
    )
    assert again.code == 0
    assert (tmp_path / "b" / "model.safetensors").read_bytes() == (
        new / "model.safetensors"
    ).read_bytes()


def test_an_interrupted_extension_is_resumed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config, whole, run = tmp_path / "four.toml", tmp_path / "whole", tmp_path / "run"
    config.write_text(TWO + 2 * FURTHER, "utf-8")
    words = "--config", config, "--no-certificate"
    assert typed(*extend(folder, whole, *words)).code == 0

    def interrupt(event: dict[str, Any]) -> None:
        if event["phase"] == "block 4: gates":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("convexcnn.cli.console._plain_progress", lambda _: interrupt)
        assert typed(*extend(folder, run, *words)).code == 1
    assert (tmp_path / "run.partial" / "blocks" / "block3.json").is_file()
    resume = "fit", folder / "data.npz", "--out", run, "--resume", "--no-certificate"
    done = typed(*resume, "--extend", folder / "two")
    assert done.code == 2
    assert "--resume has the settings of the run; leave out --config and --extend" in done.err
    done = typed(*resume)
    assert done.code == 0, done.err
    assert "block 3: gates" not in done.err
    assert [block["kept"] for block in result(run)["blocks"]] == [True, True, False, False]
    name = "model.safetensors"
    assert (run / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.filterwarnings("default::convexcnn.models.warm_start.NothingAdded")
def test_a_budget_goes_on_with_a_stack_that_has_a_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The settings of the run hold on: its name, its gates, its way of reading data."""

    def ends_after(last: int) -> None:
        monkeypatch.setattr(
            time_plan.TimePlan, "leaves_no_time_for", lambda plan, number: number > last
        )

    words = "--model", "layerwise", "--blocks", "small", "--n-gates", "3", "--gates", "patches"
    words += "--limit", "45"
    first, second = tmp_path / "first", tmp_path / "second"
    ends_after(1)
    assert typed("fit", folder / "data.npz", "--out", first, *words).code == 0
    ends_after(2)
    longer = "fit", folder / "data.npz", "--extend", first
    done = typed(*longer, "--out", second, "--json")
    assert done.code == 0
    assert [block["kept"] for block in done.json()["blocks"]] == [True, False]
    assert done.json()["settings"]["blocks"] == "small"
    done = typed(*longer, "--out", tmp_path / "third", "--extend", second, "--json")
    assert done.code == 0
    assert "budget is too short for a further block; the stack stays as it was" in done.err
    assert [block["kept"] for block in done.json()["blocks"]] == [True, True]
    name = "model.safetensors"
    assert (tmp_path / "third" / name).read_bytes() == (second / name).read_bytes()


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (["--n-gates", "7"], 2, "block 1: n_gates is 7, and 4 in the trained block; begin with"),
        (["--blocks", "small"], 2, "block 1: n_gates is 64, and 4 in the trained block"),
        (["--seed", "1"], 2, "random_state is 1, and the trained blocks had 0"),
        (["--limit", "30"], 1, "has other training images or labels than"),
        (["--model", "two-layer"], 2, "--extend adds blocks to a stack; leave out --model"),
        (["--baselines", "vgg11", "--budget", "1"], 2, "leave them out of --extend"),
    ],
)
def test_an_extension_that_cannot_work_is_refused(
    folder: Path, tmp_path: Path, words: list[str], code: int, complaint: str
) -> None:
    done = typed(*extend(folder, tmp_path / "new", *words))
    assert complaint in done.err
    assert done.code == code
    assert not list(tmp_path.iterdir())


def test_what_is_no_run_of_a_stack_is_refused(folder: Path, tmp_path: Path) -> None:
    done = typed(*extend(folder, tmp_path / "new", of="nowhere"))
    assert (done.code, "there is no such run" in done.err) == (1, True)
    for out in (folder / "two", folder / "two" / "new"):
        done = typed(*extend(folder, out, "--overwrite"))
        assert (done.code, "--out lies in the run of --extend" in done.err) == (2, True)
    plain, broken = tmp_path / "plain", tmp_path / "broken"
    options = "--n-gates", "4", "--no-certificate"
    assert typed("fit", folder / "data.npz", "--out", plain, *options).code == 0
    done = typed("fit", folder / "data.npz", "--out", tmp_path / "new", "--extend", plain)
    assert (done.code, "is not the run of a stack" in done.err) == (1, True)
    shutil.copytree(folder / "two", broken)
    found = result(broken)
    found["blocks"][1]["certificate"] = "none"
    (broken / "result.json").write_text(json.dumps(found))
    done = typed("fit", folder / "data.npz", "--out", tmp_path / "new", "--extend", broken)
    assert (done.code, "result.json is damaged" in done.err) == (1, True)
    assert not (tmp_path / "new").exists()


def test_an_unfinished_run_may_have_more_minutes_but_not_fewer(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupt(event: dict[str, Any]) -> None:
        if event["phase"] == "block 2: gates":
            raise KeyboardInterrupt

    run = tmp_path / "run"
    fit = "fit", folder / "data.npz", "--out", run
    with monkeypatch.context() as patch:
        patch.setattr("convexcnn.cli.console._plain_progress", lambda _: interrupt)
        words = "--config", folder / "three.toml", "--budget", "30"
        assert typed(*fit, *words).code == 1
    done = typed(*fit, "--resume", "--budget", "20")
    assert done.code == 1
    assert "holds an unfinished run with other settings (budget 30.0)" in done.err
    with monkeypatch.context() as patch:
        patch.setattr("convexcnn.cli.console._plain_progress", lambda _: interrupt)
        assert typed(*fit, "--resume", "--budget", "40").code == 1
    assert "budget = 40.0" in (tmp_path / "run.partial" / "config.toml").read_text()
    done = typed(*fit, "--resume", "--budget", "50")
    assert done.code == 0, done.err
    assert "block 1: gates" not in done.err
    assert result(run)["settings"]["budget"] == 50
    tensors, expected = (load_file(r / "model.safetensors") for r in (run, folder / "three"))
    for name, tensor in expected.items():
        np.testing.assert_array_equal(tensors[name], tensor)
