"""The solver that suits a program is chosen from a table, with its reason and its memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from convexcnn.errors import SettingError
from convexcnn.programs.kind import ProgramKind
from convexcnn.solvers import direct, kernel, matrix_free
from convexcnn.solvers.choose import (
    NEEDED,
    PREFERENCES,
    ProblemSize,
    affordable_gates,
    choose_solver,
    needed_gb,
    rows_at_once,
)
from convexcnn.solvers.registry import BETA_SOLVERS, RIDGE_SOLVERS, solvers_for

RIDGE = ProgramKind()
GROUP = ProgramKind("gated", "group")
LOGISTIC = ProgramKind("gated", "l2", "cross_entropy")
NUCLEAR = ProgramKind("gated", "nuclear")
CONES = ProgramKind("relu", "group")

SMALL = ProblemSize(rows=200, patches=9, cells=4, gates=4, dim=6, classes=3)
WIDE = ProblemSize(rows=200, patches=9, cells=4, gates=64, dim=49, classes=3)
FEW = ProblemSize(rows=160, patches=64, cells=4, gates=6, dim=11, classes=10)
CIFAR = ProblemSize(rows=100_000, patches=196, cells=4, gates=48, dim=49, classes=10)

CHOICES = [
    (RIDGE, SMALL, 1e-6, "direct", "96 features are fewer than 200 images"),
    (RIDGE, WIDE, 1e-6, "kernel", "12,544 features are more than 200 images"),
    (RIDGE, CIFAR, 1e-6, "direct", "Gram matrix"),
    (RIDGE, SMALL, 1e-9, "interior-point", "Newton steps"),
    (GROUP, SMALL, 1e-3, "multiple-kernel", "matrices of side 96"),
    (GROUP, WIDE, 1e-3, "multiple-kernel", "matrices of side 200"),
    (LOGISTIC, SMALL, 1e-3, "lbfgs", "96 features of 200 images fit in memory"),
    (LOGISTIC, FEW, 1e-3, "lbfgs", "264 features of 160 images fit in memory"),
    (LOGISTIC, SMALL, 1e-6, "interior-point", "Newton steps"),
    (LOGISTIC, WIDE, 1e-3, "interior-point", "matrices of side 200"),
    (NUCLEAR, SMALL, 1e-3, "admm", "one factor with side 96"),
    (NUCLEAR, SMALL, 1e-9, "fista", "every gated program"),
    (CONES, SMALL, 1e-3, "interior-point", "Newton steps"),
]


@pytest.mark.parametrize(("kind", "size", "tolerance", "solver", "words"), CHOICES, ids=str)
def test_the_choice_and_its_reason(kind, size, tolerance, solver, words):
    choice = choose_solver(kind, size, 1000.0, tolerance)
    assert choice.solver == solver
    assert words in choice.reason
    assert choice.solver in solvers_for(kind)


def test_where_the_first_choice_does_not_fit_the_next_one_does():
    needed = {name: needed_gb(name, SMALL, RIDGE) for name in solvers_for(RIDGE)}
    budget = sorted(needed.values())[0] * 1.01
    choice = choose_solver(RIDGE, SMALL, budget, 1e-6)
    assert needed[choice.solver] <= budget


@pytest.mark.parametrize("kind", [RIDGE, GROUP, NUCLEAR, CONES, LOGISTIC], ids=str)
def test_what_fits_nowhere_is_refused_with_what_to_change(kind):
    with pytest.raises(SettingError, match=r"need .* GB .*; lower n_gates \(now 48\)"):
        choose_solver(kind, CIFAR, 1e-6, 1e-3)


def test_a_solver_that_no_table_names_can_be_chosen():
    choice = choose_solver(NUCLEAR, SMALL, 10.0, 1e-3, ["newcomer"])
    assert choice.solver == "newcomer"
    assert "fit in memory (newcomer)" in choice.reason


@pytest.mark.parametrize("solver", [*RIDGE_SOLVERS, *BETA_SOLVERS])
def test_memory_grows_with_the_problem(solver):
    for kind in (RIDGE, GROUP, CONES):
        assert 0 < needed_gb(solver, SMALL, kind) < needed_gb(solver, CIFAR, kind)


def test_ridge_solvers_say_themselves_what_they_need():
    for name, module in (("direct", direct), ("kernel", kernel), ("cg", matrix_free)):
        own = module.needed_gb(200, 96, 3, chunk=rows_at_once(96, 0))
        assert needed_gb(name, SMALL, RIDGE) == pytest.approx(own)


def test_rows_at_once_fill_what_is_to_spare():
    assert rows_at_once(50_000) == rows_at_once(50_000, 100) == 2500
    assert rows_at_once(50_000, 0.3) == rows_at_once(50_000, 0) == 500
    assert rows_at_once(50_000, 0.61) == 1016
    assert rows_at_once(10) == 4000
    assert rows_at_once(10**7, 0) == 100


def test_a_preconditioner_takes_the_rank_that_fits():
    needed = [matrix_free.needed_gb(10**5, 10**5, 10, rank=rank) for rank in (200, 300)]
    assert matrix_free.affordable_rank(10**5, needed[1] - needed[0]) in (299, 300)
    assert matrix_free.affordable_rank(10**5, -1.0) == 200
    assert matrix_free.affordable_rank(10**5, 99.0) == 1000


def test_ridge_regression_that_fits_nowhere_reads_the_images_again():
    large = ProblemSize(rows=100_000, patches=196, cells=4, gates=512, dim=49, classes=10)
    choice = choose_solver(RIDGE, large, 9.0, 1e-6)
    assert choice.solver == "cg"
    assert "reads the images again" in choice.reason


def test_as_many_gates_as_fit():
    budget = needed_gb("direct", CIFAR, RIDGE)
    assert affordable_gates(RIDGE, CIFAR, budget, ["direct"]) == 48
    fewer = affordable_gates(RIDGE, CIFAR, budget / 4, ["direct"])
    assert 1 < fewer < 48
    assert affordable_gates(RIDGE, CIFAR, 1e-9, ["direct"]) == 1


def test_every_solver_has_its_place_in_the_table():
    names = [preference.solver for preference in PREFERENCES]
    assert len(names) == len(set(names))
    assert {*RIDGE_SOLVERS, *BETA_SOLVERS, *NEEDED} <= set(names)


@pytest.mark.parametrize(
    ("kind", "size", "solver"),
    [
        (GROUP, CIFAR, "admm"),
        (LOGISTIC, CIFAR, "admm"),
        (NUCLEAR, CIFAR, "admm"),
        (CONES, CIFAR, "cone-columns"),
    ],
    ids=str,
)
def test_large_programs_go_to_solvers_that_need_not_gather_phi(kind, size, solver):
    everything = ["interior-point", "multiple-kernel", "fista", "admm", "cone-columns"]
    able = [name for name in everything if (name == "cone-columns") == (kind is CONES)]
    assert choose_solver(kind, size, 9.0, 1e-3, able).solver == solver


def test_cross_entropy_with_l2_keeps_phi_in_memory_where_it_fits():
    needed = needed_gb("lbfgs", CIFAR, LOGISTIC)
    assert needed >= 4e-9 * CIFAR.rows * CIFAR.features  # Phi in float32
    choice = choose_solver(LOGISTIC, CIFAR, 1.01 * needed, 1e-3)
    assert choice.solver == "lbfgs"
    assert "9,408 features of 100,000 images fit in memory" in choice.reason
    assert choose_solver(LOGISTIC, CIFAR, 0.99 * needed, 1e-3).solver == "admm"
    assert choose_solver(LOGISTIC, CIFAR, 1.01 * needed, 1e-6).solver == "admm"
    assert choose_solver(RIDGE, CIFAR, 1.01 * needed, 1e-6).solver == "direct"


def test_the_nuclear_norm_descends_on_factors_where_no_matrix_fits():
    names = ["fista", "admm", "burer-monteiro"]
    choice = choose_solver(NUCLEAR, CIFAR, 0.7, 1e-3, names)
    assert choice.solver == "burer-monteiro"


@pytest.mark.parametrize(
    ("kind", "size", "solver", "why"),
    [
        (RIDGE, SMALL, "direct", "Gram matrix"),
        (RIDGE, WIDE, "direct", "a sum over the images of 2 processes"),
        (GROUP, SMALL, "fista", "every gated program"),
        (LOGISTIC, CIFAR, "lbfgs", "quasi-Newton"),
    ],
)
def test_processes_share_images_with_some_solvers_only(
    kind: ProgramKind, size: ProblemSize, solver: str, why: str
) -> None:
    chosen = choose_solver(kind, replace(size, processes=2), 100.0, 1e-3)
    assert chosen.solver == solver
    assert why in chosen.reason


def test_no_processes_share_the_images_of_cones() -> None:
    assert solvers_for(CONES, shared=True) == []
    assert set(solvers_for(RIDGE, shared=True)) == {"direct", "cg", "lbfgs", "fista"}
