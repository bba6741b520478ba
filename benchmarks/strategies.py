"""Claim: a block's gates decide its accuracy; those that descent learned win at every depth.

The same stack on CIFAR-10, once per strategy of gates: same widths, images, views, seed and minutes
at most. What learns (sgd, lookahead, dual) spends the minutes as the budget is shared among blocks;
the others need no descent and end before. Held-out training images choose every beta, test images
nothing.

    python benchmarks/strategies.py --root DATA [--images N] [--budget MINUTES] [--runs runs]

writes benchmarks/results/strategies.json (machine, versions, settings, and per strategy and block:
accuracies, objective, gap, seconds) and docs/images/strategies.svg, and prints the table of
docs/layerwise.md; --table prints that of a results file without any run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from convexcnn.report.beside import stacks_chart
from convexcnn.report.line_chart import chart_files
from convexcnn.report.results import FitResult
from convexcnn.report.run_files import read_run

HERE = Path(__file__).parent
STRATEGIES = ("gaussian", "patches", "dual", "sgd", "lookahead")
SHARED = ("data", "versions", "machine", "seed")
Result = dict[str, Any]


def train(strategy: str, arguments: argparse.Namespace) -> tuple[Path, str]:
    """Run the command line once; return the folder of the run and the command."""
    command = ["fit", "cifar10", "--model", "layerwise", "--blocks", arguments.blocks]
    command += ["--gates", strategy, "--limit", str(arguments.images)]
    command += ["--budget", f"{arguments.budget:g}", "--seed", str(arguments.seed)]
    if arguments.n_gates is not None:
        command += ["--n-gates", str(arguments.n_gates)]
    if arguments.memory_gb is not None:
        command += ["--memory-gb", f"{arguments.memory_gb:g}"]
    run = arguments.runs / f"strategies-{strategy}"
    where = ["--out", str(run), "--overwrite"]
    if arguments.root is not None:
        where += ["--root", str(arguments.root)]
    subprocess.run([sys.executable, "-m", "convexcnn", *command, *where], check=True)
    return run, " ".join(["convexcnn", *command])


def block_summary(block: Result) -> Result:
    """What the table needs of a block, and a little more."""
    certificate, descent = block["certificate"], block["descent"]
    return {
        "gates": block["gates"],
        **{f"{part}_accuracy": block[part]["accuracy"] for part in ("train", "validation", "test")},
        "stack_validation_accuracy": block["stack"]["accuracy"],
        "beta": block["beta"],
        "objective": certificate["primal"],
        "relative_gap": certificate["relative_gap"],
        "objective_of_descent": descent["objective"] if descent else None,
        "head_weight": block["head_weight"],
        "seconds": block["seconds"],
    }


def summary(result: Result, command: str) -> Result:
    """One strategy: its blocks, and the whole stack."""
    seconds = result["seconds"] - result["phases"].get("explanations", 0)
    return {
        "command": command,
        "blocks": [block_summary(block) for block in result["blocks"]],
        "test_accuracy": result["test"]["accuracy"],
        "seconds": seconds,
        "peak_memory_bytes": result["peak_memory_bytes"],
    }


def table(record: Result) -> str:
    """Strategy x depth: test accuracy of every block's head, of all heads, gap, time."""
    depth = max(len(found["blocks"]) for found in record["strategies"].values())
    heads = [f"block {number}" for number in range(1, depth + 1)]
    lines = [f"| gates | {' | '.join(heads)} | all heads | largest gap | minutes |"]
    lines.append("|---" * (depth + 4) + "|")
    for name, found in record["strategies"].items():
        cells = [f"{100 * block['test_accuracy']:.1f} %" for block in found["blocks"]]
        cells += ["not begun"] * (depth - len(cells))
        gap = max(block["relative_gap"] for block in found["blocks"])
        cells += [f"**{100 * found['test_accuracy']:.1f} %**", f"{gap:.1e}"]
        lines.append(f"| `{name}` | {' | '.join(cells)} | {found['seconds'] / 60:.1f} |")
    return "\n".join(lines)


def picture(runs: dict[str, Path]) -> bytes:
    """Accuracy against depth, a line per strategy."""
    results = {name: read_run(folder).result for name, folder in runs.items()}
    stacks = [(name, found) for name, found in results.items() if isinstance(found, FitResult)]
    chart = stacks_chart(stacks)
    return chart_files(chart)[f"{chart.name}.svg"]


def main() -> int:
    """Train all strategies, and write results and picture once all are there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, help="folder of the official files")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--images", type=int, default=10_000, help="training images")
    parser.add_argument("--budget", type=float, default=3.0, help="minutes per strategy")
    parser.add_argument("--blocks", default="small", help="name of the stack")
    parser.add_argument("--n-gates", type=int, help="gates of every block, instead")
    parser.add_argument("--memory-gb", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES, choices=STRATEGIES)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "strategies.json")
    images = HERE.parent / "docs" / "images" / "strategies.svg"
    parser.add_argument("--picture", type=Path, default=images)
    parser.add_argument("--table", action="store_true", help="only print the table of --out")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(json.loads(arguments.out.read_text("utf-8"))))
        return 0
    record: Result = {"claim": __doc__.splitlines()[0].removeprefix("Claim: "), "strategies": {}}
    runs: dict[str, Path] = {}
    for strategy in arguments.strategies:
        runs[strategy], command = train(strategy, arguments)
        result = json.loads((runs[strategy] / "result.json").read_text("utf-8"))
        record |= {key: result[key] for key in SHARED}
        record["settings"] = {k: v for k, v in result["settings"].items() if k != "gates"}
        record["strategies"][strategy] = summary(result, command)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    arguments.picture.write_bytes(picture(runs))
    print(table(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
