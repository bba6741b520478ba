"""Solve the problem in an .npz file with scnn and write the weights, its gates and the seconds.

python run_scnn.py PROBLEM.npz OUT.npz gated|relu TOLERANCE float32|float64 THREADS
"""

from __future__ import annotations

import os
import sys
import time

SOURCE, OUT, PROGRAM, TOLERANCE, DTYPE, THREADS = sys.argv[1:]
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = THREADS  # read when numpy is imported

import numpy as np  # noqa: E402
from scnn.metrics import Metrics  # noqa: E402
from scnn.models import ConvexGatedReLU, ConvexReLU  # noqa: E402
from scnn.optimize import optimize_model  # noqa: E402
from scnn.regularizers import NeuronGL1  # noqa: E402
from scnn.solvers import AL, RFISTA  # noqa: E402

problem = np.load(SOURCE)
tolerance, n = float(TOLERANCE), len(problem["y"])
if PROGRAM == "gated":
    model = ConvexGatedReLU(problem["G"], c=1)
    solver = RFISTA(model, max_iters=10000, tol=tolerance)
else:
    model = ConvexReLU(problem["G"], c=1)
    solver = AL(model, max_primal_iters=10000, tol=tolerance, constraint_tol=tolerance)
start, processor = time.perf_counter(), time.process_time()
model, _ = optimize_model(
    model,
    solver,
    Metrics(metric_freq=25),
    problem["X"],
    problem["y"].reshape(-1, 1),
    regularizer=NeuronGL1(float(problem["beta"]) / n),
    return_convex=True,
    unitize_data=False,  # otherwise the penalty is one on rescaled weights
    device="cpu",
    dtype=DTYPE,
)
times = {
    "seconds": time.perf_counter() - start,
    "processor_seconds": time.process_time() - processor,
}
weights = np.stack([part[0].T for part in model.parameters[: 1 if PROGRAM == "gated" else 2]])
# scnn sorts its gates and drops those with equal patterns: weights belong to model.G.
np.savez(OUT, weights=weights.astype(np.float64), gates=model.G, **times)
