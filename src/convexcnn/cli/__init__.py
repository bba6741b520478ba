"""The `convexcnn` command: one module per command, each imported only when it is used."""

from __future__ import annotations

from convexcnn.cli.application import cli, main

__all__ = ["cli", "main"]
