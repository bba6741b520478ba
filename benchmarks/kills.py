"""Claim: 100 kills at random moments, each resumed, all end with the bits of an undisturbed run.

Trains a small stack on the digits of scikit-learn once without a disturbance; then again and again:
a process that is killed (SIGKILL) at a moment drawn evenly from the time that the first one took,
whatever it was doing, importing torch or renaming a file. After every kill the files that it left
are read: what is accepted has the bits of the undisturbed run, and no finished run is there that
is not whole. Then the same command is repeated to the end, and the weights are compared.

    python benchmarks/kills.py [--kills N] [--seed S] [--at-once N] [--log FILE] [--out FILE]
                               [--work FOLDER]

Every kill is one line of the log; with a log that holds some, the script does the others. The
undisturbed run is always made anew, and has to have the bits that the log says. A process that
ended before its moment is no kill: it is started again with another moment.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from record import write_record
from safetensors.numpy import load_file

from convexcnn import load_model
from convexcnn.environment import machine, versions
from convexcnn.errors import ConvexcnnError
from convexcnn.files import file_checksum, read_sealed

FIT = ("fit", "digits", "--limit", "200", "--model", "layerwise", "--n-gates", "4")
BLOCKS, SCORES = "blocks", "all_scores"


class Wrong(Exception):
    """What a kill left is accepted and is not right, or the end is another one."""


def start(run: Path) -> subprocess.Popen[bytes]:
    """Begin to train, or go on, in a process of its own."""
    command = [sys.executable, "-m", "convexcnn", *FIT, "--out", str(run)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(run: Path) -> float:
    """Train to the end; return the seconds it took."""
    begun = time.perf_counter()
    process = start(run)
    _, complaint = process.communicate()
    if process.returncode:
        raise Wrong(f"the same command failed: {complaint.decode(errors='replace')[-500:]}")
    return time.perf_counter() - begun


def kill_at(run: Path, seconds: float) -> bool:
    """Start, and kill after so many seconds; return whether there was something to kill."""
    with start(run) as process:
        try:
            process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
    return process.returncode == -signal.SIGKILL


def bits(run: Path) -> str:
    """Checksum of everything that the trained model is."""
    digest = hashlib.sha256((run / "model.safetensors").read_bytes())
    result = json.loads((run / "result.json").read_text("utf-8"))
    for block in result["blocks"]:
        digest.update(json.dumps([block["certificate"], block["beta"], block["train"]]).encode())
    return digest.hexdigest()


def phase_of(partial: Path) -> str:
    """What the killed process had last told of."""
    log = partial / "metrics.jsonl"
    lines = log.read_text("utf-8", "replace").splitlines() if log.exists() else []
    for line in reversed(lines):
        try:
            return str(json.loads(line)["phase"])
        except (ValueError, LookupError):
            continue
    return "before the first event"


def check_remains(run: Path, whole: Path) -> dict[str, Any]:
    """Read what a killed process left as a resumed one, or a user, would.

    Raises:
        Wrong: something is accepted that the undisturbed run does not hold.
    """
    expected = load_file(whole / "model.safetensors")
    if run.exists() and bits(run) != bits(whole):
        raise Wrong(f"{run} is there and has other weights")
    partial = run.with_name(run.name + ".partial")
    blocks = []
    for path in sorted((partial / BLOCKS).glob("block?.json")):
        tensors = path.with_suffix(".safetensors")
        try:
            accepted = read_sealed(path)["tensors"] == file_checksum(tensors)
        except ConvexcnnError:
            accepted = False
        if accepted:
            blocks.append(path.stem)
            for name, tensor in load_file(tensors).items():
                right = name == SCORES or (expected[f"{path.stem}.{name}"] == tensor).all()
                if not right:
                    raise Wrong(f"{tensors} is accepted, and {name} has other bits")
    model = "none"
    if (partial / "model.safetensors").exists():
        try:
            load_model(partial)
            model = "accepted"
        except ConvexcnnError:
            model = "refused"
    if model == "accepted":
        found = load_file(partial / "model.safetensors")
        if any((found[name] != tensor).any() for name, tensor in expected.items()):
            raise Wrong(f"{partial} holds a model that loads and has other weights")
    return {"phase": phase_of(partial), "blocks": blocks, "model": model, "run": run.exists()}


def one_kill(run: Path, whole: Path, moment: float) -> dict[str, Any] | None:
    """Kill at a moment, look, resume, compare; None if the process had ended before."""
    for left in run.parent.glob(f"{run.name}*"):
        shutil.rmtree(left)
    if not kill_at(run, moment):
        return None
    found = check_remains(run, whole)
    if not run.exists():
        found["seconds_to_finish"] = round(finish(run), 2)
    if bits(run) != bits(whole):
        raise Wrong("the resumed run ends with other bits")
    return found


def read_log(path: Path) -> list[dict[str, Any]]:
    """The kills that were done before."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def main() -> int:
    """Kill, resume and compare; return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=1, help="kills side by side")
    parser.add_argument("--log", type=Path, default=Path("benchmarks/results/kills.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/kills.json"))
    parser.add_argument("--work", type=Path, help="where the runs are made; a temporary folder")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    done = read_log(arguments.log)
    with tempfile.TemporaryDirectory(dir=arguments.work) as temporary:
        folder = Path(temporary)
        wholes = [folder / "whole", *(folder / f"beside{n}" for n in range(1, arguments.at_once))]
        with ThreadPoolExecutor(arguments.at_once) as pool:
            seconds = max(pool.map(finish, wholes))
        whole = bits(folder / "whole")
        print(f"undisturbed: {seconds:.1f} s, {whole[:16]}", flush=True)
        if any(line["bits"] != whole for line in done):
            raise SystemExit(f"{arguments.log} is of runs with other bits; name another --log")
        missing = set(range(arguments.kills)) - {line["kill"] for line in done}
        with ThreadPoolExecutor(arguments.at_once) as pool:
            tried = [
                pool.submit(attempt, number, folder, seconds, arguments.seed)
                for number in sorted(missing)
            ]
            for finished in as_completed(tried):
                done.append(finished.result() | {"bits": whole})
                with arguments.log.open("a", encoding="utf-8") as log:
                    log.write(json.dumps(done[-1]) + "\n")
                    log.flush()
                    os.fsync(log.fileno())
                print(done[-1], flush=True)
    wrong = [line for line in done if line["wrong"]]
    report = {
        "claim": __doc__.splitlines()[0].removeprefix("Claim: "),
        "command": " ".join(["convexcnn", *FIT]),
        "undisturbed_seconds": round(seconds, 2),
        "seed": arguments.seed,
        "targets": [
            {"name": "kills", "at_least": 100, "value": len(done), "reached": len(done) >= 100},
            {"name": "wrong", "at_most": 0, "value": len(wrong), "reached": not wrong},
        ],
        "phases": sorted({line["phase"] for line in done if "phase" in line}),
        "kept_blocks": [len(line.get("blocks", ())) for line in done],
        "wrong": wrong,
        "versions": versions(),
        "machine": machine(),
    }
    return write_record(report, arguments.out)


def attempt(number: int, folder: Path, seconds: float, seed: int) -> dict[str, Any]:
    """One kill, at the first of its moments at which there was something to kill."""
    moments = random.Random(f"{seed} {number}")
    while True:
        moment = moments.uniform(0, seconds)
        try:
            found = one_kill(folder / f"run{number:03d}", folder / "whole", moment)
        except (Wrong, OSError, LookupError, ValueError) as error:
            return {"kill": number, "moment": moment, "wrong": f"{type(error).__name__}: {error}"}
        if found is not None:
            return {"kill": number, "moment": round(moment, 3), "wrong": "", **found}


if __name__ == "__main__":
    sys.exit(main())
