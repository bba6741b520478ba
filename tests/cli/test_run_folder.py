"""A run folder appears complete or not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convexcnn.cli.run_folder import (
    RunFolder,
    is_run,
    jsonable,
    read_result,
    read_toml,
    toml_table,
    write_toml,
)
from convexcnn.errors import RunError
from files_on_disk import closed

RESULT = {"format": 1, "kind": "fit", "accuracy": 0.5}


def make_run(path: Path, accuracy: float = 0.5, **options: bool) -> None:
    with RunFolder(path, {"epochs": 3}, **options) as run:
        run.write_result(RESULT | {"accuracy": accuracy})


def contents(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_finished_run_has_its_settings_and_result_and_nothing_else(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", {"epochs": 3, "beta": None}, header="convexcnn fit x") as run:
        assert not (tmp_path / "run").exists()
        run.log({"step": 1, "loss": float("nan")})
        run.write_result(RESULT)
    assert contents(tmp_path) == {"run"}
    assert contents(tmp_path / "run") == {"config.toml", "metrics.jsonl", "result.json"}
    assert (tmp_path / "run" / "config.toml").read_text() == "# convexcnn fit x\nepochs = 3\n"
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == '{"step": 1, "loss": null}\n'
    assert read_result(tmp_path / "run") == RESULT


def test_an_existing_run_is_kept_unless_overwrite(tmp_path: Path) -> None:
    make_run(tmp_path / "run", accuracy=0.5)
    with pytest.raises(RunError, match="--overwrite"):
        make_run(tmp_path / "run", accuracy=0.9)
    assert read_result(tmp_path / "run")["accuracy"] == 0.5
    make_run(tmp_path / "run", accuracy=0.9, overwrite=True)
    assert read_result(tmp_path / "run")["accuracy"] == 0.9
    assert contents(tmp_path) == {"run"}


def test_what_a_replaced_run_leaves_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "run")
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
    with pytest.warns(UserWarning, match=r"run\.replaced, the run before this one, cannot be"):
        make_run(tmp_path / "run", overwrite=True)


def test_a_failed_overwrite_keeps_the_old_run(tmp_path: Path) -> None:
    make_run(tmp_path / "run", accuracy=0.5)
    with (
        pytest.raises(ZeroDivisionError),
        RunFolder(tmp_path / "run", {}, overwrite=True) as run,
    ):
        run.write_result(RESULT | {"accuracy": 1 / 0})
    assert read_result(tmp_path / "run")["accuracy"] == 0.5
    assert contents(tmp_path) == {"run"}


def test_overwrite_never_replaces_what_is_not_a_run(tmp_path: Path) -> None:
    precious = tmp_path / "holiday"
    precious.mkdir()
    (precious / "picture.png").write_bytes(b"x")
    for path in (precious, precious / "picture.png"):
        with pytest.raises(RunError, match="not a run"):
            make_run(path, overwrite=True)
    assert contents(tmp_path) == {"holiday"}
    assert contents(precious) == {"picture.png"}


def test_a_foreign_folder_at_the_partial_name_is_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / "run.partial"
    foreign.mkdir()
    (foreign / "picture.png").write_bytes(b"x")
    with pytest.raises(RunError, match="move it away"):
        make_run(tmp_path / "run")
    assert contents(foreign) == {"picture.png"}


def test_an_empty_folder_may_be_the_target(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    make_run(tmp_path / "run")
    assert is_run(tmp_path / "run")


@pytest.mark.parametrize("target", ["/", "."])
def test_a_target_that_cannot_be_renamed_to_is_refused(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "something").touch()
    with pytest.raises(RunError, match="--out"):
        make_run(Path(target))


def test_ctrl_c_leaves_nothing_and_says_so(tmp_path: Path) -> None:
    with (
        pytest.raises(RunError, match="nothing was saved"),
        RunFolder(tmp_path / "run", {}) as run,
    ):
        run.write_result(RESULT)
        raise KeyboardInterrupt
    assert contents(tmp_path) == set()


def test_ctrl_c_keeps_a_resumable_run_and_the_same_settings_continue_it(tmp_path: Path) -> None:
    with (
        pytest.raises(RunError, match=r"run\.partial.*same command"),
        RunFolder(tmp_path / "run", {"epochs": 3}, resumable=True) as run,
    ):
        (run.folder / "finished-part").touch()
        raise KeyboardInterrupt
    assert contents(tmp_path) == {"run.partial"}

    with (
        pytest.raises(RunError, match="epochs 3"),
        RunFolder(tmp_path / "run", {"epochs": 4}, resumable=True),
    ):
        pass
    with RunFolder(tmp_path / "run", {"epochs": 3}, resumable=True) as run:
        assert run.resumed
        assert (run.folder / "finished-part").exists()
        run.write_result(RESULT)
    assert is_run(tmp_path / "run")


def test_overwrite_drops_a_partial_run_with_other_settings(tmp_path: Path) -> None:
    with pytest.raises(RunError), RunFolder(tmp_path / "run", {"epochs": 3}, resumable=True) as run:
        (run.folder / "finished-part").touch()
        raise KeyboardInterrupt
    with RunFolder(tmp_path / "run", {"epochs": 4}, resumable=True, overwrite=True) as run:
        assert not run.resumed
        assert not (run.folder / "finished-part").exists()


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    partial = tmp_path / "run.partial"
    (partial / "figures").mkdir(parents=True)
    (partial / ".lock").touch()
    (partial / "figures" / "half.png").touch()
    make_run(tmp_path / "run")
    assert contents(tmp_path / "run") == {"config.toml", "result.json"}


def test_a_run_that_was_set_aside_when_the_process_died_comes_back(tmp_path: Path) -> None:
    make_run(tmp_path / "run", accuracy=0.5)
    (tmp_path / "run").rename(tmp_path / "run.replaced")
    with pytest.raises(RunError, match="already holds a run"):
        make_run(tmp_path / "run", accuracy=0.9)
    assert read_result(tmp_path / "run")["accuracy"] == 0.5
    assert contents(tmp_path) == {"run"}


def test_two_processes_cannot_write_one_run(tmp_path: Path) -> None:
    holder = (
        "import sys; from pathlib import Path; from convexcnn.cli.run_folder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1]), {}):\n"
        "    print('holding', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"holding\n"
        with pytest.raises(RunError, match="another process"):
            make_run(tmp_path / "run")
        process.communicate()
    assert contents(tmp_path / "run") == {"config.toml"}


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "damaged"), ("[]", "format 1"), ('{"format": 2}', "format 1")],
)
def test_a_damaged_result_is_named(tmp_path: Path, text: str, message: str) -> None:
    make_run(tmp_path / "run")
    (tmp_path / "run" / "result.json").write_text(text)
    with pytest.raises(RunError, match=message):
        read_result(tmp_path / "run")


def test_a_result_that_may_not_be_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "run")
    closed(monkeypatch, "result.json")
    with pytest.raises(RunError, match=r"cannot be read .Permission denied"):
        read_result(tmp_path / "run")


def test_a_missing_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such run"):
        read_result(tmp_path / "run")
    with pytest.raises(RunError, match="is not a run"):
        read_result(tmp_path)


def test_settings_survive_the_file(tmp_path: Path) -> None:
    settings = toml_table(
        {
            "betas": (np.float32(0.5), 1e-4),
            "augment": 'fl"ip\\ \N{SNOWMAN}',
            "whiten": True,
            "limit": None,
            "filter_size": np.int64(6),
        }
    )
    write_toml(tmp_path / "config.toml", settings)
    assert read_toml(tmp_path / "config.toml") == settings
    assert settings == {
        "betas": [0.5, 1e-4],
        "augment": 'fl"ip\\ \N{SNOWMAN}',
        "whiten": True,
        "filter_size": 6,
    }


def test_a_settings_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("epochs = ")
    with pytest.raises(RunError, match=r"bad\.toml is not valid TOML"):
        read_toml(tmp_path / "bad.toml")
    with pytest.raises(RunError, match="no such file"):
        read_toml(tmp_path / "missing.toml")


def test_jsonable_has_no_nan_and_no_numpy(tmp_path: Path) -> None:
    value = {"a": np.array([1.0, np.inf]), 3: np.int64(4), "p": tmp_path, "t": (True, None)}
    assert jsonable(value) == {"a": [1.0, None], "3": 4, "p": str(tmp_path), "t": [True, None]}
