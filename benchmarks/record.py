"""What benchmarks end with: their numbers in a file and on the screen, and an exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_record(result: dict[str, Any], out: Path) -> int:
    """Write and print a result.

    Args:
        result: JSON-able; wherever it has a target, ``reached`` says whether it was.
        out: the file, whose folder is made.

    Returns:
        1 if a target was missed, else 0.
    """
    text = json.dumps(result, indent=1)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text + "\n", "utf-8")
    print(text, flush=True)
    return int(missed(result))


def missed(part: Any) -> bool:
    """Whether any target in a result was missed."""
    if isinstance(part, dict):
        return part.get("reached") is False or any(map(missed, part.values()))
    return isinstance(part, list) and any(map(missed, part))
