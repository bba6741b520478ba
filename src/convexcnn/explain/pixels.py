"""Maps of patches as maps of pixels: shared out evenly, or enlarged."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from convexcnn.patches.extract import PatchGeometry

Floats = NDArray[np.float32]


def spread_evenly(maps: ArrayLike, geometry: PatchGeometry) -> Floats:
    """Pull contributions of patches back to pixels: every patch shares its own evenly.

    map[p] = sum over patches l that hold p of  contribution_l / (pixels of l in the image)

    This says *which region* a score comes from, at the resolution of a patch, and nothing about
    which pixels inside a patch matter: it is the only split that treats them alike. Sums stay
    exact; padding gets nothing, and a patch that lies wholly in the padding is left out.

    Args:
        maps: (n, rows, columns) contributions of patches.
        geometry: where the patches lie.

    Returns:
        (n, height, width).
    """
    values = torch.as_tensor(np.asarray(maps, np.float32)).flatten(1)
    _, height, width = geometry.image_shape
    side, pad, stride = geometry.filter_size, geometry.padding, geometry.stride
    inside = torch.nn.functional.unfold(
        torch.ones(1, 1, height, width), side, padding=pad, stride=stride
    )
    shares = values[:, None] / inside.sum(1, keepdim=True).clamp_min(1) * inside
    pixels = torch.nn.functional.fold(shares, (height, width), side, padding=pad, stride=stride)
    result: Floats = pixels[:, 0].numpy()
    return result


def on_pixels(maps: ArrayLike, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Enlarge maps to images, bilinearly, as Grad-CAM is usually shown.

    Args:
        maps: (n, rows, columns).
        shape: (height, width) in pixels.

    Returns:
        (n, height, width).
    """
    grids = torch.as_tensor(np.asarray(maps, np.float32))[:, None]
    large = torch.nn.functional.interpolate(grids, shape, mode="bilinear", align_corners=False)
    result: NDArray[np.float32] = large[:, 0].numpy()
    return result
