"""What the numbers say, in sentences."""

from __future__ import annotations

import math

from convexcnn.report.curves import mean_steps_to
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
from convexcnn.report.results import (
    Block,
    CompareResult,
    FitResult,
    Formulation,
)

_MEASURE_NAMES = {
    "train_loss": "training loss",
    "train_accuracy": "training accuracy",
    "test_loss": "test loss",
    "test_accuracy": "test accuracy",
}
_JUDGED = ("train_loss", "train_accuracy", "test_accuracy")
_PARTS = {
    2: "half",
    3: "a third",
    4: "a quarter",
    5: "a fifth",
    6: "a sixth",
    7: "a seventh",
    8: "an eighth",
    9: "a ninth",
    10: "a tenth",
}
_SOLVED = 1e-3  # a relative gap below which a program counts as solved


def marked_accuracy(result: CompareResult) -> str | None:
    """The training accuracy whose crossing is marked: 0.4 as in the paper, or else the first."""
    targets = [key for run in result.runs for key in run.steps_to_accuracy if _is_fraction(key)]
    return "0.4" if "0.4" in targets else next(iter(targets), None)


def compare_headline(result: CompareResult) -> str:
    """The verdict of a comparison in one line."""
    target = marked_accuracy(result)
    if target is not None:
        level = percent(float(target), 0)
        convex = mean_steps_to(result, "gated", target)
        other = mean_steps_to(result, "non-convex", target)
        if convex and other:
            return _speed(convex, other, level)
        if convex or other:
            winner = "the convex program" if convex else "the non-convex network"
            return f"Only {winner} reaches {level} training accuracy"
    measure = "test_accuracy" if _mean(result, "gated", "test_accuracy") is not None else None
    measure = measure or "train_accuracy"
    return (
        f"{_MEASURE_NAMES[measure].capitalize()}: convex "
        f"{percent(_mean(result, 'gated', measure), 1)}, non-convex "
        f"{percent(_mean(result, 'non-convex', measure), 1)}"
    )


def _speed(convex: float, other: float, level: str) -> str:
    if math.isclose(convex, other, rel_tol=0.05):
        return f"Both formulations reach {level} training accuracy after as many steps"
    first, second = "convex program", "non-convex network"
    if other < convex:
        first, second = second, first
    share = _share(min(convex, other) / max(convex, other))
    return f"The {first} reaches {level} training accuracy in {share} of the {second}’s steps"


def _share(fraction: float) -> str:
    """A fraction below one as a reader would say it."""
    parts = round(1 / fraction)
    if parts < 2 or fraction > 0.6:
        return percent(fraction, 0)
    return f"about {_PARTS[parts]}" if parts in _PARTS else f"1/{parts}"


def compare_summary(result: CompareResult) -> str:
    """The sentences under the headline: steps, and which formulation ends better on what."""
    sentences = []
    target = marked_accuracy(result)
    if target is not None:
        sentences.append(_steps_sentence(result, target))
    better = [m for m in _JUDGED if winner_of(result, m) == "gated"]
    worse = [m for m in _JUDGED if winner_of(result, m) == "non-convex"]
    for name, measures in (("convex program", better), ("non-convex network", worse)):
        if len(measures) == len(_JUDGED):
            sentences.append(
                f"The {name} ends better on all three: training loss, training accuracy "
                "and test accuracy."
            )
        elif measures:
            what = words_of([_MEASURE_NAMES[m] for m in measures])
            sentences.append(f"The {name} ends better on {what}.")
    return " ".join(sentences)


def _steps_sentence(result: CompareResult, target: str) -> str:
    parts = []
    names: tuple[tuple[Formulation, str], ...] = (
        ("gated", "the convex program"),
        ("non-convex", "the non-convex network"),
    )
    for formulation, name in names:
        runs = result.runs_of(formulation)
        steps = mean_steps_to(result, formulation, target)
        reached = sum(run.steps_to_accuracy.get(target) is not None for run in runs)
        if steps is not None:
            parts.append(f"{name} needs {count(round(steps))} steps")
        elif reached:
            parts.append(f"{name} gets there in {reached} of {counted(len(runs), 'seed')}")
        elif runs:
            longest = max((run.steps or 0 for run in runs), default=0)
            parts.append(
                f"{name} has not got there" + f" in {count(longest)} steps" * bool(longest)
            )
    sentence = f"To {percent(float(target), 0)} training accuracy, {', '.join(parts)}"
    seeds = len({run.seed for run in result.runs})
    return f"{sentence} (means over {counted(seeds, 'seed')})." if seeds > 1 else f"{sentence}."


def winner_of(result: CompareResult, measure: str) -> Formulation | None:
    """The formulation with the better mean; None if they are level or one is unknown."""
    convex, other = _mean(result, "gated", measure), _mean(result, "non-convex", measure)
    if convex is None or other is None or convex == other:
        return None
    lower_is_better = measure.endswith("loss")
    return "gated" if (convex < other) == lower_is_better else "non-convex"


def _mean(result: CompareResult, formulation: Formulation, measure: str) -> float | None:
    spread = result.summary[formulation].get(measure)
    return spread.mean if spread is not None and is_known(spread.mean) else None


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
    kind = "non-convex" if result.formulation == "non-convex" else f"{result.formulation} convex"
    shape = f"{result.model} network" + f" of {counted(blocks, 'block')}" * (blocks > 1)
    sentences = [
        f"A {kind} {shape}, trained on {count(data.n_train)} images of "
        f"{counted(len(data.classes), 'class', 'classes')} in {duration(cost.seconds)}."
    ]
    if result.test is None:
        sentences.append("There were no test images: nothing here says how it does on new ones.")
    return " ".join(sentences)


def certificate_words(block: Block, formulation: str) -> str:
    """What a block's certificate proves, and what it does not."""
    certificate = block.certificate
    if certificate is None or not is_known(certificate.relative_gap):
        if formulation == "non-convex":
            return (
                "A non-convex network has no certificate: training ended, and nothing proves "
                "that no better weights exist."
            )
        return "No certificate was computed: how far the solution is from the optimum is not known."
    gap = certificate.relative_gap
    assert gap is not None
    among = "networks with these gates"
    if block.gates is not None:
        among = f"networks with these {count(block.gates)} gates"
    limits = "This says nothing about networks with other gates, nor about new images."
    if gap <= _SOLVED:
        return f"Optimal among {among}, to a relative gap of {scientific(gap)}. {limits}"
    return (
        f"Not solved to the end: among {among} the best objective is at most "
        f"{percent(gap, 1)} lower. {limits}"
    )


def certificate_facts(block: Block) -> list[tuple[str, str]]:
    """The figures of a certificate, as label and value."""
    certificate = block.certificate
    if certificate is None:
        return []
    facts = [
        ("program", certificate.program),
        ("scope", certificate.scope),
        ("primal value", fixed(certificate.primal, 10)),
        ("dual value, a lower bound", fixed(certificate.dual, 10)),
        ("gap", scientific(certificate.gap)),
        ("gap / primal value", scientific(certificate.relative_gap)),
        ("evaluated in", certificate.dtype),
    ]
    return [(label, value) for label, value in facts if value]


def _is_fraction(text: str) -> bool:
    try:
        return 0 < float(text) < 1
    except ValueError:
        return False
