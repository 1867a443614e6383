"""What has been written, and what a reader may see of it.

A *cell* is what one row shows through one relation. Its *versions* stand in the order in which they are
written: whoever writes a cell keeps the others from it until he knows what became of that. So at any time it
can be told which versions a reader may get: the newest one whose commit was acknowledged to anybody before
the read was sent, and everything behind it that may be committed.
"""

from __future__ import annotations

import enum
import itertools
import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs
import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

ABSENT = None
"""The content of a cell whose row is not there."""
REMEMBERED = 40


class State(enum.Enum):
    """What is known of a write."""

    OPEN = "in a transaction"
    SENT = "its commit was sent"
    COMMITTED = "its commit was acknowledged"
    DEAD = "rolled back"
    UNKNOWN = "nobody knows"


VISIBLE = frozenset({State.SENT, State.COMMITTED, State.UNKNOWN})


@attrs.define(eq=False)
class Version:
    """One state of a cell. `via`: the pooler through which it was written, None past all of them. `known_at`:
    when its commit was acknowledged; who reads there after that may see nothing older, others `late` seconds
    later.
    """

    number: int
    content: str | None
    how: str
    state: State = State.OPEN
    via: object = None
    known_at: float = math.inf
    late: float = 0.0
    seen: str = ""
    """By whom it was read before its outcome was known."""

    def __str__(self) -> str:
        when = f" at {self.known_at:.3f}" if math.isfinite(self.known_at) else ""
        return f"{self.number} ({self.content}; {self.how}; {self.state.value}{when})"


@attrs.define(eq=False)
class Cell:
    """See above."""

    name: str
    versions: list[Version]
    lock: trio.Lock = attrs.field(factory=trio.Lock)

    @property
    def settled(self) -> bool:
        """Whether it is known what it holds."""
        return self._last.state is State.COMMITTED

    @property
    def content(self) -> str | None:
        return self._last.content

    @property
    def _last(self) -> Version:
        return next(v for v in reversed(self.versions) if v.state is not State.DEAD)

    def floor(self, now: float, via: object) -> Version:
        """The oldest that a read which is sent now may see, through this pooler."""
        for version in reversed(self.versions):
            if version.known_at + (0.0 if version.via == via else version.late) <= now:
                return version
        return self.versions[0]

    @property
    def history(self) -> str:
        """Its last versions, for whoever has to find out."""
        return "\n".join(f"    {version}" for version in self.versions[-8:])

    def problem(self, content: str | None, floor: Version, mine: bool, who: str) -> str:
        """What is wrong with reading this, if that is so. `mine`: the floor is what the reader's own open
        transaction has written.
        """
        at = self.versions.index(floor) if floor in self.versions else 0
        if mine:
            if content == floor.content:
                return ""
        else:
            for version in self.versions[at:]:
                if version.content == content and version.state in VISIBLE:
                    if version.state is State.SENT:
                        version.seen = who
                    return ""
        for version in reversed(self.versions):
            if version.content == content:
                if self.versions.index(version) < at:
                    return (
                        f"STALE: {self.name} is {version}, but should be at least {floor};\n{self.history}\n"
                    )
                return f"DIRTY: {self.name} is {version}, but should be at least {floor};\n{self.history}\n"
        should = f"should be at least {floor};\n{self.history}\n"
        return f"FOREIGN: {self.name} is {content!r}, which it never was; {should}"

    def prune(self) -> None:
        del self.versions[:-REMEMBERED]


@attrs.define(eq=False)
class Writing:
    """Cells that a client is about to write, and has for itself until he knows the outcome."""

    ledger: Ledger
    how: str
    via: object
    versions: dict[Cell, Version] = attrs.field(factory=dict)

    def write(self, effects: Mapping[str, str | None], *, dead: bool = False) -> None:
        """These cells will have these contents."""
        for name, content in effects.items():
            cell = self.ledger.cells[name]
            version = Version(self.ledger.number(), content, self.how, via=self.via)
            if dead:
                version.state = State.DEAD
            else:
                self.versions[cell] = version
            cell.versions.append(version)

    def sent(self) -> None:
        """The commit is on its way."""
        for version in self.versions.values():
            version.state = State.SENT

    def committed(self) -> None:
        """It was acknowledged: whoever asks from now on must see it."""
        now = trio.current_time()
        self.ledger.commits += 1
        for cell, version in self.versions.items():
            version.state = State.COMMITTED
            version.known_at = now
            version.late = self.ledger.lag() if version.via is None else self.ledger.bound
            cell.prune()
        self.versions.clear()

    def rolled_back(self) -> None:
        """It never happened."""
        for cell, version in self.versions.items():
            version.state = State.DEAD
            if version.seen:
                self.ledger.violation(
                    f"DIRTY: {version.seen} has read {cell.name} {version}, which never was"
                )
        self.versions.clear()

    def unknown(self) -> None:
        """Nobody knows."""
        self.ledger.unknown += 1
        for version in self.versions.values():
            version.state = State.UNKNOWN
        self.versions.clear()


@attrs.define(eq=False)
class Ledger:
    """All cells, and what was found wrong. `lag`: seconds for which writes made past all poolers may stay
    unnoticed; `bound`: for which those made through another one may.
    """

    cells: dict[str, Cell] = attrs.field(factory=dict)
    violations: list[str] = attrs.field(factory=list)
    found: trio.Event = attrs.field(factory=trio.Event)
    commits: int = 0
    unknown: int = 0
    lag: Callable[[], float] = attrs.field(default=lambda: 0.0)
    bound: float = 0.0
    _numbers: itertools.count[int] = attrs.field(factory=lambda: itertools.count(1000))

    def number(self) -> int:
        """A new one, greater than all before."""
        return next(self._numbers)

    def begin(self, contents: Mapping[str, str | None]) -> None:
        """What the schema starts with."""
        for name, content in contents.items():
            version = Version(0, content, "at first", State.COMMITTED, known_at=-math.inf)
            self.cells[name] = Cell(name, [version])

    @asynccontextmanager
    async def writing(self, names: Iterable[str], how: str, via: object) -> AsyncIterator[Writing]:
        """Keep others from writing these cells. What is left without an outcome is unknown."""
        cells = [self.cells[name] for name in sorted(set(names))]
        for cell in cells:
            await cell.lock.acquire()
        writing = Writing(self, how, via)
        try:
            yield writing
        finally:
            writing.unknown() if writing.versions else None
            for cell in cells:
                cell.lock.release()

    def violation(self, what: str) -> None:
        self.violations.append(what)
        self.found.set()
