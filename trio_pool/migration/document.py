"""The configuration that comes out: tables of keys with comments between them, in the order of our reference.

A value goes in only as the reader would take it; what the reader refuses becomes a comment with its words. So
the whole is refused for nothing but what depends on several keys, and on files that are not here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import attrs

from trio_pool.config import tables
from trio_pool.config.problems import Refused

Header: TypeAlias = tuple[str, ...]

_ORDER = ("", "listen", "auth", "users", "databases", "timeouts", "session", "admin")
_SPECIFICATIONS = {table.header: table for table in tables.TABLES}


@attrs.frozen
class Comment:
    text: str


@attrs.frozen
class Value:
    """`remark` stands behind it."""

    key: str
    value: Any = attrs.field(repr=False)
    remark: str = ""


@attrs.define(eq=False)
class Table:
    """A table of the file, or one element of an array of tables."""

    header: Header
    lines: list[Comment | Value] = attrs.field(factory=list)
    is_element: bool = False

    @property
    def values(self) -> dict[str, Any]:
        return {line.key: line.value for line in self.lines if isinstance(line, Value)}

    def say(self, text: str) -> None:
        """A comment."""
        if (comment := Comment(text)) not in self.lines:
            self.lines.append(comment)

    def put(self, key: str, value: object, remark: str = "") -> bool:
        """A key and its value; False if the reader would refuse it, which a comment says then."""
        try:
            _kind(self.header, key).read(value, Path())
        except Refused as refused:
            self.say(f"{key}, from {remark or 'PgBouncer'}, cannot be set: {refused}")
            return False
        self.lines.append(Value(key, value, remark))
        return True

    def drop(self, key: str, why: str) -> None:
        """Turn a key into a comment."""
        self.lines = [line for line in self.lines if not (isinstance(line, Value) and line.key == key)]
        self.say(why)


def _kind(header: Header, key: str) -> Any:
    named = (header[0], "<name>", *header[2:]) if header[0] in {"users", "databases"} else header
    return _SPECIFICATIONS[".".join(named)].keys[key][0].kind


@attrs.define(eq=False)
class Document:
    """All tables; `()` is the top of the file, which holds comments only."""

    _tables: dict[Header, Table] = attrs.field(factory=dict)
    rules: list[Table] = attrs.field(factory=list)

    def table(self, *header: str) -> Table:
        """The table of this header, made if there is none."""
        return self._tables.setdefault(header, Table(header))

    def add_rule(self) -> Table:
        rule = Table(("auth", "rules"), is_element=True)
        self.rules.append(rule)
        return rule

    def names(self, header: str) -> list[str]:
        """The names of the tables [header.NAME]."""
        return [found[1] for found in self._tables if len(found) == 2 and found[0] == header]

    def has(self, *header: str) -> bool:
        return header in self._tables

    def remove(self, *header: str) -> None:
        self._tables = {
            found: table for found, table in self._tables.items() if found[: len(header)] != header
        }

    def ordered(self) -> list[Table]:
        """Tables that have something in them, in the order of the reference, subtables behind theirs."""
        first = {header[:2]: number for number, header in reversed(list(enumerate(self._tables)))}
        tables = sorted(
            self._tables.values(),
            key=lambda table: (
                _ORDER.index(table.header[0] if table.header else ""),
                len(table.header) > 1,
                first[table.header[:2]],
            ),
        )
        kept = [table for table in tables if table.lines]
        behind = [
            index for index, table in enumerate(kept) if table.header[:1] in {(), ("listen",), ("auth",)}
        ]
        at = behind[-1] + 1 if behind else 0
        return kept[:at] + self.rules + kept[at:]

    def data(self) -> dict[str, Any]:
        """The same as nested dicts, as `Config.from_dict` takes them."""
        data: dict[str, Any] = {}
        for table in self._tables.values():
            if not table.lines or not table.header:
                continue
            inner = data
            for step in table.header:
                inner = inner.setdefault(step, {})
            inner.update(table.values)
        if self.rules:
            data.setdefault("auth", {})["rules"] = [rule.values for rule in self.rules]
        return data
