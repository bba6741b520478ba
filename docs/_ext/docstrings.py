"""Docstrings are plain text with formulas: what reStructuredText would misread is made literal."""

from __future__ import annotations

import re
from itertools import groupby
from typing import Any

from sphinx.application import Sphinx

FORMULA = re.compile(
    r"(minimise|maximise|subject to) "
    r"|\([GRP]\) "
    r"|[A-Za-z][\w*]*(\([^)]*\)|\[[^]]*\])? = "
    r"|scores = "
)
"""How a paragraph begins that is a formula. Indented paragraphs are formulas too."""

SECTION = re.compile(r"(Args|Returns|Raises|Yields|Attributes|Source|Sources|Example|Note):$")
PLURAL = re.compile(r"``(?=s\b)")
"""The end of code in the plural."""

CODE = re.compile(r"(``.+?``|:\w+:`[^`]+`|(?<!\w)\*[^*\s][^*]*?\*(?!\w))", re.S)
"""What keeps its marks: code, references, emphasis."""


def literal(line: str) -> str:
    """Escape the bars, stars and last underscores of a line that are meant as they are."""
    parts = CODE.split(line)
    parts[::2] = [re.sub(r"(\||\*|_(?=\W|$))", r"\\\1", part) for part in parts[::2]]
    return PLURAL.sub(r"``\\ ", "".join(parts))


def _is_formula(paragraph: list[str], base: int) -> bool:
    first = paragraph[0]
    indent = len(first) - len(first.lstrip())
    return len(paragraph) < 7 and (indent > base or FORMULA.match(first.lstrip()) is not None)


def _written(paragraph: list[str], base: int) -> list[str]:
    """One paragraph: a formula becomes a literal block."""
    if _is_formula(paragraph, base):
        return ["::", "", *("    " + line for line in paragraph)]
    return [literal(line) for line in paragraph]


def rewrite(lines: list[str]) -> list[str]:
    """Return the lines of a docstring as reStructuredText; its sections stay for napoleon."""
    starts = (i for i, line in enumerate(lines) if SECTION.match(line))
    end = next(starts, len(lines))
    prose, sections = lines[:end], lines[end:]
    base = min((len(line) - len(line.lstrip()) for line in prose if line.strip()), default=0)
    out: list[str] = []
    for blank, group in groupby(prose, key=lambda line: not line.strip()):
        paragraph = list(group)
        out += paragraph if blank else _written(paragraph, base)
    return out + [literal(line) for line in sections]


def _process(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    lines[:] = rewrite(lines)


def setup(app: Sphinx) -> dict[str, Any]:
    """Rewrite docstrings before napoleon (priority 500) reads their sections."""
    app.connect("autodoc-process-docstring", _process, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
