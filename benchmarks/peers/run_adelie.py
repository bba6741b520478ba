"""Solve the gated problem in an .npz file with adelie and write the weights and the seconds.

python run_adelie.py PROBLEM.npz OUT.npz TOLERANCE PATH_POINTS THREADS
"""

from __future__ import annotations

import sys
import time

import adelie as ad
import numpy as np

SOURCE, OUT, TOLERANCE, POINTS, THREADS = sys.argv[1:]
problem = np.load(SOURCE)
x, y, gates = np.asfortranarray(problem["X"]), problem["y"], problem["G"]
(n, d), g = x.shape, gates.shape[1]
on = np.asfortranarray(x @ gates >= 0)
matrix = ad.matrix.convex_relu(x, on, gated=True, n_threads=int(THREADS))
top = np.linalg.norm(x.T @ (on * y[:, None]), axis=0).max() / n
# Its default penalty is sqrt(group size) and it fits an intercept: both are turned off.
start, processor = time.perf_counter(), time.process_time()
state = ad.grpnet(
    matrix,
    ad.glm.gaussian(y),
    groups=d * np.arange(g),
    penalty=np.ones(g),
    alpha=1,
    lmda_path=np.geomspace(top, float(problem["beta"]) / n, int(POINTS)),
    tol=float(TOLERANCE),
    adev_tol=1.0,
    early_exit=False,
    intercept=False,
    n_threads=int(THREADS),
    progress_bar=False,
)
times = {
    "seconds": time.perf_counter() - start,
    "processor_seconds": time.process_time() - processor,
}
weights = state.betas[-1].toarray().reshape(g, d).T
np.savez(OUT, weights=weights, gates=gates, **times)
