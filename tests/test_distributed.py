"""Several processes: the same optimum and certificate as one, and one voice when one is lost."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from convexcnn.distributed import ALONE, Processes, current, job, launched
from convexcnn.errors import DataError, SettingError
from job_worker import CASES, outcome

HERE = Path(__file__).parent
FAST = ("direct, path", "cg, path", "learned gates", "weights", "lbfgs", "fista, group", "sgd")
EVERY = (*CASES, "non-convex")


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun would set for one process."""
    own = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size}
    own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    return os.environ | {name: str(value) for name, value in own.items()}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(size: int, *command: str | Path) -> list[subprocess.Popen[str]]:
    """Start a command in so many processes that find each other."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, *map(str, command)],
            env=environment(rank, size, port),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def train(size: int, out: Path, names: tuple[str, ...]) -> dict:
    """Results of cases that so many processes train together."""
    processes = start(size, HERE / "job_worker.py", out, *names)
    for process in processes:
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
    return json.loads(out.read_text())


def compare(found: dict, expected: dict, name: str) -> None:
    assert found["beta"] == pytest.approx(expected["beta"], rel=1e-5), name
    assert found["solver"] == expected["solver"]
    assert found["accuracies"] == expected["accuracies"], name
    for number, tolerance in {"primal": 1e-6, "dual": 1e-6, "slope": 1e-3}.items():
        assert found[number] == pytest.approx(expected[number], rel=tolerance), (name, number)
    assert found["temperature"] == pytest.approx(expected["temperature"], rel=1e-3), name


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("n", [0, 1, 6, 7, 20])
def test_shares_cover_all_rows_once(n: int, size: int) -> None:
    rows = list(range(n))
    shares = [rows[Processes(rank, size).share(n)] for rank in range(size)]
    assert sum(shares, []) == rows
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process_adds_up_to_itself() -> None:
    total = torch.arange(3.0)
    ALONE.add_up(total)
    assert total.tolist() == [0, 1, 2]
    assert ALONE.total(2.5) == 2.5
    assert ALONE.tell(b"word") == b"word"
    assert ALONE.gather(total, 3, slice(0, 3)) is total
    with job() as processes:
        assert processes == current() == ALONE


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Processes(1, 4)),
        ({"MASTER_PORT": None}, ALONE),
        ({"WORLD_SIZE": "1", "RANK": "0"}, ALONE),
        ({"RANK": "4"}, None),
        ({"RANK": "one"}, None),
        ({"WORLD_SIZE": "0"}, None),
    ],
)
def test_the_environment_says_who_is_there(changes: dict, expected: Processes | None) -> None:
    found = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "here", "MASTER_PORT": "1"} | changes
    found = {name: value for name, value in found.items() if value is not None}
    if expected is not None:
        assert launched(found) == expected
        return
    with pytest.raises(SettingError, match="torchrun"):
        launched(found)


def test_rows_for_every_process() -> None:
    Processes(0, 3).require_rows(3, "images")
    with pytest.raises(DataError, match="2 images are too few for 3 processes"):
        Processes(0, 3).require_rows(2, "images")


def test_two_processes_find_the_optimum_of_one(tmp_path: Path) -> None:
    together = train(2, tmp_path / "two.json", FAST)
    for name in FAST:
        compare(together[name], outcome(name), name)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_any_number_of_processes_finds_the_same(size: int, tmp_path: Path) -> None:
    together = train(size, tmp_path / "together.json", EVERY)
    for name in CASES:
        compare(together[name], outcome(name), name)
    alone = outcome("non-convex")
    assert together["non-convex"] == pytest.approx(alone, rel=1e-6)
