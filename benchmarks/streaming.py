"""Claim: memory does not grow with the images, time no more than they do, and a budget is kept.

`growth`: 10,000, 50,000 and 200,000 images, mirrored, shifted and noisy copies of CIFAR-10, lie in
`images.npy` and are trained on where they lie, with the same settings, three times each; the run of
median time counts. Targets: time per image at most 1.1 times that of fewer images, peak memory
within 5 %.

`budget`: CIFAR-10 with 1,024 gates in 2 GB, and without a bound. Targets: the peak is under 2 GB,
and the time at most 1.5 times as long.

    python benchmarks/streaming.py growth --root DATA [--images N,N,N] [--out FILE] [-- FIT OPTIONS]
    python benchmarks/streaming.py budget --root DATA [--memory-gb G] [--out FILE] [-- FIT OPTIONS]

Every run is one process of `convexcnn fit`. Memory is the kernel's high-water mark of the resident
memory, code of libraries included; beside it stands the part without files, which is sampled. Times
are those of `fit` from whitening to the solution, by the clock, as in `result.json`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from record import write_record

from convexcnn import load_dataset
from convexcnn.data import ImageDataset
from convexcnn.environment import machine, versions

GROWTH = (
    "--gates", "patches", "--n-gates", "32", "--pooling", "1", "--beta", "0.01",
    "--augment", "none", "--memory-gb", "1.5", "--no-certificate",
)  # fmt: skip
BUDGET = (
    "--gates", "patches", "--n-gates", "1024", "--pooling", "1", "--whiten", "24",
    "--beta", "0.003", "--augment", "none", "--no-certificate",
)  # fmt: skip
REPEATS = 3
AT_ONCE = 1000
LARGEST_SHIFT, NOISE = 3, 4.0
NOT_TRAINING = ("training images", "test images", "explanations")


def write_copies(dataset: ImageDataset, count: int, folder: Path) -> None:
    """Write so many augmented training images, and the test images, as arrays."""
    folder.mkdir(parents=True)
    train, test = dataset.train, dataset.test
    assert test is not None
    generator = np.random.default_rng(count)
    shape = count, *dataset.image_shape
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, shape)
    rows = np.arange(count) % len(train)
    for start in range(0, count, AT_ONCE):
        part = slice(start, min(start + AT_ONCE, count))
        images[part] = augmented(np.asarray(train.images[rows[part]]), generator)
    images.flush()
    np.save(folder / "labels.npy", train.labels[rows])
    np.save(folder / "test_images.npy", np.asarray(test.images[:AT_ONCE]))
    np.save(folder / "test_labels.npy", test.labels[:AT_ONCE])
    (folder / "classes.txt").write_text("\n".join(dataset.classes) + "\n", "utf-8")


def augmented(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Every image shifted, mirrored or not, and with noise."""
    out = images.astype(np.float32)
    down, right = generator.integers(-LARGEST_SHIFT, LARGEST_SHIFT + 1, 2)
    out = np.roll(out, (down, right), (2, 3))
    mirrored = generator.random(len(out)) < 0.5
    out[mirrored] = out[mirrored, :, :, ::-1]
    out += generator.normal(0, NOISE, out.shape).astype(np.float32)
    return out.clip(0, 255).astype(np.uint8)


def fit(data: str, run: Path, options: list[str]) -> dict[str, Any]:
    """Train in a process of its own; return what it took."""
    command = ["fit", data, "--out", str(run), *options]
    print("convexcnn", shlex.join(command), flush=True)
    subprocess.run([sys.executable, "-m", "convexcnn", *command], check=True)
    result = json.loads((run / "result.json").read_text("utf-8"))
    seconds = {k: v for k, v in result["phases"].items() if k not in NOT_TRAINING}
    return {
        "images": result["data"]["n_train"],
        "seconds": round(sum(seconds.values()), 2),
        "phases": {name: round(value, 2) for name, value in seconds.items()},
        "memory_bytes": result["memory_bytes"],
        "test_accuracy": result["test"]["accuracy"],
        "solver": result["blocks"][0]["solver"],
    }


def growth(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Time and memory for more and more images."""
    dataset = load_dataset("cifar10", root=arguments.root)
    options = arguments.options or list(GROWTH)
    runs = []
    for count in sorted(arguments.images):
        folder = work / f"images{count}"
        write_copies(dataset, count, folder)
        repeats = [fit(str(folder), work / f"run{count}-{i}", options) for i in range(REPEATS)]
        chosen = sorted(repeats, key=lambda run: float(run["seconds"]))[REPEATS // 2]
        runs.append(chosen | {"seconds_of_repeats": [run["seconds"] for run in repeats]})
        for path in folder.iterdir():
            path.unlink()
    slower = max(
        (more["seconds"] / more["images"]) / (few["seconds"] / few["images"])
        for few, more in pairwise(runs)
    )
    peaks = [run["memory_bytes"]["resident"] for run in runs]
    targets = [target("time per image, times that of fewer", slower, 1.1)]
    targets.append(target("largest over smallest peak", max(peaks) / min(peaks), 1.05))
    return {"options": options, "runs": runs, "targets": targets}


def budget(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """The same training with and without a bound on the memory."""
    options = ["--root", str(arguments.root), *(arguments.options or BUDGET)]
    bound = ["--memory-gb", str(arguments.memory_gb)]
    free = fit("cifar10", work / "free", options)
    bounded = fit("cifar10", work / "bounded", [*options, *bound])
    peak = bounded["memory_bytes"]["resident"] / 1e9
    targets = [target("peak, GB", peak, arguments.memory_gb)]
    targets.append(target("time over that without", bounded["seconds"] / free["seconds"], 1.5))
    return {"options": options[2:], "bounded": bounded, "free": free, "targets": targets}


def target(name: str, value: float, at_most: float) -> dict[str, Any]:
    """A number beside the largest it should be."""
    return {"name": name, "at_most": at_most, "value": value, "reached": value <= at_most}


def whole_numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def main() -> int:
    """Measure, print and write the numbers; return 1 if one was missed."""
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("growth", "budget"))
    parser.add_argument("--root", type=Path, required=True)
    counts = [10_000, 50_000, 200_000]
    parser.add_argument("--images", type=whole_numbers, default=counts)
    parser.add_argument("--memory-gb", type=float, default=2.0)
    parser.add_argument("--work", type=Path, help="where images and runs are made")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(words[:cut])
    arguments.options = words[cut + 1 :]
    out = arguments.out or Path(f"benchmarks/results/streaming_{arguments.what}.json")
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        found = {"growth": growth, "budget": budget}[arguments.what](arguments, Path(folder))
    claim = __doc__.splitlines()[0].removeprefix("Claim: ")
    result = {"claim": claim, "what": arguments.what, **found}
    result |= {"versions": versions(), "machine": machine()}
    return write_record(result, out)


if __name__ == "__main__":
    sys.exit(main())
