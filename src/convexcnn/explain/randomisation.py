"""Whether maps depend on what was learned: compare them with those of shuffled weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata
from torch import Tensor, nn

from convexcnn.errors import SettingError
from convexcnn.explain.stack import is_stack
from convexcnn.models.base import ImageClassifier
from convexcnn.models.relu_cnn import NonConvexConvClassifier
from convexcnn.models.trained_block import TrainedBlock
from convexcnn.models.two_layer import ConvexConvClassifier

Model = TypeVar("Model", ImageClassifier, nn.Module)


def randomisation_test(
    model: Model, explain: Callable[[Model], ArrayLike], random_state: int = 0
) -> dict[str, float]:
    """Shuffle the weights layer by layer, from the output down, and compare the maps.

    A map that stays the same shows the image, not the model. The last entry is that of a model of
    which everything learned is shuffled.

    Args:
        model: a fitted classifier or a torch module; it is not changed.
        explain: from such a model to maps (n, ...).
        random_state: seed of the shuffles.

    Returns:
        By the layer shuffled last: the mean over images of the rank correlation (Spearman)
        between maps before and after.

    Source: Adebayo et al. 2018, *Sanity Checks for Saliency Maps*.
    """
    before = np.asarray(explain(model))
    return {
        name: float(rank_correlations(before, explain(other)).mean())
        for name, other in shuffled_copies(model, random_state)
    }


def shuffled_copies(model: Model, random_state: int = 0) -> Iterator[tuple[str, Model]]:
    """Yield copies of a model with ever more layers shuffled, the one next to the output first.

    The entries of every weight are permuted, so that their distribution stays. Of a stack, the
    heads of all blocks are shuffled first, and then the gates and neurons of all blocks too.

    Args:
        model: a fitted classifier, or a torch module whose parts are defined in the order
            in which they are used.
        random_state: seed.

    Raises:
        SettingError: a model without weights.
    """
    generator = torch.Generator().manual_seed(random_state)
    if isinstance(model, nn.Module):
        parts = [name for name, part in model.named_modules() if list(part.parameters(False))]
        if not parts:
            raise SettingError("model has no weights to shuffle; give a module with parameters")
        changed = copy.deepcopy(model)
        for name in reversed(parts):
            for parameter in changed.get_submodule(name).parameters(False):
                parameter.data = _shuffled(parameter.data, generator)
            yield name or type(model).__name__, changed
        return
    if is_stack(model):
        stack = copy.copy(model)
        stack.blocks_ = [_with_shuffled(b, ("weights",), generator) for b in stack.blocks_]
        yield "heads", stack
        stack.blocks_ = [_with_shuffled(b, b.before_head, generator) for b in stack.blocks_]
        yield "blocks", stack
        return
    other = copy.copy(model)
    for name in _learned(model):
        setattr(other, name, _shuffled(getattr(model, name), generator))
        yield name.rstrip("_"), other


def rank_correlations(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Spearman's rank correlation of every map with its partner.

    Args:
        first: (n, ...).
        second: of the same shape.

    Returns:
        (n,), between -1 and 1; 0 where a map is constant.
    """
    ranks = [
        rankdata(np.asarray(maps).reshape(len(np.asarray(maps)), -1), axis=1)
        for maps in (first, second)
    ]
    a, b = (rank - rank.mean(1, keepdims=True) for rank in ranks)
    norms = np.sqrt(np.square(a).sum(1) * np.square(b).sum(1))
    result: NDArray[np.float64] = (a * b).sum(1) / np.maximum(norms, 1e-30)
    return result


def _learned(model: ImageClassifier) -> tuple[str, ...]:
    """Names of the learned tensors, the one next to the output first."""
    if isinstance(model, ConvexConvClassifier):
        return "coef_", "gates_"
    if isinstance(model, NonConvexConvClassifier):
        return "coef_", "filters_"
    raise SettingError(f"model is a {type(model).__name__}; give a fitted classifier")


def _with_shuffled(
    block: TrainedBlock, fields: tuple[str, ...], generator: torch.Generator
) -> TrainedBlock:
    tensors = {name: _shuffled(getattr(block, name), generator) for name in fields}
    return replace(block, **tensors)  # type: ignore[arg-type]


def _shuffled(weights: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.randperm(weights.numel(), generator=generator).to(weights.device)
    return weights.flatten()[order].view_as(weights)
