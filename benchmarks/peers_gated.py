"""Claim: relative gap 2.6e-4 at least 20 times faster than scnn; 1e-2 and 2e-4 5 times than adelie.

The gated group-lasso problem of peers/problem.py (n = 1000, d = 50, 100 gates), side by side in
one run: peers in environments of their own, objectives and gaps recomputed here for everybody in
float64. Times are of solving alone, after imports; ours include the activation patterns. Processor
seconds stand beside them, which other work on the machine hardly changes. Results of several
numbers of threads share one file.

    python benchmarks/peers_gated.py [--settings quick|full] [--threads 2] [--environments DIR]

quick runs only peers' settings that take half a minute at most; full adds those that reach the
tight gaps (minutes). Without the peers: --settings ours.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENTS = Path.home() / ".cache" / "convexcnn-peers"
RELATIVE_GAPS = (1e-2, 2e-4, 1e-8)
REPEATS = 15
SCNN = {"quick": [("1e-6", "float32"), ("1e-8", "float64")], "full": [("1e-12", "float64")]}
ADELIE = {"quick": ["1e-10"], "full": ["1e-14"]}


def main() -> None:
    """Run, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", choices=["ours", "quick", "full"], default="quick")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "peers_gated.json")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # read when torch is imported
    sys.path.insert(0, str(HERE / "peers"))
    from compare import ours, peer, write_report
    from problem import gated_measures, planted_problem

    from convexcnn.solvers.multiple_kernel import MultipleKernel

    problem = planted_problem()
    ours(problem, "gated", MultipleKernel(1e-2), gated_measures, 1)  # warms libraries up
    runs = []
    for gap in RELATIVE_GAPS:
        run, _ = ours(problem, "gated", MultipleKernel(gap), gated_measures, REPEATS)
        runs.append(run)
    chosen = {"ours": [], "quick": ["quick"], "full": ["quick", "full"]}[arguments.settings]
    threads = str(arguments.threads)
    for level in chosen:
        for tolerance in ADELIE[level]:
            options = [tolerance, "50", threads]
            runs.append(peer("adelie", problem, options, gated_measures, arguments.environments))
        for tolerance, dtype in SCNN[level]:
            options = ["gated", tolerance, dtype, threads]
            runs.append(peer("scnn", problem, options, gated_measures, arguments.environments))
    claim = __doc__.splitlines()[0].removeprefix("Claim: ")
    write_report(arguments.out, claim, runs, speedups=speedups(runs))


def speedups(runs: list[dict]) -> list[dict]:
    """For every run of a peer: how much faster convexcnn reaches a gap that is no larger."""
    mine = [run for run in runs if run["solver"].startswith("convexcnn")]
    found = []
    for run in runs:
        better = [own for own in mine if own["relative_gap"] <= run["relative_gap"]]
        if run in mine or not better:
            continue
        fastest = min(better, key=lambda own: own["seconds"])
        found.append(
            {
                "peer": run["solver"],
                "settings": run["settings"],
                "relative_gap": run["relative_gap"],
                "ours_relative_gap": fastest["relative_gap"],
                "times_faster": run["seconds"] / fastest["seconds"],
                "times_less_processor": run["processor_seconds"] / fastest["processor_seconds"],
            }
        )
    return found


if __name__ == "__main__":
    main()
