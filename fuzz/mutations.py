"""Changes to an input that keep its structure: a number, a key, a token, a piece of one part."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import bundle

NUMBERS = (0, 1, -1, 2, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64)
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), 10**30, 10**400),
    *("", "x", "\ud800", "\0", "nan", "../x", [], {}, [[]], [None], {"": 0}, [0, 1, 2]),
    *NUMBERS,
)
TOKENS = (
    *(b"\0", b"\xff", b"\n", b"\r\n", b'"', b",", b"\t", b"{", b"}", b"[" * 1200, b"{}", b"[]"),
    *(b"null", b"NaN", b"-1", b"1e999", b"9" * 5000, b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xc3\xa9"),
    *(n.to_bytes(4, "little") for n in (1, 255, 65536, 2**31 - 1, 2**32 - 1)),
    *(n.to_bytes(4, "big") for n in (1, 65536, 2**31 - 1)),
)
JSON_NAMES = (".json", ".jsonl", "header")
LARGEST = 200_000

MutateBytes = Callable[[bytes], bytes]


def mutate(
    data: bytes,
    chance: random.Random,
    tokens: Sequence[bytes] = (),
    mutate_bytes: MutateBytes | None = None,
) -> bytes:
    """Change one part of an input, or which parts there are.

    Args:
        data: the input.
        chance: decides everything.
        tokens: words of the format.
        mutate_bytes: another changer of bytes, taken half of the time.
    """
    parts = bundle.parse(data)
    if not parts:
        return mutate_bytes(data) if mutate_bytes else change_bytes(data, chance, tokens)
    name = chance.choice(list(parts))
    kind = chance.random()
    if kind < 0.03 and len(parts) > 1:
        del parts[name]
    elif kind < 0.06:
        other = chance.choice(list(parts))
        parts[name], parts[other] = parts[other], parts[name]
    elif kind < 0.09:
        content = parts.pop(name)
        parts[change_bytes(name.encode(errors="replace"), chance, tokens).decode("latin-1")] = (
            content
        )
    else:
        parts[name] = _change(name, parts[name], chance, tokens, mutate_bytes)
    return bundle.pack(parts)[:LARGEST]


def _change(
    name: str,
    content: bytes,
    chance: random.Random,
    tokens: Sequence[bytes],
    mutate_bytes: MutateBytes | None,
) -> bytes:
    if name.endswith(JSON_NAMES) and chance.random() < 0.8:
        changed = change_json(content, chance)
        if changed is not None:
            return changed
    if mutate_bytes is not None and chance.random() < 0.5:
        return mutate_bytes(content)
    return change_bytes(content, chance, tokens)


def change_json(content: bytes, chance: random.Random) -> bytes | None:
    """Put an odd value, or one from elsewhere, into a JSON document; None if it is none."""
    try:
        root = _documents(content)
    except (ValueError, RecursionError):
        return None
    places: list[tuple[Any, Any]] = []
    _collect(root, places)
    if not places:
        return None
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        holder, key = chance.choice(places)
        if not _has(holder, key):
            continue
        kind = chance.random()
        if kind < 0.15 and holder is not root:
            del holder[key]
        elif kind < 0.3:
            other, there = chance.choice(places)
            holder[key] = other[there] if _has(other, there) else None
        elif kind < 0.4:
            holder[key] = _stretched(holder[key], chance)
        else:
            holder[key] = chance.choice(ODD_VALUES)
    try:
        return "\n".join(map(json.dumps, root)).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):  # a value that was put inside itself
        return None


def _documents(content: bytes) -> list[Any]:
    """The document, or the document of every line."""
    try:
        return [json.loads(content)]
    except ValueError:
        return [json.loads(line) for line in content.splitlines() if line.strip()]


def _stretched(value: Any, chance: random.Random) -> Any:
    """A value that is longer, or deeper."""
    if isinstance(value, list):
        return value * chance.choice((0, 2, 3))
    if isinstance(value, str):
        return value * chance.choice((0, 2, 50))
    if isinstance(value, (int, float)):
        return value * chance.choice((-1, 2, 10, 1000))
    return [[value]]


def _has(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def _collect(value: Any, places: list[tuple[Any, Any]]) -> None:
    keys = value if isinstance(value, dict) else range(len(value))
    for key in keys:
        places.append((value, key))
        if isinstance(value[key], (dict, list)):
            _collect(value[key], places)


def change_bytes(content: bytes, chance: random.Random, tokens: Sequence[bytes] = ()) -> bytes:
    """Change, insert, repeat or remove a few bytes."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4))):
        start = chance.randrange(len(changed) + 1)
        length = min(chance.choice((1, 1, 2, 4, 8, 64, 1024)), len(changed) - start)
        kind = chance.randrange(7)
        if kind == 0:
            changed[start : start + length] = chance.randbytes(length)
        elif kind == 1:
            del changed[start : start + length]
        elif kind == 2:
            changed[start:start] = changed[start : start + length]
        elif kind == 3:
            token = chance.choice((*tokens, *TOKENS))
            changed[start : start + chance.choice((0, len(token)))] = token
        elif kind == 4:
            there = chance.randrange(len(changed) + 1)
            changed[start : start + length] = changed[there : there + length]
        elif kind == 5 and start < len(changed):
            changed[start] ^= 1 << chance.randrange(8)
        elif kind == 6:
            _change_number(changed, start, chance)
    return bytes(changed)


def _change_number(content: bytearray, start: int, chance: random.Random) -> None:
    """Replace the decimal number at or after a place by another."""
    while start < len(content) and not chr(content[start]).isdigit():
        start += 1
    end = start
    while end < len(content) and chr(content[end]).isdigit():
        end += 1
    if start < end:
        content[start:end] = str(chance.choice(NUMBERS)).encode()
