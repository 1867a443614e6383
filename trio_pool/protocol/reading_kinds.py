"""The values that tell what a statement which only reads refers to. What they mean, and nothing else.

It must never know how they are found, or what a name means in a database.
"""

from __future__ import annotations

import enum
from typing import NamedTuple
from weakref import WeakValueDictionary

import attrs


class Kind(enum.Enum):
    """What a name names.

    ATTRIBUTE is `b` in `a.b` or `(a).b`: a column, or a function of one argument called upon the row `a`, or
    a type that it is cast to (`ParseFuncOrColumn`).
    """

    RELATION = "relation"
    FUNCTION = "function"
    OPERATOR = "operator"
    TYPE = "type"
    ATTRIBUTE = "attribute"


class Name(NamedTuple):
    """A name as PostgreSQL stores it, printable ASCII; `schema` is empty if the text gives none."""

    kind: Kind
    schema: str
    name: str


class Why(enum.Enum):
    """Why a text is not known to be one statement that only reads; for statistics."""

    LONG = "too long to be parsed"
    AMBIGUOUS = "its meaning depends on settings or on an encoding"
    BROKEN = "not understood by the grammar"
    EMPTY = "no statement"
    MANY = "more than one statement"
    STATEMENT = "no SELECT, VALUES, TABLE or WITH"
    WRITES = "a part that writes"
    INTO = "SELECT INTO"
    LOCKS = "a locking clause"
    SAMPLE = "TABLESAMPLE"
    TEMPORARY = "names a temporary schema"
    SESSION = "calls what tells of the session or runs SQL"
    NAME = "a name that is not printable ASCII"
    SYNTAX = "syntax that is not known to be harmless"


class Unkept(enum.Enum):
    """What a result depends on by the words of a text, besides tables and the settings of the client."""

    TIME = "it depends on the time"
    NAMES = "it looks up what a name means (regclass and the like)"
    ROWS = "it tells how rows are stored (ctid, xmax, cmin, cmax)"
    SETTING = "it tells a setting that is not one of the application's own"


@attrs.frozen
class NotReading:
    """A text that is not known to be one statement that only reads."""

    why: Why


@attrs.frozen(eq=False, weakref_slot=True)
class Reading:
    """What a text refers to that is exactly one statement and reads only, if all that it calls does.

    Interned: compare with `is`.

    `names`: everything whose meaning decides. Names of common table expressions are in it, too.

    `may_miss`: those that need not exist.

    `parameters`: the highest number of a parameter ($1 is 1), or 0.

    `unkept`: what it depends on besides, the first that was found: CURRENT_TIMESTAMP and the like, or a
    string such as 'now' that may become a time.
    """

    names: frozenset[Name]
    may_miss: frozenset[Name]
    parameters: int
    unkept: Unkept | None

    def of(self, kind: Kind) -> frozenset[Name]:
        """Its names of one kind."""
        return frozenset(name for name in self.names if name.kind is kind)


_known: WeakValueDictionary[tuple[frozenset[Name], frozenset[Name], int, Unkept | None], Reading] = (
    WeakValueDictionary()
)


def intern(
    names: frozenset[Name],
    may_miss: frozenset[Name] = frozenset(),
    parameters: int = 0,
    unkept: Unkept | None = None,
) -> Reading:
    """The one `Reading` with these values."""
    key = (names, may_miss, parameters, unkept)
    known = _known.get(key)
    if known is None:
        known = _known[key] = Reading(*key)
    return known
