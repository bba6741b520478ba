"""Fuzz the readers of convexcnn: hostile files must end in a documented error, quickly.

    python fuzz/run.py TARGET --minutes M          one reader; goes on from its corpus
    python fuzz/run.py --all --minutes 30          every reader, one after the other
    python fuzz/run.py --list
    python fuzz/run.py --write-seeds               make the sound inputs of tests/fuzz_corpus again

Minutes are of processor time. atheris (pip install atheris) guides the search by coverage; without
it hypothesis draws the changes. Results add up over runs in benchmarks/results/fuzzing.json; what
was found lies in CORPUS/findings/TARGET, made as small as can be. Exit code: 0 if nothing is open.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SEEDS = ROOT / "tests" / "fuzz_corpus"
RESULTS = ROOT / "benchmarks" / "results" / "fuzzing.json"
CLAIM = "No reader answers a hostile file with anything but a documented error."
SLICE_SECONDS = 300.0
"""A worker is started afresh after so long, so that its memory cannot creep up."""

MOST_DEATHS = 10
"""Workers of one reader that may end before their time; then something is wrong with them."""


def environment() -> dict[str, str]:
    """One thread, and the modules of this tree."""
    paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}


def fuzz(name: str, minutes: float, folder: Path, engine: str) -> dict[str, Any]:
    """Run workers until the processor time is spent; return what they did."""
    corpus, findings = folder / name, folder / "findings" / name
    corpus.mkdir(parents=True, exist_ok=True)
    findings.mkdir(parents=True, exist_ok=True)
    before, spent, ended = len(list(corpus.iterdir())), 0.0, []
    totals: dict[str, Any] = {"executions": 0, "refused": 0, "slowest_seconds": 0.0}
    while spent < 60 * minutes:
        seconds = min(SLICE_SECONDS, 60 * minutes - spent)
        done, output, code = _work(name, seconds, corpus, findings, engine)
        spent += done.get("seconds", 0.0)
        for key in ("executions", "refused"):
            totals[key] += done.get(key, 0)
        for key in ("slowest_seconds", "peak_megabytes"):
            totals[key] = max(totals.get(key, 0), done.get(key, 0))
        if edges := re.findall(r"cov: (\d+)", output):
            totals["edges"] = int(edges[-1])
        if code != 0:
            (findings / f"ended-{int(time.time())}.txt").write_text(output[-5000:], "utf-8")
            ended.append(code)
            if not done.get("executions") or len(ended) == MOST_DEATHS:
                break
    return {
        **totals,
        "processor_minutes": spent / 60,
        "corpus": len(list(corpus.iterdir())),
        "corpus_growth": len(list(corpus.iterdir())) - before,
        "workers_that_died": len(ended),
    }


def _work(
    name: str, seconds: float, corpus: Path, findings: Path, engine: str
) -> tuple[dict[str, Any], str, int]:
    stats = findings.parent / f"{name}.stats.json"
    stats.unlink(missing_ok=True)
    command = [sys.executable, str(HERE / "worker.py"), name, "--engine", engine]
    command += ["--seconds", str(seconds), "--corpus", str(corpus)]
    command += ["--findings", str(findings), "--stats", str(stats)]
    ran = subprocess.run(
        command, env=environment(), capture_output=True, text=True, errors="replace"
    )
    done = json.loads(stats.read_text("utf-8")) if stats.exists() else {}
    return done, ran.stdout + ran.stderr, ran.returncode


def still_open(name: str, folder: Path) -> list[str]:
    """Make findings smaller, and return those that today's readers still answer wrongly."""
    findings = sorted(p for p in (folder / "findings" / name).glob("*") if p.suffix != ".txt")
    if not findings:
        return []
    command = [sys.executable, str(HERE / "minimise.py"), name, *map(str, findings)]
    ran = subprocess.run(command, env=environment(), capture_output=True, text=True)
    return ran.stdout.splitlines() if ran.returncode == 0 else [f"cannot be replayed: {ran.stderr}"]


def record(name: str, done: dict[str, Any], left: list[str], engine: str, results: Path) -> None:
    """Add a run to the results."""
    from convexcnn import __version__
    from convexcnn.environment import machine

    known = json.loads(results.read_text("utf-8")) if results.exists() else {}
    targets = known.get("targets", {})
    entry = targets.get(name, {})
    for key in ("executions", "refused", "processor_minutes", "workers_that_died"):
        entry[key] = round(entry.get(key, 0) + done[key], 2)
    for key in ("slowest_seconds", "peak_megabytes"):
        entry[key] = round(max(entry.get(key, 0), done.get(key, 0)), 2)
    entry |= {key: done[key] for key in ("edges", "corpus") if key in done}
    entry["runs"] = entry.get("runs", 0) + 1
    entry["engines"] = sorted({*entry.get("engines", []), engine})
    entry["unexpected_exceptions"] = len(left)
    entry["open"] = left
    targets[name] = entry
    report = {
        "claim": CLAIM,
        "command": "python fuzz/run.py --all --minutes 30 --until",
        "version": __version__,
        "machine": machine(),
        "targets": dict(sorted(targets.items())),
    }
    results.write_text(json.dumps(report, indent=2) + "\n", "utf-8")


def write_seeds(wanted: list[str]) -> None:
    """Write the sound and the hostile inputs of some targets, or all, in place of the old ones."""
    import bundle
    from targets import TARGETS

    for name, target in TARGETS.items():
        if wanted and name not in wanted:
            continue
        place = SEEDS / name
        place.mkdir(parents=True, exist_ok=True)
        for kind, made in (("sound", target.seeds()), ("refused", target.hostile())):
            for old in place.glob(f"{kind}-*"):
                old.unlink()
            for number, parts in enumerate(made):
                (place / f"{kind}-{number}").write_bytes(bundle.pack(parts))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = sorted(path.name for path in SEEDS.glob("*"))
    parser.add_argument("target", nargs="?", choices=known, metavar="TARGET")
    parser.add_argument("--all", action="store_true", help="every reader")
    parser.add_argument("--list", action="store_true", help="name the targets and stop")
    parser.add_argument(
        "--write-seeds", action="store_true", help="write tests/fuzz_corpus and stop"
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="processor time of each reader")
    parser.add_argument(
        "--until", action="store_true", help="count the minutes of earlier runs too"
    )
    parser.add_argument("--corpus", type=Path, default=HERE / "corpus", help="folder to go on from")
    parser.add_argument("--engine", choices=("atheris", "hypothesis"))
    parser.add_argument("--out", type=Path, default=RESULTS, help="results to add to")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "src"))
    if options.write_seeds:
        write_seeds([options.target] if options.target else [])
    elif options.list:
        print("\n".join(known))
    elif bool(options.target) == options.all:
        parser.error("name one TARGET, or say --all")
    else:
        return run(options, known if options.all else [options.target])
    return 0


def run(options: argparse.Namespace, names: list[str]) -> int:
    """Fuzz the targets in turn; 1 if something was found that is still open."""
    guided = importlib.util.find_spec("atheris") is not None
    engine = options.engine or ("atheris" if guided else "hypothesis")
    open_findings = 0
    for name in names:
        minutes = options.minutes
        if options.until and options.out.exists():
            entry = json.loads(options.out.read_text("utf-8"))["targets"].get(name, {})
            minutes -= entry.get("processor_minutes", 0)
        if minutes <= 0:
            continue
        print(f"{name}: {minutes:.1f} minutes with {engine}", flush=True)
        done = fuzz(name, minutes, options.corpus.resolve(), engine)
        left = still_open(name, options.corpus.resolve())
        record(name, done, left, engine, options.out)
        open_findings += len(left)
        print(f"{name}: {done['executions']} inputs, {len(left)} open findings", flush=True)
        for line in left:
            print(f"  {line}", flush=True)
    return int(open_findings > 0)


if __name__ == "__main__":
    sys.exit(main())
