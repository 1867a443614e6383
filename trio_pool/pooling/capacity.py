"""How many servers all pools of one database may have together, and which pool gives one up to which.

Where each user has its own pool, the sizes of the pools bound nothing together: one busy user could take all
connections that the origin allows. With a capacity, a pool that needs a server for somebody who waits either
has room or *presses*: it stands in a queue of pools, and the others make room for it.

- An idle server of another pool is closed at once: the one that has been idle longest, of the pool that has
  the most. Waiting clients come before `min_size`.
- A server that another pool gets back is closed instead of being idle. If somebody waits for it there, only
  if that pool has at least two more than the one that presses, so that busy pools come to have as many as
  each other and stay so.
- If there are more busy pools than servers, those numbers would leave a pool without any for ever. So it is
  passed over a few times, and then the next server is its.

The free places belong to the pools that press, in their order. A pool whose last login failed comes last and
keeps no place, because it backs off, and somebody else could use it meanwhile; nor does an idle server go for
its sake.

That idle servers go at once is PgBouncer's way with max_db_connections, and has its price: where more clients
are busy than there are servers, a pool that has nobody waiting for an instant loses a server, and logs in
again for its next client. In return nobody waits for a server that nobody uses.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, Protocol

import attrs

if TYPE_CHECKING:
    from collections.abc import Collection

PATIENCE: Final = 20
"""Leases that a pool without a server lets others have. Arbitrary: what a login costs is then a small part of
what is done meanwhile.
"""


class Contender(Protocol):
    """A pool, as far as a capacity knows."""

    @property
    def idle(self) -> Collection[Any]: ...

    @property
    def servers(self) -> int: ...

    @property
    def lacks_server(self) -> bool:
        """Whether one more server would serve somebody who waits, and none is being opened."""

    @property
    def wants_server(self) -> bool:
        """Whether it may open one more now, and should."""

    @property
    def failing(self) -> bool:
        """Whether its last login failed."""

    @property
    def has_eligible(self) -> bool:
        """Whether somebody waits who could have a server."""

    def grow(self) -> None:
        """Open one more if `wants_server`; not synchronously."""

    def give_way(self) -> None:
        """Close the server that has been idle longest."""


@attrs.define(eq=False)
class Capacity:
    """`most` servers; opening ones are included."""

    most: int
    servers: int = 0
    pools: dict[Contender, None] = attrs.field(factory=dict)
    pressing: OrderedDict[Contender, int] = attrs.field(factory=OrderedDict)
    """Pools that need a server, in order, and how often each was passed over."""

    @property
    def binds(self) -> bool:
        """Whether a server that is given back may be claimed for another."""
        return True

    def has_room(self, pool: Contender) -> bool:
        """Whether the pool may open a server: there is a place, and nobody who presses comes before it."""
        room = self.most - self.servers
        if room <= 0:
            return False
        for ahead in self.pressing:
            if ahead is pool:
                if not pool.failing:
                    return True
                continue
            if ahead.lacks_server and not ahead.failing:
                room -= 1
                if not room:
                    return False
        return True

    def opening(self, pool: Contender) -> None:
        """The pool opens a server."""
        self.servers += 1
        self.pressing.pop(pool, None)

    def closed(self) -> None:
        """A server is gone; the pool that had it asks for a `review` next."""
        self.servers -= 1

    def resize(self, most: int) -> None:
        """From now on this holds. What is too much goes when it is idle, or is given back."""
        self.most = most
        while self._is_crowded and any(pool.idle for pool in self.pools):
            self._make_room()
        self._allot()

    @property
    def _is_crowded(self) -> bool:
        """Whether there is no room for those who press, or not even for what is there."""
        eager = sum(pool.lacks_server and not pool.failing for pool in self.pressing)
        return self.servers + eager > self.most

    def enlist(self, pool: Contender) -> None:
        """One more pool, with the servers that it has."""
        self.pools[pool] = None
        self.servers += pool.servers
        self.resize(self.most)

    def dismiss(self, pool: Contender) -> None:
        """A pool that is bounded no more, or not by this."""
        self.servers -= pool.servers
        del self.pools[pool]
        self.pressing.pop(pool, None)
        self._allot()

    def review(self, pool: Contender) -> None:
        """Something has changed in a pool: it presses, or does so no more; whoever has room now is told."""
        if not pool.lacks_server:
            self.pressing.pop(pool, None)
            if pool.wants_server:
                pool.grow()
        elif pool not in self.pressing:
            self.pressing[pool] = 0
            if not pool.failing and not self.has_room(pool):
                self._make_room()
        self._allot()

    def claims(self, pool: Contender) -> bool:
        """Whether a server that the pool has got back must be closed for another pool's sake, or because
        there are too many.
        """
        if self.servers > self.most:
            return True
        room = self.most - self.servers
        failing: Contender | None = None
        for claimant in self.pressing:
            if not claimant.lacks_server:
                continue
            if claimant.failing:
                failing = failing or claimant
            elif room > 0:
                room -= 1
            elif claimant is not pool:
                return self._gives_to(claimant, pool)
        return room <= 0 and failing is not None and failing is not pool and self._gives_to(failing, pool)

    def _gives_to(self, claimant: Contender, pool: Contender) -> bool:
        if not claimant.failing and (not pool.has_eligible or pool.servers >= claimant.servers + 2):
            self.pressing.move_to_end(
                claimant, last=False
            )  # or the pool that gives might be the first to take
            return True
        if claimant.servers and not claimant.failing:
            self.pressing.move_to_end(claimant)  # it has its share; whoever is behind it may have less
            return False
        self.pressing[claimant] += 1
        if self.pressing[claimant] < PATIENCE:
            return False
        self.pressing[claimant] = 0
        self.pressing.move_to_end(claimant, last=False)
        return True

    def _make_room(self) -> None:
        """Who presses has nothing idle, so it is another that gives way. What becomes idle later is claimed
        then.
        """
        giver = max(self.pools, key=lambda pool: len(pool.idle))
        if giver.idle:
            giver.give_way()

    def _allot(self) -> None:
        room = self.most - self.servers
        for pool in self.pressing:
            if room <= 0:
                return
            if pool.lacks_server:
                pool.grow()
                room -= not pool.failing

    def check(self) -> None:
        """Assert that the servers are counted, that none is idle while there are too many, nor while a pool
        that could use its place presses.
        """
        assert self.servers == sum(pool.servers for pool in self.pools)
        assert self.servers <= self.most or not any(pool.idle for pool in self.pools)
        assert self.pressing.keys() <= self.pools.keys()
        needy = [pool for pool in self.pools if pool.lacks_server]
        assert all(pool in self.pressing for pool in needy)
        eager = sum(not pool.failing for pool in needy)
        assert eager <= self.most - self.servers or not any(pool.idle for pool in self.pools)
