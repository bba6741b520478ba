"""Claim: the training loss that 100 epochs of SGD end with, in a twentieth of SGD's time.

The paper protocol's convex program on 50,000 CIFAR-10 images: 1,024 Gaussian gates of raw 6x6
patches, stride 4, one pooling cell, squared loss; SGD with the protocol's settings (batches of
1,000, rate 5e-4, momentum 0.9). Against it, solver cg with a small preconditioner, on the same
images and gates: its clock runs from pixels, over sketch, coarse start and every pass, until its
training loss is at or below SGD's. The program is the same but for (beta/2) |V|^2, which SGD does
without; what is compared is the training loss alone.

    python benchmarks/sgd_race.py --root DATA [--epochs 100] [--limit N] [--rank R] [--beta B]

SGD's final loss is the lower of two: over all images after the last step, and the mean over the
last epoch's mini-batches. cg runs twice: once to see after how many passes it gets there, and once
for that many passes, which is timed, and whose loss is measured on all images in float64.
All times are given by the clock and by processor time per core; the target is on the clock.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from record import write_record
from stopwatch import Stopwatch

from convexcnn.data import ImageScaler, load_dataset
from convexcnn.environment import machine, peak_memory_bytes, versions
from convexcnn.models.paper import LOSS_SCALE
from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.float32 import fast_float32
from convexcnn.patches.gates import gaussian_gates
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.patches.whiten import identity_transform
from convexcnn.programs.gated import GatedProgram
from convexcnn.programs.losses import SquaredLoss
from convexcnn.solvers.matrix_free import MatrixFree
from convexcnn.solvers.passes import feature_blocks
from convexcnn.solvers.ridge.refinement import ExactRidge
from convexcnn.solvers.sgd import SGD

GATES, BATCH, RATE, MOMENTUM = 1024, 1000, 1e-4 * LOSS_SCALE, 0.9
TARGET = 1 / 20


class Reached(Exception):
    """The training loss is low enough."""


def make_features(stream: ImageStream) -> GatedFeatures:
    """The gates of both racers, drawn from the same seed."""
    channels, height, width = (int(size) for size in stream.images.shape[1:])
    geometry = PatchGeometry((channels, height, width), 6, stride=4)
    transform = identity_transform(geometry.patch_dim)
    generator = torch.Generator().manual_seed(0)
    return GatedFeatures(geometry, transform, gaussian_gates(GATES, geometry, transform, generator))


def descend(stream: ImageStream, epochs: int) -> dict[str, Any]:
    """SGD: its time, and its training loss at the end."""
    watch = Stopwatch()
    features = make_features(stream)
    program = GatedProgram(features, stream.n_classes, SquaredLoss())
    per_epoch = -(-len(stream) // BATCH)
    solver = SGD(epochs, BATCH, RATE, MOMENTUM, log_every=per_epoch)

    def show(event: dict[str, Any]) -> None:
        print(event, watch.read(), flush=True)

    events = solver.solve(
        program, stream, generator=torch.Generator().manual_seed(0), callback=show
    )
    seconds = watch.read()
    loss = sum(
        0.5 * float((targets - phi @ program.weights.T - program.bias).square().sum())
        for _, phi, targets in feature_blocks(features, [stream])
    )
    return {
        "seconds": seconds,
        "epochs": epochs,
        "loss_over_all_images": loss / len(stream),
        "loss_over_last_epoch": events[-1]["train_loss"],
    }


def race(stream: ImageStream, beta: float, rank: int, passes: int, goal: float) -> dict[str, Any]:
    """cg from pixels, for at most so many passes, or until its loss is at the goal."""
    watch = Stopwatch()
    events: list[dict[str, Any]] = []
    solver = MatrixFree([beta], rank=rank, max_iterations=passes, chunk=500)
    features = make_features(stream)

    def record(event: dict[str, Any]) -> None:
        events.append({**event, "seconds": watch.read()})
        print(events[-1], flush=True)
        if event.get("loss", 1.0) <= goal:
            raise Reached

    try:
        solution = solver.solve(features, stream, None, record)
    except Reached:
        return {"passes": events[-1]["step"], "seconds": events[-1]["seconds"]}
    seconds = next(event["seconds"] for event in events if event["phase"] == "path")
    loss = ExactRidge(features, [stream], beta).measure(solution.weights).loss
    return {"passes": passes, "seconds": seconds, "loss": loss, "events": events}


def main() -> int:
    """Race, print and write; return 1 if a number was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--limit", type=int, help="use only the first N images")
    parser.add_argument("--rank", type=int, default=20)
    parser.add_argument("--beta", type=float, default=1e-4)
    parser.add_argument("--goal", type=float, help="training loss to reach; without it, SGD runs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/sgd_race.json"))
    arguments = parser.parse_args()
    dataset = load_dataset("cifar10", root=arguments.root)
    images = dataset.train.images[: arguments.limit]
    stream = ImageStream(
        images, dataset.train.labels[: arguments.limit], 10, ImageScaler.fit(images, centre=True)
    )
    with torch.no_grad(), fast_float32():
        if arguments.goal is None:
            sgd = descend(stream, arguments.epochs)
            goal = min(sgd["loss_over_all_images"], sgd["loss_over_last_epoch"])
        else:
            sgd = {"seconds": {"clock": float("nan"), "processor": float("nan")}}
            goal = arguments.goal
        scout = race(stream, arguments.beta, arguments.rank, 100, goal)
        cg = race(stream, arguments.beta, arguments.rank, scout["passes"], 0.0)
    ratio = {kind: cg["seconds"][kind] / seconds for kind, seconds in sgd["seconds"].items()}
    result = {
        "claim": __doc__.splitlines()[0].removeprefix("Claim: "),
        "images": len(stream),
        "gates": GATES,
        "sgd": sgd,
        "cg": {"rank": arguments.rank, "beta": arguments.beta, "first_run": scout, **cg},
        "ratio": ratio,
        "target": TARGET,
        "reached": ratio["clock"] <= TARGET and cg["loss"] <= goal,
        "peak_memory_gb": round(peak_memory_bytes() / 1e9, 2),
        "versions": versions(),
        "machine": machine(),
    }
    return write_record(result, arguments.out)


if __name__ == "__main__":
    sys.exit(main())
