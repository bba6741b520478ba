"""Claim: convexcnn plan foresees time and peak memory of a training within 30 %, in five settings.

For every setting the plan is made first, in a process of its own, with nothing but the command line
that fit then gets; then fit runs. Its seconds are those of its `result.json`: reading images and
building the report are in neither. Run it on an otherwise idle machine: rates are measured when a
plan is made, and are those of that moment.

    python benchmarks/plan.py --root DATA [--only NAME] [--out benchmarks/results/plan.json]

With --only, settings that the file already holds stay as they were measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from record import write_record

from convexcnn.environment import machine, versions

WITHIN = 0.3

SETTINGS: dict[str, list[str]] = {
    "direct": ["cifar10", "--limit", "10000", "--n-gates", "32"],
    "kernel": ["cifar10", "--limit", "4000", "--n-gates", "128"],
    "stack": ["cifar10", "--limit", "3000", "--model", "layerwise"],
    "stack on MNIST": [
        *("mnist", "--limit", "6000", "--model", "layerwise"),
        *("--augment", "crop", "--n-gates", "64"),
    ],
    "wide": [
        *("cifar10", "--limit", "5000", "--gates", "gaussian", "--n-gates", "768"),
        *("--stride", "4", "--pooling", "1", "--augment", "none"),
    ],
}
"""Options that plan and fit share, by what the setting is an example of."""

IMAGENET = [
    *("--images", "1281167", "--test-images", "50000", "--shape", "3,224,224"),
    *("--classes", "1000", "--model", "layerwise", "--blocks", "imagenet"),
    *("--augment", "none", "--memory-gb", "400"),
]
H100 = ["--tflops", "989", "--bandwidth", "3350"]
HARDWARE = {
    "this machine": [],
    "one H100-class GPU": ["--gpus", "1", *H100],
    "eight H100-class GPUs": ["--gpus", "8", *H100],
}
"""What docs/scaling.md carries the plan to."""

UNCOUNTED = ("data",)
"""Phases of a plan that the seconds of a run leave out."""


def command(root: Path | None, *words: str) -> None:
    """Run a command of convexcnn, its progress on this terminal."""
    where = [] if root is None else ["--root", str(root)]
    subprocess.run([sys.executable, "-m", "convexcnn", *words, *where], check=True)


def planned(words: list[str]) -> dict[str, Any]:
    """What plan says."""
    finished = subprocess.run(
        [sys.executable, "-m", "convexcnn", "plan", *words, "--json"],
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, Any] = json.loads(finished.stdout)
    return found


def compare(words: list[str], root: Path | None) -> dict[str, Any]:
    """Foresee a training, do it, and set both beside each other."""
    plan = planned(words)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command(root, "fit", *words, "--out", str(run))
        result = json.loads((run / "result.json").read_text("utf-8"))
        size = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    phases = {
        entry["phase"]: {
            "planned": entry["seconds"],
            "measured": result["phases"].get(entry["phase"]),
        }
        for entry in plan["phases"]
    }
    seconds = sum(entry["seconds"] for entry in plan["phases"] if entry["phase"] not in UNCOUNTED)
    pairs = {
        "seconds": (seconds, result["seconds"]),
        "peak_memory_bytes": (plan["peak_memory_bytes"], result["peak_memory_bytes"]),
        "run_bytes": (plan["disk_bytes"]["run"], size),
    }
    measures = {
        name: {"planned": said, "measured": found, "error": said / found - 1}
        for name, (said, found) in pairs.items()
    }
    return {
        "command": f"convexcnn fit {' '.join(words)}",
        **measures,
        "reached": all(
            abs(measures[m]["error"]) <= WITHIN for m in ("seconds", "peak_memory_bytes")
        ),
        "phases": phases,
        "hardware": plan["hardware"],
    }


def imagenet() -> dict[str, Any]:
    """ImageNet at 224 pixels, foreseen for every hardware; nothing is trained."""
    found = {}
    for name, words in HARDWARE.items():
        plan = planned([*IMAGENET, *words])
        found[name] = {"command": f"convexcnn plan {' '.join([*IMAGENET, *words])}", **plan}
        hours = plan["seconds"] / 3600
        print(f"ImageNet, {name}: {hours:.3g} h, {plan['peak_memory_bytes'] / 1e9:.4g} GB")
    return found


def main() -> int:
    """Compare, print and write the numbers; return 1 if one is further off than it may be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, help="folder of the official files")
    parser.add_argument("--only", choices=SETTINGS, action="append", help="measure this one anew")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/plan.json"))
    arguments = parser.parse_args()
    settings = {}
    if arguments.only and arguments.out.exists():
        settings = json.loads(arguments.out.read_text("utf-8"))["settings"]
    for name in arguments.only or SETTINGS:
        settings[name] = compare(SETTINGS[name], arguments.root)
        for measure in ("seconds", "peak_memory_bytes"):
            found = settings[name][measure]
            print(
                f"{name}: {measure} {found['planned']:.4g} planned, {found['measured']:.4g} "
                f"measured, {100 * found['error']:+.0f} %"
            )
    result = {
        "claim": __doc__.splitlines()[0].removeprefix("Claim: "),
        "within": WITHIN,
        "reached": all(setting["reached"] for setting in settings.values()),
        "settings": settings,
        "imagenet": imagenet(),
        "versions": versions(),
        "machine": machine(),
    }
    return write_record(result, arguments.out)


if __name__ == "__main__":
    sys.exit(main())
