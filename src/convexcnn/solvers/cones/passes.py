"""Passes over all patches for the cones of (R): their nearest walls, slopes, and responses.

Nothing here is as large as the number of inequalities, 2 k cells g n q: a block of patches meets
the gates, or some filters, and leaves sums and extremes behind.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from convexcnn.errors import SettingError
from convexcnn.solvers.cones.patch_blocks import PatchBlocks

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
        rays = self.gates.new_zeros(len(self.patches.targets), self.groups)
        margins = self.gates.new_full((self.groups, count), torch.inf)
        nearest = torch.full((self.groups, count), -1)
        for rows, block in self.patches:
            b, cells, q, _ = block.shape
            x = block.transpose(0, 1).flatten(1, 2)  # (cells, b q, d)
            reach = x @ self.gates.T
            pooled = reach.clamp_min(0).view(cells, b, q, -1).sum(2)
            rays[rows] = pooled.transpose(0, 1).flatten(1)
            lengths = x.norm(dim=2)[..., None]
            here = torch.where(lengths > 0, reach.abs() / lengths, torch.inf)
            here, patch = here.topk(min(count, b * q), 1, largest=False)
            patch = torch.where(here.isinf(), -1, patch + rows.start * q)
            # (cells, count, g) -> (G, count)
            here, patch = (y.transpose(1, 2).flatten(0, 1) for y in (here, patch))
            margins, kept = torch.cat([margins, here], 1).topk(count, 1, largest=False)
            nearest = torch.cat([nearest, patch], 1).gather(1, kept)
        width = int((nearest >= 0).sum(1).max()) if len(rays) else 0
        return self.walls_of(nearest[:, : max(1, width)]), rays

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
        cells, gates = owner // g, owner % g
        columns = filters.new_zeros(n, len(filters))
        reached = filters.new_zeros(n, len(filters))
        shift = filters.new_zeros(len(filters))
        broken = []
        for rows, block in self.patches:
            b, _, q, _ = block.shape
            worst = torch.full((len(filters),), -1)
            for cell in torch.unique(cells).tolist():
                mine = (cells == cell).nonzero()[:, 0]
                x = block[:, cell].flatten(0, 1).T
                reach, response = (self.gates @ x)[gates[mine]], filters[mine] @ x
                on = reach >= 0
                columns[rows, mine] = (response * on).view(-1, b, q).sum(2).T
                reached[rows, mine] = reach.clamp_min(0).view(-1, b, q).sum(2).T
                column, patch = (torch.where(on, -response, response) > 0).nonzero().unbind(1)
                ratio = response[column, patch].abs() / reach[column, patch].abs()
                furthest = ratio.new_zeros(len(mine)).scatter_reduce_(0, column, ratio, "amax")
                shift[mine] = torch.maximum(shift[mine], furthest)
                top = ratio == furthest[column]
                worst[mine[column[top]]] = patch[top] + rows.start * q
            broken.append(worst)
        if not bool(shift.isfinite().all()):
            raise SettingError(
                "a training patch is orthogonal to a gate, so no filter lies inside that gate's "
                "cone; draw other gates"
            )
        moved = filters + shift[:, None] * self.gates[gates]
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
