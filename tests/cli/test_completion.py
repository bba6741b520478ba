"""Shells complete commands, options and choices, without anything heavy being imported."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from commands import typed


def completions(words: str) -> list[str]:
    """What bash would be offered for the last of some words."""
    environment = os.environ | {
        "_CONVEXCNN_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    code = (
        "import sys; from convexcnn.cli import main\n"
        "try: main([])\n"
        "finally: assert not {'torch', 'numpy', 'sklearn'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("convexcnn ex", ["explain", "export"]),
        ("convexcnn export --to o", ["onnx"]),
        ("convexcnn fit --regulariser n", ["nuclear"]),
    ],
)
def test_words_are_completed(words: str, offered: list[str]) -> None:
    assert completions(words) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_printed(shell: str) -> None:
    done = typed("completion", shell)
    assert done.code == 0
    assert f"_CONVEXCNN_COMPLETE={shell}_complete" in done.out
    assert "takes effect in a new shell" in done.err


def test_another_shell_is_refused() -> None:
    done = typed("completion", "csh")
    assert done.code == 2
    assert "'csh' is not one of 'bash', 'zsh', 'fish'" in done.err
