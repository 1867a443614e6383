"""A pool of one process among several that share its size: it may have as many servers as it has permits.

The permits are the broker's (broker.py), which gives them to whoever asks. This is what stands in for a
`Capacity` there: where the pool would open a server, a permit is asked for; where somebody else needs one
more, a server that nobody uses is closed, or one that is given back.

A permit is not given back when the server has left its pool but when it is gone at the origin, so `closed`
says nothing to the broker: whoever sees the connection end does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import attrs

from trio_pool.pooling.capacity import Capacity

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_pool.pooling.pool import Pool, PoolKey

OWED_FOR = 0.3
"""Seconds for which a server is owed to others; they ask again while they need it."""


class Desk(Protocol):
    """What carries requests to the broker."""

    def ask(self, key: PoolKey, *, pressing: bool) -> None:
        """One permit, if there is one; `pressing`: and tell the others if there is none."""

    def withdraw(self, key: PoolKey) -> None:
        """None is needed any more."""

    def give_back(self, permit: int) -> None:
        """It was not used."""


@attrs.define(eq=False)
class Permits(Capacity):
    """Of one pool. `most` follows from what the broker gives."""

    most: int = 0
    key: PoolKey = attrs.field(kw_only=True)
    desk: Desk = attrs.field(kw_only=True)
    clock: Callable[[], float] = attrs.field(kw_only=True)
    unused: list[int] = attrs.field(factory=list)
    latest: int = 0
    """The permit of the server that was opened last."""
    asked: bool | None = None
    """Whether one has been asked for, and if so whether that presses."""
    surplus: int = 0
    """How many servers are too many, since the limit was lowered."""
    owed_until: float = 0.0
    """Until then a server that is given back is for another process."""

    @property
    def pool(self) -> Pool[Any, Any] | None:
        """The one pool that it bounds."""
        pool: Any = next(iter(self.pools), None)
        return pool  # type: ignore[no-any-return]

    @property
    def binds(self) -> bool:
        return self.surplus > 0 or self.owed_until > 0

    def has_room(self, pool: object) -> bool:
        return bool(self.unused)

    def opening(self, pool: object) -> None:
        self.servers += 1
        self.latest = self.unused.pop()

    def closed(self) -> None:
        self.servers -= 1
        if self.surplus:
            self.surplus -= 1
            self._note()

    def resize(self, most: int) -> None:
        """The broker does that."""

    def enlist(self, pool: Any) -> None:
        self.pools[pool] = None
        self.servers += pool.servers

    def dismiss(self, pool: Any) -> None:
        self.servers -= pool.servers
        del self.pools[pool]
        self._settle(needed=False)

    def review(self, pool: Any) -> None:
        """Something has changed in the pool: one more server is wanted, or none."""
        if self.unused:
            if pool.wants_server:
                pool.grow()
            else:
                self._settle(needed=False)
        elif pool.lacks_server or pool.would_grow:
            self._ask(pressing=False)
        else:
            self._settle(needed=False)

    def _ask(self, *, pressing: bool) -> None:
        if self.asked is None:
            self.asked = pressing
            self.desk.ask(self.key, pressing=pressing)

    def _settle(self, *, needed: bool) -> None:
        while self.unused:
            self.desk.give_back(self.unused.pop())
        if self.asked is not None and not needed:
            self.asked = None
            self.desk.withdraw(self.key)

    # -- what the broker and the clock say -------------------------------------------------------------------

    def granted(self, permit: int) -> None:
        """The broker gives one."""
        self.asked = None
        self.unused.append(permit)
        if self.pool is not None:
            self.review(self.pool)
        else:
            self._settle(needed=False)

    def look_again(self) -> None:
        """Some milliseconds have passed: whoever still waits presses, what is owed no more is kept."""
        if self.owed_until and self.clock() >= self.owed_until:
            self.owed_until = 0.0
            self._note()
        pool = self.pool
        if pool is None or self.asked is None:
            return
        if pool.lacks_server:
            self.asked = True
            self.desk.ask(self.key, pressing=True)
        elif not pool.would_grow:
            self._settle(needed=False)

    def recall(self, *, due: bool) -> bool:
        """Somebody else needs a permit: whether one is on its way back. If it is `due`, the next server that
        is given back will be.
        """
        pool = self.pool
        if self.unused and (pool is None or pool.failing):
            self._settle(needed=True)
            if pool is not None and pool.would_grow:
                self._ask(pressing=False)  # behind the others
            return True
        if pool is None:
            return False
        if pool.idle and not pool.has_eligible:
            pool.give_way()
            return True
        if due:
            self.owed_until = self.clock() + OWED_FOR
            self._note()
        return False

    def surrender(self, count: int) -> None:
        """The limit was lowered: so many are too many."""
        self.surplus = count
        pool = self.pool
        while pool is not None and self.surplus and pool.idle:
            pool.give_way()
        self._note()

    def claims(self, pool: object) -> bool:
        if self.surplus:
            return True
        if self.owed_until:
            owed, self.owed_until = self.clock() < self.owed_until, 0.0
            self._note()
            return owed
        return False

    def _note(self) -> None:
        if self.pool is not None:
            self.pool.note_bounds()

    def check(self) -> None:
        """Assert that servers are counted."""
        assert self.servers == sum(pool.servers for pool in self.pools)
