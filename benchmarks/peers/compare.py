"""Runs of convexcnn and of its peers on one problem, timed alike."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from environments import python_of

from convexcnn.environment import machine, versions
from convexcnn.programs.program import Program
from convexcnn.solvers.optimum import Optimum

HERE = Path(__file__).parent
Problem = dict[str, Any]
Measures = Callable[[Problem, np.ndarray, np.ndarray], dict[str, float]]


def as_program(problem: Problem, formulation: str) -> Program:
    """The problem as this package sees it: images of one patch, mean scaling."""
    n = len(problem["y"])
    return Program(
        patches=torch.from_numpy(problem["X"])[:, None, None],
        gates=torch.from_numpy(problem["G"].T.copy()),
        targets=torch.from_numpy(problem["y"])[:, None],
        beta=problem["beta"] / n,
        formulation=formulation,
        intercept=False,
    )


def ours(
    problem: Problem, formulation: str, solver: Any, measures: Measures, repeats: int
) -> tuple[dict[str, Any], Optimum]:
    """Solve ``repeats`` times from scratch, patterns and kernels included; the median time.

    Processor seconds stand beside it: they tell a busy machine from a slow solver.
    """
    seconds: list[float] = []
    processor = time.process_time()
    for _ in range(repeats):
        start = time.perf_counter()
        optimum: Optimum = solver.solve(as_program(problem, formulation))
        seconds.append(time.perf_counter() - start)
    processor = (time.process_time() - processor) / repeats
    weights = optimum.weights[..., 0, 0, :, :].transpose(-1, -2).numpy()
    found = measures(problem, weights, problem["G"])
    run = {
        "solver": f"convexcnn {solver.name}",
        "tolerance": solver.tolerance,
        "seconds": statistics.median(seconds),
        "all_seconds": seconds,
        "processor_seconds": processor,
        "iterations": len(optimum.history),
        **found,
    }
    return run, optimum


def peer(
    name: str, problem: Problem, arguments: list[str], measures: Measures, environments: Path
) -> dict[str, Any]:
    """Run a peer's script once in its own environment and measure what it returns."""
    python = python_of(name, environments)
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "problem.npz"), Path(folder, "solution.npz")
        np.savez(source, **problem)
        command = [python, HERE / f"run_{name}.py", source, out, *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with np.load(out) as solution:
            weights, gates = solution["weights"], solution["gates"]
            times = {key: float(solution[key]) for key in ("seconds", "processor_seconds")}
    weights = weights[0] if len(weights) == 1 else weights
    found = measures(problem, weights, gates)
    return {"solver": name, "settings": arguments, **times, **found}


def write_report(out: Path, claim: str, runs: list[dict[str, Any]], **more: Any) -> None:
    """Print the runs and write them with the claim, machine, versions and load.

    Runs with another number of threads that are in the file already stay there.
    """
    for run in runs:
        print(json.dumps(run))
    report = {**more, "runs": runs, "load_average": os.getloadavg()[0]}
    report |= {"machine": machine(), "versions": versions()}
    old = json.loads(out.read_text("utf-8")) if out.exists() else {}
    by_threads = old.get("by_threads", {}) | {str(torch.get_num_threads()): report}
    out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"claim": claim, "by_threads": dict(sorted(by_threads.items()))}, indent=2)
    out.write_text(text + "\n", "utf-8")
