"""The values that tell what a statement may write to. What they mean, and nothing else.

It must never know how they are found, or what a name means in a database.
"""

from __future__ import annotations

import enum
from typing import NamedTuple
from weakref import WeakValueDictionary

import attrs

from trio_pool.protocol.reading_kinds import Name, Why


class Event(enum.Enum):
    """What is done to a table. COPY FROM inserts. CASCADE is TRUNCATE with that word."""

    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    TRUNCATE = "truncate"
    CASCADE = "cascade"
    REFRESH = "refresh"


class Target(NamedTuple):
    """A table, or a view of it, that is written to; names as in `Name`."""

    kind: Event
    schema: str
    name: str


class Cause(enum.Enum):
    """Why a statement is taken for one that may write to everything; for statistics."""

    LONG = Why.LONG.value
    AMBIGUOUS = Why.AMBIGUOUS.value
    BROKEN = Why.BROKEN.value
    TEMPORARY = Why.TEMPORARY.value
    NAME = Why.NAME.value
    RUNS_SQL = "calls what runs SQL given as text, or a table by its name"
    SYNTAX = "a statement or syntax that is not known"
    DDL = "changes the schema, roles or privileges"
    CODE = "DO or CALL"
    EXECUTE = "EXECUTE of what another statement has prepared"
    CODE_OF_USER = "a volatile function or a rule that is not read"
    PREPARED = "COMMIT PREPARED"
    REWRITES = "CLUSTER or VACUUM FULL"


@attrs.frozen
class Everything:
    """A text that may write to any table.

    `ddl`: what names mean may be different afterwards.
    """

    cause: Cause
    ddl: bool = False


@attrs.frozen(eq=False, weakref_slot=True)
class Writing:
    """What a text writes to, as far as its words go. Interned: compare with `is`.

    `targets`: what is written to.

    `names`: everything that it reads or calls, the targets included as relations: functions may write.
    """

    targets: frozenset[Target]
    names: frozenset[Name]


_known: WeakValueDictionary[tuple[frozenset[Target], frozenset[Name]], Writing] = WeakValueDictionary()


def intern(targets: frozenset[Target], names: frozenset[Name]) -> Writing:
    """The one `Writing` with these values."""
    key = (targets, names)
    known = _known.get(key)
    if known is None:
        known = _known[key] = Writing(*key)
    return known


NOTHING_WRITTEN = intern(frozenset(), frozenset())
"""Writes nothing, whatever the database is."""
