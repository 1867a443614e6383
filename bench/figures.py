"""From measurements to what is reported: medians, spreads and ratios. Pure arithmetic."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@attrs.frozen
class Sample:
    """One run: transactions per second, and CPU microseconds per transaction.

    `user` and `system` are the pooler's, `machine` everybody's, pgbench and PostgreSQL included; None where
    there is no pooler or they cannot be known.
    """

    tps: float
    user: float | None = None
    system: float | None = None
    machine: float | None = None


@attrs.frozen
class Spread:
    median: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        """Such as `18,400 (17,900-19,100)`, each number formatted by `spec`."""
        return f"{self.median:{spec}} ({self.low:{spec}}-{self.high:{spec}})"


def spread(values: Iterable[float | None]) -> Spread | None:
    """Of the values that are known; None if there is none."""
    known = [value for value in values if value is not None]
    return Spread(statistics.median(known), min(known), max(known)) if known else None


def ratios(samples: Sequence[Sample], baseline: Sequence[Sample]) -> Spread | None:
    """Throughput over the baseline's of the same round, so that what disturbs a round disturbs both sides."""
    return spread(one.tps / other.tps for one, other in zip(samples, baseline, strict=True))


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
