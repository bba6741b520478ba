"""From a trained convex block to a plain ReLU network, and what that costs in norm and scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convexcnn.certificates.block_certificate import BlockEvidence
from convexcnn.data.rows import ImageRows
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.programs.losses import get_loss
from convexcnn.programs.neurons import Neurons, decomposed_neurons, factored_neurons, relu_neurons
from convexcnn.programs.regularisers import gate_matrices

if TYPE_CHECKING:
    from convexcnn.models.two_layer import ConvexConvClassifier

BLOCK = 64
WORK = 3e10
"""Floating-point operations that comparing scores may take; it takes fewer images beyond them."""

FEWEST = 100


@dataclass(frozen=True)
class ScoreDifference:
    """How far two models' scores are apart.

    Args:
        images: that were compared.
        root_mean_square: over images and classes.
        largest: absolute difference.
        changed: part of the images that get another label.
    """

    images: int
    root_mean_square: float
    largest: float
    changed: float


@dataclass(frozen=True)
class RecoveredNetwork:
    """The plain ReLU network of a convex solution, beside the convex optimum.

    Args:
        neurons: m.
        objective: (P): mean training loss plus (beta/2) (|u|^2 + |w|^2).
        convex: objective of the convex program at its solution.
        norm: (1/2) (|u|^2 + |w|^2).
        convex_norm: sum of |v_ic|, or of nuclear norms: what ``norm`` would be without the cones.
        training: difference of scores on images that it was trained on.
        test: the same on others; None without any, and for (R), whose solution is the network.
    """

    neurons: int
    objective: float
    convex: float
    norm: float
    convex_norm: float
    training: ScoreDifference
    test: ScoreDifference | None

    @property
    def norm_ratio(self) -> float:
        return self.norm / self.convex_norm if self.convex_norm else 1.0

    def words(self) -> str:
        """What the network costs, in a sentence."""
        text = (
            f"{self.neurons:,} neurons with objective (P) {self.objective:.6g}, their norm "
            f"{self.norm_ratio:.4g} times the convex one; scores differ by at most "
            f"{self.training.largest:.1e} on training images"
        )
        if self.test is None:
            return text
        return f"{text}, and on test images by {self.test.root_mean_square:.1e} (root mean square)"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"norm_ratio": self.norm_ratio, "words": self.words()}


def recover(model: ConvexConvClassifier, stream: ImageStream | None) -> Neurons:
    """Return the ReLU network of a trained model, in float64.

    Args:
        model: of formulation gated or relu.
        stream: its training images, whose patches make the cones; not needed for relu.
    """
    weights, bias = model.coef_.cpu().double(), model.intercept_.cpu().double()
    if stream is None:
        return relu_neurons(weights, bias, model.pool)
    features = exact_features(model)
    turn = factored_neurons if model.regulariser == "nuclear" else decomposed_neurons
    return turn(_patches(features, stream), features.gates, weights, bias, model.pool)


def exact_features(model: ConvexConvClassifier) -> GatedFeatures:
    """Phi of a trained model in float64, on the CPU."""
    transform = model.transform_.to("cpu").double()
    return GatedFeatures(model.geometry(), transform, model.gates_.cpu().double(), model.pool)


def measure_network(
    model: ConvexConvClassifier,
    neurons: Neurons,
    stream: ImageStream,
    evidence: BlockEvidence,
    test_images: ImageRows | None = None,
) -> RecoveredNetwork:
    """Compare a recovered network with the convex solution that it comes from.

    Args:
        model: trained.
        neurons: of :func:`recover`.
        stream: training images, mirrored as in training.
        evidence: the model's certificate and training loss on them.
        test_images: as ``predict`` takes them.
    """
    work = 2.0 * model.geometry().cell_order.numel() * max(1, neurons.filters.numel())
    most = int(max(FEWEST, WORK / work))
    network, convex, labels = _both_scores(model, neurons, stream, most)
    loss = get_loss(model.loss)
    targets = torch.nn.functional.one_hot(torch.from_numpy(labels), stream.n_classes).double()
    change = float(loss.value(network, targets) - loss.value(convex, targets)) / len(labels)
    test = None
    if test_images is not None and model.formulation == "gated":
        unlabelled = np.zeros(len(test_images), np.int64)
        test_stream = ImageStream(test_images, unlabelled, stream.n_classes, model.scaler_)
        test = _difference(*_both_scores(model, neurons, test_stream, most)[:2])
    return RecoveredNetwork(
        neurons=neurons.size,
        objective=evidence.loss + change + model.beta_ * neurons.norm,
        convex=evidence.certificate.primal,
        norm=neurons.norm,
        convex_norm=_norm(model),
        training=_difference(network, convex),
        test=test,
    )


def _norm(model: ConvexConvClassifier) -> float:
    weights = model.coef_.cpu().double()
    if model.regulariser == "nuclear":
        return float(torch.linalg.svdvals(gate_matrices(weights)).sum())
    return float(weights.norm(dim=-1).sum())


def _patches(features: GatedFeatures, stream: ImageStream) -> Iterator[Tensor]:
    """Patches (b, cells, q, d) in float64."""
    for images, _ in stream.blocks(BLOCK):
        patches = features.pooling(images.double())
        yield patches.view(len(images), features.geometry.n_cells, -1, patches.shape[-1])


def _both_scores(
    model: ConvexConvClassifier, neurons: Neurons, stream: ImageStream, most: int
) -> tuple[Tensor, Tensor, NDArray[np.int64]]:
    """Scores of the network and of the gated model on so many images, and their labels."""
    chosen = np.linspace(0, len(stream.images) - 1, min(most, len(stream.images))).astype(np.int64)
    part = stream.plain().subset(chosen)
    features = exact_features(model)
    weights, bias = model.coef_.cpu().double(), model.intercept_.cpu().double()
    if model.formulation == "relu":
        weights = weights[0] - weights[1]
    by_neurons = neurons.scorer(features.pooling)
    network, convex = [], []
    for images, _ in part.blocks(BLOCK):
        network.append(by_neurons(images.double()))
        convex.append(features(images.double()) @ weights.flatten(1).T + bias)
    return torch.cat(network), torch.cat(convex), part.labels


def _difference(one: Tensor, other: Tensor) -> ScoreDifference:
    apart = one - other
    return ScoreDifference(
        images=len(one),
        root_mean_square=float(apart.square().mean().sqrt()),
        largest=float(apart.abs().max()),
        changed=float((one.argmax(1) != other.argmax(1)).double().mean()),
    )
