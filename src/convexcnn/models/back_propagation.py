"""Train a whole network by back-propagation within a time: the recipe of the baselines."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from convexcnn.errors import SettingError
from convexcnn.patches.stream import ImageStream, largest_shift
from convexcnn.solvers.result import Callback

CURVE_POINTS = 20
"""Measurements on held-out images while a network is trained, at most."""

CURVE_IMAGES = 1000
"""Held-out images of one such measurement."""

MEASURING_SHARE = 0.03
"""Part of the time that measuring may take, about."""

WARM_UP = 0.15
"""Part of the time in which the learning rate rises; in the rest it falls to zero."""

SHIFT_SHARE = 1 / 8
"""Part of a side by which an image is shifted, at most: 4 of 32 pixels."""

SCORED_AT_ONCE = 256


@dataclass(frozen=True)
class Recipe:
    """SGD with Nesterov momentum and label smoothing on flipped and shifted images.

    The learning rate rises linearly, then falls linearly to zero, as a function of the part of
    ``budget`` or ``epochs`` that is used up, whichever is more: it always ends with the training.

    Args:
        budget: minutes; None for no limit.
        epochs: passes over the images; None for no limit.
        flip: whether every image is mirrored with probability 1/2, each time it is seen.
        crop: whether it is shifted by up to an eighth of its side each time.
        batch_size: images per step.
        learning_rate: the highest one.
        momentum: Nesterov's.
        weight_decay: of filters and matrices; biases and normalisations have none.
        label_smoothing: part of every target that is spread over all classes.
        longest_gradient: norm to which longer gradients, of all weights together, are cut.
    """

    budget: float | None
    epochs: int | None
    flip: bool
    crop: bool
    batch_size: int
    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    longest_gradient: float = 2.0

    def progress(self, seconds: float, epochs: float) -> float:
        """The part of the training that is done, 1 at its end."""
        of_time = seconds / (60 * self.budget) if self.budget else 0.0
        return max(of_time, epochs / self.epochs if self.epochs else 0.0)

    def rate(self, progress: float) -> float:
        """The learning rate at a part of the training."""
        slope = min(progress / WARM_UP, (1 - progress) / (1 - WARM_UP))
        return self.learning_rate * max(slope, 0.0)


def autocast(device: str) -> torch.autocast:
    """Convolutions and products in bfloat16 where the processor has instructions for it."""
    kind = torch.device(device).type
    if kind == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:
        fast = bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
    return torch.autocast(kind, torch.bfloat16, enabled=fast)


def descend(
    network: nn.Module,
    train: ImageStream,
    held_out: ImageStream | None,
    recipe: Recipe,
    *,
    generator: torch.Generator,
    callback: Callback | None = None,
) -> list[dict[str, Any]]:
    """Train a network in place, from the weights that it has.

    Args:
        network: on the device of the streams; maps (n, channels, height, width) to scores (n, k).
        train: training images; whether it is mirrored does not matter.
        held_out: images to measure on meanwhile; the training does not depend on what they say.
        recipe: how, and for how long.
        generator: order of the mini-batches, flips and shifts.
        callback: called with every event.

    Returns:
        The events: step, epoch, seconds since the start, ``train_loss`` (smoothed) and
        ``train_accuracy`` averaged over the mini-batches since the last event, each as the network
        saw it before its step, and ``validation_accuracy`` of up to 1,000 held-out images.

    Raises:
        SettingError: the loss or a weight is not finite any more: the learning rate is too large.
    """
    start = time.perf_counter()
    channels_last(network).train()
    optimiser, cast = _optimiser(network, recipe), autocast(train.device)
    if held_out is not None:
        order = torch.randperm(len(held_out.images), generator=generator)[:CURVE_IMAGES]
        held_out = held_out.subset(order.numpy())
    batch_size = min(recipe.batch_size, len(train.images))
    events: list[dict[str, Any]] = []
    per_step = batch_size / len(train.images)
    totals, seen, step = torch.zeros(2, device=train.device), 0, 0
    elapsed, step_seconds, next_event = 0.0, 0.0, 1 / CURVE_POINTS
    for images, labels in _batches(train, batch_size, recipe, generator):
        progress = recipe.progress(elapsed + step_seconds / 2, (step + 0.5) * per_step)
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(progress)
        with torch.enable_grad():
            with cast:
                scores = network(images).float()
            loss = cross_entropy(scores, labels, label_smoothing=recipe.label_smoothing)
            loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), recipe.longest_gradient)
        optimiser.step()
        optimiser.zero_grad()
        step, seen = step + 1, seen + len(images)
        totals[0] += loss.detach() * len(images)
        totals[1] += (scores.argmax(1) == labels).sum()
        before, elapsed = elapsed, time.perf_counter() - start
        step_seconds = min(elapsed - before, elapsed / step)  # one interruption counts for little
        last = recipe.progress(elapsed + step_seconds / 2, (step + 1) * per_step) > 1 + 1e-9
        if progress < next_event and not last:
            continue
        loss_sum, correct = totals.tolist()
        if not math.isfinite(loss_sum):
            raise _diverged(step, recipe)
        event = {
            "phase": "sgd",
            "step": step,
            "epoch": step * per_step,
            "seconds": elapsed,
            "train_loss": loss_sum / seen,
            "train_accuracy": correct / seen,
        }
        if held_out is not None:
            event["validation_accuracy"] = accuracy(network, held_out, mirror=recipe.flip)
        events.append(event)
        if callback is not None:
            callback(event)
        if last:
            break
        totals.zero_()
        seen, before, elapsed = 0, elapsed, time.perf_counter() - start
        measuring = recipe.progress((elapsed - before) / MEASURING_SHARE, 0.0)
        next_event = progress + max(1 / CURVE_POINTS, measuring)
    if not all(bool(values.isfinite().all()) for values in network.parameters()):
        raise _diverged(step, recipe)  # in the last step, whose loss nobody has seen
    return events


def _diverged(step: int, recipe: Recipe) -> SettingError:
    return SettingError(
        f"the loss diverged at step {step}; choose a learning_rate below {recipe.learning_rate:g}"
    )


def channels_last(network: nn.Module) -> nn.Module:
    """The network, its filters laid out as the processor's convolutions like them, in place."""
    moved: nn.Module = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def network_scores(network: nn.Module, images: Tensor, *, mirror: bool) -> Tensor:
    """Scores (n, k) of scaled images by a network that is not in training, in the same numbers.

    Args:
        network: maps (n, channels, height, width) to (n, k).
        images: scaled.
        mirror: whether scores are averaged with those of the mirror images.
    """
    views = [images, images.flip(3)] if mirror else [images]
    with autocast(images.device.type):
        found = [network(v.contiguous(memory_format=torch.channels_last)).float() for v in views]
    return torch.stack(found).mean(0)


def stream_scores(network: nn.Module, stream: ImageStream, *, mirror: bool) -> Tensor:
    """Scores (n, k) of all images of a stream, on the CPU; the network is left in training."""
    network.eval()
    n = len(stream.images)
    rows = (slice(start, start + SCORED_AT_ONCE) for start in range(0, n, SCORED_AT_ONCE))
    with torch.no_grad():
        blocks = (stream.block(part)[0] for part in rows)
        scores = [network_scores(network, images, mirror=mirror).cpu() for images in blocks]
    network.train()
    return torch.cat(scores)


def accuracy(network: nn.Module, stream: ImageStream, *, mirror: bool) -> float:
    """Part of the images that a network classifies correctly."""
    right = stream_scores(network, stream, mirror=mirror).argmax(1).numpy() == stream.labels
    return float(right.mean())


def _optimiser(network: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    parameters = list(network.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        groups,
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
    )


def _batches(
    stream: ImageStream, size: int, recipe: Recipe, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Random mini-batches without end: images (size, channels, height, width), labels (size,).

    The last images of an epoch that fill no batch are left out of it.
    """
    n = len(stream.images)
    while True:
        order = torch.randperm(n, generator=generator).numpy()
        for start in range(0, n - size + 1, size):
            images, targets = stream.block(order[start : start + size])
            if recipe.crop:
                images = _shifted(images, generator)
            if recipe.flip:
                mirrored = torch.rand(size, generator=generator) < 0.5
                mirrored = mirrored.to(images.device)[:, None, None, None]
                images = torch.where(mirrored, images.flip(3), images)
            yield images.contiguous(memory_format=torch.channels_last), targets.argmax(1)


def _shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Every image shifted by random rows and columns; 0, the mean colour, comes into view."""
    n, _, height, width = images.shape
    most = largest_shift(SHIFT_SHARE, images.shape)
    padded = pad(images, (most,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    rows, columns = torch.randint(2 * most + 1, (2, n), generator=generator).to(images.device)
    return windows[torch.arange(n, device=images.device), :, rows, columns]
