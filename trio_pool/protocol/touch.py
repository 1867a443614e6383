"""Which tables of one database a statement may change: where what `writing` finds in its text leads to.

A result that was kept of a reading is over when a statement may have changed one of `Verdict.tables`. Like a
verdict this holds for every role and search_path: a name stands for everything of that name in any schema.
What is followed: partitions and children; views to all relations that they are made of; foreign keys that
cascade or set; rules, by their text. What calls functions: the text, triggers, rules, policies, defaults,
checks, views. A user's function in SQL or PL/pgSQL is read in turn (`routine`), if it is VOLATILE or STABLE:
PostgreSQL lets a STABLE one write nothing by itself, but call one that does. Volatile ones in other languages
may write to everything. What is written to a child counts for its parents, too, so that a partition of which
nobody knows yet does no harm. It assumes:

- Functions that are declared IMMUTABLE, and those in other languages that are declared STABLE, write nothing.
- Built-in functions write to no table but by what `writing_tree` lists. Found by going through all volatile
  ones in the pg_proc of PostgreSQL 15 and 18, and those that take a name or a text to run: what is left makes
  random values, moves sequences, writes large objects and statistics (catalogs, of which nothing is kept),
  locks, signals, and works on files, WAL, snapshots and replication slots.
- Reading a foreign table writes nothing here. Writing to one may (a server may lead back to this database).
- Nobody has changed the schema since. Who sees that it was, or that the answers are old, calls `clear`.

It must never know a server, a clock or how a question is sent.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import attrs

from trio_pool.protocol import catalog_question, touch_question
from trio_pool.protocol.catalog import MOST_AT_ONCE, MOST_NAMES
from trio_pool.protocol.plpgsql import changes_names
from trio_pool.protocol.reading import Kind, Name
from trio_pool.protocol.routine import routine, rule
from trio_pool.protocol.watch import EVERYTHING, EVERYTHING_AND_SCHEMA, NOTHING_TOUCHED
from trio_pool.protocol.writing import Event, Everything, Target, Writing, written_by
from trio_pool.wire import messages

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_TEXTS = 256
"""Functions and rules behind one statement."""
MOST_WRITINGS = 4096
"""Of one database; past it, they are judged again."""
_EVENTS = frozenset(event.value for event in Event)


class Reach(enum.Enum):
    """Why a statement may write to everything of its database; for statistics. `Cause` has others."""

    FOREIGN = "writes to a foreign table"
    CODE = "a volatile function of a user"
    TEXTS = "too much SQL of functions and rules"
    MISSING = "writes to a table that does not exist"


@attrs.define
class _Answer:
    """What one name leads to."""

    reach: Reach | None = None
    renames: bool = False
    tables: set[int] = attrs.field(factory=set)
    writings: list[Writing | Everything] = attrs.field(factory=list, eq=frozenset)

    def take(self, finding: str, detail: bytes) -> None:
        match finding:
            case "touched":
                self.tables.add(int(detail))
            case "text":
                if detail:
                    self.writings.append(written_by(detail))
            case "rule":
                self.writings.append(rule(detail))
            case "routine":
                self.writings.append(routine(detail))
            case "code":
                self.reach = Reach.CODE
                self.renames = self.renames or changes_names(detail.decode(errors="replace"))
            case "foreign":
                self.reach = Reach.FOREIGN
            case _:
                raise ValueError(f"unknown finding {finding}")


@attrs.frozen
class _All:
    """All tables, why, and whether names may mean something else afterwards."""

    why: str
    renames: bool = False


@attrs.define(eq=False)
class TouchInquiry:
    """One question to a server, and the answer as its rows arrive."""

    names: frozenset[Name | Target | None]
    version: int
    answers: dict[Name | Target | None, _Answer] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.answers = {name: _Answer() for name in self.names}

    @property
    def request(self) -> bytes:
        """The question, ended by Sync."""
        return catalog_question.request(touch_question.SQL, self.names)

    def row(self, body: bytes) -> None:
        """One DataRow. Raises FramingError, ValueError or KeyError if it is not one of ours."""
        kind, schema, last, finding, detail = (value or "" for value in messages.read_row(body))
        self.answers[_asked(kind, schema, last)].take(finding, bytes.fromhex(detail))


def _asked(kind: str, schema: str, name: str) -> Name | Target | None:
    if kind == catalog_question.DATABASE:
        return None
    return Target(Event(kind), schema, name) if kind in _EVENTS else Name(Kind(kind), schema, name)


@attrs.define(eq=False)
class Touches:
    """What is known of where writing leads to in one database."""

    version: int = 0
    """Changes whenever everything is forgotten."""
    _answers: dict[Name | Target | None, _Answer] = attrs.field(factory=dict)
    _touched: dict[Writing | Everything, frozenset[int]] = attrs.field(factory=dict)
    _reaches: dict[Writing | Everything, str] = attrs.field(factory=dict)

    def clear(self) -> None:
        """The schema may have changed: forget everything, and what is being asked at the moment."""
        self.version += 1
        self._answers.clear()
        self._forget()

    def _forget(self) -> None:
        self._touched.clear()
        self._reaches.clear()

    def touched(self, writing: Writing | Everything) -> frozenset[int] | None:
        """The OIDs of the tables it may change, `EVERYTHING` or `EVERYTHING_AND_SCHEMA` for all of the
        database; None if a server has to be asked. For the hot path.
        """
        if isinstance(writing, Everything):
            return EVERYTHING_AND_SCHEMA if writing.ddl else EVERYTHING
        return self._touched.get(writing)

    def why(self, writing: Writing | Everything) -> str:
        """Why it may change everything; "" if it is bounded, or not known yet."""
        return writing.cause.value if isinstance(writing, Everything) else self._reaches.get(writing, "")

    def inquiry(self, writing: Writing | Everything) -> TouchInquiry | None:
        """What has to be asked, next; None if it is known what the writing touches."""
        if self.touched(writing) is not None:
            return None
        assert isinstance(writing, Writing)
        found = self._follow(writing)
        if isinstance(found, set):
            return TouchInquiry(frozenset(found), self.version)
        if len(self._touched) >= MOST_WRITINGS:
            self._forget()
        if isinstance(found, _All):
            self._reaches[writing] = found.why
            self._touched[writing] = EVERYTHING_AND_SCHEMA if found.renames else EVERYTHING
        else:
            self._touched[writing] = found
        return None

    def learn(self, inquiry: TouchInquiry) -> None:
        """Take a complete answer, unless it is older than the last `clear`. An inquiry that failed is not to
        be learnt.
        """
        if inquiry.version != self.version:
            return
        if len(self._answers) + len(inquiry.answers) > MOST_NAMES:
            self.clear()
        self._answers.update(inquiry.answers)

    def review(self, names: Iterable[Name | Target | None] | None = None) -> list[TouchInquiry]:
        """Questions for all that is known, or for these names, to see whether it still holds."""
        asked = list(self._answers if names is None else names)
        parts = (asked[at : at + MOST_AT_ONCE] for at in range(0, len(asked), MOST_AT_ONCE))
        return [TouchInquiry(frozenset(part), self.version) for part in parts]

    def confirms(self, inquiry: TouchInquiry) -> bool:
        """Whether a complete answer is what is known; also if that has been forgotten meanwhile."""
        if inquiry.version != self.version:
            return True
        return all(self._answers.get(name) in (None, answer) for name, answer in inquiry.answers.items())

    @property
    def names(self) -> frozenset[Name | Target | None]:
        """Of which something is known."""
        return frozenset(self._answers)

    def _follow(self, root: Writing) -> frozenset[int] | _All | set[Name | Target | None]:
        """The tables, all of them, or the names to ask for."""
        if not root.targets and not root.names:
            return NOTHING_TOUCHED
        unknown: set[Name | Target | None] = set()
        tables: set[int] = set()
        seen: set[Writing] = set()
        pending: list[Writing | Everything] = [root]
        base = self._answers.get(None)
        if base is None:
            unknown.add(None)
        elif base.reach is not None:
            return _All(base.reach.value, base.renames)
        else:
            pending += base.writings
        while pending:
            writing = pending.pop()
            if isinstance(writing, Everything):
                return _All(writing.cause.value, writing.ddl)
            if writing in seen:
                continue
            seen.add(writing)
            if len(seen) > MOST_TEXTS:
                return _All(Reach.TEXTS.value)
            asked: list[Name | Target] = [*writing.targets, *writing.names]
            for name in asked:
                answer = self._answers.get(name)
                if answer is None:
                    unknown.add(name)
                    continue
                if answer.reach is not None:
                    return _All(answer.reach.value, answer.renames)
                if isinstance(name, Target) and not answer.tables:
                    return _All(Reach.MISSING.value)
                tables |= answer.tables
                pending += answer.writings
        return unknown or frozenset(tables)
