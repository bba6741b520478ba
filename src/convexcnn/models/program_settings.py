"""Which program and which solver: everything about them that can be refused before any work."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any

from convexcnn.data.limits import budget_bytes
from convexcnn.distributed import current
from convexcnn.errors import SettingError
from convexcnn.patches.float32 import LARGEST
from convexcnn.programs.kind import POOLINGS, ProgramKind
from convexcnn.programs.losses import LOSSES
from convexcnn.programs.regularisers import REGULARISERS
from convexcnn.solvers.choose import (
    ProblemSize,
    affordable_gates,
    check_memory,
    choose_solver,
    needed_gb,
    rows_at_once,
)
from convexcnn.solvers.matrix_free import affordable_rank
from convexcnn.solvers.path import PathSolver
from convexcnn.solvers.registry import BETA_SOLVERS, RIDGE_SOLVERS, beta_solver, solvers_for
from convexcnn.solvers.sgd import SGD
from convexcnn.solvers.warm_path import BetaSolver, WarmPath

FORMULATIONS = ("gated", "relu", "relu-penalised")
SOLVERS = ("auto", *RIDGE_SOLVERS, *BETA_SOLVERS, "sgd")
DEFAULT_GATES = 128

RIDGE_TOLERANCE, TOLERANCE = 1e-6, 1e-3
"""Default relative duality gaps: of ridge regression, and of all other programs."""


@dataclass(frozen=True)
class ProgramSettings:
    """The parameters of an estimator that say which program is solved, and how.

    Args:
        formulation: ``gated``, ``relu`` or ``relu-penalised``.
        regulariser: ``l2``, ``group`` or ``nuclear``.
        loss: ``squared`` or ``cross_entropy``.
        solver: one of ``SOLVERS``, or a solver.
        tolerance: relative duality gap; None for the default of the program.
        betas: weights of the regulariser; None for a path that fits the data.
        memory_gb: memory that the solver may use, in every process; None for a part of the
            machine's.
        pool: ``average`` or ``max``.
    """

    formulation: str
    regulariser: str
    loss: str
    solver: str | PathSolver | BetaSolver | SGD
    tolerance: float | None
    betas: float | Sequence[float] | None
    memory_gb: float | None
    pool: str = "average"

    @property
    def descends(self) -> bool:
        """Whether SGD trains, without a guarantee."""
        return self.solver == "sgd" or isinstance(self.solver, SGD)

    @cached_property
    def kind(self) -> ProgramKind:
        """The convex program; of ``relu-penalised``, the one without its penalty."""
        formulation = "gated" if self.formulation == "relu-penalised" else self.formulation
        return ProgramKind(formulation, self.regulariser, self.loss, pooling=self.pool)

    @cached_property
    def able(self) -> list[str]:
        """Solvers of the program, which the processes of this job can share."""
        return solvers_for(self.kind, shared=current().size > 1)

    @property
    def gap(self) -> float:
        """The relative duality gap to solve to."""
        default = RIDGE_TOLERANCE if self.kind.is_ridge else TOLERANCE
        return default if self.tolerance is None else self.tolerance

    @property
    def beta_values(self) -> list[float]:
        if self.betas is None:
            return [0.0]
        given: Any = self.betas
        values = [given] if isinstance(given, Real) else list(given)
        return [float(value) for value in values]

    @property
    def one_beta(self) -> bool:
        """Whether there is nothing to choose."""
        return self.betas is not None and len(self.beta_values) == 1

    @property
    def holds_out(self) -> bool:
        """Whether held-out images choose beta."""
        return not self.one_beta and not self.descends

    @property
    def memory_budget_gb(self) -> float:
        return 1e-9 * budget_bytes(self.memory_gb)

    def check(self) -> None:
        """Refuse what cannot work.

        Raises:
            SettingError: a value that is not known, or a solver that cannot solve the program;
                it names those that can.
        """
        self.check_names()
        if isinstance(self.solver, str):
            _check_choice("solver", self.solver, SOLVERS)
        elif not isinstance(self.solver, (PathSolver, BetaSolver, SGD)):
            raise SettingError(
                f"solver {self.solver!r} is neither a name nor a solver; choose one of "
                f"{', '.join(SOLVERS)}"
            )
        for name in ("tolerance", "memory_gb"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= LARGEST:
                raise SettingError(f"{name} is {value}; give a positive number")
        self._check_solver()
        self._check_betas()

    def check_names(self) -> None:
        """Refuse a formulation, regulariser, loss or pooling that there is none of.

        Raises:
            SettingError: it names those that there are.
        """
        for name, known in {
            "formulation": FORMULATIONS,
            "regulariser": tuple(REGULARISERS),
            "loss": tuple(LOSSES),
            "pool": POOLINGS,
        }.items():
            _check_choice(name, getattr(self, name), known)

    def _check_solver(self) -> None:
        if self.formulation == "relu-penalised" and not self.descends:
            raise SettingError(
                f"formulation relu-penalised is trained by solver sgd only, not by "
                f"{solver_name(self.solver)}; its exact form is formulation relu"
            )
        able = self.able
        if self.descends:
            if self.formulation == "relu" or self.regulariser != "l2":
                raise SettingError(
                    f"solver sgd cannot solve {self.kind}; use solver "
                    f"{' or '.join(('auto', *able))}"
                )
            if self.tolerance is not None:
                raise SettingError("tolerance has no meaning for solver sgd; leave it out")
            return
        self._check_processes()
        if isinstance(self.solver, BetaSolver):
            self.solver.check(self.kind)
        elif isinstance(self.solver, PathSolver):
            handled = self.solver.handles(self.kind)
        else:
            handled = self.solver == "auto" or self.solver in able
        if not isinstance(self.solver, BetaSolver) and not handled:
            raise SettingError(
                f"solver {solver_name(self.solver)} cannot solve {self.kind}; use solver "
                f"{' or '.join(able)}"
            )
        if self.tolerance is not None and not isinstance(self.solver, str):
            raise SettingError(
                f"tolerance is {self.tolerance}, and the solver is an object with a tolerance of "
                f"its own; give {type(self.solver).__name__}(tolerance=...) only"
            )

    def _check_processes(self) -> None:
        """Refuse what several processes cannot share."""
        count, whole = current().size, solvers_for(self.kind)
        if count == 1:
            return
        if not self.able:
            raise SettingError(
                f"{self.kind} is solved by one process with all images, and {count} were started; "
                "start it without torchrun, or choose formulation gated"
            )
        alone = self.solver in whole and self.solver not in self.able
        if alone or not getattr(self.solver, "shares_images", True):
            raise SettingError(
                f"solver {solver_name(self.solver)} needs all images in one process, and {count} "
                f"were started; use solver {' or '.join(('auto', *self.able))}, or start it "
                "without torchrun"
            )

    def _check_betas(self) -> None:
        try:
            values = self.beta_values
        except (OverflowError, TypeError, ValueError) as error:
            raise SettingError(f"betas is {self.betas!r}; give positive numbers") from error
        sound = values and all(0 <= value <= LARGEST for value in values)
        sound = sound and not isinstance(self.betas, bool)
        if not sound or (not self.descends and self.betas is not None and 0 in values):
            raise SettingError(f"betas is {self.betas}; give positive numbers")
        if self.descends and len(values) > 1:
            raise SettingError(f"solver sgd trains at one beta, and betas has {len(values)}")
        if isinstance(self.solver, PathSolver) and self.betas is not None:
            raise SettingError(
                f"betas is {self.betas}, and the solver is an object with betas of its own; "
                f"give {type(self.solver).__name__}(betas=...) only"
            )

    def affordable_gates(self, size: ProblemSize, among: Collection[str] | None = None) -> int:
        """128 gates, or as many as the memory budget lets an exact solver have.

        Args:
            size: of the program with 128.
            among: as for ``exact_solver``.
        """
        if self.descends or not isinstance(self.solver, str):
            return size.gates
        able = [name for name in self.able if among is None or name in among]
        names = able if self.solver == "auto" else [self.solver]
        return affordable_gates(self.kind, size, self.memory_budget_gb, names)

    def exact_solver(
        self, size: ProblemSize, *, refit: bool = True, among: Collection[str] | None = None
    ) -> tuple[PathSolver, str]:
        """The solver asked for or chosen, and why it was chosen.

        Args:
            size: of the program.
            refit: as for :class:`PathSolver`; a solver object has one of its own.
            among: names that ``auto`` chooses from; None for all that solve the program.

        Raises:
            SettingError: if it does not fit into the memory.
        """
        betas = None if self.betas is None else self.beta_values
        if isinstance(self.solver, PathSolver):
            return self.solver, ""
        if isinstance(self.solver, BetaSolver):
            return WarmPath(self.solver, self.kind, betas, refit=refit), ""
        name, reason, budget = str(self.solver), "", self.memory_budget_gb
        if name == "auto":
            able = solvers_for(self.kind, shared=size.processes > 1)
            names = [name for name in able if among is None or name in among]
            choice = choose_solver(self.kind, size, budget, self.gap, names)
            name, reason = choice.solver, choice.reason
        check_memory(name, self.kind, size, budget)
        if name in BETA_SOLVERS:
            solver = beta_solver(name, self.gap, budget)
            return WarmPath(solver, self.kind, betas, refit=refit), reason
        return self._ridge_solver(name, size, betas, refit=refit), reason

    def _ridge_solver(
        self, name: str, size: ProblemSize, betas: Sequence[float] | None, *, refit: bool
    ) -> PathSolver:
        """A solver of ridge regressions that takes what the memory leaves beside what it needs."""
        spare = self.memory_budget_gb - needed_gb(name, size, self.kind)
        chunk = rows_at_once(size.features, spare)
        rest: dict[str, Any] = {"tolerance": self.gap, "chunk": chunk, "refit": refit}
        if name == "cg":
            spare -= 4e-9 * (chunk - rows_at_once(size.features, 0)) * size.features
            rest["rank"] = affordable_rank(size.features, spare)
        return RIDGE_SOLVERS[name](betas, **rest)


def solver_name(solver: str | PathSolver | BetaSolver | SGD) -> str:
    """The name that a solver goes by, be it a name or an object."""
    return solver if isinstance(solver, str) else str(getattr(solver, "name", "sgd"))


def _check_choice(name: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise SettingError(f"{name} {value!r} is not known; choose one of {', '.join(known)}")
