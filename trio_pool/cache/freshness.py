"""Which tables have been written to since when: counters that only grow.

A reading remembers the sum of the counters of its tables as it was before it began (`stamp`). As long as the
sum is the same, nothing has been written to any of them. A counter belongs to a *slot*, and a table's slot is
a hash: tables that share one invalidate each other, which is harmless. Tags of statements have slots as well,
so that purging one is the same as writing to it. What stands for everything of a database, or for its schema,
has slots among its like only: a busy table that shared one of these would keep the cache empty for good.

Several processes look at the same counters (`Counters.shared`): each has a row of its own to write to, so
that no count is lost, and reads them all. A count is one aligned machine word, which a processor writes and
reads whole.

Some writes are in *doubt*: nobody can tell when they take effect, if at all (the connection was lost in the
middle of a COMMIT). Until the doubt is over nothing that reads these tables is kept.
"""

from __future__ import annotations

from array import array
from mmap import mmap
from typing import Final, Protocol
from zlib import crc32

SLOTS: Final = 8192
_ANY: Final = 0
"""Counts every invalidation: as long as it is the same, everything is."""
_FIRST: Final = 1
_KIND: Final = 1024
"""Slots for `EVERYTHING`, and as many for `SCHEMA`."""
_FIRST_TABLE: Final = _FIRST + 2 * _KIND
DOUBT: Final = 60.0
"""Seconds for which a write that was cut off may still take effect at PostgreSQL."""
EVERYTHING: Final = 0
"""Stands among the OIDs of tables for all of them."""
SCHEMA: Final = -1
"""Stands there for what there is at all."""
_WORD: Final = 8


class Counters:
    """The memory behind all `Freshness` of a daemon. `rows` is how many processes there may be."""

    __slots__ = ("doubts", "own", "rows", "words")

    def __init__(self, memory: mmap, rows: int = 1, own: int = 0) -> None:
        self.words: memoryview = memoryview(memory).cast("Q")
        self.rows = rows
        self.own = own * SLOTS
        """Where this process's row begins."""
        self.doubts = rows * SLOTS
        """Where the row begins that says until when slots are in doubt: milliseconds, of whom counts last."""

    @staticmethod
    def size(rows: int) -> int:
        """Bytes of memory for so many processes."""
        return (rows + 1) * SLOTS * _WORD

    @classmethod
    def of_this_process(cls) -> Counters:
        return cls(mmap(-1, cls.size(1)))

    @property
    def any(self) -> int:
        """Changes with every invalidation, whatever it is of. Hot path."""
        if self.rows == 1:
            return int(self.words[_ANY])
        return self.total(_ANY)

    def total(self, slot: int) -> int:
        """What all processes have counted for one slot."""
        words = self.words
        return sum(words[row * SLOTS + slot] for row in range(self.rows))

    def count(self, slot: int) -> None:
        """One more for a slot."""
        self.words[self.own + slot] += 1

    def doubt(self, slot: int, until: int) -> None:
        at = self.doubts + slot
        if self.words[at] < until:
            self.words[at] = until

    def others(self) -> memoryview:
        """The sums of what the other processes have counted, by slot. A copy."""
        rows = [self.words[row * SLOTS : (row + 1) * SLOTS] for row in range(self.rows)]
        del rows[self.own // SLOTS]
        if len(rows) == 1:
            return memoryview(bytes(rows[0])).cast("Q")
        sums = array("Q", map(sum, zip(*rows, strict=True)))
        return memoryview(sums)

    def doubtful(self, slot: int, now: int) -> bool:
        return bool(self.words[self.doubts + slot] > now)


class Writer(Protocol):
    """Whose client may be about to learn that something is written."""

    def cork(self, number: int) -> None:
        """Keep what is sent to the client, until `uncork` with the number that was given last."""

    def uncork(self, number: int) -> None: ...


class Follower(Protocol):
    """Who is told of what is counted, as it happens. Must not raise."""

    def hold(self, writer: Writer) -> None:
        """Somebody has written, and is about to learn it."""

    def adopted(self, salt: int) -> None:
        """From now on, slots under this salt count as well."""

    def ended(self, slots: tuple[int, ...]) -> None:
        """What reads these was valid until now."""

    def doubted(self, slots: tuple[int, ...], seconds: float) -> None:
        """For so long nothing that reads these is to be kept."""


class Freshness:
    """What has been written to in one database of one origin.

    Times are seconds on the pooler's clock; `ahead` is by how much that is behind one which all processes
    share.

    Another daemon may tell of writes by its own slots (net/feed_reader.py). Which of them a table has follows
    from its `salt`; so what a reading depends on has slots under every salt that is known.
    """

    __slots__ = ("_ahead", "_everything", "_schemas", "counters", "followers", "invalidations", "salts")

    def __init__(self, counters: Counters, origin: str, *, ahead: float = 0.0) -> None:
        self.counters = counters
        self._ahead = ahead
        self.salts: tuple[int, ...] = (crc32(origin.encode()),)
        """Of our own slots, and then of others'."""
        self._everything = tuple(map(_everything_of, self.salts))
        self._schemas = tuple(map(_schema_of, self.salts))
        self.invalidations = 0
        self.followers: list[Follower] = []

    def adopt(self, salt: int) -> None:
        """Somebody tells of writes by slots under this salt. Ends everything, if it is new."""
        if salt not in self.salts:
            self.salts = (*self.salts, salt)
            self._everything = (*self._everything, _everything_of(salt))
            self._schemas = (*self._schemas, _schema_of(salt))
            for follower in self.followers:
                follower.adopted(salt)
        self.invalidate(frozenset({EVERYTHING, SCHEMA}))

    def slots_of(self, tables: frozenset[int], tags: frozenset[str] = frozenset()) -> tuple[int, ...]:
        """What a reading of these tables depends on."""
        slots = {slot for oid in tables if oid != EVERYTHING for slot in self._slots(b"%d" % oid)}
        slots |= {slot for tag in tags for slot in self.slots_of_tag(tag)}
        return (*self._everything, *sorted(slots - set(self._everything)))

    def slots_of_tag(self, tag: str) -> tuple[int, ...]:
        return self._slots(b"tag " + tag.encode())

    def _slots(self, what: bytes) -> tuple[int, ...]:
        """Under each salt."""
        return tuple(_slot_of(what, salt) for salt in self.salts)

    def stamp(self, slots: tuple[int, ...]) -> int:
        """Changes when something is written to one of them."""
        total = 0
        for slot in slots:
            total += self.counters.total(slot)
        return total

    @property
    def schema(self) -> int:
        """Changes when somebody may have changed the schema. Hot path."""
        if self.counters.rows == 1 and len(self._schemas) == 1:
            return int(self.counters.words[self._schemas[0]])
        return self.stamp(self._schemas)

    def invalidate(self, tables: frozenset[int]) -> None:
        """They have been written to. From the return of this on, nothing that was read before is valid."""
        slots = [self._schemas[0]] if SCHEMA in tables else []
        if EVERYTHING in tables:
            slots.append(self._everything[0])
        else:
            salt = self.salts[0]
            slots += [_slot_of(b"%d" % oid, salt) for oid in tables if oid != SCHEMA]
        self.end(tuple(slots))

    def purge_tag(self, tag: str) -> None:
        """End everything with this tag."""
        self.end(self.slots_of_tag(tag)[:1])

    def end(self, slots: tuple[int, ...]) -> None:
        """What reads these is not valid any more. The slots first: who sees the counter of all changed must
        see theirs changed, too.
        """
        self.invalidations += 1
        for slot in slots:
            self.counters.count(slot)
        self.counters.count(_ANY)
        for follower in self.followers:
            follower.ended(slots)

    def doubt(self, tables: frozenset[int], now: float, seconds: float = DOUBT) -> None:
        """For so long they may be written to at any moment, and nobody will tell."""
        self.invalidate(tables)
        self.unsettle(tables, now, seconds)

    def unsettle(self, tables: frozenset[int], now: float, seconds: float) -> None:
        """Keep nothing for so long that reads them; what is kept already stays."""
        own, every = self.slots_of(tables), len(self.salts)
        self.doubt_slots(own[:every] if EVERYTHING in tables else own[every:], now, seconds)

    def doubt_slots(self, slots: tuple[int, ...], now: float, seconds: float) -> None:
        """The same of slots."""
        until = int((now + self._ahead + seconds) * 1000)
        for slot in slots:
            self.counters.doubt(slot, until)
        for follower in self.followers:
            follower.doubted(slots, seconds)

    def is_settled(self, slots: tuple[int, ...], now: float) -> bool:
        """Whether nothing is in doubt about any of these."""
        milliseconds = int((now + self._ahead) * 1000)
        return not any(self.counters.doubtful(slot, milliseconds) for slot in slots)


def _everything_of(salt: int) -> int:
    return _FIRST + crc32(b"everything", salt) % _KIND


def _schema_of(salt: int) -> int:
    return _FIRST + _KIND + crc32(b"schema", salt) % _KIND


def _slot_of(what: bytes, salt: int) -> int:
    """Of a table or a tag."""
    return _FIRST_TABLE + crc32(what, salt) % (SLOTS - _FIRST_TABLE)
