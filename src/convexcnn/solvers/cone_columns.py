"""Column generation for (R): cones with any number of inequalities, which are never stored.

minimise (1/n) loss(sum_i Phi_i (V_i - W_i) + b, Y) + beta (R(V) + R(W)),  v_ic, w_ic in K_i

A master program knows some unit filters of every cone (:mod:`.cones.master`). For its residual L
the filter of cone i that helps class c most is the projection of +-Phi_i' l_c on K_i
(:mod:`.cones.projection`); it joins the master where its norm exceeds n beta, and the norms of all
projections are the dual bound. Gates come first: they are inside their own cones, and the cones
of many patches are so narrow that hardly anything else is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.programs.kind import ProgramKind
from convexcnn.programs.losses import get_loss
from convexcnn.programs.multipliers import SparseMultipliers
from convexcnn.programs.program import Program
from convexcnn.solvers.cones.master import Columns, Master
from convexcnn.solvers.cones.passes import ConePasses
from convexcnn.solvers.cones.patch_blocks import PatchBlocks
from convexcnn.solvers.cones.projection import Faces, project
from convexcnn.solvers.duality import best_quadratic, feasible_dual
from convexcnn.solvers.optimum import History, Optimum, Status
from convexcnn.solvers.result import Callback
from convexcnn.solvers.warm_path import AtBeta, BetaSolver

NEAREST_WALLS = 256
"""Inequalities per cone that projections begin with; others join when a filter breaks them."""
JOBS = 4096
RAYS_PER_ROUND = 64
RAY_ROUNDS = 30
SHARE = 0.5
"""Part of the allowed gap that is left to filters which help too little to become columns."""
STRICTEST = 1e-3
LARGEST_SHIFT = 1e-6
REPAIRS = 5


@dataclass(frozen=True)
class ConeColumns(BetaSolver):
    """Column generation, with patches in blocks.

    Args:
        tolerance: relative duality gap.
        max_iterations: at most this many rounds of projections.
    """

    tolerance: float = 1e-4
    max_iterations: int = 200

    name = "cone-columns"

    def handles(self, kind: ProgramKind) -> bool:
        return (kind.formulation, kind.pooling) == ("relu", "average")

    def prepare(
        self,
        kind: ProgramKind,
        features: GatedFeatures,
        streams: Sequence[ImageStream],
        callback: Callback | None = None,
    ) -> AtBeta:
        self.check(kind)
        cones = _Cones(PatchBlocks.from_streams(features, streams))
        return lambda beta, start: self._solve(kind, cones, beta, start, callback)

    def solve(self, program: Program, start: Optimum | None = None) -> Optimum:
        """Solve one program in memory.

        Args:
            program: (R) with any loss and regulariser.
            start: where to begin, such as the optimum at the last beta.

        Raises:
            SettingError: a program of another kind.
        """
        self.check(program.kind)
        cones = _Cones(PatchBlocks.from_program(program))
        return self._solve(program.kind, cones, program.beta, start, None)

    def _solve(
        self,
        kind: ProgramKind,
        cones: _Cones,
        beta: float,
        start: Optimum | None,
        callback: Callback | None,
    ) -> Optimum:
        history = History(self.tolerance)
        search = _Search(kind, cones, beta, self.tolerance)
        if start is not None:
            search.begin_at(start)
        search.add_rays()
        status = Status.ITERATION_LIMIT
        for _ in range(self.max_iterations):
            search.improve()
            points, dual = search.price()
            done = history.add(search.primal, dual)
            if callback is not None:
                callback({"phase": self.name, "step": len(history.rows), **history.rows[-1]})
            if done:
                status = Status.OPTIMAL
                break
            if not search.add(points) and not search.tighten():
                status = Status.STALLED
                break
        return search.optimum(status, history)


class _Cones:
    """The cones with the walls that are known so far, and the gates' own responses."""

    def __init__(self, patches: PatchBlocks) -> None:
        self.passes = ConePasses(patches)
        self.walls, self.rays = self.passes.nearest_walls(NEAREST_WALLS)
        k = patches.targets.shape[1]
        self.owner = torch.arange(self.passes.groups).repeat_interleave(2 * k)
        self.faces = Faces.empty(len(self.owner), patches.gates.shape[1])

    def project(self, slopes: Tensor, jobs: Tensor, enough: float) -> Tensor:
        """P_K(z) for jobs in ascending order, from where their last projections ended."""
        parts = []
        for chosen in torch.split(jobs, JOBS):
            faces = Faces(self.faces.active[chosen], self.faces.multipliers[chosen])
            parts.append(project(slopes[chosen], self.owner[chosen], self.walls, faces, enough))
            self.faces.active[chosen] = faces.active
            self.faces.multipliers[chosen] = faces.multipliers
        return torch.cat(parts) if parts else slopes[jobs]

    def add_walls(self, owner: Tensor, broken: Tensor) -> bool:
        """Learn the walls that filters broke; whether any is new."""
        cones, patches = owner.repeat_interleave(broken.shape[1]), broken.flatten()
        pairs = torch.stack([cones, patches])[:, patches >= 0]
        pairs = torch.unique(pairs, dim=1)
        known = (self.walls.patches[pairs[0]] == pairs[1][:, None]).any(1)
        cones, patches = pairs[:, ~known]
        if not len(cones):
            return False
        counts = torch.bincount(cones, minlength=self.passes.groups)
        place = torch.arange(len(cones)) - (counts.cumsum(0) - counts)[cones]
        wanted = torch.full((self.passes.groups, int(counts.max())), -1)
        wanted[cones, place] = patches
        self.walls = self.walls.joined(self.passes.walls_of(wanted))
        return True

    def multipliers(self, shape: tuple[int, ...]) -> SparseMultipliers:
        """mu of the last projections: (2, k, cells, g, d)."""
        k, cells, g, d = shape
        active, owner = self.faces.active, self.owner[:, None]
        chosen = active.clamp_min(0)
        patches = torch.where(active >= 0, self.walls.patches[owner, chosen], -1)
        lengths = self.walls.lengths[owner, chosen]
        values = torch.where(patches >= 0, self.faces.multipliers / lengths, 0.0)
        by_group = (cells, g, 2, k, d)
        n = len(self.rays)
        return SparseMultipliers(
            patches.view(by_group).permute(2, 3, 0, 1, 4).contiguous(),
            (values / n).view(by_group).permute(2, 3, 0, 1, 4).contiguous(),
        )


class _Search:
    """The columns of one program, its residual, and what prices them."""

    def __init__(self, kind: ProgramKind, cones: _Cones, beta: float, tolerance: float) -> None:
        self.kind = kind
        self.cones = cones
        self.tolerance = tolerance
        self.targets = cones.passes.patches.targets
        n, k = self.targets.shape
        self.k = k
        self.beta = n * beta
        self.master = Master(kind, self.targets, self.beta, len(cones.owner))
        self.columns = self._columns(cones.passes.gates[:0], torch.arange(0))
        self.bias = torch.zeros(k, dtype=torch.float64)
        self.strictness = 1.0
        self.improve()

    def _columns(self, filters: Tensor, groups: Tensor) -> Columns:
        """Columns of weight |v| for filters v, which are moved into their cones."""
        owner, sign = groups // (2 * self.k), 1 - 2 * (groups // self.k % 2)
        found = self.cones.passes.responses(filters, owner)
        norms = found.filters.norm(dim=1)
        unit, columns = found.filters / norms[:, None], found.columns * (sign / norms)
        return Columns(unit, groups, columns, norms)

    def begin_at(self, start: Optimum) -> None:
        """Take the filters of an optimum at another beta."""
        by_group = start.weights.double().permute(2, 3, 0, 1, 4).flatten(0, 3)
        groups = (by_group.norm(dim=1) > 0).nonzero()[:, 0]
        self.columns = self._columns(by_group[groups], groups)
        self.bias = start.bias.double().clone()

    def improve(self) -> None:
        """Solve the master, and forget the columns that it does not use."""
        enough = 0.01 * self.tolerance * self._loss()
        columns, self.bias = self.master.solve(self.columns, self.bias, enough)
        self.columns = columns.chosen((columns.weights > 0).nonzero()[:, 0])
        sums = self.columns.sums(self.master.groups)
        size = sums.norm(dim=1).sum() if self._is_norm else 0.5 * sums.square().sum()
        self.penalty = self.beta * float(size)
        self.primal = (self._loss() + self.penalty) / len(self.targets)

    def _loss(self) -> float:
        return float(get_loss(self.kind.loss).value(self._scores(), self.targets))

    @property
    def _is_norm(self) -> bool:
        return self.kind.regulariser == "group"

    def _scores(self) -> Tensor:
        return self.master.scores(self.columns, self.bias)

    def _dual(self) -> Tensor:
        return feasible_dual(self.kind, self._scores(), self.targets)

    def add_rays(self) -> None:
        """Solve the program whose only filters are the gates, by the ones that help most."""
        gates = self.cones.passes.gates
        for _ in range(RAY_ROUNDS):
            self.improve()
            gain = self._ray_gain().flatten(0, 1)
            best = gain.topk(min(RAYS_PER_ROUND, len(gain)), 0)
            row, label = (best.values > 0).nonzero().unbind(1)
            if not len(row):
                return
            signed = best.indices[row, label]
            owner, sign = signed // 2, signed % 2
            columns = Columns(
                gates[owner % len(gates)],
                owner * 2 * self.k + sign * self.k + label,
                self.cones.rays[:, owner] * (1 - 2 * sign),
                torch.zeros(len(owner), dtype=torch.float64),
            )
            self.columns = Columns.joined([self.columns, columns])

    def _ray_gain(self) -> Tensor:
        """By how much the slope along every gate exceeds what is not worth a column, (G, 2, k)."""
        along = self.cones.rays.T @ self._dual()
        slopes = torch.stack([along, -along], 1)
        if self._is_norm:
            return slopes - self._enough
        gates = self.cones.passes.gates.repeat(self.cones.passes.patches.cells, 1)
        sums = self.columns.sums(self.master.groups).view(*slopes.shape, -1)
        least = math.sqrt(2 * self.beta * self._allowed / self.master.groups)
        return slopes - self.beta * (sums * gates[:, None, None]).sum(-1) - least

    def price(self) -> tuple[Tensor, float]:
        """Projections of all slopes, (groups, d), and the dual bound that they prove."""
        self.dual = self._dual()
        pulled = self.cones.passes.pull(self.dual)  # (G, k, d)
        self.slopes = torch.stack([pulled, -pulled], 1).flatten(0, 2)
        points = self.cones.project(self.slopes, torch.arange(len(self.slopes)), self._enough)
        return points, self._bound(points)

    @property
    def _allowed(self) -> float:
        """The gap, in sums, that filters may cost which are left out."""
        return self.strictness * SHARE * self.tolerance * self.primal * len(self.targets)

    @property
    def _enough(self) -> float:
        """Norm of a projection that is not worth a column.

        Where all norms are at most (1 + e) n beta, the residual over 1 + e is dual feasible, and
        the gap at the master's optimum about e * penalty + e^2 * loss.
        """
        if not self._is_norm:
            return 0.0
        loss = self.primal * len(self.targets) - self.penalty
        root = math.sqrt(self.penalty**2 + 4 * loss * self._allowed)
        return self.beta * (1 + 2 * self._allowed / max(self.penalty + root, 1e-300))

    def tighten(self) -> bool:
        """Ask for smaller improvements, after there was none; whether they are still sensible."""
        self.strictness /= 4
        return self.strictness > STRICTEST

    def _bound(self, points: Tensor) -> float:
        sizes = points.norm(dim=1).view(-1, self.k)
        if self.kind.loss == "squared":
            parts = [
                _squared_bound(
                    self.dual[:, c], self.targets[:, c], sizes[:, c], self.beta, self._is_norm
                )
                for c in range(self.k)
            ]
            return sum(parts) / len(self.targets)
        scale, conjugate = 1.0, 0.0
        if self._is_norm:
            scale = min(1.0, self.beta / max(float(sizes.max()), 1e-300))
        else:
            conjugate = float(sizes.square().sum()) / (2 * self.beta)
        chances = (self.targets - scale * self.dual).clamp_min(0)
        return (float(torch.special.entr(chances).sum()) - conjugate) / len(self.targets)

    def add(self, points: Tensor) -> bool:
        """Add the projections that help as columns; whether there was any, or a new wall."""
        sizes = points.norm(dim=1)
        if self._is_norm:
            helps = sizes > self._enough
        else:
            change = points / self.beta - self.columns.sums(self.master.groups)
            helps = 0.5 * self.beta * change.square().sum(1) > self._allowed / len(points)
        groups = helps.nonzero()[:, 0]
        learned = False
        filters = points[groups] / sizes[groups, None].clamp_min(1e-300)
        for _ in range(REPAIRS):
            found = self.cones.passes.responses(filters, self.cones.owner[groups])
            bad = (found.shift > LARGEST_SHIFT).nonzero()[:, 0]
            if not len(bad) or not self.cones.add_walls(
                self.cones.owner[groups[bad]], found.broken[bad]
            ):
                break
            learned = True
            again = self.cones.project(self.slopes, groups[bad], self._enough)
            filters[bad] = again / again.norm(dim=1, keepdim=True).clamp_min(1e-300)
        columns = self._columns(filters, groups)
        kept = (columns.weights > 0).nonzero()[:, 0]
        fresh = columns.chosen(kept)
        fresh = replace(fresh, weights=torch.zeros_like(fresh.weights))
        self.columns = Columns.joined([self.columns, fresh])
        return bool(len(kept)) or learned

    def optimum(self, status: Status, history: History) -> Optimum:
        """The filters of every group in one, moved off the walls by what rounding asks for."""
        passes = self.cones.passes
        cells, (g, d) = passes.patches.cells, passes.gates.shape
        groups, where = torch.unique(self.columns.groups, return_inverse=True)
        sums = replace(self.columns, groups=where).sums(len(groups))
        found = passes.responses(sums, self.cones.owner[groups])
        extra = 2 * (found.filters - sums)
        flat = passes.gates.new_zeros(self.master.groups, d)
        flat[groups] = sums + extra
        weights = flat.view(cells, g, 2, self.k, d).permute(2, 3, 0, 1, 4).contiguous()
        multipliers = self.cones.multipliers((self.k, cells, g, d))
        return Optimum(weights, self.bias, status, history.rows, multipliers)


def _squared_bound(
    dual: Tensor, targets: Tensor, sizes: Tensor, beta: float, is_norm: bool
) -> float:
    """The dual value of the best multiple of one class's residual."""
    inner, curvature = float(dual @ targets), float(dual @ dual)
    limit = float("inf")
    if is_norm:
        limit = beta / max(float(sizes.max()), 1e-300)
    else:
        curvature += float(sizes.square().sum()) / beta
    return best_quadratic(inner, curvature, limit)
