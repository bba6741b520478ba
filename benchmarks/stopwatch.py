"""Two clocks for measurements on a machine that other work may share."""

from __future__ import annotations

import time

import torch


class Stopwatch:
    """Seconds by the clock, and processor seconds of this process divided by its threads.

    Other work on the machine disturbs the second far less. Set OMP_WAIT_POLICY=PASSIVE for it, or
    threads that wait for one another count as work.
    """

    def __init__(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        """Both times since the stopwatch was made, ``clock`` and ``processor``."""
        clock, processor = time.perf_counter(), time.process_time()
        return {
            "clock": clock - self._start[0],
            "processor": (processor - self._start[1]) / torch.get_num_threads(),
        }
