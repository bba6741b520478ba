"""From the variables of a convex program to neurons, and to a plain ``torch.nn.Sequential``.

A filter v of (R) is the neuron u = v / sqrt|v| with head weight sqrt|v| (or -sqrt|v| for w):
their part in the regulariser of (P), (|u|^2 + |w|^2) / 2, is |v|, so that (P) at the recovered
network equals (R) at its solution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convexcnn.patches.extract import PatchGeometry
from convexcnn.patches.operator import CACHE_BYTES, PatchPooling
from convexcnn.patches.whiten import PatchTransform
from convexcnn.programs.cones import cone_decomposition, cone_shifts
from convexcnn.programs.program import Program
from convexcnn.programs.regularisers import gate_matrices

NEGLIGIBLE = 1e-9
"""Neurons whose strength is below this part of the strongest one's are left out."""


@dataclass(frozen=True)
class Neurons:
    """A two-layer ReLU network on patches: F(x) = sum_j w_j pool_l (x_l . u_j)_+ + b.

    Args:
        filters: u, (m, d), in the coordinates of the patches.
        head: w, (k, cells, m).
        bias: b, (k,).
        pooling: ``average`` or ``max`` over the patches l of a cell.
    """

    filters: Tensor
    head: Tensor
    bias: Tensor
    pooling: str = "average"

    def single(self) -> Neurons:
        """The same network in float32."""
        return Neurons(self.filters.float(), self.head.float(), self.bias.float(), self.pooling)

    def scores(self, patches: Tensor) -> Tensor:
        """Return the scores (n, k) of patches (n, cells, q, d), scaled as in ``Program``."""
        responses = (patches @ self.filters.T).clamp_min(0)
        responses = responses.sum(2) if self.pooling == "average" else responses.amax(2)
        return torch.einsum("ncm,kcm->nk", responses, self.head) + self.bias

    def scorer(self, pooling: PatchPooling) -> Callable[[Tensor], Tensor]:
        """A function from scaled images (n, channels, height, width) to scores (n, k).

        Args:
            pooling: images -> patches by cell, in the precision of the filters.
        """
        cells = self.head.shape[1]
        positions = pooling.geometry.cell_order.numel()
        at_once = max(
            1, CACHE_BYTES // (self.filters.element_size() * positions * max(1, self.size))
        )

        def score(images: Tensor) -> Tensor:
            blocks = (pooling(block) for block in torch.split(images, at_once))
            patches = (block.view(len(block), cells, -1, block.shape[-1]) for block in blocks)
            return torch.cat([self.scores(block) for block in patches])

        return score

    @property
    def size(self) -> int:
        """Number of neurons, m."""
        return len(self.filters)

    def balanced(self) -> Neurons:
        """The same network with |u_j| = |w_j|, which has the smallest sum of squares."""
        ratio = (self.head.norm(dim=(0, 1)) / self.filters.norm(dim=1)).sqrt()
        return Neurons(self.filters * ratio[:, None], self.head / ratio, self.bias, self.pooling)

    @property
    def norm(self) -> float:
        """(1/2) sum of |u|^2 + |w|^2, what beta weighs in (P)."""
        return 0.5 * float(self.filters.square().sum() + self.head.square().sum())

    def objective(self, program: Program) -> float:
        """Return (P): the mean loss plus (beta/2) (|u|^2 + |w|^2) over all neurons."""
        scores = self.scores(program.patches)
        loss = float(program.loss_function.value(scores, program.targets)) / len(scores)
        return loss + program.beta * self.norm

    def to_sequential(
        self,
        geometry: PatchGeometry,
        transform: PatchTransform,
        dtype: torch.dtype = torch.float32,
    ) -> nn.Sequential:
        """Return the same network on scaled images (n, channels, height, width).

        Args:
            geometry: where patches and pooling cells lie.
            transform: raw patch -> the coordinates of the filters.
            dtype: of the layers.

        Returns:
            Conv2d, ReLU, AdaptiveAvgPool2d or AdaptiveMaxPool2d, Flatten, Linear.
        """
        if not self.size:  # a convolution has a filter at least
            nothing = self.filters.new_zeros(1, transform.dim)
            head = self.head.new_zeros(*self.head.shape[:2], 1)
            one = Neurons(nothing, head, self.bias, self.pooling)
            return one.to_sequential(geometry, transform, dtype)
        channels, side = geometry.image_shape[0], geometry.filter_size
        m, (k, cells) = len(self.filters), self.head.shape[:2]
        conv = nn.Conv2d(channels, m, side, geometry.stride, geometry.padding)
        linear = nn.Linear(m * cells, k)
        filters, biases = transform.double().to_filters(self.filters)
        values = {
            "0.weight": filters.view(m, channels, side, side),
            "0.bias": biases,
            "4.weight": self.head.transpose(1, 2).reshape(k, -1),
            "4.bias": self.bias,
        }
        pools = {"average": nn.AdaptiveAvgPool2d, "max": nn.AdaptiveMaxPool2d}
        pool = pools[self.pooling](geometry.cells)
        network = nn.Sequential(conv, nn.ReLU(), pool, nn.Flatten(), linear).to(dtype)
        network.load_state_dict(values)
        return network


def relu_neurons(weights: Tensor, bias: Tensor, pooling: str = "average") -> Neurons:
    """Recover the network of a solution of (R): one neuron per filter that is not zero.

    Args:
        weights: V and W, (2, k, cells, g, d), inside their cones.
        bias: b, (k,).
        pooling: that of the program.
    """
    strength = weights.norm(dim=-1)
    kept = strength > NEGLIGIBLE * strength.max()
    sign, owner, cell, _ = kept.nonzero().unbind(1)
    root = strength[kept].sqrt()
    head = weights.new_zeros(*weights.shape[1:3], len(root))
    head[owner, cell, torch.arange(len(root))] = torch.where(sign == 0, root, -root)
    return Neurons(weights[kept] / root[:, None], head, bias, pooling)


def decomposed_neurons(
    patches: Iterable[Tensor],
    gates: Tensor,
    weights: Tensor,
    bias: Tensor,
    pooling: str = "average",
) -> Neurons:
    """Turn a solution of (G) with `l2` or the group norm into a ReLU network, by its cones.

    Scores on the training images stay the same; the objective (P) may be larger than (G).

    Args:
        patches: blocks (b, cells, q, d) of all training images.
        gates: (g, d).
        weights: V, (k, cells, g, d).
        bias: b, (k,).
        pooling: that of the program.
    """
    pair = cone_decomposition(patches, gates, weights, pooling)
    return relu_neurons(pair, bias, pooling)


def factored_neurons(
    patches: Iterable[Tensor],
    gates: Tensor,
    weights: Tensor,
    bias: Tensor,
    pooling: str = "average",
) -> Neurons:
    """Turn a solution of (G) into a ReLU network with shared filters, by the factors of every V_i.

    V_i = sum_r s_r p_r q_r' has gated filters sqrt(s_r) p_r with heads sqrt(s_r) q_r; each is the
    difference of two ReLU filters, (sqrt(s_r) p_r + t a_i) and t a_i, in the cone of its gate.

    Args:
        patches: blocks (b, cells, q, d) of all training images.
        gates: (g, d).
        weights: V, (k, cells, g, d).
        bias: b, (k,).
        pooling: that of the program.
    """
    k, cells = weights.shape[:2]
    left, values, right = torch.linalg.svd(gate_matrices(weights), full_matrices=False)
    root = values.sqrt()
    filters = root[..., None] * left.transpose(1, 2)  # (g, r, d)
    shift = cone_shifts(patches, gates, filters[None], pooling)[0]
    kept = values > NEGLIGIBLE * values.max()
    gate, factor = kept.nonzero().unbind(1)
    heads = (root[..., None] * right)[kept].view(-1, k, cells).permute(1, 2, 0)
    along = shift[gate, factor][:, None] * gates[gate]
    needed = along.norm(dim=1) > 0
    return Neurons(
        torch.cat([filters[kept] + along, along[needed]]),
        torch.cat([heads, -heads[..., needed]], 2),
        bias,
        pooling,
    ).balanced()
