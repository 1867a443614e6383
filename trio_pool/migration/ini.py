"""PgBouncer's own dialect of INI, and its connection strings.

As PgBouncer reads them (`parse_ini_file` in libusual's cfparser.c, `cstr_get_pair` in PgBouncer's loader.c,
both checked with PgBouncer 1.24.1):

- a line that begins with ";" or "#" is a comment; anywhere else these characters are part of the value;
- a key is letters, digits and "_.-*", or in double quotes with "" for a quote;
- `%include FILE` continues in the section that it stands in, and leaves the one that it ends in;
- a section [pgbouncer] begins with the defaults: what an earlier one has set is forgotten;
- in a connection string only spaces separate, and a value in single quotes has '' for a quote.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from trio_pool.migration.problems import CannotImport, ImportProblem, Place, cannot

if TYPE_CHECKING:
    from trio_pool.migration.files import Files

DEEPEST_INCLUDE = 10  # MAX_INCLUDE in cfparser.c

_INCLUDE = re.compile(r"%include[ \t]+(.*)")
_SECTION = re.compile(r"\[([^\]\n]*)\](.*)")
_ENTRY = re.compile(r'(?:"((?:[^"]|"")*)"|([A-Za-z0-9_.*-]+))[ \t]*=[ \t]*(.*)')


@attrs.frozen
class Entry:
    """One `key = value`."""

    section: str
    key: str
    value: str
    place: Place


@attrs.define(eq=False)
class Ini:
    """All entries that count, in the order of the file; a later one has replaced an earlier of its key."""

    entries: dict[tuple[str, str], Entry] = attrs.field(factory=dict)
    _section: str | None = None

    def section(self, name: str) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.section == name]

    def sections(self) -> list[str]:
        return list(dict.fromkeys(entry.section for entry in self.entries.values()))

    def _begin(self, section: str) -> None:
        self._section = section
        if section == "pgbouncer":
            self.entries = {at: entry for at, entry in self.entries.items() if at[0] != section}

    def _add(self, key: str, value: str, place: Place) -> None:
        if self._section is None:
            raise cannot(place, key, "stands before any section", "write [pgbouncer] above it")
        self.entries.pop((self._section, key), None)
        self.entries[self._section, key] = Entry(self._section, key, value, place)


def parse_ini(text: str, where: str, files: Files) -> Ini:
    """The entries of a file and of all that it includes. Raises `CannotImport`."""
    ini = Ini()
    _parse_into(ini, text, where, files, 0)
    return ini


def _parse_into(ini: Ini, text: str, where: str, files: Files, depth: int) -> None:
    for number, raw in enumerate(text.split("\n"), 1):
        place = Place(where, number)
        line = raw.strip(" \t\r\v\f")
        # Like PgBouncer, which goes on behind the bracket of a section as if a line began there.
        while line and line[0] not in "#;":
            if included := _INCLUDE.fullmatch(line):
                if depth >= DEEPEST_INCLUDE:
                    raise cannot(place, "%include", "includes too deeply", "name each file once")
                name = included[1]
                _parse_into(ini, files.read(name, place, "%include"), files.find(name), files, depth + 1)
                break
            if section := _SECTION.fullmatch(line):
                ini._begin(section[1])
                line = section[2].strip(" \t\r\v\f")
                continue
            entry = _ENTRY.fullmatch(line)
            if entry is None:
                raise cannot(
                    place,
                    "",
                    "is neither a section nor key = value",
                    "correct the line; PgBouncer stops here too",
                )
            quoted, bare, value = entry.groups()
            ini._add(bare if quoted is None else quoted.replace('""', '"'), value, place)
            break


def parse_connection_string(entry: Entry) -> dict[str, Entry]:
    """The pairs of a value in [databases], [users] or [peers], by key; each keeps the place of its line.

    Raises `CannotImport`. Quotes no value: one may be a password.
    """
    pairs: dict[str, Entry] = {}
    rest = entry.value.strip(" ")
    while rest:
        found = re.match(r"([^= ]+) *= *(?:'((?:[^']|'')*)'|((?!')[^ ]+))(.*)", rest, re.DOTALL)
        if found is None:
            after = f" after {list(pairs)[-1]}" if pairs else ""
            raise CannotImport(
                [
                    ImportProblem(
                        entry.place,
                        entry.key,
                        f"the connection string is not made of key=value{after}",
                        "separate pairs with spaces, give each a value, and put values with spaces in "
                        "single "
                        "quotes",
                    )
                ]
            )
        key, quoted, bare, rest = found.groups()
        value = bare if quoted is None else quoted.replace("''", "'")
        if not value:
            raise cannot(entry.place, f"{entry.key}: {key}", "has an empty value", "leave it out")
        pairs[key] = Entry(entry.section, key, value, entry.place)
        rest = rest.strip(" ")
    return pairs
