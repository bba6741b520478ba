"""How a run was made: data, settings, cost, machine, versions and the command that repeats it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from convexcnn.report.formatting import UNKNOWN, count, duration, memory, scientific
from convexcnn.report.results import Circumstances, DataDescription
from convexcnn.report.run_files import RunFiles

Row = tuple[str, str]


@dataclass(frozen=True)
class Colophon:
    """Rows of label and value, the command line, and `config.toml` as it is."""

    data: list[Row]
    settings: list[Row]
    cost: list[Row]
    machine: list[Row]
    versions: list[Row]
    command: str
    config_text: str
    has_log: bool


def colophon(run: RunFiles, kind: str) -> Colophon:
    """Collect what the page says about the making of a run."""
    circumstances = run.result.circumstances
    return Colophon(
        data=_data_rows(circumstances.data),
        settings=_setting_rows(circumstances, run.config),
        cost=[
            ("time", duration(circumstances.seconds)),
            ("peak memory", memory(circumstances.peak_memory_bytes)),
        ],
        machine=rows_of(circumstances.machine),
        versions=rows_of(circumstances.versions),
        command=_command(run.config_text, kind, circumstances.data.name),
        config_text=run.config_text.strip(),
        has_log=bool(run.metrics),
    )


def rows_of(entries: Mapping[str, object], prefix: str = "") -> list[Row]:
    """A mapping as rows; nested mappings are joined with a dot, each of a list is one row."""
    rows: list[Row] = []
    for key, value in entries.items():
        label = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            rows += rows_of(value, prefix=f"{prefix}{key}.")
        elif _are_mappings(value):
            name = label.removesuffix("s")
            rows += [(f"{name} {i}", _facts_of(entry)) for i, entry in enumerate(value, 1)]
        elif label.endswith(" gb") and value is not None:
            rows.append((label.removesuffix(" gb"), f"{_text_of(value)} GB"))
        else:
            rows.append((label, _text_of(value)))
    return rows


def _are_mappings(value: object) -> TypeGuard[list[Mapping[str, object]]]:
    return isinstance(value, list) and bool(value) and all(isinstance(v, Mapping) for v in value)


def _facts_of(entry: Mapping[str, object]) -> str:
    """A mapping in one line, such as the settings of a block; what is not known is left out."""
    return ", ".join(f"{label} {text}" for label, text in rows_of(entry) if text != UNKNOWN)


def _text_of(value: object) -> str:
    match value:
        case None:
            return UNKNOWN
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}" if abs(value) >= 1e-3 or value == 0 else scientific(value)
        case list() | tuple():
            return ", ".join(_text_of(item) for item in value) or UNKNOWN
        case _:
            return str(value)


def _setting_rows(circumstances: Circumstances, config: Mapping[str, object]) -> list[Row]:
    """What the run recorded, then what only its config says."""
    recorded = circumstances.settings
    only_in_config = {key: value for key, value in config.items() if key not in recorded}
    rows = rows_of({**recorded, **only_in_config})
    if circumstances.seed is not None and ("seed" not in recorded and "seed" not in config):
        rows.append(("seed", str(circumstances.seed)))
    return rows


def _data_rows(data: DataDescription) -> list[Row]:
    rows = [
        ("name", data.name),
        ("read from", data.source),
        ("training images", count(data.n_train)),
        ("test images", count(data.n_test) if data.n_test else "none"),
        ("channels × height × width", " × ".join(str(size) for size in data.image_shape)),
        ("classes", f"{count(len(data.classes))}: {_some(data.classes)}"),
        ("SHA-256", data.fingerprint),
    ]
    return [row for row in rows if row[1]]


def _some(names: Sequence[str], most: int = 20) -> str:
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {count(len(names) - most)} more"


def _command(config_text: str, kind: str, data: str) -> str:
    """The command in the head of `config.toml`, or a plain one for the same data."""
    for line in config_text.splitlines():
        if not line.startswith("#"):
            break
        comment = line.lstrip("# ").strip()
        if comment.startswith("convexcnn "):
            return comment
    return f"convexcnn {kind} {shlex.quote(data)} --out RUN"
