"""The little SQL that the scripted PostgreSQL understands.

Every text means the same to a real one (with a table `sink (n int)`).
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from trio_pool.wire import messages

_ROWS = r"(?: FROM generate_series\(1, ?(?P<count>\d+)\))?"
_PATTERNS: Final = {
    "exit": re.compile(r"(?P<word>COMMIT|ROLLBACK)"),
    "begin": re.compile(r"BEGIN(?: ISOLATION LEVEL READ COMMITTED)?"),
    "select": re.compile(r"SELECT '(?P<value>[^']*)'" + _ROWS),
    "echo": re.compile(r"SELECT \$1::text" + _ROWS),
    "divide": re.compile(r"SELECT 1/0"),
    "set": re.compile(r"SET application_name = '(?P<value>[^']*)'"),
    "set_config": re.compile(r"SELECT (?P<value>(?:(?:, )?pg_catalog\.set_config\(\$\d+, \$\d+, false\))+)"),
    "restore": re.compile(r"(?P<value>SELECT pg_catalog\.set_config\(name, value, false\) FROM .*)"),
    "inspect": re.compile(r"(?P<value>SELECT '(?:setting|pin|channel|prepared)'.*)"),
    "reset": re.compile(r"RESET (?:application_name|ALL)"),
    "show": re.compile(r"SHOW application_name"),
    "discard": re.compile(r"DISCARD ALL"),
    "prepare": re.compile(r"PREPARE (?P<name>\w+) AS (?P<value>SELECT .*)"),
    "execute": re.compile(r"EXECUTE (?P<name>\w+)"),
    "deallocate": re.compile(r"DEALLOCATE (?P<name>\w+)"),
    "copy_in": re.compile(r"COPY sink FROM STDIN"),
    "copy_out": re.compile(r"COPY \(SELECT '(?P<value>[^']*)'" + _ROWS + r"\) TO STDOUT"),
    "empty": re.compile(r""),
}
ROW_DESCRIPTION: Final = messages.message(
    ord("T"), b"\0\1text\0" + bytes(6) + (25).to_bytes(4, "big") + b"\xff\xff\xff\xff\xff\xff\0\0"
)


class Failure(Exception):
    """What becomes an ErrorResponse."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


@attrs.frozen
class Command:
    """A statement's text, understood."""

    kind: str
    value: str = ""
    count: int = 1
    name: str = ""
    """Of the prepared statement that it makes, executes or drops; or ALL."""

    @property
    def parameters(self) -> int:
        if self.kind in ("set_config", "inspect", "restore"):
            return self.value.count("$")
        return 1 if self.kind == "echo" else 0

    @property
    def has_rows(self) -> bool:
        """Whether it gives rows. EXECUTE does as what it executes."""
        return self.kind in ("select", "echo", "divide", "set_config", "restore", "inspect", "show")

    @property
    def parameter_description(self) -> bytes:
        types = self.parameters * (25).to_bytes(4, "big")
        return messages.message(ord("t"), self.parameters.to_bytes(2, "big") + types)


def read(text: str) -> Command:
    """Raises `Failure` for what is no SQL."""
    for kind, pattern in _PATTERNS.items():
        if match := pattern.fullmatch(text.strip()):
            found = match.groupdict()
            value = found.get("value") or found.get("word") or ""
            return Command(kind, value, int(found.get("count") or 1), found.get("name") or "")
    raise Failure("42601")


def data_row(*values: str) -> bytes:
    columns = [value.encode() for value in values]
    body = b"".join(len(column).to_bytes(4, "big") + column for column in columns)
    return messages.message(ord("D"), len(columns).to_bytes(2, "big") + body)
