"""Claim: the report of eight blocks on CIFAR-10 is under 3 MB and takes under 60 s on two cores.

Trains the stack `vgg11`, with all its gates, on few images, which changes neither how much there is
to explain nor the size of the page. Then the explanations of its test images and the climbing to
what every block likes best are timed, and the building of the page from them.

    python benchmarks/report_size.py --root DATA [--run RUN] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from record import write_record
from safetensors.numpy import save_file

from convexcnn import load_dataset, load_model
from convexcnn.environment import machine, versions
from convexcnn.explain.gallery import explain_examples, maximising_images
from convexcnn.report import build_report

MEGABYTES, SECONDS = 3.0, 60.0
FIT = ("fit", "cifar10", "--model", "layerwise", "--blocks", "vgg11")


def train(root: Path | None, run: Path, images: int) -> str:
    """Make the run by the command line, and return the command."""
    command = [*FIT, "--limit", str(images)]
    where = ["--out", str(run), *(["--root", str(root)] if root else [])]
    subprocess.run([sys.executable, "-m", "convexcnn", *command, *where], check=True)
    return " ".join(["convexcnn", *command])


def measure(root: Path | None, run: Path) -> dict[str, Any]:
    """Explain a run again, build its page again, and take the times."""
    model, dataset = load_model(run), load_dataset("cifar10", root=root, limit=10)
    assert dataset.test is not None
    laps = [time.perf_counter()]
    examples = explain_examples(model, dataset.test)
    laps.append(time.perf_counter())
    liked = maximising_images(model, dataset.test)
    laps.append(time.perf_counter())
    save_file({**examples, **liked}, run / "explanations.safetensors")
    page = build_report(run)
    laps.append(time.perf_counter())
    names = ("examples", "maximising_images", "page")
    seconds = {
        name: round(end - start, 2)
        for name, start, end in zip(names, laps[:-1], laps[1:], strict=True)
    }
    figures = sum(path.stat().st_size for path in (run / "figures").iterdir())
    return {
        "blocks": len(json.loads((run / "result.json").read_text("utf-8"))["blocks"]),
        "examples": len(examples["images"]),
        "seconds": {**seconds, "all": round(laps[-1] - laps[0], 2)},
        "page_megabytes": round(page.stat().st_size / 1e6, 3),
        "figures_megabytes": round(figures / 1e6, 3),
        "threads": torch.get_num_threads(),
    }


def main() -> int:
    """Measure, print and write the numbers; return 1 if one was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path)
    parser.add_argument("--run", type=Path, help="a finished run; without it one is trained")
    parser.add_argument("--train-images", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/report_size.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run, command = arguments.run, f"convexcnn {' '.join(FIT)}"
        if run is None:
            run = Path(folder) / "run"
            command = train(arguments.root, run, arguments.train_images)
        found = measure(arguments.root, run)
        settings = json.loads((run / "result.json").read_text("utf-8"))["settings"]
    targets = [
        {"name": "page, MB", "at_most": MEGABYTES, "value": found["page_megabytes"]},
        {"name": "seconds", "at_most": SECONDS, "value": found["seconds"]["all"]},
    ]
    result = {
        "claim": __doc__.splitlines()[0].removeprefix("Claim: "),
        "command": command,
        "train_images": settings["limit"],
        "targets": [{**t, "reached": t["value"] <= t["at_most"]} for t in targets],
        **found,
        "versions": versions(),
        "machine": machine(),
    }
    return write_record(result, arguments.out)


if __name__ == "__main__":
    sys.exit(main())
