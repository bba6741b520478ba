"""Numbers as a reader wants to see them: units, signs and a dash for what is not known."""

from __future__ import annotations

import math

UNKNOWN = "–"
_THIN = "\u202f"
_MINUS = "\u2212"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_SMALL_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def is_known(value: float | None) -> bool:
    """Whether a figure was recorded and is finite."""
    return value is not None and math.isfinite(value)


def fixed(value: float | None, digits: int = 4) -> str:
    """A plain decimal, such as 0.3469."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return f"{value:,.{digits}f}".replace("-", _MINUS)


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction in percent, such as 50.36%."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return f"{fixed(100 * value, digits)}%"


def signed(value: float | None, digits: int = 4) -> str:
    """A difference with its sign; what rounds to nothing has none."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    text = f"{value:+.{digits}f}"
    if float(text) == 0.0:
        return text.lstrip("+-")
    return text.replace("-", _MINUS)


def count(value: int) -> str:
    """A whole number with its thousands set apart."""
    return f"{value:,}"


def in_words(value: int) -> str:
    """A whole number, small ones as words."""
    return _SMALL_NUMBERS[value] if 0 <= value < len(_SMALL_NUMBERS) else count(value)


def counted(value: int, singular: str, plural: str | None = None) -> str:
    """A number and its noun: "three seeds", "1,024 gates"."""
    return f"{in_words(value)} {singular if value == 1 else plural or f'{singular}s'}"


def scientific(value: float | None, digits: int = 1) -> str:
    """A small or large number, such as 3.2 × 10⁻⁷; moderate ones stay plain."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value == 0 or 1e-3 <= abs(value) < 9999.5:
        digits_shown = digits + 2 if abs(value) < 100 else max(digits + 2, 4)
        return f"{value:.{digits_shown}g}".replace("-", _MINUS)
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    power = f"10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
    if float(mantissa) == 1.0:
        return power
    return f"{mantissa.replace('-', _MINUS)}{_THIN}×{_THIN}{power}"


def duration(seconds: float | None) -> str:
    """A time span in the two units that matter."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def memory(size: float | None) -> str:
    """Bytes in decimal units."""
    if size is None or not math.isfinite(size):
        return UNKNOWN
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size:.0f} bytes"


def one_line(text: str) -> str:
    """Text without line breaks, which names may have and Pillow does not place."""
    return " ".join(text.split())


def words_of(items: list[str]) -> str:
    """A list as English writes it: "a, b and c"."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"
