"""Code blocks of the documentation, with the marks that say how they are tested."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

REPOSITORY = Path(__file__).resolve().parents[2]
RUNNABLE = ("python", "sh")
SHOWN = ("text", "math", "{toctree}", "{image}", "{include}", "{notebook}", "{eval-rst}")
"""Fences that hold no code."""

MARK = re.compile(r"<!-- (not run|run with): (.+?) -->\s*", re.S)
COMMANDS = ("convexcnn", "make", "pip", "python", "torchrun")
REDIRECTION = re.compile(r"\s>{1,2}\s*\S+")


@dataclass(frozen=True)
class Block:
    """One code block.

    Args:
        page: the file, relative to the repository.
        line: of its first line of code, counted from 1.
        language: the word after the fence; empty for an indented block.
        code: its text.
        not_run: why it is not run, if a mark before it says so.
        extra: options that a mark adds to its commands, so that they finish soon.
    """

    page: str
    line: int
    language: str
    code: str
    not_run: str = ""
    extra: str = ""

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"{self.page}:{self.line}"

    def commands(self) -> list[list[str]]:
        """The commands of a shell block as words, without comments and redirections."""
        whole = self.code.replace("\\\n", " ").splitlines()
        lines = (REDIRECTION.sub("", line).strip() for line in whole)
        words = (shlex.split(line, comments=True) for line in lines)
        return [[*line, *shlex.split(self.extra)] for line in words if line]


def pages() -> list[Path]:
    """The README and every page of the documentation but the log, which is history."""
    found = sorted((REPOSITORY / "docs").rglob("*.md"))
    return [
        REPOSITORY / "README.md",
        *(page for page in found if page.name != "log.md" and "_build" not in page.parts),
    ]


def blocks(path: Path) -> Iterator[Block]:
    """Yield the code blocks of a page, each with the mark right before it."""
    page, mark = str(path.relative_to(REPOSITORY)), None
    for token in MarkdownIt("commonmark").parse(path.read_text(encoding="utf-8")):
        if token.type == "html_block":
            mark = MARK.fullmatch(token.content)
        elif token.type in ("fence", "code_block"):
            assert token.map is not None
            reason = mark[2] if mark and mark[1] == "not run" else ""
            extra = mark[2] if mark and mark[1] == "run with" else ""
            language = (token.info.split() or [""])[0]
            start = token.map[0] + (2 if token.type == "fence" else 1)
            yield Block(page, start, language, token.content, reason, extra)
            mark = None
        elif token.type not in ("list_item_open", "paragraph_open"):
            mark = None
