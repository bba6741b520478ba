"""What a fit's numbers say, in sentences."""

from __future__ import annotations

import re

from convexcnn.report.formatting import (
    count,
    counted,
    duration,
    fixed,
    is_known,
    percent,
    scientific,
    words_of,
)
from convexcnn.report.results import Block, FitResult

_ROUNDING = 1e-13  # a relative gap that is rounding only
_SOLVED = 1e-3  # a relative gap below which a program counts as solved
_KINDS = {
    "non-convex": "non-convex",
    "relu": "convex ReLU",
    "relu-penalised": "penalised convex ReLU",
}


def kind_of(result: FitResult) -> str:
    """Which kind of network was trained: words for its formulation."""
    return _KINDS.get(result.formulation, f"{result.formulation} convex")


def fit_headline(result: FitResult) -> str:
    """What a fit achieved, on test images if there were any."""
    data = result.circumstances.data
    if result.test is not None and is_known(result.test.accuracy):
        images = f"{count(data.n_test)} test images" if data.n_test else "the test images"
        return f"{percent(result.test.accuracy, 1)} of {images} classified correctly"
    return f"{percent(result.train.accuracy, 1)} of its own training images classified correctly"


def fit_summary(result: FitResult) -> str:
    """What was trained, on what, in which time, and how far it is from the optimum."""
    data, cost = result.circumstances.data, result.circumstances
    blocks = len(result.blocks)
    kind = kind_of(result)
    shape = f"{result.model} network" + f" of {counted(blocks, 'block')}" * (blocks > 1)
    sentences = [
        f"A {kind} {shape}, trained on {count(data.n_train)} images of "
        f"{counted(len(data.classes), 'class', 'classes')} in {duration(cost.seconds)}."
    ]
    weighed = [
        f"block {number} by {fixed(block.head_weight, 2)}"
        for number, block in enumerate(result.blocks, 1)
        if block.head_weight
    ]
    if weighed:
        sentences.append(f"It predicts by the heads of its blocks: {words_of(weighed)}.")
    if result.test is None:
        sentences.append("There were no test images: nothing here says how it does on new ones.")
    return " ".join(sentences)


def certificate_words(block: Block, formulation: str) -> str:
    """What a block's certificate proves, and what it does not."""
    certificate = block.certificate
    unknown = "how far the solution is from the optimum is not known."
    if certificate is None:
        if formulation == "non-convex":
            return (
                "A non-convex network has no certificate: training ended, and nothing proves "
                "that no better weights exist."
            )
        return f"No certificate was computed: {unknown}"
    gap = certificate.relative_gap
    if gap is None or not is_known(gap):
        return f"A certificate was computed, and found no useful lower bound: {unknown}"
    gates = "these gates" if block.gates is None else _these(f"these {count(block.gates)} gates")
    among = f"networks with {gates}"
    if "heads on" in certificate.scope:
        among = f"heads on {gates.replace('gate', 'neuron')}"
    if formulation == "relu":
        among = f"ReLU networks with the activation patterns of {gates}"
    limits = "This says nothing about networks with other gates, nor about new images."
    if block.stack is not None:
        among += " and the frozen input of this block"
        limits = (
            "This says nothing about blocks with other gates, other blocks before it, the stack "
            "as a whole, or new images."
        )
    if abs(gap) < _ROUNDING:
        return f"Optimal among {among}, to rounding error. {limits}"
    if gap <= _SOLVED:
        return f"Optimal among {among}, to a relative gap of {scientific(gap)}. {limits}"
    return (
        f"Not solved to the end: among {among} the best objective is at most "
        f"{percent(gap, 1)} lower. {limits}"
    )


def _these(words: str) -> str:
    """Words in which a single gate or neuron is no plural."""
    return re.sub(r"\bthese 1 (gate|neuron)s\b", r"this one \1", words)


def certificate_facts(block: Block) -> list[tuple[str, str]]:
    """The figures of a certificate, as label and value."""
    certificate = block.certificate
    if certificate is None:
        return []
    facts = [
        ("program", certificate.program),
        ("scope", _these(certificate.scope)),
        ("primal value", fixed(certificate.primal, 10)),
        ("dual value, a lower bound", fixed(certificate.dual, 10)),
        ("gap", scientific(certificate.gap)),
        ("gap / primal value", scientific(certificate.relative_gap)),
        ("evaluated in", certificate.dtype),
    ]
    if certificate.violation is not None:
        facts.append(("cones left by, before it was moved back", scientific(certificate.violation)))
    return [(label, value) for label, value in facts if value]


def beside_certificate(block: Block) -> list[tuple[str, str]]:
    """What stands beside a certificate and is no part of it, as label and sentence."""
    facts = [
        ("solver", block.solver),
        ("further neuron", block.further_neuron),
        ("as a plain ReLU network", block.relu_network),
    ]
    return [(label, value) for label, value in facts if value]
