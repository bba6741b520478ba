"""Everything that can be said about a trained convex block from itself and its training images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from numpy.typing import ArrayLike

from convexcnn.certificates.block_certificate import BlockEvidence, certify_block, evidence_of
from convexcnn.certificates.certificate import Certificate, GatedBlock
from convexcnn.certificates.certify_cones import certify_cones
from convexcnn.certificates.further_neuron import FurtherNeuron, find_further_neuron
from convexcnn.data.rows import ImageRows
from convexcnn.distributed import ALONE
from convexcnn.errors import SettingError
from convexcnn.models.parameters import draw_seed
from convexcnn.models.recovered import RecoveredNetwork, measure_network, recover
from convexcnn.patches.float32 import fast_float32
from convexcnn.patches.operator import GatedFeatures
from convexcnn.patches.stream import ImageStream
from convexcnn.programs.neurons import relu_neurons
from convexcnn.solvers.cones.patch_blocks import PatchBlocks

if TYPE_CHECKING:
    from convexcnn.models.two_layer import ConvexConvClassifier

T = TypeVar("T")
NETWORK_WORK = 3e11
"""Multiplications that a training may spend on the ReLU network: about a minute."""

GATHERED = 2e6
"""Cone constraints that are projected on all at once, by least squares; more come in blocks."""

Timed = Callable[[str, Callable[[], Any]], Any]
"""Runs one part of a proof under its name."""


@dataclass(frozen=True)
class Proof:
    """The certificate of a trained block, and two numbers that stand beside it.

    Args:
        certificate: optimal among which networks, and to which gap.
        further_neuron: whether a search found a neuron that would help; no proof. None for max
            pooling, which has no such search.
        relu_network: the plain ReLU network of the solution, and what it costs; None if that was
            too much work, and in all processes of a job but the first.
    """

    certificate: Certificate
    further_neuron: FurtherNeuron | None
    relu_network: RecoveredNetwork | None

    def to_dict(self) -> dict[str, Any]:
        parts = vars(self).items()
        return {name: None if part is None else part.to_dict() for name, part in parts}


def _untimed(name: str, work: Callable[[], T]) -> T:
    return work()


def prove(
    model: ConvexConvClassifier,
    X: ArrayLike,
    y: ArrayLike,
    test_images: ImageRows | None = None,
    timed: Timed = _untimed,
    most_work: float = math.inf,
) -> Proof:
    """Certify a trained block, search for a further neuron, and recover its ReLU network.

    Args:
        model: trained.
        X: the training images.
        y: (n,) their labels.
        test_images: where the drift of the ReLU network is measured too.
        timed: runs each of the parts ``certificate``, ``further neuron`` and ``relu network``.
        most_work: multiplications that finding the ReLU network may take.

    Raises:
        DataError: images or labels of another kind than the model was trained on.
        SettingError: there is no certificate for this model.
    """
    model = model.as_trained()
    stream = model.training_stream(X, y)
    evidence: BlockEvidence = timed("certificate", lambda: block_evidence(model, stream))
    further = None
    if model.pool == "average":
        further = timed("further neuron", lambda: further_neuron(model, stream, evidence))
    network = None
    if stream.processes.writes and _network_work(model, stream) <= most_work:
        whole = replace(stream, processes=ALONE)
        network = timed("relu network", lambda: relu_network(model, whole, evidence, test_images))
    return Proof(evidence.certificate, further, network)


def _network_work(model: ConvexConvClassifier, stream: ImageStream) -> float:
    """Multiplications of all patches with all filters, which the cones of (G) take."""
    if model.formulation == "relu":
        return 0.0
    k, _, gates, dim = model.coef_.shape
    work: float = len(stream) * model.geometry().cell_order.numel() * k * gates * dim
    return work


def block_evidence(
    model: ConvexConvClassifier,
    stream: ImageStream,
    progress: Callable[[int], None] | None = None,
) -> BlockEvidence:
    """The certificate of a model on its training images, with its dual point.

    Raises:
        SettingError: there is no certificate for this model.
    """
    if model.formulation == "relu-penalised":
        raise SettingError(
            "there is no certificate for formulation relu-penalised: its minimiser need not be in "
            "the cones; train with formulation relu or gated"
        )
    if model.formulation == "relu":  # its cones are gathered
        stream = replace(stream, processes=ALONE)
    with torch.no_grad():
        many = model.formulation == "relu" and _inequalities(model, stream) > GATHERED
        if many and model.pool == "average":  # nothing larger is solved with maxima
            return _streamed_evidence(model, stream)
        return certify_block(raw_block(model), stream, model.program_kind(), progress=progress)


def raw_block(model: ConvexConvClassifier) -> GatedBlock:
    """The block of a trained model, as certificates want it."""
    return GatedBlock.of(_features(model), model.coef_, model.intercept_, model.beta_)


def _features(model: ConvexConvClassifier) -> GatedFeatures:
    return GatedFeatures(
        model.geometry(), model.transform_.to("cpu"), model.gates_.cpu(), model.pool
    )


def _inequalities(model: ConvexConvClassifier, stream: ImageStream) -> int:
    """Number of cone constraints of (R)."""
    patches = len(stream) * model.geometry().cell_order.numel()
    filters: int = model.coef_[:, :, 0, :, 0].numel()
    return patches * filters


def _streamed_evidence(model: ConvexConvClassifier, stream: ImageStream) -> BlockEvidence:
    """The certificate of (R) with averages over patches in the blocks, and bits, of a solver."""
    kind = model.program_kind()
    with fast_float32():
        patches = PatchBlocks.from_streams(_features(model), [stream])
        neurons = relu_neurons(model.coef_.cpu().double(), model.intercept_.cpu().double())
        certificate = certify_cones(
            lambda: (block for _, block in patches),
            patches.targets,
            patches.gates,
            model.coef_.cpu(),
            model.intercept_.cpu(),
            beta=model.beta_,
            loss=kind.loss,
            regulariser=kind.regulariser,
            intercept=kind.intercept,
        )
        scores = torch.cat([neurons.scores(block) for _, block in patches])
    return evidence_of(certificate, kind, scores, patches.targets)


def further_neuron(
    model: ConvexConvClassifier, stream: ImageStream, evidence: BlockEvidence
) -> FurtherNeuron:
    """Search for a ReLU neuron whose addition would lower the objective."""
    features = _features(model)
    if model.formulation == "relu":  # the residual of its evidence is of all images
        stream = replace(stream, processes=ALONE)
    generator = torch.Generator().manual_seed(draw_seed(model.random_state))
    with torch.no_grad(), fast_float32():
        return find_further_neuron(
            features,
            stream,
            evidence.residual,
            raw_block(model),
            model.program_kind(),
            generator,
        )


def relu_network(
    model: ConvexConvClassifier,
    stream: ImageStream,
    evidence: BlockEvidence,
    test_images: ImageRows | None = None,
) -> RecoveredNetwork:
    """Recover the ReLU network of a model and compare it with the convex optimum."""
    with torch.no_grad():
        neurons = recover(model, stream if model.formulation == "gated" else None)
        return measure_network(model, neurons, stream, evidence, test_images)
