"""The answers themselves: bounded by bytes, the least useful leave first.

An answer is found by its *shelf* and its key. A shelf is for everybody for whom equal requests have equal
answers: one user of one database with one set of settings.

Who leaves: all answers stand in a ring. When room is needed, the hand goes round; what is out of date leaves,
what has *credit* loses one and stays. An answer gets credit when it is used, and some from the start if it
took long to get. So nothing has to be moved when an answer is used, and nothing is scanned for its age.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_pool.cache.plan import Plan
    from trio_pool.cache.shelf import Shelf
    from trio_pool.protocol.statements import Statement

MOST_CREDIT: Final = 3
OVERHEAD: Final = 720
"""Bytes that an answer takes besides its own and its key's: objects, places in dictionaries (measured)."""
BETWEEN: Final = 16
"""One byte in so many is lost between answers, where shorter ones have left (glibc: 2 to 12 %)."""


def footprint(key: bytes, reply: bytes) -> int:
    """Bytes of memory that an answer takes."""
    taken = len(key) + len(reply) + OVERHEAD
    return taken + taken // BETWEEN


class Entry:
    """One kept answer. Times are seconds on the pooler's clock."""

    __slots__ = (
        "credit",
        "fresh_until",
        "key",
        "plan",
        "refreshing",
        "reply",
        "seen",
        "shelf",
        "size",
        "stale_until",
        "stamp",
        "statement",
    )

    def __init__(
        self,
        shelf: Shelf,
        key: bytes,
        reply: bytes,
        *,
        fresh_until: float,
        stale_until: float,
        plan: Plan,
        stamp: int,
        seen: int,
        credit: int,
        size: int,
        statement: Statement | None,
    ) -> None:
        self.shelf = shelf
        self.key = key
        self.reply = reply
        """All bytes from the first reply to ReadyForQuery."""
        self.fresh_until = fresh_until
        self.stale_until = stale_until
        """Until when it still serves while a new one is fetched."""
        self.plan = plan
        self.stamp = stamp
        """`Freshness.stamp` before it was read."""
        self.seen = seen
        """`Counters.any` when it was last known to be valid."""
        self.credit = credit
        self.size = size
        self.refreshing = False
        self.statement = statement
        """The prepared statement by whose name of ours the key goes: it must live as long."""


class Store:
    """All answers of one database, in at most `max_size` bytes."""

    __slots__ = ("_ring", "evicted", "max_size", "purged", "size")

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        self.size = 0
        self.evicted = 0
        """Answers that had to leave before their time."""
        self.purged = 0
        """Answers that an operator has ended."""
        self._ring: dict[Entry, None] = {}

    def __len__(self) -> int:
        return len(self._ring)

    def put(self, entry: Entry, now: float) -> None:
        """Keep it, in place of an earlier answer to the same."""
        earlier = entry.shelf.entries.get(entry.key)
        if earlier is not None:
            self.drop(earlier)
        self._make_room(entry.size, now)
        entry.shelf.entries[entry.key] = entry
        self._ring[entry] = None
        self.size += entry.size

    def drop(self, entry: Entry) -> None:
        """It is out of date."""
        if entry in self._ring:
            del self._ring[entry]
            self.size -= entry.size
            if entry.shelf.entries.get(entry.key) is entry:
                del entry.shelf.entries[entry.key]

    def purge(self, overtaken: Callable[[Entry], bool]) -> int:
        """End those that are out of date. Returns how many."""
        gone = [entry for entry in self._ring if overtaken(entry)]
        for entry in gone:
            self.drop(entry)
        self.purged += len(gone)
        return len(gone)

    def resize(self, max_size: int) -> None:
        self.max_size = max_size
        self._make_room(0, -math.inf)

    def _make_room(self, size: int, now: float) -> None:
        ring = self._ring
        while ring and self.size + size > self.max_size:
            entry = next(iter(ring))
            if entry.credit and now < entry.stale_until:
                entry.credit -= 1
                del ring[entry]
                ring[entry] = None
            else:
                if now < entry.stale_until:
                    self.evicted += 1
                self.drop(entry)
