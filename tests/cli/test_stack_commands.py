"""Stacks of blocks from the command line: a run like any other, with an entry for every block."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from commands import typed
from convexcnn.cli.stack_training import train_stack
from convexcnn.data import ImageDataset, ImageSplit
from convexcnn.data.rows import RowView, view_rows
from convexcnn.models.base import SCORED_AT_ONCE
from small import stripes, stripes_file
from tiny_models import layerwise

STACK = ["--model", "layerwise", "--n-gates", "3"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stripes_file(tmp_path_factory.mktemp("data") / "stripes.npz", 80, test=30)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert typed("fit", data, "--out", out, *STACK).code == 0
    return out


def test_a_run_has_an_entry_for_every_block(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} == {
        "config.toml",
        "explanations.safetensors",
        "figures",
        "filters.safetensors",
        "metrics.jsonl",
        "README.md",
        "config.json",
        "model.safetensors",
        "report.html",
        "result.json",
    }
    result = json.loads((trained / "result.json").read_text())
    assert (result["model"], result["formulation"], len(result["blocks"])) == (
        "layerwise",
        "gated",
        4,
    )
    for block in result["blocks"]:
        assert block["gates"] == 3
        assert block["neurons"] > 0
        assert block["beta"] > 0
        assert block["seconds"] > 0
        assert block["certificate"]["relative_gap"] <= 1e-3
        for name in ("train", "validation", "stack", "test"):
            assert 0 <= block[name]["accuracy"] <= 1
    assert sum(block["head_weight"] for block in result["blocks"]) == pytest.approx(1)
    assert np.sum(result["confusion"]) == 30
    assert result["settings"]["blocks"] is None
    assert "probes" not in result["phases"]
    assert "block 2: certificate" in result["phases"]
    page = (trained / "report.html").read_text("utf-8")
    assert "Accuracy against depth" in page
    assert page.count("Optimal among") == 4


def test_measuring_what_blocks_cost_is_a_phase_of_a_run_with_a_budget(
    data: Path, tmp_path: Path
) -> None:
    options = [*STACK, "--budget", "0.004", "--no-certificate"]
    done = typed("fit", data, "--out", tmp_path / "run", *options, "--json")
    phases = json.loads(done.out)["phases"]
    assert next(iter(phases)) == "probes"
    assert phases["probes"] > 0


def test_fit_prints_every_block(data: Path, tmp_path: Path) -> None:
    done = typed("fit", data, "--out", tmp_path / "run", *STACK, "--augment", "none")
    assert done.code == 0
    assert "heads so far" in done.out
    assert "Certificate of block 2: optimal among heads on these 3 neurons, given" in done.out
    assert "block 2: network that lends neurons" in done.err


def test_the_settings_of_a_run_repeat_it(data: Path, trained: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    assert typed("fit", data, "--out", again, "--config", trained / "config.toml").code == 0
    name = "model.safetensors"
    assert (again / name).read_bytes() == (trained / name).read_bytes()


def test_evaluate_and_predict_take_stacks(data: Path, trained: Path, tmp_path: Path) -> None:
    result = json.loads((trained / "result.json").read_text())
    done = typed("evaluate", trained, data, "--json")
    assert done.code == 0
    assert done.json()["accuracy"] == result["test"]["accuracy"]
    assert done.json()["loss"] == pytest.approx(result["test"]["loss"], rel=1e-4)
    Image.fromarray(stripes(3)[0][0, 0]).save(tmp_path / "picture.png")
    done = typed("predict", trained, tmp_path / "picture.png", "--json")
    assert done.code == 0
    assert 0 < done.json()["predictions"][0]["probability"] <= 1


def test_certify_proves_every_block_again(data: Path, trained: Path) -> None:
    result = json.loads((trained / "result.json").read_text())
    done = typed("certify", trained, data, "--json")
    found = done.json()
    assert (done.code, found["problems"]) == (0, [])
    certificates = [block["certificate"] for block in found["blocks"]]
    assert found["recorded"] == [block["certificate"] for block in result["blocks"]]
    for one, other in zip(certificates, found["recorded"], strict=True):
        assert one["scope"] == other["scope"]
        assert one["primal"] == pytest.approx(other["primal"], rel=1e-5)
        assert one["relative_gap"] == pytest.approx(other["relative_gap"], abs=1e-5)
    done = typed("certify", trained, data)
    assert done.code == 0
    assert "Block 2:\nCertificate: optimal among" in done.out


def test_changed_weights_of_a_block_are_found_out(
    data: Path, trained: Path, tmp_path: Path
) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(trained, changed)
    tensors = load_file(changed / "model.safetensors")
    tensors["block2.weights"] = tensors["block2.weights"] * np.float32(1.1)
    save_file(tensors, changed / "model.safetensors")
    done = typed("certify", changed, data, "--json")
    assert done.code == 1
    (problem,) = done.json()["problems"]
    assert "the gap of block 2 is" in problem


def test_a_report_is_built_again(trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    before = (copy / "report.html").read_bytes()
    (copy / "report.html").unlink()
    assert typed("report", copy).code == 0
    assert (copy / "report.html").read_bytes() == before


def test_without_certificates_and_test_images(tmp_path: Path) -> None:
    data, run = stripes_file(tmp_path / "data.npz", 60), tmp_path / "run"
    done = typed("fit", data, "--out", run, *STACK, "--no-certificate", "--json")
    assert done.code == 0
    assert [block["certificate"] for block in done.json()["blocks"]] == [None] * 4
    done = typed("certify", run, data, "--json")
    assert (done.code, done.json()["recorded"]) == (0, [None] * 4)


BLOCKS = """
model = "layerwise"
tolerance = 0.01

[[blocks]]
n_gates = 4
gates = "dual"
epochs = 2
regulariser = "nuclear"

[[blocks]]
n_gates = 3
gates = "patches"
head = "patches"
whiten = 0
pooling = 1
"""


def test_blocks_with_settings_of_their_own_come_from_a_file_and_go_back_to_one(
    data: Path, tmp_path: Path
) -> None:
    config, run = tmp_path / "blocks.toml", tmp_path / "run"
    config.write_text(BLOCKS, "utf-8")
    done = typed("fit", data, "--out", run, "--config", config, "--seed", "3", "--json")
    assert done.code == 0
    found = done.json()
    kinds = [(block["strategy"], block["regulariser"], block["head"]) for block in found["blocks"]]
    assert kinds == [("dual", "nuclear", "neurons"), ("patches", "l2", "patches")]
    assert all(block["certificate"]["relative_gap"] <= 0.01 for block in found["blocks"])
    again = tmp_path / "again"
    assert typed("fit", data, "--out", again, "--config", run / "config.toml").code == 0
    name = "model.safetensors"
    assert (again / name).read_bytes() == (run / name).read_bytes()


@pytest.mark.parametrize(
    ("blocks", "complaint"),
    [
        ("blocks = 3", "blocks is 3; give a name, or a list of Block"),
        ("blocks = []", "blocks is empty; give at least one Block"),
        ("[blocks]\nn_gates = 3", "[blocks] is a table"),
        ("[[blocks]]\n[[blocks]]\ncolour = 1", "block 2: there is no setting 'colour'"),
        ("[[blocks]]\nn_gates = 'many'", "block 1: n_gates is 'many'; give a whole number"),
        ("[[blocks]]\nwhiten = -1", "block 1: whiten is -1; keep at least 1 direction"),
        ("[[blocks]]\nregulariser = 'l7'", "block 1: regulariser 'l7' is not known to a block"),
    ],
)
def test_a_file_of_blocks_that_cannot_work_is_wrong_use(
    data: Path, tmp_path: Path, blocks: str, complaint: str
) -> None:
    config = tmp_path / "blocks.toml"
    config.write_text(f"model = 'layerwise'\n{blocks}\n", "utf-8")
    done = typed("fit", data, "--out", tmp_path / "run", "--config", config, "--json")
    assert done.code == 2
    assert complaint in done.json()["error"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            ["--model", "layerwise", "--filter-size", "3"],
            "every block has its own",
        ),
        (["--model", "layerwise", "--solver", "cg"], "it is for model two-layer"),
        (
            ["--budget", "3"],
            "with formulation gated; it is for model layerwise",
        ),
        (["--model", "layerwise", "--formulation", "relu"], "the blocks of layerwise are gated"),
        (["--blocks", "small"], "there is no setting 'blocks' with formulation gated"),
        (["--model", "layerwise", "--augment", "rotate"], "Invalid value"),
    ],
)
def test_options_that_cannot_work_are_wrong_use(
    data: Path, tmp_path: Path, options: list[str], complaint: str
) -> None:
    done = typed("fit", data, "--out", tmp_path / "run", *options, "--json")
    assert done.code == 2
    assert complaint in done.json()["error"]
    assert not (tmp_path / "run").exists()


def test_loss_and_beta_are_those_of_every_block(data: Path, tmp_path: Path) -> None:
    words = ["--model", "layerwise", "--n-gates", "4", "--budget", "0.004"]
    run = tmp_path / "run"
    done = typed("fit", data, "--out", run, *words, "--loss", "squared", "--beta", "0.1", "--json")
    assert done.code == 0, done.err
    for block in done.json()["blocks"]:
        assert (block["loss"], block["beta"]) == ("squared", 0.1)
    assert "(squared)" in typed("evaluate", run, data).out


@pytest.mark.parametrize("options", [(), ("--block", "1"), ("--block", "2")])
def test_test_images_are_explained(data: Path, trained: Path, options: tuple[str, ...]) -> None:
    images = ("--data", data, "--test-index", "0", "--faithfulness", "2")
    method = ("--method", "contributions", "--json")
    done = typed("explain", trained, *images, *options, *method)
    assert done.code == 0
    found = done.json()
    assert found["block"] == (int(options[1]) if options else None)
    (explanation,) = found["explanations"]
    total = explanation["maps"]["contributions"]["sum"] + explanation["intercept"]
    assert total == pytest.approx(explanation["score"], abs=1e-5)
    assert abs(explanation["sum_less_score"]) < 1e-5
    assert set(found["faithfulness"]["table"][0]["randomised"]) == {"heads", "blocks"}


def test_a_block_that_is_not_there_is_named(data: Path, trained: Path) -> None:
    images = ("--data", data, "--test-index", "0", "--block", "5")
    done = typed("explain", trained, *images, "--json")
    assert done.code == 2
    assert "the stack has blocks 1 to 4" in done.json()["error"]


def test_an_interrupted_run_goes_on_after_its_finished_blocks(
    data: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupt(event: dict[str, Any]) -> None:
        if event["phase"] == "block 2: whitening":
            raise KeyboardInterrupt

    fit = ["fit", data, "--out", tmp_path / "run", *STACK]
    with monkeypatch.context() as patch:
        patch.setattr("convexcnn.cli.console._plain_progress", lambda _: interrupt)
        done = typed(*fit)
    assert done.code == 1
    assert "run the same command again to continue" in done.err
    assert not (tmp_path / "run").exists()
    done = typed(*fit, "--augment", "none")
    assert done.code == 1
    assert "holds an unfinished run with other settings (augment flip+crop)" in done.err
    done = typed(*fit)
    assert done.code == 0
    assert "Continuing the unfinished run" in done.err
    assert "block 1: gates" not in done.err
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        path.name for path in trained.iterdir()
    }
    name = "model.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (trained / name).read_bytes()


@pytest.mark.thorough
def test_a_killed_run_is_resumed_by_its_own_settings(
    data: Path, trained: Path, tmp_path: Path
) -> None:
    """`kill -9` while block 2 or 3 is under way; the same gates and weights in the end."""
    run = tmp_path / "run"
    words = ["fit", str(data), "--out", str(run), *STACK]
    with subprocess.Popen(
        [sys.executable, "-m", "convexcnn", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run.partial" / "blocks" / "block1.json").exists():
            assert process.poll() is None or run.exists()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    assert not run.exists()
    done = typed("fit", data, "--out", run, "--resume")
    assert done.code == 0
    assert "Continuing the unfinished run" in done.err
    found, expected = (load_file(path / "model.safetensors") for path in (run, trained))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor)
    done = typed("fit", data, "--out", tmp_path / "other", "--resume")
    assert done.code == 1
    assert "no unfinished run to resume" in done.err


def test_a_run_interrupted_before_a_block_is_finished_leaves_nothing(
    data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupt(event: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("convexcnn.cli.console._plain_progress", lambda _: interrupt)
    done = typed("fit", data, "--out", tmp_path / "run", *STACK)
    assert done.code == 1
    assert "nothing was saved" in done.err
    assert not list(tmp_path.iterdir())


def test_a_budget_ends_a_stack(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = typed("fit", data, "--out", run, *STACK, "--budget", "1e-6", "--json")
    assert done.code == 0
    assert len(done.json()["blocks"]) == 1
    assert done.json()["settings"]["budget"] == 1e-6
    done = typed("certify", run, data, "--json")
    assert (done.code, len(done.json()["blocks"])) == (0, 1), done.out


def test_test_images_are_read_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = stripes(300)
    tested = images.copy()
    test = ImageSplit(view_rows(tested, slice(None)), labels)
    dataset = ImageDataset("stripes", ImageSplit(images, labels), test, ("a", "b", "c"), "here")
    most, read = [0], RowView.__getitem__

    def spied(rows: RowView, index: Any, /) -> Any:
        found = read(rows, index)
        if rows.source is tested:
            most.append(len(found))
        return found

    monkeypatch.setattr(RowView, "__getitem__", spied)
    done = train_stack(layerwise(), dataset, tmp_path, lambda event: None, certificate=False)
    assert done["test"]["accuracy"] > 0.9
    assert 0 < max(most) <= SCORED_AT_ONCE
