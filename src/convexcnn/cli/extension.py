"""Further blocks for the stack of a finished run: `fit --extend`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convexcnn.cli.run_folder import SETTINGS_FILE, read_result, read_toml
from convexcnn.cli.settings import check_run_keys
from convexcnn.errors import DataError, RunError, SettingError

if TYPE_CHECKING:
    from convexcnn.data import ImageDataset
    from convexcnn.models import LayerwiseConvexCNN
    from convexcnn.models.trained_block import TrainedBlock

NOT_TAKEN_OVER = ("baselines", "extend")
"""Settings of a run that are of no account for its extension."""


def extended_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run, overridden by those that are given for its extension.

    Args:
        given: with the folder of the run as `extend`.

    Raises:
        RunError: it is not the run of a stack.
        SettingError: `extend` is no path.
    """
    from convexcnn.models.layerwise import OF_EVERY_BLOCK

    run = _folder(given)
    _result_of_stack(run)
    settings = {k: v for k, v in read_toml(run / SETTINGS_FILE).items() if k not in NOT_TAKEN_OVER}
    if isinstance(given.get("blocks"), list):
        settings = {k: v for k, v in settings.items() if k not in OF_EVERY_BLOCK}
    return {**settings, **given, "extend": str(run)}


def check_extension(settings: Mapping[str, Any], out: Path) -> None:
    """Refuse settings that cannot be those of an extension.

    Raises:
        SettingError: the first one.
    """
    if settings.get("model", "two-layer") != "layerwise":
        raise SettingError("--extend adds blocks to a stack; leave out --model, or give layerwise")
    if settings.get("baselines"):
        raise SettingError(
            "baselines are trained for the minutes of a whole stack; leave them out of --extend"
        )
    if out.resolve().is_relative_to(_folder(settings)):
        raise SettingError("--out lies in the run of --extend; give --out a new folder")


def trained_stack(settings: Mapping[str, Any], estimator: LayerwiseConvexCNN) -> LayerwiseConvexCNN:
    """Return the stack of the run that is extended, as it was trained, with other parameters.

    Args:
        settings: with the folder of the run as `extend`.
        estimator: with the parameters of the extension.

    Raises:
        RunError: the run is not of a stack, or damaged.
    """
    from convexcnn.cli.trained import load_trained
    from convexcnn.models import LayerwiseConvexCNN

    run = _folder(settings)
    entries, model = _result_of_stack(run)["blocks"], load_trained(run)
    if not isinstance(model, LayerwiseConvexCNN) or len(model.blocks_) != len(entries):
        raise RunError(f"{run}: its model is not the stack of its result; train it again")
    model.blocks_ = [_with_proof(run, *pair) for pair in zip(model.blocks_, entries, strict=True)]
    model.set_params(**{**estimator.get_params(), "warm_start": True})
    return model


def check_same_data(
    model: LayerwiseConvexCNN, dataset: ImageDataset, settings: Mapping[str, Any]
) -> None:
    """Refuse data that the stack was not trained on.

    Raises:
        DataError: what differs.
    """
    from convexcnn.cli.trained import check_fits

    check_fits(model, dataset)
    if dataset.fingerprint() != model.fingerprint_:
        raise DataError(
            f"{dataset.name} has other training images or labels than {_folder(settings)} was "
            f"trained on; give the same data, with its --limit, --seed and --image-size"
        )


def _folder(settings: Mapping[str, Any]) -> Path:
    """The folder of the run that is extended.

    Raises:
        SettingError: `extend` is no path.
    """
    check_run_keys(settings)
    try:
        return Path(settings["extend"]).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise SettingError(f"extend is {settings['extend']!r}; give the folder of a run") from error


def _result_of_stack(run: Path) -> dict[str, Any]:
    """The `result.json` of a run, with an entry for every block.

    Raises:
        RunError: it is not of a stack, or damaged.
    """
    result = read_result(run)
    blocks = result.get("blocks")
    if result.get("model") != "layerwise" or not isinstance(blocks, list):
        raise RunError(
            f"{run} is not the run of a stack, which blocks could be added to; make one with "
            f"'convexcnn fit DATA --out RUN --model layerwise'"
        )
    return result


def _with_proof(run: Path, block: TrainedBlock, entry: Any) -> TrainedBlock:
    """A block with what `result.json` has of it and its model has not.

    Raises:
        RunError: an entry that `fit` does not write.
    """
    from convexcnn.models.block_checkpoint import DAMAGES, completed

    try:
        return completed(block, entry)
    except DAMAGES as error:
        raise RunError(f"{run}: result.json is damaged ({error!r}); train it again") from error
