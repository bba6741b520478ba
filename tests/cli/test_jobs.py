"""`fit` in several processes: one run, one voice, and nothing half-written when one is lost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from commands import typed
from jobs import LONG, finished, start
from small import stripes_file

STACK = ["--model", "layerwise", "--n-gates", "4"]
JOB = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), 0)


def write_data(folder: Path, seed: int) -> Path:
    return stripes_file(folder / "stripes.npz", 85, test=31, seed=seed)


def fit(*words: str | Path) -> list[str]:
    return ["-m", "convexcnn", "fit", *map(str, words)]


def result_of(run: Path) -> dict:
    return json.loads((run / "result.json").read_text())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["predict", "run", "picture.png"], "'predict' runs in one process, and 2 were started"),
        (["demo"], "start it without torchrun"),
        (["compare", "digits", "--out", "run"], "start it without torchrun"),
    ],
)
def test_commands_of_one_process_are_refused(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    done = typed(*words)
    assert done.code == 2
    assert said in done.err


def test_a_broken_launcher_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (JOB | {"RANK": "2"}).items():
        monkeypatch.setenv(name, value)
    done = typed("fit", "digits", "--out", "run")
    assert done.code == 2
    assert "RANK is '2' and WORLD_SIZE '2'" in done.err


@pytest.mark.slow
@pytest.mark.timeout(LONG)
@pytest.mark.parametrize("options", [["--n-gates", "4"], STACK])
def test_torchrun_makes_one_run(options: list[str], data: Path, tmp_path: Path) -> None:
    alone, run = tmp_path / "alone", tmp_path / "run"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    words = fit(data, "--out", run, *options, "--json")
    done = subprocess.run(
        [sys.executable, *launcher, *words], capture_output=True, text=True, timeout=LONG
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == str(run)
    subprocess.run([sys.executable, *fit(data, "--out", alone, *options)], check=True)
    assert {p.name for p in run.iterdir()} == {p.name for p in alone.iterdir()}
    for block, other in zip(result_of(run)["blocks"], result_of(alone)["blocks"], strict=True):
        rel = 1e-6 if options[0] == "--n-gates" else 0.2  # descent of a stack amplifies rounding
        for bound in ("primal", "dual"):
            assert block["certificate"][bound] == pytest.approx(
                other["certificate"][bound], rel=rel
            )
        assert block["certificate"]["relative_gap"] <= 1e-3


@pytest.mark.slow
@pytest.mark.timeout(LONG)
@pytest.mark.parametrize("victim", [0, 1])
def test_a_lost_process_ends_the_job_with_one_message(
    victim: int, data: Path, tmp_path: Path
) -> None:
    run, partial = tmp_path / "run", tmp_path / "run.partial"
    processes = start(2, *fit(data, "--out", run, *STACK))
    deadline = time.monotonic() + LONG
    while not (partial / "blocks" / "block1.json").exists():
        assert processes[0].poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    processes[victim].send_signal(signal.SIGKILL)
    ends = finished(processes)
    assert ends[victim][0] == -signal.SIGKILL
    code, _, errors = ends[1 - victim]
    assert code == 1
    assert [line[:6] for line in errors.splitlines() if "rror" in line] == ["Error:"]
    assert "another process of this job has ended" in errors
    assert "Traceback" not in "".join(error for _, _, error in ends)
    assert not run.exists()
    size = (1, 3)[victim]
    again = finished(start(size, *fit(data, "--out", run, "--resume")))
    assert [code for code, _, _ in again] == [0] * size, again
    assert "Continuing the unfinished run" in again[0][2]
    assert len(result_of(run)["blocks"]) > 1


@pytest.mark.slow
@pytest.mark.timeout(LONG)
def test_a_two_layer_training_that_loses_a_process_leaves_nothing(
    data: Path, tmp_path: Path
) -> None:
    run, partial = tmp_path / "run", tmp_path / "run.partial"
    processes = start(2, *fit(data, "--out", run))
    while not (partial / "metrics.jsonl").exists():
        assert processes[0].poll() is None
        time.sleep(0.01)
    processes[1].kill()
    (code, _, errors), _ = finished(processes)
    assert code == 1
    assert errors.count("Error:") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(LONG)
@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--formulation", "relu"], 2, "solved by one process"),
        (["--solver", "kernel"], 2, "solver kernel needs all images in one process, and 2"),
        ([], 1, "process 1 of 2 has data in stripes.npz that differs"),
    ],
)
def test_one_process_says_what_is_wrong(
    options: list[str], code: int, said: str, tmp_path: Path
) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for seed, folder in enumerate(folders):
        folder.mkdir()
        write_data(folder, seed)
    ends = finished(start(2, *fit("stripes.npz", "--out", "run", *options), folders=folders))
    assert [end[0] for end in ends] == [code, code], ends
    errors = "".join(error for _, _, error in ends)
    assert errors.count("Error:") == 1
    assert said in errors
    assert not (folders[0] / "run").exists()
    assert not (folders[0] / "run.partial").exists()
