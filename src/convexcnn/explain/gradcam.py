"""Grad-CAM: the maps of one layer, each weighted by the mean gradient of a class's score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from convexcnn.data.arguments import check_whole
from convexcnn.errors import SettingError
from convexcnn.explain.block import (
    PatchBlock,
    block_inputs,
    block_of,
    blocks_with_targets,
    has_block,
)
from convexcnn.explain.scorer import (
    Target,
    as_module,
    as_scorer,
    as_tensor,
    evaluating,
    picked,
    resolve_target,
)
from convexcnn.explain.stack import averages_mirror_images, is_stack
from convexcnn.models.base import ImageClassifier
from convexcnn.models.end_to_end import MirrorAverage
from convexcnn.models.torch_stack import StackNetwork
from convexcnn.patches.float32 import fast_float32


def grad_cam(
    model: ImageClassifier | nn.Module,
    images: ArrayLike | Tensor,
    target: Target = None,
    *,
    layer: str | None = None,
    positive: bool = False,
    batch_size: int = 16,
) -> NDArray[np.float32]:
    """Return the Grad-CAM map of one layer.

    map[r, s] = sum_j alpha_j A_j[r, s],   alpha_j = mean over r, s of  d F_c / d A_j[r, s]

    with A_j the layer's channels. captum's ``LayerGradCam`` computes the same; ``positive`` adds
    the ReLU of the paper, and is captum's ``relu_attributions``.

    Of a fitted classifier the layer is the last one before pooling: gated coordinates (layer
    ``features`` of ``to_torch()``) or ReLU responses (``relu``). Its map is then a sum over gates,

    map[l] = sum_i 1[x_l . a_i >= 0] x_l . (1/p) sum_cells v_{c,cell,i},

    and computed as that: with one pooling cell it *is* the map of exact contributions; with more
    cells it forgets in which cell a patch lies. Of a stack it is the same for the block whose head
    predicts; ``block_head`` chooses another, and ``layer`` the maps of any (``blocks.1.maps``).

    Where a classifier averages the scores of an image with those of its mirror image, its layers
    are called for both, and the map is the mean of two: that of the image, and that of its mirror
    image, mirrored back. Any other layer that a module calls several times is refused.

    Args:
        model: a fitted classifier, or any torch module that maps images to scores (n, k).
        images: n images, in the pixel units of the model.
        target: class (column of the scores) for all images, (n,) one for each, or None for the
            class with the highest score.
        layer: name of a submodule with output (n, channels, rows, columns), as in
            ``named_modules()``, of a classifier in those of its ``to_torch()``; needed for a
            module, which must call it once.
        positive: whether negative values become 0.
        batch_size: images at once, at most.

    Returns:
        (n, rows, columns), in the layer's grid; see ``on_pixels`` to enlarge it.

    Raises:
        DataError: images that do not fit the model.
        SettingError: a layer that is not there, has no maps or no gradient or is called several
            times, or a class that is not there.

    Source: Selvaraju et al. 2017, *Grad-CAM*.
    """
    check_whole("batch_size", batch_size, 1)
    pixels = as_tensor(images, model)
    if layer is None and (has_block(model) or is_stack(model)):
        maps = _of_classifier(model, pixels, target, batch_size)
    else:
        module = as_module(model)
        targets = resolve_target(target, lambda: as_scorer(module, batch_size)(pixels), len(pixels))
        hooked = _named(module, layer)
        batches = blocks_with_targets(iter([pixels]), targets, batch_size)
        maps = torch.cat([_of_module(module, hooked, layer, *batch) for batch in batches])
    maps = maps.clamp_min(0) if positive else maps
    result: NDArray[np.float32] = maps.cpu().float().numpy()
    return result


def _of_classifier(
    model: ImageClassifier, pixels: Tensor, target: Target, batch_size: int
) -> Tensor:
    block = block_of(model)
    targets = resolve_target(target, lambda: as_scorer(model)(pixels), len(pixels))
    picked(torch.zeros(len(pixels), block.n_classes), targets)
    at_once = min(block.images_at_once, batch_size)
    maps = _one_way(model, block, pixels, targets, at_once)
    if averages_mirror_images(model):
        maps = (maps + _one_way(model, block, pixels.flip(3), targets, at_once).flip(2)) / 2
    return maps


def _one_way(
    model: ImageClassifier, block: PatchBlock, pixels: Tensor, targets: Tensor, at_once: int
) -> Tensor:
    """Maps (n, rows, columns) of images as they are."""
    rows, columns = block.geometry.grid
    mean = block.weights.sum(1) / (rows * columns)
    stream = blocks_with_targets(block_inputs(model, pixels), targets, at_once)
    with torch.no_grad(), fast_float32():
        parts = [_patch_map(block, part, mean[classes]) for part, classes in stream]
    return torch.cat([torch.zeros(0, rows, columns), *(part.cpu() for part in parts)])


def _patch_map(block: PatchBlock, images: Tensor, weights: Tensor) -> Tensor:
    """sum_i 1[x_l . a_i >= 0] x_l . v_i for every patch, with weights (n, g, d) per image."""
    patches = block.flat_patches(images)
    on = (patches @ block.gates.T >= 0).to(patches.dtype)
    values = (torch.bmm(on, weights) * patches).sum(2)
    return values.view(len(images), *block.geometry.grid)


def _named(module: nn.Module, layer: str | None) -> nn.Module:
    modules = {name: part for name, part in module.named_modules() if name}
    if layer is None or layer not in modules:
        given = "layer is not given" if layer is None else f"layer {layer!r} is not there"
        raise SettingError(f"{given}; choose one of {', '.join(modules) or 'a deeper module'}")
    chosen: nn.Module = modules[layer]
    return chosen


def _of_module(
    module: nn.Module, layer: nn.Module, name: str | None, images: Tensor, targets: Tensor
) -> Tensor:
    """Grad-CAM (n, rows, columns) by a forward hook and one backward pass."""
    seen: list[Tensor] = []

    def keep(part: nn.Module, inputs: Any, output: Any) -> Any:
        if isinstance(output, Tensor) and output.is_floating_point() and not output.requires_grad:
            output.requires_grad_()
        seen.append(output)
        # What follows may change its input in place, as nn.ReLU(inplace=True) does.
        return output.clone() if isinstance(output, Tensor) else output

    handle = layer.register_forward_hook(keep)
    try:
        with evaluating(module), torch.enable_grad():
            chosen = picked(module(images), targets).sum()
            if not seen or not all(isinstance(a, Tensor) and a.ndim == 4 for a in seen):
                raise SettingError(
                    f"layer {name!r} gives no maps (n, channels, rows, columns); choose a "
                    f"convolution or what follows one"
                )
            if len(seen) != (2 if _sees_mirror_images(module, layer) else 1):
                raise SettingError(
                    f"layer {name!r} is called several times, each with maps of its own; choose "
                    f"one that is called once"
                )
            found: Sequence[Tensor | None] = ()
            if chosen.requires_grad and seen[0].requires_grad:
                found = torch.autograd.grad(chosen, seen, allow_unused=True)
            gradients = [gradient for gradient in found if gradient is not None]
            if len(gradients) < len(seen):
                raise SettingError(
                    f"layer {name!r} has no gradient: scores do not change with what it gives; "
                    f"choose another"
                )
    finally:
        handle.remove()
    maps, *mirrored = (
        (gradient.mean((2, 3), keepdim=True) * output).sum(1).detach()
        for gradient, output in zip(gradients, seen, strict=True)
    )
    return sum((part.flip(2) for part in mirrored), start=maps)


def _sees_mirror_images(module: nn.Module, layer: nn.Module) -> bool:
    """Whether a layer is called for the images and then for their mirror images.

    The score is then the mean of two. The gradient by either call's maps has the factor of 1/2, so
    that the maps of both calls only have to be added.
    """
    return any(
        layer is inside
        for part in module.modules()
        if isinstance(part, MirrorAverage) or (isinstance(part, StackNetwork) and part.mirror)
        for inside in part.modules()
        if inside is not part
    )
