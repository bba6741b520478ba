"""The cones of (R): K_i = {v : C v >= 0}, with the rows of :mod:`.inequalities`.

On K_i the gated response of v is its ReLU response, so a point of the cone is a ReLU filter.
"""

from __future__ import annotations

import torch
from torch import Tensor

from convexcnn.programs.program import Program


def cone_responses(program: Program, weights: Tensor) -> Tensor:
    """Return C v: for average pooling (2 D_i(x) - 1) x . v for every patch.

    Args:
        program: whose patches and gates make the cones.
        weights: (..., cells, g, d).

    Returns:
        (..., cells, g, n q), negative outside the cone.
    """
    return program.inequalities.responses(weights)


def relative_violation(program: Program, weights: Tensor) -> float:
    """Return the worst violation of a cone, relative to the largest response of any patch."""
    responses = cone_responses(program, weights)
    scale = float(responses.abs().max())
    return max(0.0, -float(responses.min())) / scale if scale else 0.0


def shift_into_cones(program: Program, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return v + t a_i inside its cone, with the smallest t >= 0, and t.

    t = max over rows c of C of -(c . v) / (c . a_i): a gate lies inside its own cone. A row that
    is orthogonal to its gate is left out: no t helps there.

    Args:
        program: whose patches and gates make the cones.
        weights: (..., cells, g, d).

    Returns:
        the shifted weights, and t (..., cells, g).
    """
    inside = cone_responses(program, program.gates.expand(program.shape[1:]))
    outside = -cone_responses(program, weights)
    ratio = torch.where((outside > 0) & (inside > 0), outside / inside, 0.0)
    shift = ratio.amax(-1)
    return weights + shift[..., None] * program.gates, shift


def cone_decomposition(program: Program, weights: Tensor) -> Tensor:
    """Write every gated filter as a difference of two filters in its cone: v = (v + t a) - t a.

    Outputs on the training images stay the same; the norm grows by 2 t |a| or so.

    Args:
        program: the gated program that was solved.
        weights: (k, cells, g, d).

    Returns:
        V and W, (2, k, cells, g, d).
    """
    shifted, shift = shift_into_cones(program, weights)
    return torch.stack([shifted, shift[..., None] * program.gates])
