"""Claim: two processes have 1.7 times the throughput of one, and 1, 2, 4 agree to 1e-6.

CIFAR-10 by the two-layer classifier (48 learned gates, squared loss with l2, a path of beta from
one Gram matrix, refitted on all images) and its float64 certificate; or, with --stack, by the stack
`small` with gates from patches, so that all programs are the same. Every process has one thread.
Throughput is images over the seconds of training and certificate, without imports and reading.
With fewer cores than processes, those of 4 share them: only their certificates say anything.
What two processes could reach at best is measured, too: two trainings at once that share nothing.

    python benchmarks/processes.py --root DATA [--limit N] [--stack] [--counts 1,2,4] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import write_record

FASTER, APART = 1.7, 1e-6
GATES = 48
"""Named, because the default may be fewer where processes share the memory of a machine."""


def train(arguments: argparse.Namespace) -> None:
    """Train as one of the processes of a job; the first one writes what came out."""
    from dataclasses import replace

    import torch

    from convexcnn import ConvexConvClassifier, LayerwiseConvexCNN, load_dataset
    from convexcnn.distributed import job
    from convexcnn.environment import peak_memory_bytes
    from convexcnn.models.stack_settings import read_blocks

    torch.set_num_threads(1)
    limit = arguments.limit
    split = load_dataset("cifar10", root=arguments.root, limit=limit).train
    with job() as processes:
        processes.total(0.0)  # all have read their images
        start = time.perf_counter()
        if arguments.stack:
            blocks = [replace(block, gates="patches") for block in read_blocks("small", None)]
            stack = LayerwiseConvexCNN(blocks=blocks).fit(split.images, split.labels)
            certificates = [block.certificate for block in stack.blocks_]
            phases = {}
            for number, block in enumerate(stack.blocks_, 1):
                phases |= {f"block {number}: {name}": s for name, s in block.seconds.items()}
        else:
            model = ConvexConvClassifier(n_gates=GATES, solver="direct")
            model.fit(split.images, split.labels)
            fitted = time.perf_counter()
            certificates = [model.certify(split.images, split.labels)]
            phases = model.solution_.seconds | {"certificate": time.perf_counter() - fitted}
        seconds = time.perf_counter() - start
    if processes.writes:
        found = {
            "processes": processes.size,
            "seconds": seconds,
            "images_per_second": len(split) / seconds,
            "phases": phases,
            "peak_memory_gb_of_one": peak_memory_bytes() / 1e9,
            "certificates": [certificate.to_dict() for certificate in certificates],
        }
        arguments.out.write_text(json.dumps(found), "utf-8")


def run(count: int, arguments: argparse.Namespace, at_once: int = 1) -> list[dict[str, Any]]:
    """Train with so many processes of one thread each; so many such trainings side by side."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    words = [*(launcher if count > 1 else []), __file__, "--train"]
    words += ["--root", str(arguments.root)] if arguments.root else []
    words += ["--limit", str(arguments.limit)] if arguments.limit else []
    words += ["--stack"] if arguments.stack else []
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / f"{number}.json" for number in range(at_once)]
        trainings = [
            subprocess.Popen([sys.executable, *words, "--out", str(out)], env=environment)
            for out in places
        ]
        codes = [training.wait() for training in trainings]
        if any(codes):
            raise SystemExit("a training failed")
        found = [json.loads(out.read_text("utf-8")) for out in places]
    print(json.dumps(found, indent=1), flush=True)
    return found


def apart(runs: list[dict[str, Any]]) -> float:
    """The largest relative difference of a bound from that of the first run."""
    first = runs[0]["certificates"]
    return max(
        abs(certificate[bound] - expected[bound]) / abs(expected[bound])
        for found in runs
        for certificate, expected in zip(found["certificates"], first, strict=True)
        for bound in ("primal", "dual")
    )


def main() -> int:
    """Measure, print and write; return 1 if a number was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path)
    parser.add_argument("--limit", type=int, help="use only N images")
    parser.add_argument("--stack", action="store_true", help="train a stack")
    parser.add_argument("--counts", default="1,2,4", help="numbers of processes")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/processes.json"))
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        train(arguments)
        return 0
    from convexcnn.environment import machine, versions

    runs = [run(int(count), arguments)[0] for count in arguments.counts.split(",")]
    rates = {found["processes"]: found["images_per_second"] for found in runs}
    checks = [("largest relative difference of a bound", apart(runs), "at_most", APART)]
    unshared = None
    if {1, 2} <= rates.keys():
        both = run(1, arguments, at_once=2)
        unshared = sum(found["images_per_second"] for found in both) / rates[1]
        checks.append(("throughput of 2 processes / 1", rates[2] / rates[1], "at_least", FASTER))
    result = {
        "claim": __doc__.splitlines()[0].removeprefix("Claim: "),
        "model": "stack" if arguments.stack else "two-layer",
        "images": arguments.limit or 50_000,
        "runs": runs,
        "throughput_of_two_that_share_nothing": unshared,
        "targets": [
            {
                "name": name,
                bound: limit,
                "value": value,
                "reached": value <= limit if bound == "at_most" else value >= limit,
            }
            for name, value, bound, limit in checks
        ],
        "versions": versions(),
        "machine": machine(),
    }
    return write_record(result, arguments.out)


if __name__ == "__main__":
    sys.exit(main())
