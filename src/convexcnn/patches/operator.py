"""Phi: pooled gated features, built block by block and never for all gates and images at once."""

from __future__ import annotations

import torch
from torch import Tensor

from convexcnn.patches.extract import PatchGeometry, extract_patches
from convexcnn.patches.whiten import PatchTransform

CACHE_BYTES = 16 * 2**20
"""Temporaries of about this size stay in the last-level cache of the processor."""


class PatchPooling:
    """Images to patches sorted by pooling cell and, for averages, divided by its size.

    A sum over the patches of a cell is then the average that the pooling asks for; gates do not
    see the division, because 1[x . a >= 0] = 1[(x / q) . a >= 0].

    Args:
        geometry: where patches and pooling cells lie.
        transform: raw patch -> d coordinates.
        pool: ``average``, or ``max``, which leaves patches as they are.
    """

    def __init__(
        self, geometry: PatchGeometry, transform: PatchTransform, pool: str = "average"
    ) -> None:
        self.pool = pool
        self.geometry = geometry
        self.transform = transform
        device = transform.mean.device
        self._order = geometry.cell_order.flatten().to(device)
        self._trivial = geometry.n_cells == 1
        self._ragged = bool((geometry.cell_order == geometry.grid[0] * geometry.grid[1]).any())
        sizes = geometry.cell_sizes.repeat_interleave(geometry.cell_order.shape[1])
        self._scale = 1 / sizes.to(device, transform.mean.dtype)[:, None]

    def __call__(self, images: Tensor) -> Tensor:
        """Map scaled images (n, channels, height, width) to (n, cells * q, d)."""
        patches = self.transform(extract_patches(images, self.geometry))
        if self._ragged:
            patches = torch.nn.functional.pad(patches, (0, 0, 0, 1))
        if not self._trivial:
            patches = patches[:, self._order]
        return patches if self.pool == "max" else patches.mul_(self._scale)


class GatedFeatures:
    """phi_i(x) = (1/q) sum_{l in cell} 1[x_l . a_i >= 0] x_l for every cell and gate i.

    One product gives all gate bits of an image, a second one, D' X / q, all its features: k times
    less work than forming X_l V_i for every gate and class. With max pooling, phi_i(x) is the
    patch x_m of the cell with the largest response, if that is not negative, else 0.

    Args:
        geometry: where patches and pooling cells lie.
        transform: raw patch -> d coordinates.
        gates: (g, d) gate vectors a_i in transformed coordinates.
        pool: ``average`` or ``max``.
    """

    patchwise = True
    """Whether ``pooling`` gives the patches that features are made of."""

    def __init__(
        self,
        geometry: PatchGeometry,
        transform: PatchTransform,
        gates: Tensor,
        pool: str = "average",
    ) -> None:
        self.pooling = PatchPooling(geometry, transform, pool)
        self.pool = pool
        self.geometry = geometry
        self.transform = transform
        self.gates = gates
        self._gates_t = gates.T.contiguous()
        self._bits = gates.new_empty(0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(cells, gates, d): a feature vector is this tensor, flattened."""
        return self.geometry.n_cells, *self.gates.shape

    @property
    def n_features(self) -> int:
        cells, gates, dim = self.shape
        return cells * gates * dim

    @property
    def block_size(self) -> int:
        """Images per block for which bits and features stay in cache."""
        bits = self.geometry.cell_order.numel() * len(self.gates)
        return max(4, CACHE_BYTES // (4 * (bits + self.n_features)))

    def double(self) -> GatedFeatures:
        """The same operator in float64: gates that a patch nearly touches may be on there only."""
        return GatedFeatures(self.geometry, self.transform.double(), self.gates.double(), self.pool)

    def restricted(self, kept: Tensor) -> GatedFeatures:
        """The features of some gates, by their numbers."""
        return GatedFeatures(self.geometry, self.transform, self.gates[kept], self.pool)

    def __call__(self, images: Tensor, out: Tensor | None = None) -> Tensor:
        """Return Phi for a block of images.

        Args:
            images: (n, channels, height, width) scaled images.
            out: (n, n_features) contiguous, to write into; reusing it saves page faults.

        Returns:
            (n, n_features), flattened from (n, cells, g, d).
        """
        if out is None:
            out = images.new_empty(len(images), self.n_features)
        for start in range(0, len(images), self.block_size):
            rows = slice(start, start + self.block_size)
            self._fill(self.pooling(images[rows]), out[rows])
        return out

    def _fill(self, patches: Tensor, out: Tensor) -> None:
        n, cells, dim = len(patches), self.geometry.n_cells, patches.shape[-1]
        flat = patches.reshape(-1, dim)
        if self._bits.numel() < len(flat) * len(self.gates):
            self._bits = flat.new_empty(len(flat) * len(self.gates))
        bits = self._bits[: len(flat) * len(self.gates)].view(len(flat), -1)
        torch.mm(flat, self._gates_t, out=bits)
        if self.pool == "max":
            self._take_largest(flat, bits, out)
            return
        torch.ge(bits, 0, out=bits)
        on = bits.view(n * cells, -1, len(self.gates))
        blocks = flat.view(n * cells, -1, dim)
        torch.bmm(on.transpose(1, 2), blocks, out=out.view(n * cells, -1, dim))

    def _take_largest(self, flat: Tensor, responses: Tensor, out: Tensor) -> None:
        """Write the patch with the largest response of every cell, where that is not negative."""
        n, cells, (gates, dim) = len(out), self.geometry.n_cells, self.gates.shape
        by_cell = responses.view(n, cells, -1, gates)
        order, patches = self.geometry.cell_order, self.geometry.grid[0] * self.geometry.grid[1]
        absent = (order == patches).to(responses.device)
        largest, best = by_cell.masked_fill(absent[..., None], -torch.inf).max(2)
        index = best[..., None].expand(n, cells, gates, dim)
        taken = flat.view(n, cells, -1, dim).gather(2, index)
        torch.mul(taken, (largest >= 0)[..., None], out=out.view(n, cells, gates, dim))
