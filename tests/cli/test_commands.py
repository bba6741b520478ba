"""The commands as a user types them, on images small enough for seconds."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from commands import typed
from convexcnn.cli import predict
from convexcnn.errors import RunError
from files_on_disk import full_disk

SMALL = ["--filter-size", "3", "--whiten", "8", "--gates", "gaussian", "--n-gates", "4"]
FIT_FILES = {
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


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def stripes(n: int, seed: int, size: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Noisy grey images with horizontal (0) or vertical (1) stripes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    pattern = np.where(np.arange(size) % 4 < 2, 200.0, 50.0)
    images = np.where(labels[:, None, None] == 0, pattern[:, None], pattern[None, :])
    noisy = images + rng.normal(0, 40, images.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), labels


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .npz of striped images with test images."""
    path = tmp_path_factory.mktemp("data") / "stripes.npz"
    images, labels = stripes(80, 0)
    test_images, test_labels = stripes(20, 1)
    np.savez(path, images=images, labels=labels, test_images=test_images, test_labels=test_labels)
    return path


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("runs") / "with space" / "run"
    assert typed("fit", data, "--out", out, *SMALL).code == 0
    return out


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_fit_writes_a_whole_run(trained: Path) -> None:
    assert names(trained.parent) == {"run"}
    assert names(trained) == FIT_FILES
    result = json.loads((trained / "result.json").read_text())
    assert result["kind"] == "fit"
    assert result["formulation"] == "gated"
    assert result["test"]["accuracy"] > 0.8
    assert np.sum(result["confusion"]) == 20
    (block,) = result["blocks"]
    assert block["gates"] == 4
    assert 0 < block["neurons"] <= 4 * 9
    assert 0 <= block["certificate"]["relative_gap"] < 1e-3
    assert result["settings"]["n_gates"] == 4
    assert result["peak_memory_bytes"] > 1e7
    assert result["versions"]["torch"]


def test_fit_prints_accuracy_certificate_and_the_report(data: Path) -> None:
    done = typed("fit", data, "--out", "my run", *SMALL)
    assert done.code == 0
    assert "training images" in done.out
    assert "test images" in done.out
    assert "Certificate: optimal among networks with these 4 gates" in done.out
    assert "Solver: kernel: 324 features are more than" in done.out or "Solver: direct" in done.out
    assert "Further neuron: with l2 every further neuron helps" in done.out
    assert "ReLU network: " in done.out
    assert done.out.endswith(f"Report: {Path('my run') / 'report.html'}\n")
    assert "gates" in done.err


def test_fit_leaves_out_what_takes_minutes_and_says_where_it_is_found(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convexcnn.models.proof.NETWORK_WORK", 0.0)
    done = typed("fit", data, "--out", "run", *SMALL)
    assert done.code == 0
    assert "ReLU network: left out" in done.out
    assert f"convexcnn certify run {data} finds it" in done.out
    assert json.loads(Path("run/result.json").read_text())["blocks"][0]["relu_network"] is None


def test_fit_json_is_one_object(data: Path) -> None:
    done = typed("fit", data, "--out", "run", "--json", "--no-certificate", *SMALL)
    assert done.code == 0
    printed = done.json()
    assert printed["report"] == "run/report.html"
    assert printed["blocks"][0]["certificate"] is None
    assert printed["test"] == json.loads(Path("run/result.json").read_text())["test"]


def test_the_settings_of_a_run_repeat_it(data: Path, trained: Path) -> None:
    assert typed("fit", data, "--out", "again", "--config", trained / "config.toml").code == 0
    first = (trained / "model.safetensors").read_bytes()
    assert Path("again/model.safetensors").read_bytes() == first


def test_options_override_the_settings_file(data: Path) -> None:
    Path("small.toml").write_text(
        'filter_size = 3\nwhiten = 0\ngates = "gaussian"\nn_gates = 9\n'
        "betas = [0.1, 1.0]\nlimit = 40\n"
    )
    done = typed("fit", data, "--out", "run", "--config", "small.toml", "--n-gates", "3", "--json")
    settings = done.json()["settings"]
    assert (settings["n_gates"], settings["filter_size"], settings["whiten"]) == (3, 3, 0)
    assert len(done.json()["blocks"][0]["path"]) == 2
    assert done.json()["data"]["n_train"] == 40


def test_the_non_convex_network_is_trained_too(data: Path) -> None:
    options = ["--filter-size", "3", "--whiten", "8", "--n-filters", "4", "--beta", "0.001"]
    done = typed("fit", data, "--out", "run", "--formulation", "non-convex", *options, "--json")
    assert done.code == 0
    assert names(Path("run")) == FIT_FILES
    block = done.json()["blocks"][0]
    assert (block["gates"], block["neurons"], block["certificate"]) == (None, 4, None)
    assert block["beta"] == 0.001


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--filter-size", "9"], "filter_size 9 is larger than the 8x8 image"),
        (["--formulation", "non-convex", "--n-gates", "4"], "it is for formulation gated"),
        (["--formulation", "non-convex", "--beta", "1", "--beta", "2"], "takes one beta, not 2"),
        (["--n-filters", "4"], "no setting 'n_filters' with formulation gated; it is for formulat"),
        (["--loss", "cross_entropy", "--solver", "direct", *SMALL], "fista"),
        (["--formulation", "relu", "--regulariser", "nuclear", *SMALL], "no exact program"),
        (["--tolerance", "0.1", "--solver", "sgd", *SMALL], "tolerance has no meaning"),
        (["--device", "gpu"], "device 'gpu' is not known"),
        (["--config", "typo.toml"], "did you mean 'stride'?"),
        (["--config", "nested.toml"], "[gates] is a table"),
        (["--config", "model.toml"], "model 'recurrent' is not known"),
        (["--config", "formulation.toml"], "formulation 'gate' is not known"),
    ],
)
def test_settings_that_cannot_work_are_wrong_use(
    options: list[str], message: str, data: Path
) -> None:
    Path("typo.toml").write_text("strid = 2")
    Path("nested.toml").write_text("[gates]\nnumber = 2")
    Path("model.toml").write_text('model = "recurrent"')
    Path("formulation.toml").write_text('formulation = "gate"')
    done = typed("fit", data, "--out", "run", *options)
    assert done.code == 2
    assert message in done.err
    assert done.err.splitlines()[-1].startswith("Error: ")
    assert not Path("run").exists()
    assert not Path("run.partial").exists()


def test_names_of_data_are_no_trouble_in_the_files_of_a_run(data: Path) -> None:
    """Bytes that a terminal obeys, that end a line, or that are no UTF-8: in file names all may."""
    odd = Path("a\033[31m'\"\nb\x7f\x85\udcff.npz")
    odd.write_bytes(data.read_bytes())
    for command, options in (("fit", SMALL), ("compare", COMPARE)):
        done = typed(command, odd, "--out", command, *options)
        assert (done.code, "could not be built" in done.err) == (0, False)
    assert typed("evaluate", "fit", odd).code == 0
    assert typed("certify", "fit", odd).code == 0
    assert typed("report", "compare").code == 0


def write_bad_data() -> None:
    images, labels = stripes(20, 0)
    np.savez("one_class.npz", images=images, labels=np.zeros(20, int))
    nan = images.astype(np.float32)
    nan[3, 0, 0] = np.nan
    np.savez("nan.npz", images=nan, labels=labels)
    np.savez("no_labels.npz", images=images)
    Path("cut.npz").write_bytes(Path("nan.npz").read_bytes()[:500])
    Path("empty").mkdir()


@pytest.mark.parametrize(
    "source",
    [
        "missing.npz",
        "one_class.npz",
        "nan.npz",
        "no_labels.npz",
        "cut.npz",
        "empty",
        "cifar1",
    ],
)
def test_bad_data_is_one_line_and_no_run(source: str) -> None:
    write_bad_data()
    done = typed("fit", source, "--out", "run", *SMALL)
    assert done.code == 1
    assert done.out == ""
    assert done.err.startswith("Error: ")
    assert done.err.count("\n") == 1
    assert not list(Path().glob("run*"))
    assert typed("fit", source, "--out", "run", "--json").json()["error"]


def test_an_existing_run_is_kept_unless_overwrite(data: Path) -> None:
    assert typed("fit", data, "--out", "run", *SMALL).code == 0
    before = Path("run/result.json").read_bytes()
    done = typed("fit", data, "--out", "run", *SMALL)
    assert done.code == 1
    assert "--overwrite" in done.err
    assert Path("run/result.json").read_bytes() == before
    assert typed("fit", data, "--out", "run", *SMALL, "--seed", "3", "--overwrite").code == 0
    assert json.loads(Path("run/result.json").read_text())["seed"] == 3


@pytest.mark.thorough
@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_fit_leaves_nothing(signal_: int, data: Path, tmp_path: Path) -> None:
    command = ["fit", str(data), "--out", str(tmp_path / "run"), "--json"]
    endless = ["--formulation", "non-convex", "--solver", "sgd", "--n-filters", "9999"]
    endless += ["--filter-size", "3", "--whiten", "0"]
    with subprocess.Popen(
        [sys.executable, "-m", "convexcnn", *command, *endless],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        # A shell's background jobs, which these tests may be, start with Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("sgd")
        process.send_signal(signal_)
        out, err = process.communicate()
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "interrupted; nothing was saved" in json.loads(out)["error"]
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "run/result.json")

    monkeypatch.setattr("convexcnn.cli.run_folder.RunFolder.write_result", full)
    done = typed("fit", data, "--out", "run", *SMALL)
    assert done.code == 1
    assert "No space left on device; free some space" in done.err
    assert not list(Path().iterdir())


def test_a_run_outlives_its_report(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Path) -> Path:
        raise RunError("no picture")

    with monkeypatch.context() as patch:
        patch.setattr("convexcnn.report.build_report", broken)
        done = typed("fit", data, "--out", "run", *SMALL)
        compared = typed("compare", data, "--out", "compared", *COMPARE)
        as_json = typed("fit", data, "--out", "other", *SMALL, "--json")
    for quiet in (done, compared):
        assert quiet.code == 0
        assert "the report could not be built (no picture)" in quiet.err
        assert "report.html" not in quiet.out
    assert as_json.json()["report"] is None
    assert names(Path("run")) == FIT_FILES - {"report.html", "figures"}
    again = typed("report", "run", "--json")
    assert Path(again.json()["report"]).exists()
    assert names(Path("run")) == FIT_FILES


def test_evaluate_agrees_with_the_run(data: Path, trained: Path) -> None:
    done = typed("evaluate", trained, data, "--json")
    result = json.loads((trained / "result.json").read_text())
    assert done.json()["accuracy"] == result["test"]["accuracy"]
    assert done.json()["loss"] == pytest.approx(result["test"]["loss"], rel=1e-6)
    assert done.json()["confusion"] == result["confusion"]
    everything = typed("evaluate", trained, data, "--split", "all", "--json").json()
    assert everything["images"] == 100
    for_people = typed("evaluate", trained, data)
    assert "most often taken for" in for_people.out
    assert "of 20 images (test)" in for_people.out


def test_evaluate_refuses_other_images_and_classes(trained: Path) -> None:
    large, labels = stripes(20, 0, size=12)
    np.savez("large.npz", images=large, labels=labels)
    small, _ = stripes(21, 0)
    np.savez("three.npz", images=small, labels=np.arange(21) % 3)
    np.savez("colour.npz", images=np.stack([small] * 3, 3), labels=np.arange(21) % 2)
    for source, message in [
        ("large.npz", "read it with --image-size 8"),
        ("three.npz", "classes that the model does not know (2)"),
        ("colour.npz", "8x8 pixels (colour), and the model was trained on 8x8 pixels (grey)"),
    ]:
        done = typed("evaluate", trained, source)
        assert done.code == 1
        assert message in done.err
    assert typed("evaluate", trained, "large.npz", "--image-size", "8").code == 0


def write_pictures(folder: Path) -> None:
    (folder / "more").mkdir(parents=True)
    images, _ = stripes(4, 5, size=16)
    for number, image in enumerate(images):
        place = folder / "more" if number > 1 else folder
        Image.fromarray(image).save(place / f"{number}.png")
    (folder / "notes.txt").write_text("no picture")


def test_predict_labels_files_and_folders(trained: Path) -> None:
    write_pictures(Path("pictures"))
    done = typed("predict", trained, "pictures", "pictures/0.png", "--json", "--csv", "labels.csv")
    predictions = done.json()["predictions"]
    assert [p["image"] for p in predictions] == [
        "pictures/0.png",
        "pictures/1.png",
        "pictures/more/2.png",
        "pictures/more/3.png",
        "pictures/0.png",
    ]
    assert all(p["label"] in ("0", "1") and 0.5 <= p["probability"] <= 1 for p in predictions)
    with Path("labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == [p["label"] for p in predictions]
    assert "8x8 pixels" in done.err


def test_a_table_of_labels_is_replaced_whole_and_other_files_only_if_told_so(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pictures(Path("pictures"))
    predict = ("predict", trained, "pictures", "--csv")
    assert typed(*predict, "labels.csv").code == 0
    written = Path("labels.csv").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full_disk)
        done = typed(*predict, "labels.csv")
    assert (done.code, "labels.csv: cannot be written (No space" in done.err) == (1, True)
    assert Path("labels.csv").read_bytes() == written
    Path("link.csv").symlink_to("labels.csv")
    assert typed(*predict, "link.csv", "--top", "2").code == 0
    assert Path("link.csv").is_symlink()
    assert b"label_2" in Path("labels.csv").read_bytes()
    Path("mine").write_text("my notes")
    done = typed(*predict, "mine")
    assert (done.code, "replace it with --overwrite" in done.err) == (1, True)
    assert typed(*predict, "mine", "--overwrite").code == 0
    assert Path("mine").read_bytes() == written
    assert typed(*predict, "/dev/null").code == 0
    assert Path("/dev/null").is_char_device()


def test_predict_ranks_labels(trained: Path) -> None:
    write_pictures(Path("pictures"))
    done = typed("predict", trained, "pictures", "--top", "9", "--json", "--csv", "labels.csv")
    for prediction in done.json()["predictions"]:
        first, second = prediction["top"]
        assert first["probability"] >= second["probability"]
        assert first["probability"] + second["probability"] == pytest.approx(1)
    header = Path("labels.csv").read_text().splitlines()[0]
    assert header == "image,label,probability,label_2,probability_2"
    assert "label 3" not in typed("predict", trained, "pictures", "--top", "100000000").out
    deep = Path("a" * 60, "b" * 60)
    deep.parent.mkdir()
    Path("pictures").rename(deep)
    table = typed("predict", trained, deep, "--top", "2").out
    assert "label 2" in table
    assert str(deep / "more" / "2.png") in table


def test_predict_names_what_it_cannot_read(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(Path("pictures"))
    Path("pictures/broken.png").write_bytes(b"not a picture")
    stopped = typed("predict", trained, "pictures")
    assert stopped.code == 1
    assert "broken.png" in stopped.err
    skipped = typed("predict", trained, "pictures", "--skip-bad", "--json")
    assert skipped.json()["skipped"] == ["pictures/broken.png"]
    assert len(skipped.json()["predictions"]) == 4
    monkeypatch.setattr(predict, "BATCH", 2)  # and none of the first two can be read
    Path("pictures/another.png").write_bytes(b"nor is this")
    found = typed("predict", trained, "pictures", "--skip-bad", "--json").json()
    assert found["skipped"] == ["pictures/another.png", "pictures/broken.png"]
    assert len(found["predictions"]) == 4
    bad = "pictures/another.png", "pictures/broken.png", "pictures/broken.png"
    assert "none of 3 images can be read" in typed("predict", trained, *bad, "--skip-bad").err
    Path("nothing").mkdir()
    assert "holds no pictures" in typed("predict", trained, "nothing").err
    assert "no such file" in typed("predict", trained, "missing.png").err


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_a_run_that_is_none_is_named(command: str, data: Path) -> None:
    done = typed(command, "no-run", data)
    assert done.code == 1
    assert "no-run: there is no such run" in done.err
    Path("no-run").mkdir()
    assert "config.json is missing" in typed(command, "no-run", data).err


COMPARE = ["--epochs", "2", "--batch-size", "20", "--filters", "4", "--filter-size", "3"]
COMPARE += ["--stride", "2", "--seeds", "2"]


def test_compare_writes_both_formulations(data: Path) -> None:
    done = typed("compare", data, "--out", "run", *COMPARE)
    assert done.code == 0
    assert "gated" in done.out
    assert "non-convex" in done.out
    assert "±" in done.out
    result = json.loads(Path("run/result.json").read_text())
    assert result["kind"] == "compare"
    assert [(r["formulation"], r["seed"]) for r in result["runs"]] == [
        ("gated", 0),
        ("non-convex", 0),
        ("gated", 1),
        ("non-convex", 1),
    ]
    assert {"config.toml", "metrics.jsonl", "models", "report.html"} <= names(Path("run"))
    assert "name one of its models" in typed("evaluate", "run", data).err
    for model in ("gated", "non-convex"):
        assert typed("evaluate", f"run/models/{model}", data).code == 0


def test_a_comparison_leaves_out_what_cannot_be_read_ever_after() -> None:
    images, labels = stripes(24, 0)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = Path("pictures") / ("across" if label == 0 else "down")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    Path("pictures/down/broken.png").write_bytes(b"none")
    assert typed("compare", "pictures", "--out", "run", "--skip-bad", *COMPARE).code == 0
    done = typed("evaluate", "run/models/gated", "pictures", "--json")
    assert done.code == 0
    assert len(done.json()["skipped"]) == 1


def test_an_interrupted_compare_continues(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(event: dict[str, Any]) -> None:
        if "non-convex" in event["phase"]:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("convexcnn.cli.console._plain_progress", lambda _: interrupt)
        done = typed("compare", data, "--out", "run", *COMPARE)
    assert done.code == 1
    assert "run.partial" in done.err
    assert "same command" in done.err
    assert not Path("run").exists()
    (finished,) = Path("run.partial").rglob("unit.json")
    before = finished.stat().st_mtime_ns

    other = typed("compare", data, "--out", "run", *COMPARE, "--momentum", "0.5")
    assert "momentum 0.9" in other.err
    done = typed("compare", data, "--out", "run", *COMPARE)
    assert done.code == 0
    assert "Continuing" in done.err
    assert not Path("run.partial").exists()
    assert (Path("run") / finished.relative_to("run.partial")).stat().st_mtime_ns == before


def test_demo_replaces_its_own_run(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from convexcnn.cli import demo

    settings = {"filter_size": 3, "whiten": 8, "gates": "gaussian", "n_gates": 4}
    monkeypatch.setattr(demo, "DATA", str(data))
    monkeypatch.setattr(demo, "SETTINGS", settings)
    for _ in range(2):
        done = typed("demo")
        assert done.code == 0
        assert done.out.endswith(f"Report: {Path('runs/demo/report.html')}\n")
    assert names(Path("runs")) == {"demo"}


def test_data_list_and_info(data: Path) -> None:
    listed = typed("data", "list", "--json").json()["datasets"]
    assert "photos" in [entry["name"] for entry in listed]
    assert "photos" in typed("data", "list").out
    info = typed("data", "info", data, "--json").json()
    assert (info["n_train"], info["n_test"]) == (80, 20)
    assert info["train_per_class"] == {"0": 40, "1": 40}
    assert info["fingerprint"] in typed("data", "info", data).out
