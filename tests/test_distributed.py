"""Several processes: the same optimum and certificate as one, and one voice when one is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from convexcnn.distributed import ALONE, Processes, current, job, launched
from convexcnn.errors import DataError, SettingError
from job_worker import CASES, STACKS, outcome
from jobs import LONG, environment, finished, free_port, start
from small import stripe_stream

HERE = Path(__file__).parent
FAST = ("direct, path", "learned gates", "lbfgs", "fista, group")
EVERY = (*CASES, *STACKS, "non-convex")


def train(size: int, out: Path, names: tuple[str, ...]) -> dict:
    """Results of cases that so many processes train together."""
    for code, _, errors in finished(start(size, HERE / "job_worker.py", out, *names)):
        assert code == 0, errors
    return json.loads(out.read_text())


def compare_stacks(found: list[dict], expected: list[dict], name: str) -> None:
    assert len(found) == len(expected) > 1
    for block, other in zip(found, expected, strict=True):
        # Cross-entropy is solved to 1e-3, and its dual value converges like the gap.
        for number, tolerance in {"primal": 1e-6, "dual": 2e-5, "beta": 1e-6}.items():
            assert block[number] == pytest.approx(other[number], rel=tolerance), (name, number)
        assert block["accuracy"] == other["accuracy"], name


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
    assert list(chain(*shares)) == rows
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_many_rows_are_shared_in_whole_blocks() -> None:
    assert Processes(0, 3).cuts(1000) == (0, 320, 640, 1000)


def test_the_least_of_all_processes_is_the_same_everywhere(monkeypatch) -> None:
    """The others' numbers arrive in the sum that every process gathers."""
    others = torch.tensor([3.0, 0.0, 2.5], dtype=torch.float64)
    monkeypatch.setattr(
        Processes, "add_up", lambda self, *sums: [each.add_(others) for each in sums]
    )
    assert Processes(1, 3).least(2.0) == 2.0
    assert Processes(1, 3).least(7.0) == 2.5
    assert Processes().least(7.0) == 7.0


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


def test_every_process_keeps_its_own_images_of_a_subset() -> None:
    stream = replace(stripe_stream(10), processes=Processes(1, 3))
    assert stream.own == slice(3, 6)
    assert stream.subset(np.array([0, 3, 4, 9])).own == slice(1, 3)
    assert stream.subset(slice(None, None, 2)).own == slice(2, 3)


def test_a_process_without_images_is_refused() -> None:
    stream = replace(stripe_stream(3), processes=Processes(0, 3))
    stream.require_shares()
    with pytest.raises(DataError, match="2 training images are too few for 3 processes"):
        stream.subset(slice(2)).require_shares()


@pytest.mark.thorough
@pytest.mark.timeout(LONG)
def test_two_processes_find_the_optimum_of_one(tmp_path: Path) -> None:
    together = train(2, tmp_path / "two.json", FAST)
    for name in FAST:
        compare(together[name], outcome(name), name)


@pytest.mark.slow
@pytest.mark.timeout(LONG)
@pytest.mark.parametrize("size", [2, 4])
def test_any_number_of_processes_finds_the_same(size: int, tmp_path: Path) -> None:
    together = train(size, tmp_path / "together.json", EVERY)
    for name in CASES:
        compare(together[name], outcome(name), name)
    for name in STACKS:
        compare_stacks(together[name], outcome(name), name)
    alone = outcome("non-convex")
    assert together["non-convex"] == pytest.approx(alone, rel=1e-6)


@pytest.fixture
def hosts() -> Iterator[tuple[str, str]]:
    """Two network namespaces that a cable joins, at 10.83.7.1 and 10.83.7.2."""
    if os.name != "posix" or os.geteuid() or not shutil.which("ip"):
        pytest.skip("network namespaces need root and the command ip")

    def ip(*words: str) -> None:
        done = subprocess.run(["ip", *words], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no network namespaces here: {done.stderr.strip()}")

    names = "convexcnn-one", "convexcnn-two"
    try:
        for name in names:
            ip("netns", "add", name)
        ip(
            "link",
            "add",
            "cable0",
            "netns",
            names[0],
            "type",
            "veth",
            "peer",
            "cable0",
            "netns",
            names[1],
        )
        for number, name in enumerate(names, 1):
            ip("-n", name, "address", "add", f"10.83.7.{number}/24", "dev", "cable0")
            for device in ("cable0", "lo"):
                ip("-n", name, "link", "set", device, "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


@pytest.mark.slow
@pytest.mark.timeout(LONG)
def test_two_hosts_find_the_optimum_of_one(hosts: tuple[str, str], tmp_path: Path) -> None:
    name, port, out = "direct, path", free_port(), tmp_path / "hosts.json"
    words = [sys.executable, str(HERE / "job_worker.py"), str(out), name]
    processes = [
        subprocess.Popen(
            ["ip", "netns", "exec", host, *words],
            env=environment(rank, 2, port, "10.83.7.1")
            | {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "GLOO_SOCKET_IFNAME": "cable0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, host in enumerate(hosts)
    ]
    for code, _, errors in finished(processes):
        assert code == 0, errors
    compare(json.loads(out.read_text())[name], outcome(name), name)
