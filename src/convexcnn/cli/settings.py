"""Settings of an estimator, from a file, from options, or from neither."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from convexcnn.cli.options import LARGEST_SEED
from convexcnn.errors import SettingError, suggestion

if TYPE_CHECKING:
    from convexcnn.models import (
        ConvexConvClassifier,
        LayerwiseConvexCNN,
        NonConvexConvClassifier,
    )

    Estimator: TypeAlias = ConvexConvClassifier | NonConvexConvClassifier | LayerwiseConvexCNN

FORMULATIONS = ("gated", "relu", "relu-penalised", "non-convex")

MODELS = ("two-layer", "layerwise")

STACKS = ("small", "vgg11", "imagenet")
"""The names of `models.stack_settings.PRESETS`."""

SOLVERS = (
    "auto",
    "direct",
    "kernel",
    "cg",
    "multiple-kernel",
    "interior-point",
    "lbfgs",
    "admm",
    "burer-monteiro",
    "cone-columns",
    "fista",
    "sgd",
    "adam",
)
"""The names of `models.program_settings.SOLVERS`, and `adam` of `non-convex`.

Importing them would import torch for a page of help.
"""

RUN_KEYS: dict[str, type] = {
    "baselines": str,
    "extend": str,
    "formulation": str,
    "image_size": int,
    "limit": int,
    "model": str,
    "seed": int,
    "skip_bad": bool,
}
"""Keys of a settings file that are no parameters of an estimator, and their types."""

RAW_PIXELS = 0
"""What `whiten` is in a settings file where Python says None: TOML has no such word."""

NOT_SETTINGS = (
    "callback",
    "certificates",
    "checkpoint",
    "formulation",
    "image_shape",
    "random_state",
    "warm_start",
)
"""Parameters of the estimators that a settings file has no say in."""


def combine(config: Path | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a file, overridden by the options that were given.

    Args:
        config: TOML file with a flat table, for instance the `config.toml` of a run.
        options: by name; None and empty ones count as not given.

    Raises:
        SettingError: the file has nested tables.
        RunError: the file cannot be read.
    """
    from convexcnn.cli.run_folder import read_toml

    settings = {} if config is None else read_toml(config)
    for key, value in settings.items():
        if isinstance(value, dict):
            raise SettingError(f"{config}: [{key}] is a table; give 'setting = value' lines only")
    given = {k: v for k, v in options.items() if v is not None and v != () and v is not False}
    return settings | given


def make_estimator(settings: Mapping[str, Any]) -> Estimator:
    """Return the untrained estimator that settings describe.

    Args:
        settings: `model`, `formulation`, `seed` and parameters of the estimator.

    Raises:
        SettingError: a setting that does not exist, or not for this model and formulation.
    """
    check_run_keys(settings)
    formulation, model = settings.get("formulation", "gated"), settings.get("model", "two-layer")
    for name, value, choices in (
        ("formulation", formulation, FORMULATIONS),
        ("model", model, MODELS),
    ):
        if value not in choices:
            raise SettingError(f"{name} {value!r} is not known; choose from {', '.join(choices)}")
    if model == "layerwise" and formulation != "gated":
        raise SettingError(
            f"formulation {formulation} is for model two-layer; the blocks of layerwise are gated"
        )
    estimator = _default_estimator(model, formulation)
    known = [name for name in estimator.get_params() if name not in NOT_SETTINGS]
    parameters = {key: value for key, value in settings.items() if key not in RUN_KEYS}
    if "betas" in parameters and "beta" in known:
        parameters["beta"] = _only(parameters.pop("betas"), formulation)
    for key in parameters:
        if key not in known:
            raise SettingError(_unknown(key, model, formulation, [*known, *RUN_KEYS]))
    parameters = read_raw_pixels(parameters)
    estimator.set_params(**parameters, random_state=settings.get("seed", 0))
    estimator.check_parameters()
    return estimator


def read_raw_pixels(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a file, their blocks included, with Python's word for no whitening."""
    found = _raw_pixels(dict(settings))
    if isinstance(blocks := found.get("blocks"), list):
        found["blocks"] = [_raw_pixels(b) if isinstance(b, dict) else b for b in blocks]
    return found


def _raw_pixels(table: dict[str, Any]) -> dict[str, Any]:
    """A table of a settings file with Python's word for no whitening."""
    return table | {"whiten": None} if table.get("whiten") == RAW_PIXELS else table


def check_run_keys(settings: Mapping[str, Any]) -> None:
    """Refuse values of RUN_KEYS, as a file may hold them, of another type or out of range.

    Raises:
        SettingError: the first one.
    """
    for key in sorted(settings.keys() & RUN_KEYS.keys()):
        value, kind = settings[key], RUN_KEYS[key]
        if key == "baselines":  # `read_baselines` says what is wrong with them
            continue
        if value is not None and type(value) is not kind:
            raise SettingError(f"{key} is {value!r}; give a value of type {kind.__name__}")
        if isinstance(value, int) and kind is int and value < (key != "seed"):
            raise SettingError(f"{key} is {value}; give a positive whole number")
        if key == "seed" and isinstance(value, int) and value > LARGEST_SEED:
            raise SettingError(f"seed is {value}; give a whole number from 0 to {LARGEST_SEED}")


def _default_estimator(model: str, formulation: str) -> Estimator:
    from convexcnn.models import (
        ConvexConvClassifier,
        LayerwiseConvexCNN,
        NonConvexConvClassifier,
    )

    if model == "layerwise":
        return LayerwiseConvexCNN()
    if formulation == "non-convex":
        return NonConvexConvClassifier()
    return ConvexConvClassifier(formulation=formulation)


def settings_of(estimator: Estimator) -> dict[str, Any]:
    """Return the parameters of an estimator that a settings file can hold."""
    parameters = {k: v for k, v in estimator.get_params().items() if k not in NOT_SETTINGS}
    blocks = parameters.get("blocks")
    if isinstance(blocks, (list, tuple)):
        parameters["blocks"] = [_table_of(block) for block in blocks]
    return _without_none(parameters)


def _table_of(block: Any) -> Any:
    """A block of a stack as a table of a settings file."""
    return _without_none(dict(block)) if isinstance(block, Mapping) else block


def _without_none(parameters: dict[str, Any]) -> dict[str, Any]:
    """Raw pixels in the words of a settings file."""
    if parameters.get("whiten", RAW_PIXELS) is None:
        return parameters | {"whiten": RAW_PIXELS}
    return parameters


def _only(betas: Any, formulation: str) -> Any:
    values = betas if isinstance(betas, (list, tuple)) else [betas]
    if len(values) != 1:
        raise SettingError(f"formulation {formulation} takes one beta, not {len(values)}")
    return values[0]


def _unknown(key: str, model: str, formulation: str, known: list[str]) -> str:
    from convexcnn.models import Block

    other = "two-layer" if model == "layerwise" else "layerwise"
    what = f"formulation {formulation}" if model == "two-layer" else f"model {model}"
    sibling = "gated" if formulation == "non-convex" else "non-convex"
    if model == "layerwise" and key in Block.__dataclass_fields__:
        hint = "every block has its own: give [[blocks]] in a file for --config"
    elif model == "two-layer" and key in _default_estimator(model, sibling).get_params():
        hint = f"it is for formulation {sibling}: leave it out, or choose that formulation"
    elif key in _default_estimator(other, "gated").get_params():
        hint = f"it is for model {other}: add --model {other}, or leave it out"
    else:
        hint = suggestion(key, sorted(known))
    return f"there is no setting '{key}' with {what}; {hint}"
