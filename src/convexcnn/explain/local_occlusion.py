"""Scores of a block under every window, computed only where a window changes something.

A window changes the patches it touches; they are computed again. If images are centred it also
changes the mean that every pixel loses, and with it all other patches, but along one known
direction e_l, a patch of ones: with the mean larger by m,

    x_l . a_i  becomes  x_l . a_i - m e_l . a_i,

a line in m. Most gates stay as they are for the means that occur; the few that switch are listed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from convexcnn.data.preprocess import ImageScaler
from convexcnn.explain.block import PatchBlock
from convexcnn.explain.windows import Windows
from convexcnn.models.torch_module import Standardise
from convexcnn.patches.extract import PatchGeometry, extract_patches
from convexcnn.patches.float32 import fast_float32

NUMBERS_AT_ONCE = 2**22
"""Size of the largest temporary: 16 MB of float32."""


class LocalOcclusion:
    """One class's scores of a block under every window.

    Args:
        block: the trained block.
        scaler: pixels -> what the block sees.
        windows: the positions.
    """

    def __init__(self, block: PatchBlock, scaler: ImageScaler, windows: Windows) -> None:
        self.block = block
        self.windows = windows
        self.device = block.gates.device
        self.centre = scaler.centre
        self._standardise = Standardise(replace(scaler, centre=False)).to(self.device)
        self._touched = _Touched.of(block.geometry, windows)
        shares, group = torch.unique(_cell_shares(block.geometry), dim=0, return_inverse=True)
        self._group = group
        members = [(group == number).nonzero()[:, 0] for number in range(len(shares))]
        self._members = [places.to(self.device) for places in members]
        self._shares = shares.to(self.device, block.weights.dtype)

    @torch.no_grad()
    def scores(self, image: Tensor, filling: Tensor, target: int) -> Tensor:
        """Return the target's score with each window filled in turn, (m,).

        Args:
            image: (channels, height, width), in pixels.
            filling: what a window shows instead, of the same shape.
            target: class c.
        """
        pixels = image.to(self.device, torch.float32)
        filling = filling.to(self.device, torch.float32)
        weights = torch.einsum("sc,cgd->sgd", self._shares, self.block.weights[target])
        with fast_float32():
            seen, mean = self._seen(pixels[None])
            most = max(self._touched.numbers(self.block), pixels.numel())
            step = max(1, NUMBERS_AT_ONCE // most)
            means, fresh = [], []
            for start in range(0, len(self.windows), step):
                rows = slice(start, start + step)
                masks = self.windows.masks(rows).to(self.device)
                covered, its_mean = self._seen(torch.where(masks, filling, pixels))
                means.append(its_mean - mean)
                fresh.append(self._fresh(covered, rows, weights))
            rest = self._untouched(seen, torch.cat(means), weights)
        return self.block.intercept[target] + torch.cat(fresh) + rest

    def _seen(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """What the block sees, and the mean that was taken off every pixel, (n,)."""
        scaled: Tensor = self._standardise(pixels)
        mean = scaled.mean((1, 2, 3)) if self.centre else scaled.new_zeros(len(scaled))
        return scaled - mean[:, None, None, None], mean

    def _fresh(self, covered: Tensor, rows: slice, weights: Tensor) -> Tensor:
        """The part of the scores (m,) that comes from the patches near every window."""
        geometry, near = self.block.geometry, self._touched
        pad, side, stride = geometry.padding, geometry.filter_size, geometry.stride
        padded = torch.nn.functional.pad(covered, (pad, pad, pad, pad))
        down, across = near.rows[rows], near.columns[rows]
        height, width = ((places.shape[1] - 1) * stride + side for places in (down, across))
        boxes = padded.unfold(2, height, 1).unfold(3, width, 1)[
            torch.arange(len(covered)), :, down[:, 0] * stride, across[:, 0] * stride
        ]
        cut = boxes.unfold(2, side, stride).unfold(3, side, stride).permute(0, 2, 3, 1, 4, 5)
        patches = self.block.transform(cut.reshape(-1, geometry.patch_dim))
        places = down[:, :, None] * geometry.grid[1] + across[:, None, :]
        group = self._group[places.flatten()]
        values = patches.new_zeros(len(patches))
        for number, weight in enumerate(weights):
            members = (group == number).nonzero()[:, 0].to(self.device)
            if not len(members):
                continue
            x = patches[members]
            on = x @ self.block.gates.T >= 0
            values[members] = (x @ weight.T).mul_(on).sum(1)
        return values.view(len(covered), -1).sum(1)

    def _untouched(self, seen: Tensor, means: Tensor, weights: Tensor) -> Tensor:
        """The part of the scores (m,) that comes from all other patches, at every mean."""
        block, near = self.block, self._touched
        patches = block.transform(extract_patches(seen, block.geometry))[0]
        responses, values = patches @ block.gates.T, self._values(patches, weights)
        on = responses >= 0
        at_rest = torch.where(on, values, 0).sum(1)
        if not self.centre:
            return near.outside(at_rest)
        ones = extract_patches(torch.ones_like(seen), block.geometry)[0]
        direction = patches.new_zeros(len(patches), block.transform.dim)
        rank = block.transform.matrix.shape[1]
        direction[:, :rank] = ones @ block.transform.matrix
        response_slope, value_slope = direction @ block.gates.T, self._values(direction, weights)
        slope = torch.where(on, value_slope, 0).sum(1)
        total = near.outside(at_rest) - means * near.outside(slope)
        ends = [responses - end * response_slope >= 0 for end in (means.min(), means.max())]
        patch, gate = ((ends[0] != on) | (ends[1] != on)).nonzero().unbind(1)
        step = max(1, NUMBERS_AT_ONCE // len(means))
        for chosen in zip(torch.split(patch, step), torch.split(gate, step), strict=True):
            mean = means[:, None]
            now = responses[chosen] - mean * response_slope[chosen] >= 0
            change = now.to(total.dtype) - on[chosen].to(total.dtype)
            value = values[chosen] - mean * value_slope[chosen]
            total += torch.where(near.holds(chosen[0]), 0, change * value).sum(1)
        return total

    def _values(self, patches: Tensor, weights: Tensor) -> Tensor:
        """x_l . v_{l,i}, (p, g), before gates, for all patches of an image."""
        values = patches.new_empty(len(patches), len(self.block.gates))
        for members, weight in zip(self._members, weights, strict=True):
            values[members] = patches[members] @ weight.T
        return values


@dataclass(frozen=True)
class _Touched:
    """For every window a box of patches that holds all it touches; boxes have one size.

    Args:
        rows: (m, a) rows of the box in the grid of patches.
        columns: (m, b) its columns.
        grid: rows and columns of the grid.
    """

    rows: Tensor
    columns: Tensor
    grid: tuple[int, int]

    @classmethod
    def of(cls, geometry: PatchGeometry, windows: Windows) -> _Touched:
        down = _reach(geometry, windows.bounds[:, 1], geometry.grid[0])
        across = _reach(geometry, windows.bounds[:, 2], geometry.grid[1])
        return cls(down, across, geometry.grid)

    def outside(self, values: Tensor) -> Tensor:
        """Sum what patches (p,) have over those outside every box, (m,).

        By differences of sums from the first patch on, in double precision: a matrix of boxes and
        patches may need more memory than there is.
        """
        sums = torch.nn.functional.pad(
            values.double().view(self.grid).cumsum(0).cumsum(1), (1, 0, 1, 0)
        )
        top, bottom = self.rows[:, 0], self.rows[:, -1] + 1
        left, right = self.columns[:, 0], self.columns[:, -1] + 1
        inside = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
        return (sums[-1, -1] - inside).to(values.dtype)

    def holds(self, patches: Tensor) -> Tensor:
        """Whether every box holds each of some patches, (m, s)."""
        down, across = (
            torch.zeros(len(places), count, dtype=torch.bool).scatter_(1, places, True)
            for places, count in zip((self.rows, self.columns), self.grid, strict=True)
        )
        row, column = patches // self.grid[1], patches % self.grid[1]
        return down.to(row.device)[:, row] & across.to(row.device)[:, column]

    def numbers(self, block: PatchBlock) -> int:
        """Size of the largest temporary that one window needs."""
        boxed = self.rows.shape[1] * self.columns.shape[1]
        return int(boxed * max(len(block.gates), block.geometry.patch_dim))


def _reach(geometry: PatchGeometry, bounds: Tensor, count: int) -> Tensor:
    """Along one axis, the patches that may touch [start, end): (m, a), a the same for all."""
    start, end = (bounds + geometry.padding).unbind(1)
    first = ((start - geometry.filter_size).div(geometry.stride, rounding_mode="floor") + 1).clamp(
        0, count - 1
    )
    last = (-(-end).div(geometry.stride, rounding_mode="floor") - 1).clamp(0, count - 1)
    most = int((last - first).max()) + 1
    return first.clamp_max(count - most)[:, None] + torch.arange(most)


def _cell_shares(geometry: PatchGeometry) -> Tensor:
    """(p, cells): 1/q where a patch is one of the q of a cell, else 0."""
    rows, columns = geometry.grid
    shares = torch.zeros(geometry.n_cells, rows * columns + 1)
    sizes = geometry.cell_sizes[:, None].float()
    shares.scatter_(1, geometry.cell_order, (1 / sizes).expand(geometry.cell_order.shape))
    return shares[:, :-1].T
