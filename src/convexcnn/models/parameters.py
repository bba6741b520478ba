"""The types of parameters and settings, as their annotations name them, checked before any work."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from types import NoneType
from typing import Any, TypeAlias, get_args, get_type_hints

import numpy as np
from numpy.random import RandomState
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state

from convexcnn.distributed import current
from convexcnn.errors import SettingError

Seed: TypeAlias = int | RandomState | None
"""A seed, a generator that one is drawn from, or None to draw from NumPy's own."""

LARGEST_SEED = 2**32 - 1
"""The largest seed that NumPy, scikit-learn and torch all take."""

LARGEST_NUMBER = 2**63 - 1
"""The largest whole number that torch takes."""

WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a name",
    Path: "a path",
    RandomState: "a numpy.random.RandomState",
    NoneType: "None",
}
"""What is checked; a parameter that may be anything else too is left to whoever reads it."""


OF_EVERY_DAY = ("callback", "checkpoint", "device", "memory_gb")
"""Parameters that say where and how to compute; all others say what a training finds."""


def kept_parameters(model: BaseEstimator) -> dict[str, Any]:
    """The parameters that a trained model goes by, whatever becomes of the estimator's own."""
    return {
        name: copy.deepcopy(value) if isinstance(value, (list, dict, np.ndarray)) else value
        for name, value in model.get_params(deep=False).items()
        if name not in OF_EVERY_DAY
    }


def draw_seed(random_state: Seed) -> int:
    """The seed of a training, the same one in all processes: as given, or drawn."""
    if random_state is not None and not isinstance(random_state, RandomState):
        return int(random_state)
    drawn = check_random_state(random_state).randint(LARGEST_SEED, dtype=np.int64)
    return int(current().tell(str(drawn).encode()))


def check_types(model: BaseEstimator) -> None:
    """Refuse a parameter of another type than its annotation says.

    Raises:
        SettingError: it names the parameter, its value and what it may be.
    """
    check_values(type(model).__init__, model.get_params(deep=False))


def check_values(annotated: Any, values: Mapping[str, Any]) -> None:
    """Refuse a value of another type than annotations say.

    Args:
        annotated: a function, or a class, with annotations.
        values: by name.

    Raises:
        SettingError: it names the first one, its value and what it may be.
    """
    hints = get_type_hints(annotated)
    for name, value in values.items():
        kinds = get_args(hints.get(name)) or (hints.get(name),)
        if set(kinds) <= set(WORDS) and not any(_is_a(value, kind) for kind in kinds):
            wanted = " or ".join(WORDS[kind] for kind in kinds)
            raise SettingError(f"{name} is {value!r}; give {wanted}")
        if isinstance(value, Integral) and abs(int(value)) > LARGEST_NUMBER:
            raise SettingError(f"{name} is {value}; give a number of at most {LARGEST_NUMBER}")


def _is_a(value: Any, kind: Any) -> bool:
    truth = isinstance(value, (bool, np.bool_))
    if kind is bool or truth:
        return kind is bool and truth
    return isinstance(value, {int: Integral, float: Real}.get(kind, kind))
