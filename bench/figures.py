"""From measurements to what is reported: medians, spreads and ratios. Pure arithmetic."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@attrs.frozen
class Sample:
    """One run: transactions per second, and CPU microseconds per transaction.

    `user` and `system` are the pooler's, `machine` everybody's, pgbench and PostgreSQL included. `load` and
    `link` are the cores that pgbench and the process that delays kept busy: near 1, the only core that a
    single thread can have, they are what was measured. None where there is no such process or it cannot be
    known.
    """

    tps: float
    user: float | None = None
    system: float | None = None
    machine: float | None = None
    load: float | None = None
    link: float | None = None


@attrs.frozen
class Spread:
    median: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        """Such as `18,400 (17,900-19,100)`, each number formatted by `spec`."""
        return f"{self.median:{spec}} ({self.low:{spec}}-{self.high:{spec}})"


@attrs.frozen
class Latencies:
    """Milliseconds that this share of the transactions did not exceed; `tail` is p99 / p50."""

    p50: float
    p95: float
    p99: float
    p999: float
    tail: float


def latencies(milliseconds: Iterable[float]) -> Latencies:
    """Of one run; there must be at least one."""
    ordered = sorted(milliseconds)
    p50, p95, p99, p999 = (percentile(ordered, share) for share in (0.5, 0.95, 0.99, 0.999))
    return Latencies(p50, p95, p99, p999, p99 / p50)


def percentile(ordered: Sequence[float], share: float) -> float:
    """By nearest rank: a value that occurred."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def spread(values: Iterable[float | None]) -> Spread | None:
    """Of the values that are known; None if there is none."""
    known = [value for value in values if value is not None]
    return Spread(statistics.median(known), min(known), max(known)) if known else None


def ratios(samples: Sequence[Sample], baseline: Sequence[Sample]) -> Spread | None:
    """Throughput over the baseline's of the same round, so that what disturbs a round disturbs both sides."""
    return spread(ratio(one.tps, other.tps) for one, other in zip(samples, baseline, strict=True))


def ratio(value: float, baseline: float) -> float | None:
    """None where the baseline did nothing at all."""
    return value / baseline if baseline else None


def per_transaction(seconds: float, transactions: int) -> float:
    """Microseconds."""
    return seconds * 1e6 / transactions


def per_client(before: int, after: int, clients: int) -> float:
    """Bytes by which memory grew for each client."""
    return (after - before) / clients


def turn(names: Sequence[str], number: int) -> list[str]:
    """The order of a round: each starts with another, so that nobody always follows the same neighbour."""
    start = number % len(names)
    return [*names[start:], *names[:start]]
