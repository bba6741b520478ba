"""Passes over all patches for the cones of (R): their nearest walls, slopes, and responses.

Nothing here is as large as the number of inequalities, 2 k cells g n q: a block of patches meets
the gates, or some filters, and leaves sums and extremes behind.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from convexcnn.errors import SettingError
from convexcnn.solvers.patch_blocks import PatchBlocks

FILTERS_AT_ONCE = 256


@dataclass(frozen=True)
class Walls:
    """Some inequalities of every cone (cell and gate), c . v >= 0 with |c| = 1.

    Args:
        rows: c = (2 D(x) - 1) x / |x|, (G, M, d) with G = cells g; zero where there is none.
        margins: c . a for the unit gate a, (G, M).
        lengths: |x|, (G, M).
        patches: image * q + place, (G, M); -1 where there is none.
    """

    rows: Tensor
    margins: Tensor
    lengths: Tensor
    patches: Tensor

    def joined(self, other: Walls) -> Walls:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Walls(*(torch.cat(pair, 1) for pair in pairs))

    def nearest(self, count: int) -> Walls:
        """The ``count`` walls of every cone that are closest to its gate."""
        margins = torch.where(self.patches < 0, torch.inf, self.margins)
        chosen = margins.topk(min(count, margins.shape[1]), 1, largest=False).indices
        deep = chosen[..., None].expand(-1, -1, self.rows.shape[2])
        flat = (x.gather(1, chosen) for x in (self.margins, self.lengths, self.patches))
        return Walls(self.rows.gather(1, deep), *flat)


@dataclass(frozen=True)
class Responses:
    """What filters do on all images, once they are inside their cones.

    Args:
        filters: v + t a, (m, d), with the smallest t >= 0 that leads into the cone.
        columns: sum over patches of D x . (v + t a), (n, m).
        shift: t / |v|, (m,).
        broken: patches (m, blocks) that were outside by most in their block; -1 for none.
    """

    filters: Tensor
    columns: Tensor
    shift: Tensor
    broken: Tensor


class ConePasses:
    """The passes over one set of patches.

    Args:
        patches: all patches with their gates.
    """

    def __init__(self, patches: PatchBlocks) -> None:
        self.patches = patches
        self.gates = torch.nn.functional.normalize(patches.gates, dim=1)
        self.groups = patches.cells * len(self.gates)

    def nearest_walls(self, count: int) -> tuple[Walls, Tensor]:
        """The walls of every cone nearest to its gate, and the pooled responses of all gates.

        Returns:
            the walls, and sum over patches of (x . a)_+ for unit gates, (n, G).
        """
        walls: Walls | None = None
        rays = self.gates.new_zeros(len(self.patches.targets), self.groups)
        for rows, block in self.patches:
            q = block.shape[2]
            parts = []
            for cell in range(block.shape[1]):
                x = block[:, cell].flatten(0, 1)
                reach = x @ self.gates.T
                pooled = reach.clamp_min(0).view(len(block), q, -1).sum(1)
                rays[rows].view(len(block), self.patches.cells, -1)[:, cell] = pooled
                parts.append(self._walls(x, reach, rows.start * q, count))
            joined = Walls(*(torch.cat([vars(p)[name] for p in parts]) for name in vars(parts[0])))
            walls = joined if walls is None else walls.joined(joined).nearest(count)
        if walls is None:
            raise SettingError("there are no training images; give at least one")
        return walls, rays

    def _walls(self, x: Tensor, reach: Tensor, first: int, count: int) -> Walls:
        lengths = x.norm(dim=1)
        margins = (reach.abs() / lengths.clamp_min(1e-300)[:, None]).T
        margins = torch.where(lengths == 0, torch.inf, margins)
        margins, chosen = margins.topk(min(count, len(x)), 1, largest=False)
        missing = margins.isinf()
        kept = lengths[chosen]
        sign = torch.where(reach.T.gather(1, chosen) >= 0, 1.0, -1.0).double()
        sign = torch.where(missing, 0.0, sign)
        rows = x[chosen] * (sign / kept.clamp_min(1e-300))[..., None]
        patches = torch.where(missing, -1, chosen + first)
        return Walls(rows, torch.where(missing, 0.0, margins), kept, patches)

    def pull(self, dual: Tensor) -> Tensor:
        """Phi' L for L (n, k): (G, k, d)."""
        g, d = self.gates.shape
        total = dual.new_zeros(self.patches.cells, g, d, dual.shape[1])
        for rows, block in self.patches:
            for cell in range(block.shape[1]):
                x = block[:, cell]
                on = (x @ self.gates.T >= 0).double()
                phi = torch.bmm(on.transpose(1, 2), x)
                total[cell] += (phi.flatten(1).T @ dual[rows]).view(g, d, -1)
        return total.flatten(0, 1).transpose(1, 2)

    def responses(self, filters: Tensor, owner: Tensor) -> Responses:
        """Move filters into their cones and pool what they do on every image.

        Args:
            filters: v, (m, d).
            owner: cone of every filter, cell * g + gate, (m,).

        Raises:
            SettingError: if a patch is orthogonal to a gate, so that nothing leads into its cone.
        """
        parts = [
            self._some_responses(filters[chosen], owner[chosen])
            for chosen in torch.split(torch.arange(len(filters)), FILTERS_AT_ONCE)
        ]
        if not parts:
            n = len(self.patches.targets)
            return Responses(filters, filters.new_zeros(n, 0), filters.new_zeros(0), owner[:, None])
        return Responses(
            torch.cat([part.filters for part in parts]),
            torch.cat([part.columns for part in parts], 1),
            torch.cat([part.shift for part in parts]),
            torch.cat([part.broken for part in parts]),
        )

    def _some_responses(self, filters: Tensor, owner: Tensor) -> Responses:
        n, g = len(self.patches.targets), len(self.gates)
        cells, gates = owner // g, self.gates[owner % g]
        columns = filters.new_zeros(n, len(filters))
        reached = filters.new_zeros(n, len(filters))
        shift = filters.new_zeros(len(filters))
        broken = []
        for rows, block in self.patches:
            b, _, q, _ = block.shape
            worst = torch.full((len(filters),), -1)
            for cell in torch.unique(cells).tolist():
                mine = (cells == cell).nonzero()[:, 0]
                x = block[:, cell].flatten(0, 1)
                reach, response = x @ gates[mine].T, x @ filters[mine].T
                on = reach >= 0
                columns[rows, mine] = (response * on).view(b, q, -1).sum(1)
                reached[rows, mine] = (reach * on).view(b, q, -1).sum(1)
                outside = torch.where(on, -response, response)
                ratio = torch.where(outside > 0, outside / reach.abs(), 0.0)
                furthest, patch = ratio.max(0)
                shift[mine] = torch.maximum(shift[mine], furthest)
                worst[mine] = torch.where(furthest > 0, patch + rows.start * q, -1)
            broken.append(worst)
        if not bool(shift.isfinite().all()):
            raise SettingError(
                "a training patch is orthogonal to a gate, so no filter lies inside that gate's "
                "cone; draw other gates"
            )
        moved = filters + shift[:, None] * gates
        size = filters.norm(dim=1).clamp_min(1e-300)
        return Responses(moved, columns + shift * reached, shift / size, torch.stack(broken, 1))

    def walls_of(self, wanted: Tensor) -> Walls:
        """Look up walls by their patches.

        Args:
            wanted: (G, M) patches as image * q + place; -1 for none.
        """
        groups, count = wanted.shape
        g, d = self.gates.shape
        rows = self.gates.new_zeros(groups, count, d)
        for images, block in self.patches:
            q = block.shape[2]
            first, last = images.start * q, images.stop * q
            group, place = ((wanted >= first) & (wanted < last)).nonzero().unbind(1)
            local = wanted[group, place] - first
            rows[group, place] = block[local // q, group // g, local % q]
        lengths = rows.norm(dim=2)
        gates = self.gates.repeat(self.patches.cells, 1)
        reach = (rows @ gates[..., None])[..., 0]
        sign = torch.where(reach >= 0, 1.0, -1.0).double()
        unit = rows * (sign / lengths.clamp_min(1e-300))[..., None]
        return Walls(unit, reach.abs() / lengths.clamp_min(1e-300), lengths, wanted)
