"""From measurements to what is reported: medians, spreads, quantiles and ratios. Pure arithmetic."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@attrs.frozen
class Spread:
    """The median of the rounds, the lowest and the highest of them."""

    median: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        """Such as `18,400 (17,900-19,100)`, each number formatted by `spec`."""
        return f"{self.median:{spec}} ({self.low:{spec}}-{self.high:{spec}})"

    def overlaps(self, other: Spread) -> bool:
        """Whether some value lies in both ranges: then the rounds do not tell the two medians apart."""
        return self.low <= other.high and other.low <= self.high


@attrs.frozen
class Latencies:
    """Milliseconds that this share of the transactions did not exceed; `tail` is p99 / p50."""

    p50: float
    p95: float
    p99: float
    p999: float
    tail: float


def latencies(milliseconds: Iterable[float]) -> Latencies | None:
    """Of one run; None if it has none."""
    ordered = sorted(milliseconds)
    if not ordered:
        return None
    p50, p95, p99, p999 = (percentile(ordered, share) for share in (0.5, 0.95, 0.99, 0.999))
    return Latencies(p50, p95, p99, p999, p99 / p50 if p50 else 1.0)


def percentile(ordered: Sequence[float], share: float) -> float:
    """By nearest rank: a value that occurred."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def spread(values: Iterable[float | None]) -> Spread | None:
    """Of the values that are known; None if there is none."""
    known = [value for value in values if value is not None]
    return Spread(statistics.median(known), min(known), max(known)) if known else None


def ratios(values: Sequence[float | None], baseline: Sequence[float | None]) -> Spread | None:
    """Each value over the baseline's of the same round, so that what disturbs a round disturbs both sides."""
    return spread(ratio(one, other) for one, other in zip(values, baseline, strict=True))


def ratio(value: float | None, baseline: float | None) -> float | None:
    """None where one is unknown, or where the baseline did nothing at all."""
    return value / baseline if baseline and value is not None else None


def per_transaction(seconds: float, transactions: float) -> float:
    """Microseconds."""
    return seconds * 1e6 / transactions


def per_client(before: int, after: int, clients: int) -> float:
    """Bytes by which memory grew for each client."""
    return (after - before) / clients


def turn(names: Sequence[str], number: int) -> list[str]:
    """The order of a round: each starts with another, so that nobody always follows the same neighbour."""
    start = number % len(names) if names else 0
    return [*names[start:], *names[:start]]
