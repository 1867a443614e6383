"""What the names of readings mean in one database, and so whether a statement does nothing but read.

Proven means: it writes nothing, takes no lock that it keeps, leaves the session as it found it, and tells
nothing of the session but its settings. It holds for every role, search_path and type of argument, because a
name stands for everything of that name in any schema: one that is not harmless is enough. It assumes:

- Functions are what they are declared to be, as PostgreSQL's planner assumes: IMMUTABLE in any language,
  STABLE in C (only superusers write C). PostgreSQL lets a STABLE function of PL/pgSQL and the like call
  `set_config` and take advisory locks, so these are not proven; the body of an SQL one is read.
- The session has no temporary objects: a temporary table hides others. (Such a client is pinned.)
- Types of parameters that a Parse names are known here: `settles_parameters`.
- Nobody has changed the schema since. Who sees that it was, or that the answers are old, calls `clear`.

Views, bodies of SQL functions, defaults of arguments and checks of domains are texts, whose names are asked
for in turn: one statement can take several rounds.

It must never know a server, a clock or how a question is sent.
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING

import attrs

from trio_pool.protocol import catalog_question
from trio_pool.protocol.catalog_question import FIRST_USER_OID
from trio_pool.protocol.reading import Kind, Name, NotReading, Reading, read
from trio_pool.protocol.reading_kinds import Unkept
from trio_pool.protocol.routine import routine
from trio_pool.protocol.writing_kinds import Writing
from trio_pool.wire import messages

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_NAMES = 8192
MOST_VERDICTS = 4096
"""What is remembered of one database; past it, everything is asked again."""
MOST_AT_ONCE = 256
"""Names in one question."""
MOST_TEXTS = 64
"""Texts behind one statement. A closed circle ends by itself; this bounds the work."""

_TIMELESS = re.compile(
    r"array_agg|array_to_(json|string)|concat|concat_ws|convert|convert_(from|to)|enum_(first|last|range)|format"
    r"|date|date_(add|part|subtract|trunc)|extract|generate_series|length|make_timestamptz|money|numeric|overlaps"
    r"|jsonb?_agg(_strict)?|jsonb?_build_(array|object)|jsonb?_object_agg(_unique)?(_strict)?"
    r"|jsonb?_populate_record(set)?|jsonb?_to_record(set)?|jsonb_path_(exists|match|query(_array|_first)?)_tz"
    r"|current_(user|database|schema|setting)|session_user"
    r"|to_ts(vector|query)|(plain|phrase|websearch_)to_tsquery|jsonb?_to_tsvector|ts_headline"
    r"|quote_(literal|nullable)|row_to_json|time|timestamp|timestamptz|timezone|to_(char|date|jsonb?|number)"
    r"|to_timestamp"
)
"""Built-in functions that are stable only because of the session's settings, its role or what DDL has
configured, or because of functions that all databases have as immutable ones.
"""


class Volatility(enum.Enum):
    """How long a result holds, for equal settings, parameters and contents of tables."""

    IMMUTABLE = "always"
    STABLE = "for one statement"


class Doubt(enum.Enum):
    """Why a reading is not proven; for statistics."""

    VOLATILE = "a volatile function"
    UNREADABLE = "a stable function of a user"
    INPUT = "a function for in- and output only"
    TEXT = "SQL of a view, a function or a domain that is no reading"
    TEXTS = "too much SQL of views, functions and domains"
    FOREIGN = "a foreign table"
    TEMPORARY = "a temporary table"
    KIND = "a relation or type of another kind"
    MISSING = "a name that does not exist"
    DATABASE = "the database has casts, comparisons or types that are not proven"


@attrs.frozen
class Verdict:
    """What the catalog says about a reading.

    `doubt` and `name`: why it is not proven, and because of what.

    `tables`: the OIDs of those that it reads, partitions and children included, and of the views.

    `catalog_tables`: it reads tables or views that came with initdb.

    `unkept`: what its text, or that of a view and the like, depends on besides.
    """

    proven: bool
    volatility: Volatility = Volatility.STABLE
    doubt: Doubt | None = None
    name: Name | None = None
    tables: frozenset[int] = frozenset()
    catalog_tables: bool = False
    unkept: Unkept | None = attrs.field(default=None, eq=False)


_DATABASE = None
"""Stands for what is asked without a name."""
_DOUBTS = {
    "volatile": Doubt.VOLATILE,
    "unreadable": Doubt.UNREADABLE,
    "input": Doubt.INPUT,
    "foreign": Doubt.FOREIGN,
    "temporary": Doubt.TEMPORARY,
    "kind": Doubt.KIND,
}


@attrs.define
class _Answer:
    """What one name stands for; nothing at all if it is missing."""

    missing: bool = True
    doubt: Doubt | None = None
    stable: bool = False
    readings: list[Reading | NotReading] = attrs.field(factory=list, eq=frozenset)
    promised: list[Writing] = attrs.field(factory=list, eq=frozenset)
    """Of functions that are declared immutable: the tables that they read all the same count."""
    tables: set[int] = attrs.field(factory=set)
    catalog_tables: bool = False
    unkept: Unkept | None = None

    def take(self, name: str, finding: str, detail: bytes) -> None:
        self.missing = False
        match finding:
            case "immutable" | "settled" | "type":
                pass
            case "stable":
                self.stable = self.stable or _TIMELESS.fullmatch(name) is None
            case "declared":
                self.stable = True
            case "text":
                if detail:
                    self.readings.append(read(detail))
            case "promise":
                promised = routine(detail)
                if isinstance(promised, Writing):
                    self.promised.append(promised)
            case "timetz":
                self.unkept = Unkept.TIME
            case "check":
                expression = detail.removeprefix(b"CHECK ").removesuffix(b" NOT VALID")
                self.readings.append(read(b"SELECT " + expression))
            case "table" | "view" | "system":
                self.tables.add(int(detail))
                self.catalog_tables = self.catalog_tables or int(detail) < FIRST_USER_OID
            case _:
                self.doubt = _DOUBTS[finding]


@attrs.define(eq=False)
class Inquiry:
    """One question to a server, and the answer as its rows arrive."""

    names: frozenset[Name | None]
    version: int
    answers: dict[Name | None, _Answer] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.answers = {name: _Answer() for name in self.names}

    @property
    def request(self) -> bytes:
        """The question, ended by Sync."""
        return catalog_question.request(catalog_question.SQL, self.names)

    def row(self, body: bytes) -> None:
        """One DataRow. Raises FramingError, ValueError or KeyError if it is not one of ours."""
        kind, schema, last, finding, detail = (value or "" for value in messages.read_row(body))
        name = None if kind == catalog_question.DATABASE else Name(Kind(kind), schema, last)
        self.answers[name].take(last, finding, bytes.fromhex(detail))


@attrs.define(eq=False)
class Catalog:
    """What is known about the names of one database."""

    version: int = 0
    """Changes whenever everything is forgotten."""
    _answers: dict[Name | None, _Answer] = attrs.field(factory=dict)
    _verdicts: dict[Reading, Verdict] = attrs.field(factory=dict)

    def clear(self) -> None:
        """The schema may have changed: forget everything, and what is being asked at the moment."""
        self.version += 1
        self._answers.clear()
        self._verdicts.clear()

    def verdict(self, reading: Reading) -> Verdict | None:
        """Whether it is proven; None if a server has to be asked. For the hot path."""
        return self._verdicts.get(reading)

    def inquiry(self, reading: Reading) -> Inquiry | None:
        """What has to be asked for a verdict, next; None if there is one."""
        if reading in self._verdicts:
            return None
        found = _judge(reading, self._answers)
        if isinstance(found, Verdict):
            if len(self._verdicts) >= MOST_VERDICTS:
                self._verdicts.clear()
            self._verdicts[reading] = found
            return None
        return Inquiry(frozenset(found), self.version)

    def learn(self, inquiry: Inquiry) -> None:
        """Take a complete answer, unless it is older than the last `clear`. An inquiry that failed is not to
        be learnt: its names would be missing.
        """
        if inquiry.version != self.version:
            return
        if len(self._answers) + len(inquiry.answers) > MOST_NAMES:
            self.clear()
        self._answers.update(inquiry.answers)

    def review(self, names: Iterable[Name | None] | None = None) -> list[Inquiry]:
        """Questions for all that is known, or for these names, to see whether it still holds."""
        asked = list(self._answers if names is None else names)
        parts = (asked[at : at + MOST_AT_ONCE] for at in range(0, len(asked), MOST_AT_ONCE))
        return [Inquiry(frozenset(part), self.version) for part in parts]

    def confirms(self, inquiry: Inquiry) -> bool:
        """Whether a complete answer is what is known; also if that has been forgotten meanwhile."""
        if inquiry.version != self.version:
            return True
        return all(self._answers.get(name) in (None, answer) for name, answer in inquiry.answers.items())

    @property
    def names(self) -> frozenset[Name | None]:
        """Of which something is known."""
        return frozenset(self._answers)


def settles_parameters(reading: Reading, types: Iterable[int]) -> bool:
    """Whether a verdict on a reading holds for parameters of these types, OIDs as in Parse.

    The input of a user's type is not looked at, so it does not hold for those. Of what is left undecided, 0,
    the reading decides the type.
    """
    return not reading.parameters or all(oid < FIRST_USER_OID for oid in types)


def _judge(reading: Reading, answers: dict[Name | None, _Answer]) -> Verdict | set[Name | None]:
    """A verdict, or the names to ask for."""
    unknown: set[Name | None] = set()
    tables: set[int] = set()
    unkept: Unkept | None = None
    stable = catalog_tables = False
    base = answers.get(_DATABASE)
    if base is not None and base.doubt is not None:
        return Verdict(False, doubt=Doubt.DATABASE)
    pending: list[tuple[Name | None, Reading | NotReading]] = [(None, reading)]
    if base is None:
        unknown.add(_DATABASE)
    else:
        pending += [(_DATABASE, text) for text in base.readings]
    seen: set[Reading] = set()
    promised: list[Writing] = []
    while pending:
        source, text = pending.pop()
        if isinstance(text, NotReading):
            return Verdict(False, doubt=Doubt.TEXT, name=source)
        if text in seen:
            continue
        seen.add(text)
        if len(seen) > MOST_TEXTS:
            return Verdict(False, doubt=Doubt.TEXTS, name=source)
        unkept = unkept or text.unkept
        for name in text.names:
            answer = answers.get(name)
            if answer is None:
                unknown.add(name)
                continue
            if answer.missing and name not in text.may_miss:
                return Verdict(False, doubt=Doubt.MISSING, name=name)
            if answer.doubt is not None:
                return Verdict(False, doubt=answer.doubt, name=name)
            stable = stable or answer.stable
            unkept = unkept or answer.unkept
            promised += answer.promised
            catalog_tables = catalog_tables or answer.catalog_tables
            tables |= answer.tables
            pending += [(name, found) for found in answer.readings]
    tables |= _read_by(promised, answers, unknown)
    if unknown:
        return unknown
    return Verdict(
        True,
        Volatility.STABLE if stable or unkept else Volatility.IMMUTABLE,
        tables=frozenset(tables),
        catalog_tables=catalog_tables,
        unkept=unkept,
    )


def _read_by(
    functions: Iterable[Writing], answers: dict[Name | None, _Answer], unknown: set[Name | None]
) -> set[int]:
    """The tables that these functions read, directly or not, by their words; names that have to be asked for
    are added to `unknown`.
    """
    tables: set[int] = set()
    pending: list[Writing | Reading | NotReading] = list(functions)
    seen: set[Writing | Reading] = set()
    while pending and len(seen) < MOST_TEXTS:
        text = pending.pop()
        if isinstance(text, NotReading) or text in seen:
            continue
        seen.add(text)
        for name in text.names:
            answer = answers.get(name)
            if answer is None:
                unknown.add(name)
            else:
                tables |= answer.tables
                pending += [*answer.promised, *answer.readings]
    return tables
