"""Make findings as small as they can be, and print those that are still wrong.

python fuzz/minimise.py TARGET FILE...
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import bundle
import watch
from targets import TARGETS

LONGEST_SECONDS = 60.0
"""Of one finding."""


def minimise(data: bytes, same: Callable[[bytes], bool], seconds: float = LONGEST_SECONDS) -> bytes:
    """Leave out parts, and then pieces of parts, as long as the same thing goes wrong.

    Args:
        data: an input for which ``same`` holds.
        same: whether an input still shows what was found.
        seconds: after which it stops.
    """
    end = time.monotonic() + seconds
    parts = bundle.parse(data)
    for name in list(parts):
        rest = {other: content for other, content in parts.items() if other != name}
        if same(bundle.pack(rest)):
            parts = rest
    for name in list(parts):
        size = len(parts[name])
        while size > 0 and time.monotonic() < end:
            start = 0
            while start < len(parts[name]) and time.monotonic() < end:
                shorter = parts[name][:start] + parts[name][start + size :]
                if same(bundle.pack({**parts, name: shorter})):
                    parts[name] = shorter
                else:
                    start += size
            size //= 2
    smallest = bundle.pack(parts)
    return smallest if same(smallest) else data


def main() -> None:
    name, *files = sys.argv[1:]
    target = TARGETS[name]
    watch.limit_this_process()
    run = watch.Watch(target.read, target.base())
    for path in map(Path, files):
        finding = run(path.read_bytes())
        if finding is None:
            path.unlink()
            path.with_name(f"{path.name}.txt").unlink(missing_ok=True)
            continue

        def same(data: bytes, key: str = finding.key) -> bool:
            found = run(data)
            return found is not None and found.key == key

        small = finding.data if finding.key == "slow" else minimise(finding.data, same)
        path.write_bytes(small)
        print(f"{finding.key} ({len(small)} bytes, {path.name})")


if __name__ == "__main__":
    main()
