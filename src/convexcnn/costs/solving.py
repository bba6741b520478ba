"""The phases of every solver: its steps counted from its mathematics, or a named, measured number.

Phases have the names under which a run reports their seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from convexcnn.costs import counts
from convexcnn.costs.problem import PROBED_ROWS, Problem, dense, moved, thin
from convexcnn.costs.work import Phase, Work, repeated
from convexcnn.models.time_plan import EVALUATIONS
from convexcnn.solvers.linear_algebra.cholesky import BAND, BLOCK
from convexcnn.solvers.matrix_free import COARSE, RANK, TOGETHER
from convexcnn.solvers.path import DEFAULT_PATH, PATH_TOLERANCE
from convexcnn.solvers.ridge.refinement import MEASURE_VECTORS
from convexcnn.solvers.warm_path import NORM_PATH

REFIT_STEPS = 8
"""Conjugate gradients from the optimum without the held-out images to the one with them."""

MEASURES = {"direct": 1, "kernel": 2, "cg": 2}
"""Float64 passes that refinement takes; there is a correction between two of them."""

BASIS_PASSES = 8
"""Times that a Lanczos vector moves to be orthogonal to another one."""

CG_PASSES = 25
"""Passes over the images for every group of betas of matrix-free conjugate gradients."""

ADMM_PASSES, ADMM_STEPS = 10, 20
"""Passes over the images for a beta, and steps between two of them."""

FISTA_STEPS = 200
"""Steps of accelerated gradients for a beta."""

POWER_STEPS = 20
"""Products with Phi' Phi that find its largest eigenvalue."""

UNFORESEEN = "how many steps it takes depends on the data: the time is a lower bound"


@dataclass(frozen=True)
class Path:
    """How many betas there are, and how far the last is from the middle of the path.

    Args:
        betas: how many.
        ratio: of the largest to the one in the (geometric) middle.
    """

    betas: int
    ratio: float

    @property
    def steps(self) -> int:
        """Steps of Lanczos that serve the whole path."""
        return counts.lanczos_steps(self.ratio, PATH_TOLERANCE)

    @property
    def steps_of_one(self) -> int:
        """Steps for the beta that is chosen, often half as far from the middle."""
        return counts.lanczos_steps(self.ratio**0.5, PATH_TOLERANCE)

    @classmethod
    def of(cls, problem: Problem, default: tuple[float, ...] = DEFAULT_PATH) -> Path:
        values = problem.betas or default
        return cls(len(values), (max(values) / min(values)) ** 0.5)


def direct(problem: Problem) -> list[Phase]:
    """Ridge regression from the Gram matrix: n m^2, m^3 / 3, and 2 m^2 k per Lanczos step."""
    rows, m, k, path = problem.rows, problem.size, problem.classes, Path.of(problem)
    held = 4.0 * m**2
    memory = 2 * held + 4.0 * problem.chunk * m
    vectors = _path_bytes(problem, m)
    factor = [moved(12.0 * m**2, divides=False), *_factorisation(m)]
    phases = [
        Phase("statistics", tuple(_statistics(problem, rows.train)), memory - held),
        Phase("factorisation", tuple(factor), memory),
        Phase("path", tuple(_lanczos(m, k, path.steps, path.betas)), memory + vectors),
    ]
    conjugate = [*_solves(m, k, REFIT_STEPS), thin(m, m, k, times=REFIT_STEPS, divides=False)]
    if rows.held_out:
        scores = [*problem.build(rows.plain), problem.thin(rows.plain, k * path.betas)]
        phases.append(Phase("validation", tuple(scores), memory + vectors))
        if problem.refit:
            refit = [*_statistics(problem, rows.held_out), *conjugate]
            phases.append(Phase("refit", tuple(refit), memory + vectors))
    passes = rows.all if problem.refit else rows.train
    refinement = _measure(problem, passes, MEASURES["direct"])
    return [*phases, Phase("refinement", tuple(refinement), memory + vectors)]


def kernel(problem: Problem) -> list[Phase]:
    """Ridge regression from the kernel: n^2 m, n^3 / 3, and 2 n^2 k per Lanczos step."""
    rows, k, path = problem.rows, problem.classes + 1, Path.of(problem)
    n, half = rows.all, max(1, problem.chunk // 2)
    pairs = counts.kernel_columns(n, problem.chunk)
    made = [
        *problem.build(counts.kernel_rebuilt(n, problem.chunk)),
        dense(2.0 * problem.size * pairs, problem.size, min(half, n)),
    ]
    # Above the diagonal, further away than the bands reach, the kernel is never touched.
    memory = 4.0 * (0.5 * n**2 + 0.5 * BAND * n + 1.5 * problem.chunk * problem.size)
    vectors = _path_bytes(problem, n)
    phases = [
        Phase("kernel", tuple(made), memory),
        Phase("factorisation", tuple(_factorisation(n)), memory),
        Phase("path", tuple(_lanczos(rows.train, k, path.steps, path.betas)), memory + vectors),
    ]
    if rows.held_out and problem.refit:
        trailing = thin(n, n, k, times=0.5 * path.betas, divides=False)
        refit = (trailing, *_lanczos(n, k, path.steps_of_one, 1))
        phases.append(Phase("refit", refit, memory + vectors))
    once = [*problem.build(n, double=True), problem.thin(n, k, double=True)]
    corrections = repeated([*_lanczos(n, k, path.steps_of_one, 1), *once], MEASURES["kernel"] - 1)
    refinement = [*once, *_measure(problem, n, MEASURES["kernel"]), *corrections]
    return [*phases, Phase("refinement", tuple(refinement), memory + vectors)]


def matrix_free(problem: Problem) -> list[Phase]:
    """Ridge regression by conjugate gradients: Phi again, and 4 n m c operations, per pass."""
    rows, m, k, path = problem.rows, problem.size, problem.classes, Path.of(problem)
    rank, coarse = min(RANK, m), min(COARSE, m)
    patchwise = problem.shape is not None  # else the path starts at zero
    memory = 4.0 * (problem.chunk + 4 * rank) * m + _path_bytes(problem, m)
    memory += 8.0 * coarse**2 if patchwise else 0.0
    sketched = counts.product(rows.train, m, 2 * rank + k)
    orthogonal = dense(8.0 * m * rank**2, rank, rank, divides=False)
    sketch = [*problem.build(rows.train), dense(sketched, m, rank), orthogonal]
    start = [
        *problem.build(rows.train),
        dense(counts.gram(rows.train, coarse), PROBED_ROWS, coarse),
    ]
    start = [*start, *_factorisation(coarse)] if patchwise else []
    columns, groups = TOGETHER * k, -(-path.betas // TOGETHER)
    one = [*problem.build(rows.train), problem.thin(rows.train, columns, times=2)]
    one.append(thin(m, rank, columns, times=2, divides=False))
    walked = repeated(one, CG_PASSES * groups)
    passes = rows.all if problem.refit else rows.train
    last = repeated([*problem.build(passes), problem.thin(passes, k, times=2)], CG_PASSES)
    return [
        Phase("sketch", tuple(sketch), memory),
        Phase("coarse start", tuple(start), memory),
        Phase("path", tuple(walked), memory),
        Phase("refinement", (*_measure(problem, passes, MEASURES["cg"]), *last), memory),
    ]


def lbfgs(problem: Problem) -> list[Phase]:
    """Quasi-Newton steps: 4 n m k operations on Phi in memory and 2 m^2 k per evaluation."""
    rows, m, k, path = problem.rows, problem.size, problem.classes, Path.of(problem)
    kept = rows.all if problem.refit and rows.held_out else rows.train
    metric = dense(counts.metric_gram(kept, m), PROBED_ROWS, m)
    prepared = [*problem.build(kept), metric, problem.thin(kept, k, times=2)]
    prepared.append(moved(16.0 * kept * m))
    memory = 4.0 * kept * m + 20.0 * m**2 + 8.0 * 6 * kept * k

    def solve(n: int, times: int) -> list[Work]:
        evaluations = times * EVALUATIONS
        return [
            dense(times * m**3 / 3, BLOCK, m, double=True, divides=False),
            problem.thin(n, k, times=2 * evaluations),
            thin(m, m, k, double=True, times=evaluations, divides=False),
            moved(8.0 * 10 * n * k * evaluations),
        ]

    walked = solve(rows.train, path.betas) + _held_out(problem, path.betas)
    phases = [
        Phase("preparation", tuple(prepared), memory),
        Phase("path", tuple(walked), memory),
    ]
    if rows.held_out and problem.refit:
        phases.append(Phase("refit", tuple(solve(kept, 1)), memory))
    return phases


def admm(problem: Problem) -> list[Phase]:
    """One factor for all betas, 2 s^2 k operations per step on its side s, and passes over Phi."""
    rows, m, k = problem.rows, problem.size, problem.classes
    path = Path.of(problem, NORM_PATH)
    n = rows.all
    side = min(m, n)
    if m <= n:
        made = [*problem.build(n), dense(counts.gram(n, m, BLOCK), problem.chunk, min(m, BLOCK))]
        memory = 4.0 * m * (m + BAND)
    else:
        made = [*problem.build(counts.kernel_rebuilt(n, problem.chunk))]
        made.append(dense(2.0 * m * counts.kernel_columns(n, problem.chunk), m, problem.chunk))
        memory = 8.0 * n**2
    memory += 4.0 * (problem.chunk * m + 8 * k * m)
    step = _solves(side, k, ADMM_STEPS) + (
        [problem.thin(n, k, times=2 * ADMM_STEPS)] if m > n else []
    )
    one = [*step, *problem.build(rows.train), problem.thin(rows.train, k, times=2)]
    walked = repeated(one, ADMM_PASSES * path.betas)
    return [
        Phase("preparation", (*made, *_factorisation(side)), memory),
        Phase("path", (*walked, *_held_out(problem, path.betas)), memory),
        *_again(problem, repeated(one, ADMM_PASSES), memory),
    ]


def fista(problem: Problem, memory_gb: float, places: int, per_place: int) -> list[Phase]:
    """Accelerated gradients: 4 n m k operations per step, in memory or on Phi made again.

    Args:
        problem: which program.
        memory_gb: what all of Phi may need.
        places: patches of an image, sorted by cell.
        per_place: numbers that are kept of each, g + d.
    """
    rows, m, k = problem.rows, problem.size, problem.classes
    path = Path.of(problem, NORM_PATH)
    n = rows.train
    gathered = 8.0 * n * (2 * m + places * per_place)
    in_memory = 1e-9 * gathered <= memory_gb
    products = problem.thin(n, k, double=True, times=2)
    once = [products] if in_memory else [*problem.build(n), products]
    power = [problem.thin(n, 1, double=True, times=2 * POWER_STEPS)]
    if not in_memory:
        power += problem.build(n * POWER_STEPS)
    memory = gathered if in_memory else 8.0 * m * k * 8
    walked = repeated(once, FISTA_STEPS * path.betas)
    return [
        Phase("preparation", (*problem.build(n, double=in_memory), *power), memory),
        Phase("path", (*walked, *_held_out(problem, path.betas)), memory),
        *_again(problem, repeated(once, FISTA_STEPS), memory),
    ]


def unforeseen(name: str) -> Callable[[Problem, float], list[Phase]]:
    """A solver whose steps no formula foresees: what it gathers, and its memory."""

    def phases(problem: Problem, needed: float) -> list[Phase]:
        rows = problem.rows
        gathered = tuple(problem.build(rows.train, double=True))
        return [
            Phase("preparation", gathered, needed),
            Phase("path", (), needed, known=False, note=f"{name}: {UNFORESEEN}"),
        ]

    return phases


def _statistics(problem: Problem, rows: int) -> list[Work]:
    """Phi, the lower bands of Phi' Phi, and Phi' Y."""
    m = problem.size
    flops = counts.gram(rows, m)
    return [
        *problem.build(rows),
        dense(flops, min(problem.chunk, rows), m),
        problem.thin(rows, problem.classes),
    ]


def _factorisation(size: int) -> list[Work]:
    """Products of the blocked factorisation, and LAPACK's share in its diagonal blocks."""
    pivots = 2 * size * min(size, BLOCK) ** 2 / 3
    return [
        dense(counts.cholesky(size), BLOCK, size, divides=False),
        dense(pivots, BLOCK, min(size, BLOCK), double=True, divides=False),
    ]


def _solves(size: int, columns: int, times: int) -> list[Work]:
    """L' \\ (L \\ B): both halves of the factor are read once per solve."""
    one = thin(size, size, columns, divides=False)
    return repeated([replace(one, flops=counts.factor_solve(size, columns))], times)


def _lanczos(size: int, columns: int, steps: int, shifts: int) -> list[Work]:
    """Solves, and every new vector made orthogonal to all before it, twice."""
    vectors = 4.0 * size * columns
    orthogonal = BASIS_PASSES * steps**2 * vectors
    combined = 3.0 * shifts * steps * vectors
    return [*_solves(size, columns, steps), moved(orthogonal + combined, divides=False)]


def _measure(problem: Problem, rows: int, times: int) -> list[Work]:
    """Float64 passes: Phi, residual and slope."""
    once = [
        *problem.build(rows, double=True),
        problem.thin(rows, problem.classes, double=True, times=2),
    ]
    return repeated(once, times)


def _held_out(problem: Problem, betas: int) -> list[Work]:
    """Scores of the held-out images for every beta."""
    plain = problem.rows.plain
    return repeated([*problem.build(plain), problem.thin(plain, problem.classes)], betas)


def _again(problem: Problem, work: list[Work], memory: float) -> list[Phase]:
    """The last solution on all images."""
    if not (problem.rows.held_out and problem.refit):
        return []
    return [Phase("refit", tuple(work), memory)]


def _path_bytes(problem: Problem, size: int) -> float:
    """Vectors of Lanczos, solutions of the path, and those of a measure in float64."""
    path = Path.of(problem)
    measured = MEASURE_VECTORS * (problem.size + problem.rows.all)
    return 4.0 * problem.classes * ((path.steps + 2 * path.betas) * size + measured)
