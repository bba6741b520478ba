"""The `convexcnn` command: one module per command, each imported only when it is used."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit, also where Ctrl-C comes before its modules are there."""
    try:
        from convexcnn.cli.application import main as run

        run(args)
    except KeyboardInterrupt:
        sys.stderr.write("Error: interrupted\n")
        if "--json" in (sys.argv if args is None else args):
            sys.stdout.write('{"error": "interrupted"}\n')
        sys.exit(1)
