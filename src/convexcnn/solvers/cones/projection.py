"""Exact projections on narrow polyhedral cones, many at a time, by their active walls.

P_K(z) for K = {v : C v >= 0} is z + C' mu at the mu >= 0 that minimises |z + C' mu|. At most d
walls are active at a solution, so the method of Lawson & Hanson (1974) solves tiny systems only:
it lets in the wall that is broken most, and drops those whose multiplier would become negative.
The norm |z + C' mu| falls in every step and is an upper bound of |P_K(z)| all along, so that a
projection can end as soon as it is known to be short enough.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from convexcnn.solvers.cones.passes import Walls

STEPS_PER_DIMENSION = 30
INSIDE = 1e-10
"""A wall may be broken by this part of the gate's own distance from it."""
ROUNDING = 1e-14
JITTER = 1e-12


@dataclass
class Faces:
    """Active walls of projections, where the next ones begin.

    Args:
        active: indices of walls, (J, d); -1 where there is none.
        multipliers: mu >= 0 of the unit walls, (J, d).
    """

    active: Tensor
    multipliers: Tensor

    @classmethod
    def empty(cls, jobs: int, dim: int) -> Faces:
        return cls(torch.full((jobs, dim), -1), torch.zeros(jobs, dim, dtype=torch.float64))


def project(slopes: Tensor, owner: Tensor, walls: Walls, faces: Faces, enough: float) -> Tensor:
    """Return P_K(z) of every job, or some z + C' mu with norm at most ``enough``.

    Args:
        slopes: z, (J, d).
        owner: cone of every job, (J,), in ascending order.
        walls: of all cones.
        faces: where to begin; changed to where the projections end.
        enough: norm below which nothing more has to be known of a projection.
    """
    jobs, dim = slopes.shape
    points = slopes.clone()
    job = torch.arange(jobs)
    active, mu = faces.active.clone(), faces.multipliers.clone()
    floor = ROUNDING * slopes.norm(dim=1)
    for step in range(STEPS_PER_DIMENSION * dim):
        system = _System.of(slopes[job], owner[job], walls, active, mu)
        active, mu = system.active, system.multipliers
        wall, broken = _worst_walls(system.points, owner[job], walls, floor[job])
        broken &= (active != wall[:, None]).all(1)
        room = (active < 0).any(1)
        done = (system.points.norm(dim=1) <= enough) | (system.settled & ~(broken & room))
        if step == STEPS_PER_DIMENSION * dim - 1:
            done = torch.ones_like(done)
        if bool(done.any()):
            ended = job[done]
            points[ended] = system.refined(done)
            faces.active[ended], faces.multipliers[ended] = active[done], mu[done]
        go = ~done
        if not bool(go.any()):
            break
        job, active, mu = job[go], active[go], mu[go]
        enter = (system.settled & broken & room)[go]
        slot = (active < 0).to(torch.uint8).argmax(1, keepdim=True)
        value = torch.where(enter[:, None], wall[go, None], active.gather(1, slot))
        active = active.scatter(1, slot, value)
    return points


def _worst_walls(
    points: Tensor, owner: Tensor, walls: Walls, floor: Tensor
) -> tuple[Tensor, Tensor]:
    """The wall that every point breaks most, and whether it does so by more than rounding."""
    wall = torch.empty(len(points), dtype=torch.long)
    response = points.new_empty(len(points))
    start = 0
    for cone, count in enumerate(torch.bincount(owner, minlength=len(walls.rows)).tolist()):
        if count:
            rows = slice(start, start + count)
            response[rows], wall[rows] = (points[rows] @ walls.rows[cone].T).min(1)
            start += count
    allowed = INSIDE * walls.margins[owner, wall] * points.norm(dim=1) + floor
    return wall, response < -allowed


@dataclass(frozen=True)
class _System:
    """One step of every job: its subspace solved, and the walls dropped that this asks for.

    Args:
        settled: (J,) whether no wall had to be dropped, so that another one may come in.
        factor: Cholesky factor of C C' over active walls, and ``rows`` those walls.
    """

    active: Tensor
    multipliers: Tensor
    points: Tensor
    settled: Tensor
    factor: Tensor
    rows: Tensor

    @classmethod
    def of(cls, slopes: Tensor, owner: Tensor, walls: Walls, active: Tensor, mu: Tensor) -> _System:
        empty = active < 0
        order = torch.argsort(empty.to(torch.uint8), dim=1, stable=True)
        active, mu = active.gather(1, order), mu.gather(1, order)
        width = max(1, int((~empty).sum(1).max()))
        used, current = active[:, :width], mu[:, :width]
        on = used >= 0
        _, walls_per_cone, dim = walls.rows.shape
        flat = owner[:, None] * walls_per_cone + used.clamp_min(0)
        rows = walls.rows.reshape(-1, dim)[flat] * on[..., None]
        gram = rows @ rows.transpose(1, 2)
        gram.diagonal(dim1=1, dim2=2).add_((~on).double() + JITTER)
        factor = torch.linalg.cholesky_ex(gram).L
        target = torch.cholesky_solve(-(rows @ slopes[..., None]), factor)
        reached = slopes[..., None] + rows.transpose(1, 2) @ target
        target = (target - torch.cholesky_solve(rows @ reached, factor))[..., 0]
        negative = on & (target < 0)
        reach = torch.where(negative, current / (current - target).clamp_min(1e-300), torch.inf)
        step = reach.amin(1, keepdim=True).clamp_max(1)
        dropped = negative & (reach <= step)
        current = torch.where(dropped | ~on, 0.0, current + step * (target - current))
        active[:, :width] = torch.where(dropped, -1, used)
        mu[:, :width] = current
        points = slopes + (current[:, None] @ rows)[:, 0]
        return cls(active, mu, points, ~negative.any(1), factor, rows)

    def refined(self, chosen: Tensor) -> Tensor:
        """Points with the rounding of their active responses removed, where they are settled."""
        rows, points = self.rows[chosen], self.points[chosen]
        left = torch.cholesky_solve(rows @ points[..., None], self.factor[chosen])
        better = points - (left.transpose(1, 2) @ rows)[:, 0]
        return torch.where(self.settled[chosen, None], better, points)
