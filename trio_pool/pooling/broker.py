"""Who of several processes may have how many servers: the total of a pool never exceeds its size, nor that of
a database's pools `max_servers`.

A *party* is a process, named by a number. It asks for permits one by one. Where there is none it presses, and
again while it needs it: then the others are asked, those with most first, for a server that nobody uses; if
none has one, the party with most owes the next that is given back, where it has at least two more. So busy
processes come to have as many as each other. A party without any is served by whoever has had a permit
longest after it has pressed `PATIENCE` times: else, with more processes than permits, one would have none for
ever.

Permits of a party that has ended stay until somebody has seen that its servers are gone.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, Protocol

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_pool.pooling.pool import PoolKey

PATIENCE: Final = 6
"""Times that a party without any server presses before it gets one of somebody who has no more than one."""


class Parties(Protocol):
    """What the broker says to the processes."""

    def granted(self, party: int, key: PoolKey, permit: int) -> None: ...
    def recall(self, party: int, key: PoolKey, *, due: bool, sake: tuple[int, PoolKey]) -> None:
        """Answered with `kept` for the same `sake`, or by giving one back."""

    def surrender(self, party: int, key: PoolKey, count: int) -> None: ...


@attrs.define(eq=False)
class _Want:
    pressing: int = 0
    asking: list[tuple[int, PoolKey]] | None = None
    """Who has not been asked yet; None if nobody is being asked."""


@attrs.define(eq=False)
class Broker:
    """`limits` gives a pool's size, and what all pools of its database may have together (0: anything)."""

    limits: Callable[[PoolKey], tuple[int, int]]
    parties: Parties
    held: dict[int, tuple[int, PoolKey]] = attrs.field(factory=dict)
    """By permit, in the order in which they were given."""
    wants: dict[tuple[int, PoolKey], _Want] = attrs.field(factory=dict)
    _count: int = 0

    def ask(self, party: int, key: PoolKey, *, pressing: bool) -> None:
        """One more, if there is one, or as soon as there is."""
        want = self.wants.setdefault((party, key), _Want())
        if pressing:
            want.pressing += 1
        self._allot(key.database)
        if pressing and (party, key) in self.wants:
            want.asking = list(self._holders(party, key))
            self._ask_next((party, key))

    def withdraw(self, party: int, key: PoolKey) -> None:
        """None is needed any more."""
        self.wants.pop((party, key), None)

    def returned(self, permit: int) -> None:
        """The server is gone at the origin, or there was none."""
        held = self.held.pop(permit, None)
        if held is not None:
            self._allot(held[1].database)

    def kept(self, sake: tuple[int, PoolKey]) -> None:
        """Who was asked has none to spare."""
        self._ask_next(sake)

    def gone(self, party: int) -> list[int]:
        """The process has ended. Returns the permits that it held, to be `returned`."""
        for key in [want for want in self.wants if want[0] == party]:
            del self.wants[key]
        return [permit for permit, (holder, _) in self.held.items() if holder == party]

    def rename(self, party: int, key: PoolKey, new: PoolKey) -> None:
        """What a party has of one pool counts for another from now on."""
        for permit, held in self.held.items():
            if held == (party, key):
                self.held[permit] = party, new
        self.withdraw(party, key)

    def adopt(self, party: int, key: PoolKey, permit: int) -> None:
        """It has this one already."""
        self.held[permit] = party, key
        self._count = max(self._count, permit)

    def review(self) -> None:
        """The limits have changed."""
        for key in {key for _, key in self.held.values()}:
            size, most = self.limits(key)
            excess = self._total(key) - size
            if most:
                excess = max(excess, self._of_database(key.database) - most)
            shares = Counter(party for party, of in self.held.values() if of == key)
            too_many: Counter[int] = Counter()
            for _ in range(min(excess, shares.total())):
                richest = max(shares, key=shares.__getitem__)
                shares[richest] -= 1
                too_many[richest] += 1
            for party in shares:
                self.parties.surrender(party, key, too_many[party])
        for database in {key.database for _, key in self.wants}:
            self._allot(database)

    def count(self, party: int, key: PoolKey) -> int:
        """Permits that a party has of a pool."""
        return sum(held == (party, key) for held in self.held.values())

    def _total(self, key: PoolKey) -> int:
        return sum(of == key for _, of in self.held.values())

    def _of_database(self, database: str) -> int:
        return sum(of.database == database for _, of in self.held.values())

    def _has_room(self, key: PoolKey) -> bool:
        size, most = self.limits(key)
        return self._total(key) < size and (not most or self._of_database(key.database) < most)

    def _allot(self, database: str) -> None:
        """The poorest of those who press come first, then the poorest of the others."""
        while True:
            wants = [
                (not want.pressing, self.count(*who), who)
                for who, want in self.wants.items()
                if who[1].database == database and self._has_room(who[1])
            ]
            if not wants:
                return
            party, key = min(wants, key=lambda each: each[:2])[2]
            del self.wants[party, key]
            self._count += 1
            self.held[self._count] = party, key
            self.parties.granted(party, key, self._count)

    def _holders(self, party: int, key: PoolKey) -> Iterator[tuple[int, PoolKey]]:
        """Whose servers stand in the way, those with most first."""
        shared = self._total(key) < self.limits(key)[0]  # then it is the database that is full
        counts = Counter(
            (holder, of)
            for holder, of in self.held.values()
            if (holder, of) != (party, key) and (of == key or (shared and of.database == key.database))
        )
        for holder, _ in counts.most_common():
            yield holder

    def _ask_next(self, sake: tuple[int, PoolKey]) -> None:
        want = self.wants.get(sake)
        if want is None or want.asking is None:
            return
        if want.asking:
            holder = want.asking.pop(0)
            self.parties.recall(*holder, due=False, sake=sake)
            return
        want.asking = None
        debtor = self._debtor(sake, want)
        if debtor is not None:
            self.parties.recall(*debtor, due=True, sake=sake)

    def _debtor(self, sake: tuple[int, PoolKey], want: _Want) -> tuple[int, PoolKey] | None:
        mine = self.count(*sake)
        holders = list(self._holders(*sake))
        if holders and self.count(*holders[0]) >= mine + 2:
            return holders[0]
        if mine or want.pressing < PATIENCE or not holders:
            return None
        most = self.count(*holders[0])
        return next(held for held in self.held.values() if held in holders and self.count(*held) == most)
