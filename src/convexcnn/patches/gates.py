"""Where gates come from, when the data alone decides: one function per strategy."""

from __future__ import annotations

import torch
from torch import Tensor

from convexcnn.patches.extract import PatchGeometry, extract_patches
from convexcnn.patches.whiten import PatchTransform

SUM_KEPT = 0.01
"""Part of its sum that a Gaussian gate on raw pixels keeps."""


def gaussian_gates(
    n_gates: int, geometry: PatchGeometry, transform: PatchTransform, generator: torch.Generator
) -> Tensor:
    """Draw standard normal gates a_i that nearly sum to zero over every colour channel.

    A gate with a large sum mostly asks whether a patch is bright, and all such gates agree;
    without it they look at edges and texture, which makes the program far better conditioned for
    descent. A hundredth of the sum is kept: with none, rounding alone would decide on which side
    of a gate a flat patch lies. In whitened coordinates the gates are standard normal as they are.

    Args:
        n_gates: g.
        geometry: where the patches lie.
        transform: raw patch -> d coordinates.
        generator: source of the draw.

    Returns:
        (g, d) gates in transformed coordinates.
    """
    gates = torch.randn(n_gates, transform.dim, generator=generator)
    if transform.is_identity:
        channels = geometry.image_shape[0]
        pixels = gates[:, : geometry.patch_dim].view(n_gates, channels, -1)
        pixels -= (1 - SUM_KEPT) * pixels.mean(2, keepdim=True)
    return gates.to(transform.mean.device)


def patch_gates(
    n_gates: int,
    images: Tensor,
    geometry: PatchGeometry,
    transform: PatchTransform,
    generator: torch.Generator,
    *,
    quantile: float = 0.5,
) -> Tensor:
    """Use random patches of the data, normalised, each on for its most similar patches.

    Args:
        n_gates: g; there are fewer if the images have not as many patches.
        images: (n, channels, height, width) scaled images to draw from.
        geometry: where the patches lie.
        transform: raw patch -> d coordinates; needs its constant coordinate for the threshold.
        generator: source of the draw.
        quantile: share of all patches for which a gate is off.

    Returns:
        (g, d) gates in transformed coordinates.
    """
    patches = transform(extract_patches(images, geometry)).flatten(0, 1)
    order = torch.randperm(len(patches), generator=generator)
    gates = patches[order[:n_gates].to(patches.device)].clone()
    sample = patches[order[-4096:].to(patches.device)]
    if transform.constant:
        gates[:, -1] = 0
    gates /= gates.norm(dim=1, keepdim=True).clamp_min(1e-12)
    if transform.constant:
        gates[:, -1] = -_threshold(sample @ gates.T, quantile) / transform.constant
    return gates


def _threshold(responses: Tensor, quantile: float) -> Tensor:
    """A threshold (g,) near the quantile of responses (n, g), in a gap between two of them.

    Never at a response: equal patches, such as an even background, would all lie on the gate's
    boundary, and rounding would decide on which side.
    """
    ordered = responses.sort(dim=0).values
    gaps = ordered.diff(dim=0)
    place = torch.arange(len(gaps), device=gaps.device)[:, None] - quantile * (len(gaps) - 1)
    wide = gaps > 1e-5 * (ordered[-1] - ordered[0])
    nearest = torch.where(wide, place.abs(), torch.inf).argmin(dim=0, keepdim=True)
    middle: Tensor = (ordered.gather(0, nearest) + ordered.gather(0, nearest + 1)) / 2
    return middle[0]
