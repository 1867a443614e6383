"""Durations and sizes in PostgreSQL's spelling (PostgreSQL 18, section 19.1.1 "Parameter Names and Values").

A number, which may be fractional, and a unit, which is case-sensitive. Unlike a PostgreSQL parameter a key
here has no unit of its own, so a number without one is refused, except 0.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import TYPE_CHECKING

from trio_pool.config.problems import refuse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_pool.config.problems import Refused

OFF = math.inf
"""A time limit that never applies."""

_MICROSECONDS = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "min": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
}
_BYTES = {"B": 1, "kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}

# Arbitrary; far below where a float of seconds, or a 64-bit count of bytes, loses its last digit.
_LONGEST = 36_500 * _MICROSECONDS["d"]
_LARGEST = (1 << 53) - 1

_QUANTITY = re.compile(r"\s*(-?)([0-9]+\.?[0-9]*|\.[0-9]+)\s*([^\W\d_]*)\s*")


def parse_duration(text: str) -> float:
    """Seconds, exact to the microsecond; ``OFF`` for "0". Raises ``Refused``."""
    microseconds = _parse(text, _MICROSECONDS, "duration", '"500ms", "15s", "10min"', ', or "0" for off')
    if microseconds > _LONGEST:
        raise refuse(f'"{text}" is longer than 36500d', 'shorten it, or write "0" for off')
    return microseconds / 1_000_000 if microseconds else OFF


def format_duration(seconds: float) -> str:
    """The shortest spelling without a fraction, to the microsecond; "0" for ``OFF`` and for nothing."""
    return "0" if seconds == OFF else _format(round(seconds * 1_000_000), _MICROSECONDS)


def parse_size(text: str) -> int:
    """Bytes; kB, MB, GB and TB are powers of 1024 as in PostgreSQL. Raises ``Refused``."""
    size = _parse(text, _BYTES, "size", '"512kB", "50MB", "2GB"', "")
    if size > _LARGEST:
        raise refuse(f'"{text}" is too large', "write a size below 8192TB")
    return size


def format_size(size: int) -> str:
    """The shortest spelling without a fraction."""
    return _format(size, _BYTES)


def _parse(text: str, units: Mapping[str, int], noun: str, examples: str, zero: str) -> int:
    """The quantity in the smallest unit."""
    remedy = f"write a number and a unit, such as {examples}{zero}"
    found = _QUANTITY.fullmatch(text)
    if found is None:
        raise refuse(f'"{text}" is not a {noun}', remedy)
    sign, digits, unit = found.groups()
    number = Decimal(digits)
    if sign and number:
        raise refuse(f'"{text}" is negative', remedy)
    if not unit:
        if number:
            raise refuse(f'"{text}" has no unit', remedy)
        return 0
    if unit not in units:
        raise _unknown_unit(text, unit, units)
    exact = number * units[unit]
    # Rounded to nothing it would read as "0", which means off: the opposite of what was asked.
    if number and exact < 1:
        raise refuse(f'"{text}" is less than 1{next(iter(units))}', remedy)
    return round(exact)


def _unknown_unit(text: str, unit: str, units: Mapping[str, int]) -> Refused:
    # No guess: "m" is a month to some and a minute to others.
    return refuse(
        f'"{text}" has the unknown unit "{unit}"', f"the units are {', '.join(units)} (case matters)"
    )


def _format(quantity: int, units: Mapping[str, int]) -> str:
    if not quantity:
        return "0"
    unit = max((unit for unit in units if quantity % units[unit] == 0), key=units.__getitem__)
    return f"{quantity // units[unit]}{unit}"
