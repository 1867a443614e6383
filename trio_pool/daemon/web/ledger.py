"""What pools have counted, under a bounded number of labels, so that no counter ever goes down.

Without a user in the origin's URL there is one pool per user of the clients, and with the database "*" one
per name that a client thinks of; there may be any number. `MOST_PAIRS` of them are told apart: first come,
first served, and of those that come between two looks the busier ones. The others are summed up under
user="other" (and database="other" unless that name is configured). A pool keeps its labels, since counters
would go down otherwise.

Pools end when a reload takes their database away. What they had counted is kept here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import attrs
import trio

from trio_pool.daemon.census import Census
from trio_pool.daemon.seen import Spans
from trio_pool.daemon.web.families import POOL

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from trio_pool.daemon.seen import CacheSeen, PoolSeen
    from trio_pool.daemon.service import Service
    from trio_pool.daemon.web.families import Value
    from trio_pool.net.origin import OriginPool

MOST_PAIRS = 200
ACCOUNTS_AT_ONCE = 500
MOST_VALUES = 50
"""Of a label such as a reason; all that are known today fit."""
OTHER = "other"

Labels: TypeAlias = tuple[str, str]
"""Database and user."""
Number: TypeAlias = float | dict[str, float] | list[float]
"""A `Value` that can be added to; of a histogram, its counts and then its sum."""
Numbers: TypeAlias = list[Number | None]
"""One per family of `POOL`; None if there is nothing to tell."""

_COUNTED = [family.kind != "gauge" for family in POOL]


@attrs.define
class _Account:
    """How one pool is counted."""

    key: Labels
    labels: Labels
    before: Numbers | None = None
    """What it had already when it got its key, and is told under another."""


@attrs.define(eq=False)
class Ledger:
    """Reads the pools of one service, again and again, one reading at a time."""

    service: Service
    _accounts: dict[OriginPool, _Account] = attrs.field(factory=dict)
    _pairs: set[Labels] = attrs.field(factory=set)
    _gone: dict[Labels, Numbers] = attrs.field(factory=dict)
    """What has been counted by pools that are no more."""
    _values: list[set[str]] = attrs.field(factory=lambda: [set() for _ in POOL])
    _lock: trio.Lock = attrs.field(factory=trio.Lock)

    async def read(self) -> dict[Labels, Numbers]:
        """The sums by labels, as they are now. Takes turns with everybody else (`Census.walk`)."""
        async with self._lock:
            await self._open_accounts()
            sums = {labels: [_copy(number) for number in numbers] for labels, numbers in self._gone.items()}

            def visit(origin: OriginPool, seen: PoolSeen) -> None:
                account = self._accounts.get(origin)
                if account is not None:  # else it is new since
                    self._enter(origin, account, seen, sums)

            await Census(self.service).walk(visit, self._accounts)
            return sums

    async def _open_accounts(self) -> None:
        new = [origin for origin in self.service.pools.values() if origin not in self._accounts]
        new.sort(key=lambda origin: -origin.traffic.queries)
        for at, origin in enumerate(new):
            key = (origin.pool.key.database, origin.pool.key.user)
            self._accounts[origin] = _Account(key, self._labels(key))
            if at % ACCOUNTS_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()

    def _labels(self, key: Labels) -> Labels:
        return bounded(key, self._pairs, self.service.config.databases)

    def _enter(
        self, origin: OriginPool, account: _Account, seen: PoolSeen, sums: dict[Labels, Numbers]
    ) -> None:
        numbers = self._numbers(seen)
        counted = _counted(numbers, account.before)
        add_numbers(sums.setdefault(account.labels, _nothing()), counted)
        key = (seen.database, seen.user)
        if origin.ended or key != account.key:
            add_numbers(self._gone.setdefault(account.labels, _nothing()), counted)
            del self._accounts[origin]
        if origin.ended:
            return
        if key != account.key:  # a reload has given it another user
            account = self._accounts[origin] = _Account(key, self._labels(key), numbers)
        levels = [None if counts else number for counts, number in zip(_COUNTED, numbers, strict=True)]
        add_numbers(sums.setdefault(account.labels, _nothing()), levels)

    def _numbers(self, seen: PoolSeen) -> Numbers:
        return [
            _bounded(number(family.read(seen)), values)
            for family, values in zip(POOL, self._values, strict=True)
        ]


def bounded(key: Labels, told_apart: set[Labels], databases: Container[str]) -> Labels:
    """How it is labelled: as itself if it is, or can be, one of those that are told apart. For one key always
    the same.
    """
    if key not in told_apart:
        if len(told_apart) >= MOST_PAIRS:
            return (key[0] if key[0] in databases else OTHER, OTHER)
        told_apart.add(key)
    return key


def bounded_caches(caches: Iterable[CacheSeen], told_apart: set[str]) -> list[CacheSeen]:
    """Those that there are or have been, of which so many are told apart as pairs of labels are."""
    found: dict[str, CacheSeen] = {}
    for one in caches:
        if one.known:
            name = one.database if one.database in told_apart or len(told_apart) < MOST_PAIRS else OTHER
            told_apart.add(name)
            named = attrs.evolve(one, database=name)
            found[name] = found[name].plus(named) if name in found else named
    return list(found.values())


def number(value: Value) -> Number:
    """The value, copied."""
    if isinstance(value, Spans):
        return [*value.counts, value.seconds]
    return value if isinstance(value, int | float) else dict(value)


def _bounded(counts: Number, told_apart: set[str]) -> Number:
    """With no more than `MOST_VALUES` values of a label."""
    if not isinstance(counts, dict):
        return counts
    few: dict[str, float] = {}
    for name, count in counts.items():
        if len(told_apart) < MOST_VALUES:
            told_apart.add(name)
        label = name if name in told_apart else OTHER
        few[label] = few.get(label, 0) + count
    return few


def _nothing() -> Numbers:
    return [None] * len(POOL)


def _copy(number: Number | None) -> Number | None:
    return number if number is None or isinstance(number, int | float) else number.copy()


def _counted(numbers: Numbers, before: Numbers | None) -> Numbers:
    """Of counters and histograms, what has come since `before`."""
    if before is None:
        return [number if counts else None for counts, number in zip(_COUNTED, numbers, strict=True)]
    return [
        _less(number, earlier) if counts else None
        for counts, number, earlier in zip(_COUNTED, numbers, before, strict=True)
    ]


def only_counted(numbers: Numbers) -> Numbers:
    """Without what is of now."""
    return _counted(numbers, None)


def _less(number: Number | None, earlier: Number | None) -> Number | None:
    if isinstance(number, dict) and isinstance(earlier, dict):
        return {name: count - earlier.get(name, 0) for name, count in number.items()}
    if isinstance(number, list) and isinstance(earlier, list):
        return [count - less for count, less in zip(number, earlier, strict=True)]
    assert isinstance(number, int | float)
    assert isinstance(earlier, int | float)
    return number - earlier


def add_numbers(sums: Numbers, numbers: Numbers, *, of_one_pool: bool = False) -> None:
    """Change the sums. What stays there is copied. `of_one_pool`: of another process, about the same."""
    for at, number in enumerate(numbers):
        total = sums[at]
        if number is None:
            continue
        if total is None:
            sums[at] = _copy(number)
        elif isinstance(number, dict):
            assert isinstance(total, dict)
            for name, count in number.items():
                total[name] = total.get(name, 0) + count
        elif isinstance(number, list):
            assert isinstance(total, list)
            total[:] = [one + other for one, other in zip(total, number, strict=True)]
        else:
            assert isinstance(total, int | float)
            most = POOL[at].most or (of_one_pool and POOL[at].shared)
            sums[at] = max(total, number) if most else total + number
