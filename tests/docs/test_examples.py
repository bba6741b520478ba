"""Every example of the documentation runs, or says why it is not run."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pages import COMMANDS, REPOSITORY, RUNNABLE, SHOWN, Block, blocks, pages
from scenes import SCENES

from convexcnn.cli.application import main

BLOCKS = [block for page in pages() for block in blocks(page)]
TESTED = sorted({b.page for b in BLOCKS if b.language in RUNNABLE and not b.not_run})
SLOW = {
    "docs/cli.md": "every command once, two trainings and a comparison",
    "docs/layerwise.md": "trains stacks and networks",
    "docs/scaling.md": "measures the machine",
}


def names(block: Block) -> str:
    return block.place


@pytest.mark.parametrize("block", BLOCKS, ids=names)
def test_a_block_is_run_or_says_why_not(block: Block) -> None:
    assert block.language, f"{block.place}: give this block a fence with a language"
    assert block.language in (*RUNNABLE, *SHOWN), f"{block.place}: {block.language} is never run"
    if block.language not in RUNNABLE:
        typed = [line for line in block.code.splitlines() if line.startswith(COMMANDS)]
        assert not typed, f"{block.place}: {typed[0]!r} is a command; make its fence `sh`"
    if block.language == "sh" and not block.not_run:
        others = [words[0] for words in block.commands() if words[0] != "convexcnn"]
        assert not others, f"{block.place}: {others[0]} is not run here; mark the block, with why"


def test_marks_are_understood() -> None:
    marks = ("<!-- not run:", "<!-- run with:")
    for page in pages():
        text = page.read_text(encoding="utf-8")
        used = sum(bool(b.not_run) + bool(b.extra) for b in blocks(page))
        assert used == sum(map(text.count, marks)), f"{page}: a mark stands before no block"


def test_slow_pages_are_pages() -> None:
    assert set(SLOW) <= set(TESTED)
    assert set(SCENES) <= set(TESTED)


def run_python(block: Block, namespace: dict[str, Any]) -> None:
    """Run a block as if it stood in its page alone, so that tracebacks name the page's line."""
    padded = "\n" * (block.line - 1) + block.code
    exec(compile(padded, str(REPOSITORY / block.page), "exec"), namespace)


def run_commands(block: Block) -> None:
    for words in block.commands():
        with pytest.raises(SystemExit) as exit_:
            main(words[1:])
        assert exit_.value.code == 0, f"{block.place}: {' '.join(words)} ends with an error"


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lay out the files that a page speaks of, and stand among them."""

    def lay_out(page: str) -> None:
        monkeypatch.chdir(tmp_path)
        if page in SCENES:
            SCENES[page](tmp_path, monkeypatch)

    return lay_out


@pytest.mark.thorough
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=[pytest.mark.slow] if p in SLOW else []) for p in TESTED]
)
def test_examples_of_a_page_run(page: str, scene: Callable[[str], None]) -> None:
    scene(page)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in (b for b in BLOCKS if b.page == page and not b.not_run):
        if block.language == "python":
            run_python(block, namespace)
        elif block.language == "sh":
            run_commands(block)
        elif block.language == "toml":
            tomllib.loads(block.code)
