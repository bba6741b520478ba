"""A directive that shows a notebook with its stored outputs; nothing is run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

FENCE = "`" * 6
"""Longer than any fence within a cell."""


def _output(output: dict[str, Any]) -> str:
    """What a cell printed or drew, as Markdown."""
    if output["output_type"] == "stream":
        return f"{FENCE}text\n{''.join(output['text'])}{FENCE}"
    data = output["data"]
    if "image/png" in data:
        picture = "".join("".join(data["image/png"]).split())
        return f"![What the code above draws](data:image/png;base64,{picture})"
    return f"{FENCE}text\n{''.join(data['text/plain'])}\n{FENCE}"


def to_markdown(notebook: dict[str, Any]) -> Iterator[str]:
    """Yield the cells of a notebook (nbformat 4) as Markdown, code with what it gave.

    Headings go one level down, below the title of the page.
    """
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield re.sub(r"^#", "##", source, flags=re.M)
        elif cell["cell_type"] == "code":
            yield f"{FENCE}python\n{source}\n{FENCE}"
            yield from (_output(output) for output in cell["outputs"])


class Notebook(SphinxDirective):
    """``{notebook} PATH``: the cells of a notebook, its path relative to the page."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Read the file and parse its cells as the page is parsed."""
        page = Path(self.env.doc2path(self.env.docname))
        path = (page.parent / self.arguments[0]).resolve()
        self.env.note_dependency(str(path))
        text = "\n\n".join(to_markdown(json.loads(path.read_text(encoding="utf-8"))))
        container = nodes.Element()
        lines = StringList(text.splitlines(), source=str(path))
        self.state.nested_parse(lines, 0, container, match_titles=True)
        return container.children


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive."""
    app.add_directive("notebook", Notebook)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
