"""An affine map of raw patches to the coordinates a block works in, and back to pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from convexcnn.errors import SettingError
from convexcnn.patches.extract import PatchGeometry, extract_patches

PATCH_NUMBERS = 2**24
"""Numbers in the patches that are in memory at once while a whitening is fitted."""


@dataclass(frozen=True)
class PatchTransform:
    """x -> [(x - mean) W, c]: centred, projected, with a constant coordinate c (none if 0).

    The constant gives every gate a threshold and every filter a bias, so a linear function of the
    new coordinates is an affine function of the raw patch.

    Args:
        mean: (d_raw,) subtracted from every raw patch.
        projection: (d_raw, r); its columns are the (whitened) directions kept. None keeps pixels
            as they are, without a matrix.
        constant: value of the appended coordinate; 0 leaves it out.

    Raises:
        ValueError: a constant that float32 does not hold.
    """

    mean: Tensor
    projection: Tensor | None
    constant: float = 0.0

    def __post_init__(self) -> None:
        if not abs(self.constant) <= torch.finfo(torch.float32).max:
            raise ValueError(f"constant is {self.constant}, which float32 does not hold")

    @property
    def dim(self) -> int:
        """Numbers per transformed patch, d."""
        return self.rank + (self.constant != 0)

    @property
    def rank(self) -> int:
        """Numbers per transformed patch without the constant."""
        return len(self.mean) if self.projection is None else self.projection.shape[1]

    @property
    def matrix(self) -> Tensor:
        """The projection, (d_raw, r), also where there is none."""
        if self.projection is None:
            return torch.eye(len(self.mean), dtype=self.mean.dtype, device=self.mean.device)
        return self.projection

    @property
    def is_identity(self) -> bool:
        """Whether raw pixels are the coordinates."""
        if self.projection is None:
            return True
        size = self.projection.shape
        eye = torch.eye(*size, device=self.projection.device)
        return size[0] == size[1] and torch.equal(self.projection, eye)

    def __call__(self, patches: Tensor) -> Tensor:
        """Map (..., d_raw) to (..., d)."""
        projection, shift = self.projection, self.mean
        if projection is not None:
            shift = shift @ projection
        flat = patches.reshape(-1, patches.shape[-1])
        projected = flat if projection is None else flat @ projection
        if not self.constant:
            return (projected - shift).view(*patches.shape[:-1], self.dim)
        out = flat.new_empty(len(flat), self.dim)
        out[:, -1] = self.constant
        torch.sub(projected, shift, out=out[:, :-1])
        return out.view(*patches.shape[:-1], self.dim)

    def to_filters(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Pull linear functions of transformed patches back to raw patches.

        Args:
            weights: (m, d) functions u of the transformed patch.

        Returns:
            filters (m, d_raw) and biases (m,) with ``transform(x) @ u == x @ filter + bias``.
        """
        filters = weights[:, : self.rank]
        if self.projection is not None:
            filters = filters @ self.projection.T
        bias = -filters @ self.mean
        if self.constant:
            bias = bias + self.constant * weights[:, -1]
        return filters, bias

    def to(self, device: torch.device | str) -> PatchTransform:
        projection = None if self.projection is None else self.projection.to(device)
        return PatchTransform(self.mean.to(device), projection, self.constant)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> PatchTransform:
        """The same map with its tensors changed."""
        projection = None if self.projection is None else change(self.projection)
        return PatchTransform(change(self.mean), projection, self.constant)

    def double(self) -> PatchTransform:
        """The same map in float64."""
        projection = None if self.projection is None else self.projection.double()
        return PatchTransform(self.mean.double(), projection, self.constant)


def identity_transform(patch_dim: int, constant: float = 0.0) -> PatchTransform:
    """Raw patches, as the paper protocol uses them."""
    return PatchTransform(torch.zeros(patch_dim), torch.eye(patch_dim), constant)


def fit_whitening(
    images: Tensor,
    geometry: PatchGeometry,
    rank: int,
    *,
    regularisation: float = 1e-3,
    constant: float = 1.0,
    weights: Tensor | None = None,
) -> PatchTransform:
    """Whiten patches: project on the leading principal directions, each scaled to unit variance.

    W = U_r (S_r + eps s_1)^(-1/2), with U, S the eigenvectors and eigenvalues of the covariance of
    the patches and s_1 the largest eigenvalue.

    Args:
        images: (n, channels, height, width) scaled images; a few thousand are enough.
        geometry: where the patches lie.
        rank: number of principal directions kept, r.
        regularisation: eps, relative to the largest eigenvalue; keeps noise from being blown up.
        constant: value of the appended constant coordinate.
        weights: (n,) of the images; None where all weigh one.

    Raises:
        SettingError: if ``rank`` is not between 1 and the number of pixels in a patch.
    """
    if not 1 <= rank <= geometry.patch_dim:
        raise SettingError(
            f"whiten is {rank}; keep between 1 and {geometry.patch_dim} principal directions "
            f"of a {geometry.filter_size}x{geometry.filter_size} patch"
        )
    mean, covariance = _moments(images, geometry, weights)
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0)[:rank].clamp_min(0), vectors.flip(1)[:, :rank]
    floor = max(float(values[0]) * regularisation, 1e-12)
    projection = vectors / (values + floor).sqrt()
    return PatchTransform(mean, projection.to(images.dtype).contiguous(), constant)


def _moments(
    images: Tensor, geometry: PatchGeometry, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mean (d_raw,) of the patches of images, and their covariance in float64.

    Patches are far more numbers than images, so only some images are cut into theirs at a time.
    """
    per_image = geometry.grid[0] * geometry.grid[1]
    each = torch.ones(len(images), dtype=torch.float64) if weights is None else weights
    shares = (each / (each.sum() * per_image)).to(images.device)
    step = max(1, PATCH_NUMBERS // (per_image * geometry.patch_dim))
    parts = [slice(start, start + step) for start in range(0, len(images), step)]

    def patches_of(part: slice) -> tuple[Tensor, Tensor]:
        patches = extract_patches(images[part], geometry)
        return patches.reshape(-1, geometry.patch_dim), shares[part].repeat_interleave(per_image)

    mean = torch.zeros(geometry.patch_dim, dtype=torch.float64, device=images.device)
    covariance = mean.new_zeros(geometry.patch_dim, geometry.patch_dim)
    for part in parts:
        patches, share = patches_of(part)
        mean += share.to(patches) @ patches
    centre = mean.to(images.dtype)
    for part in parts:
        patches, share = patches_of(part)
        patches = (patches - centre).mul_(share.sqrt().to(patches)[:, None])
        covariance += patches.T @ patches
    return centre, covariance


def fit_triangular_whitening(
    images: Tensor,
    geometry: PatchGeometry,
    *,
    regularisation: float = 3e-2,
    constant: float = 1.0,
) -> PatchTransform:
    """Whiten patches by the triangular factor of their covariance: all directions, in no order.

    W = L^(-T) with L L' = S + eps (tr S / d) I. What is invariant to rotations of the coordinates,
    such as orthogonalised steps on filters of unit norm, sees no difference to principal
    directions, which take far longer for patches of thousands of numbers.

    Args:
        images: (n, channels, height, width) scaled images.
        geometry: where the patches lie.
        regularisation: eps, relative to the mean variance.
        constant: value of the appended constant coordinate.
    """
    mean, covariance = _moments(images, geometry)
    average = float(covariance.diagonal().mean())
    covariance.diagonal().add_(max(regularisation * average, 1e-12))
    factor = torch.linalg.cholesky(covariance)
    eye = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
    inverse = torch.linalg.solve_triangular(factor, eye, upper=False)
    return PatchTransform(mean, inverse.T.to(images.dtype).contiguous(), constant)
