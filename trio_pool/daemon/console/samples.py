"""The averages of SHOW STATS: what there was a while ago, to compare with.

As in PgBouncer, an average is of the time since the sample before the last one, which is one to two periods.
Until there are samples it is of the time since the start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs
import trio

from trio_pool.daemon.console.show import CONSOLE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trio_pool.daemon.census import Census
    from trio_pool.daemon.seen import PoolSeen

PERIOD: Final = 60.0
"""Seconds between two samples (PgBouncer's `stats_period`)."""
MICROSECONDS: Final = 1_000_000


@attrs.frozen
class Totals:
    """What has happened since the start. Times are in microseconds."""

    assignments: int = 0
    transactions: int = 0
    queries: int = 0
    received: int = 0
    sent: int = 0
    transaction_time: int = 0
    query_time: int = 0
    wait_time: int = 0
    client_parses: int = 0
    server_parses: int = 0
    binds: int = 0

    @classmethod
    def of(cls, pool: PoolSeen) -> Totals:
        return cls(
            pool.leases,
            pool.transactions,
            pool.queries,
            pool.client_received,
            pool.client_sent,
            round(pool.transaction_time.seconds * MICROSECONDS),
            round(pool.query_time.seconds * MICROSECONDS),
            round(pool.wait_time.seconds * MICROSECONDS),
            pool.client_parses,
            pool.server_parses,
            pool.binds,
        )

    @property
    def values(self) -> tuple[int, ...]:
        """In PgBouncer's order, which is that of the fields."""
        found: tuple[int, ...] = attrs.astuple(self)
        return found

    def __add__(self, other: Totals) -> Totals:
        return Totals(*(one + another for one, another in zip(self.values, other.values, strict=True)))

    def since(self, before: Totals) -> Totals:
        """What has come since then. A pool that was removed meanwhile has taken its counts with it."""
        return Totals(*(max(0, now - old) for now, old in zip(self.values, before.values, strict=True)))

    def average(self, before: Totals, seconds: float) -> Totals:
        """Per second; times per transaction, query and assignment."""
        return average([(self.since(before), seconds)])


def average(growths: Sequence[tuple[Totals, float]]) -> Totals:
    """Of what several processes have done in so many seconds each: rates are those of all together."""
    rates = [0.0] * len(Totals().values)
    grown = Totals()
    for growth, seconds in growths:
        if seconds > 0:
            rates = [rate + value / seconds for rate, value in zip(rates, growth.values, strict=True)]
            grown += growth
    return attrs.evolve(
        Totals(*map(int, rates)),
        transaction_time=grown.transaction_time // max(1, grown.transactions),
        query_time=grown.query_time // max(1, grown.queries),
        wait_time=grown.wait_time // max(1, grown.assignments),
    )


@attrs.frozen
class Stats:
    """Of one database. `growths` is what averages are made of: of one process one, with its seconds."""

    totals: Totals
    growths: tuple[tuple[Totals, float], ...] = ()

    @property
    def averages(self) -> Totals:
        """As PgBouncer has them."""
        return average(self.growths)

    def __add__(self, other: Stats) -> Stats:
        return Stats(self.totals + other.totals, self.growths + other.growths)


@attrs.define(eq=False)
class Samples:
    """Taken by `run`, which the service starts."""

    census: Census
    commands: int = 0
    """Of clients of the console, which are in no pool."""
    _older: Mapping[str, Totals] = attrs.field(factory=dict)
    _newer: Mapping[str, Totals] = attrs.field(factory=dict)
    _older_at: float | None = None
    _newer_at: float | None = None
    """On Trio's clock; None is the service's start."""

    async def run(self) -> None:
        """Take samples until cancelled."""
        while True:
            await trio.sleep(PERIOD)
            self.take()

    def take(self) -> None:
        """Remember how things are now."""
        self._older, self._older_at = self._newer, self._newer_at
        self._newer, self._newer_at = self.totals(), trio.current_time()

    def totals(self) -> dict[str, Totals]:
        """By database, the console first."""
        found = {CONSOLE: Totals(transactions=self.commands, queries=self.commands)}
        for pool in self.census.pools():
            found[pool.database] = found.get(pool.database, Totals()) + Totals.of(pool)
        return found

    def stats(self) -> dict[str, Stats]:
        """By database, of what `totals` has."""
        started = self.census.service.started_at if self._older_at is None else self._older_at
        seconds = trio.current_time() - started
        return {
            name: Stats(totals, ((totals.since(self._older.get(name, Totals())), seconds),))
            for name, totals in self.totals().items()
        }

    def averages(self) -> dict[str, Totals]:
        """By database, of what `totals` has."""
        return {name: stats.averages for name, stats in self.stats().items()}
