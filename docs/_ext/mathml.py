"""Formulas as MathML, made when the site is built: browsers show it without script or network."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.writers.html5 import HTML5Translator

BAR = re.compile(r"<mo(?: stretchy=\"false\")?>(&#x0007C;|&#x02016;)</mo>")
"""Bars of norms, which browsers would space like operators between two things."""


def _mathml(node: nodes.Element, display: str) -> str:
    latex = node.astext()
    try:
        formula = convert(latex, display=display)
        return BAR.sub(r'<mo stretchy="false" lspace="0" rspace="0">\1</mo>', formula)
    except Exception as error:  # latex2mathml has no common class of its errors
        raise ExtensionError(f"this formula cannot be shown as MathML: {latex}", error) from error


def visit_inline(translator: HTML5Translator, node: nodes.math) -> None:
    """Write a formula within a line."""
    translator.body.append(_mathml(node, "inline"))
    raise nodes.SkipNode


def visit_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula on lines of its own, which scroll sideways where they are too wide."""
    formula = _mathml(node, "block")
    translator.body.append(f'<div class="formula" tabindex="0">{formula}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Make this the renderer ``mathml``."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
