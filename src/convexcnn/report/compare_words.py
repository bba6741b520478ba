"""What a comparison's numbers say, in sentences."""

from __future__ import annotations

import math

from convexcnn.report.curves import mean_steps_to
from convexcnn.report.formatting import count, counted, in_words, is_known, percent, words_of
from convexcnn.report.results import FORMULATIONS, CompareResult, Formulation

_NAMES: dict[Formulation, str] = {
    "gated": "convex program",
    "non-convex": "non-convex network",
}
_MEASURE_NAMES = {
    "train_loss": "training loss",
    "train_accuracy": "training accuracy",
    "test_accuracy": "test accuracy",
}
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


def marked_accuracy(result: CompareResult) -> str | None:
    """The training accuracy whose crossing is marked: 0.4 as in the paper, or else the first.

    None is marked that chance alone comes near, which is right once in k classes: at least twice
    that, or halfway from there to all images where that is less.
    """
    chance = 1 / len(result.circumstances.data.classes)
    least = min(2 * chance, (1 + chance) / 2)
    targets = [
        key
        for run in result.runs
        for key in run.steps_to_accuracy
        if _is_fraction(key) and float(key) >= least
    ]
    return "0.4" if "0.4" in targets else next(iter(targets), None)


def compare_headline(result: CompareResult) -> str:
    """The verdict of a comparison in one line."""
    target = marked_accuracy(result)
    steps = {name: mean_steps_to(result, name, target) for name in FORMULATIONS} if target else {}
    there = [(mean, name) for name, mean in steps.items() if mean]
    if target is None or not there:
        return _accuracies(result)
    level = percent(float(target), 0)
    if len(there) == 1:
        with_every_seed = " with every seed" if _reached(result, target) > 1 else ""
        return f"Only the {_NAMES[there[0][1]]} reaches {level} training accuracy{with_every_seed}"
    (fewer, first), (more, second) = sorted(there)
    if math.isclose(fewer, more, rel_tol=0.05):
        return f"Both formulations reach {level} training accuracy after as many steps"
    return (
        f"The {_NAMES[first]} reaches {level} training accuracy in {_share(fewer / more)} "
        f"of the {_NAMES[second]}’s steps"
    )


def compare_summary(result: CompareResult) -> str:
    """The sentences under the headline: steps, and which formulation ends better on what."""
    target = marked_accuracy(result)
    sentences = [] if target is None else [_steps_sentence(result, target)]
    for formulation in FORMULATIONS:
        won = [m for m in _MEASURE_NAMES if winner_of(result, m) == formulation]
        what = words_of([_MEASURE_NAMES[measure] for measure in won])
        if len(won) == len(_MEASURE_NAMES):
            what = f"all three: {what}"
        if won:
            sentences.append(f"The {_NAMES[formulation]} ends better on {what}.")
    return " ".join(sentences)


def winner_of(result: CompareResult, measure: str) -> Formulation | None:
    """The formulation with the better mean; None if they are level or one is unknown."""
    convex, other = _mean(result, "gated", measure), _mean(result, "non-convex", measure)
    if convex is None or other is None or convex == other:
        return None
    lower_is_better = measure.endswith("loss")
    return "gated" if (convex < other) == lower_is_better else "non-convex"


def _accuracies(result: CompareResult) -> str:
    for measure in ("test_accuracy", "train_accuracy"):
        known = [
            f"{formulation.replace('gated', 'convex')} {percent(mean, 1)}"
            for formulation in FORMULATIONS
            if (mean := _mean(result, formulation, measure)) is not None
        ]
        if known:
            return f"{_MEASURE_NAMES[measure].capitalize()}: {', '.join(known)}"
    return "Neither formulation ended with a known accuracy"


def _share(fraction: float) -> str:
    """A fraction below one as a reader would say it."""
    parts = round(1 / fraction)
    if fraction > 0.6:
        return percent(fraction, 0)
    return f"about {_PARTS[parts]}" if parts in _PARTS else f"1/{parts}"


def _reached(result: CompareResult, target: str) -> int:
    """How many formulations reach the accuracy with at least one seed."""
    return len({r.formulation for r in result.runs if r.steps_to_accuracy.get(target) is not None})


def _steps_sentence(result: CompareResult, target: str) -> str:
    parts = [
        f"the {_NAMES[formulation]} {_steps_clause(result, formulation, target)}"
        for formulation in FORMULATIONS
        if result.runs_of(formulation)
    ]
    sentence = f"To {percent(float(target), 0)} training accuracy, {', '.join(parts)}"
    seeds = len({run.seed for run in result.runs})
    averaged = any(mean_steps_to(result, name, target) for name in FORMULATIONS)
    if seeds > 1 and averaged:
        sentence += f" (means over {counted(seeds, 'seed')})"
    return f"{sentence}."


def _steps_clause(result: CompareResult, formulation: Formulation, target: str) -> str:
    runs = result.runs_of(formulation)
    mean = mean_steps_to(result, formulation, target)
    reached = sum(run.steps_to_accuracy.get(target) is not None for run in runs)
    if mean is not None:
        return f"needs {count(round(mean))} steps"
    if reached:
        return f"gets there with {in_words(reached)} of {counted(len(runs), 'seed')}"
    longest = max(run.steps or 0 for run in runs)
    return f"does not get there in {count(longest)} steps" if longest else "does not get there"


def _mean(result: CompareResult, formulation: Formulation, measure: str) -> float | None:
    spread = result.summary[formulation].get(measure)
    return spread.mean if spread is not None and is_known(spread.mean) else None


def _is_fraction(text: str) -> bool:
    try:
        return 0 < float(text) < 1
    except ValueError:
        return False
