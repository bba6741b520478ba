"""One self-contained HTML page about a run, and its figures as files."""

from __future__ import annotations

from convexcnn.report.build import build_report

__all__ = ["build_report"]
