"""The inverse of the curvature by the intercept, of which softmax has none in one direction."""

from __future__ import annotations

import torch
from torch import Tensor

NULL = 1e-12
"""Eigenvalues below this part of the largest are rounding: adding one number to all scores of an
image changes no probability."""


def pseudo_inverse(matrix: Tensor) -> Tensor:
    """Of a symmetric positive semidefinite matrix (k, k), float64."""
    inverse: Tensor = torch.linalg.pinv(matrix, rtol=NULL, hermitian=True)
    return inverse
