"""One process that feeds a target: guided by coverage where atheris is there, by hypothesis else.

    python fuzz/worker.py TARGET --engine E --seconds S --corpus DIR --findings DIR --stats FILE

Findings are kept as files and the search goes on; the statistics are written every few seconds, so
that nothing is lost however this process ends.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import signal
import sys
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REGRESSIONS = Path(__file__).resolve().parents[1] / "tests" / "fuzz_corpus"
INSTRUMENTED = [
    *(
        "convexcnn.data",
        "convexcnn.models",
        "convexcnn.report",
        "convexcnn.cli",
        "convexcnn.patches",
    ),
    *("pickletools", "gzip", "zipfile", "tarfile", "csv", "tomllib", "json"),
    *("PIL", "numpy.lib._format_impl", "numpy.lib._npyio_impl", "safetensors"),
]
STATISTICS_SECONDS = 5.0
SLOW_UNIT_SECONDS = 60
GROWTH = 64
"""Bytes by which one change of libFuzzer may lengthen a part."""


@dataclass
class Kept:
    """Writes findings, the smallest of every kind, and statistics."""

    watch: Any
    findings: Path
    stats: Path
    engine: str
    seconds: float
    started: float = field(default_factory=time.process_time)
    written: float = 0.0

    def feed(self, data: bytes) -> None:
        """Read one input, and note what comes of it."""
        finding = self.watch(data)
        if finding is not None:
            self.keep(finding)
        if self.late() or time.monotonic() - self.written > STATISTICS_SECONDS:
            self.write_statistics()

    def late(self) -> bool:
        """Whether the processor time is spent."""
        return time.process_time() - self.started > self.seconds

    def keep(self, finding: Any) -> None:
        name = "".join(c if c.isalnum() else "-" for c in finding.key)
        path = self.findings / name
        if not path.exists() or path.stat().st_size > len(finding.data):
            self.findings.mkdir(parents=True, exist_ok=True)
            path.write_bytes(finding.data)
            path.with_name(f"{name}.txt").write_text(f"{finding.key}\n{finding.what}\n", "utf-8")

    def write_statistics(self) -> None:
        self.written = time.monotonic()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        numbers = {
            "engine": self.engine,
            "seconds": time.process_time() - self.started,
            "executions": self.watch.executions,
            "refused": self.watch.refused,
            "slowest_seconds": self.watch.slowest,
            "peak_megabytes": round(peak / 1024),
        }
        self.stats.write_text(json.dumps(numbers), "utf-8")


def by_coverage(target: Any, kept: Kept, corpus: Path) -> None:
    """Let atheris (libFuzzer) choose inputs by what they reach."""
    import atheris

    from mutations import LARGEST, mutate

    def mutator(data: bytes, longest: int, seed: int) -> bytes:
        changed = mutate(
            data,
            random.Random(seed),
            target.tokens,
            lambda part: atheris.Mutate(part, len(part) + GROWTH),
        )
        return changed[:longest]

    options = [
        f"-max_len={LARGEST}",
        f"-timeout={SLOW_UNIT_SECONDS}",
        f"-artifact_prefix={kept.findings}/",
        "-rss_limit_mb=3000",
        "-len_control=0",
        "-print_final_stats=1",
        "-verbosity=1",
    ]
    arguments = [sys.argv[0], *options, str(corpus), str(REGRESSIONS / corpus.name)]

    def feed(data: bytes) -> None:
        kept.feed(data)
        if kept.late():
            os.kill(os.getpid(), signal.SIGUSR1)  # libFuzzer's own way to end in peace

    atheris.Setup(arguments, feed, custom_mutator=mutator)
    atheris.Fuzz()


def by_hypothesis(target: Any, kept: Kept, corpus: Path) -> None:
    """Let hypothesis draw a sound or an earlier input, and changes to it."""
    from hypothesis import HealthCheck, given, seed, settings
    from hypothesis import strategies as st

    from mutations import mutate

    places = (corpus, REGRESSIONS / corpus.name)
    inputs = [path.read_bytes() for place in places for path in sorted(place.iterdir())]
    change = st.randoms(use_true_random=False)
    for number in itertools.count(time.time_ns()):

        @seed(number)
        @settings(
            max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(st.sampled_from(inputs), st.lists(change, min_size=1, max_size=4))
        def attempt(data: bytes, changes: list[random.Random]) -> None:
            for change in changes:
                data = mutate(data, change, target.tokens)
            kept.feed(data)
            if kept.late():
                os._exit(0)  # hypothesis would take an exception for a finding

        attempt()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target")
    parser.add_argument("--engine", choices=("atheris", "hypothesis"), required=True)
    parser.add_argument("--seconds", type=float, required=True)
    for name in ("--corpus", "--findings", "--stats"):
        parser.add_argument(name, type=Path, required=True)
    options = parser.parse_args()
    if options.engine == "atheris":
        import atheris

        with atheris.instrument_imports(include=INSTRUMENTED):
            target, feed = _prepare(options.target)
    else:
        target, feed = _prepare(options.target)
    kept = Kept(feed, options.findings, options.stats, options.engine, options.seconds)
    search = by_coverage if options.engine == "atheris" else by_hypothesis
    search(target, kept, options.corpus)


def _prepare(name: str) -> tuple[Any, Any]:
    """A target and its watch, with everything imported that reading needs."""
    import targets
    import watch

    warnings.simplefilter("ignore")
    target = targets.TARGETS[name]
    sound = sorted((REGRESSIONS / name).glob("sound-*"))[0].read_bytes()
    watch.Watch(target.read, target.base())(sound)
    watch.limit_this_process()
    return target, watch.Watch(target.read, target.base())


if __name__ == "__main__":
    main()
