"""What the parts of the translation share: PgBouncer's values, the document, what has to be told."""

from __future__ import annotations

import difflib
import math
import re
from pathlib import PurePath
from typing import TYPE_CHECKING

import attrs

from trio_pool.migration.document import Document
from trio_pool.migration.problems import ImportProblem, Place
from trio_pool.migration.settings import SECTIONS, setting

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_pool.migration.document import Table
    from trio_pool.migration.files import Files
    from trio_pool.migration.ini import Entry
    from trio_pool.migration.userlist import Stored

# As C's strtol with base 0, and strtod without its words.
_INTEGER = re.compile(r"[+-]?(?:0[xX][0-9A-Fa-f]+|[0-9]+)")
_SECONDS = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_LONGEST_SHOWN = 60
_HAS_SECRETS = frozenset({"password", "auth_ldap_options"})


@attrs.define(eq=False)
class Section:
    """Keys of one section, or of one connection string, and which of them have been looked at.

    `kind` is the section's name, `owner` the name of the database or user whose connection string it is.
    What PgBouncer would refuse is noted in `problems`.
    """

    kind: str
    entries: Mapping[str, Entry]
    problems: list[ImportProblem]
    owner: str = ""
    taken: set[str] = attrs.field(factory=set)

    def entry(self, name: str) -> Entry | None:
        self.taken.add(name)
        return self.entries.get(name)

    def text(self, name: str) -> str:
        """The value, empty if it is not given."""
        entry = self.entry(name)
        return "" if entry is None else entry.value

    def words(self, name: str) -> list[str]:
        """The members of a list separated by commas."""
        return [word for part in self.text(name).split(",") if (word := part.strip())]

    def integer(self, name: str) -> int | None:
        entry = self.entry(name)
        if entry is None:
            return None
        if not _INTEGER.fullmatch(entry.value) or (number := _strtol(entry.value)) is None:
            self._refuse(entry, "is not a number", "write an integer")
            return None
        return number

    def count(self, name: str) -> int | None:
        """An integer where less than 0 means that it is not given."""
        number = self.integer(name)
        return None if number is None or number < 0 else number

    def flag(self, name: str) -> bool | None:
        number = self.integer(name)
        return None if number is None else bool(number)

    def seconds(self, name: str) -> float | None:
        """0.0 is off. A -1 in a connection string means that it is not given."""
        entry = self.entry(name)
        if entry is None:
            return None
        number = float(entry.value) if _SECONDS.fullmatch(entry.value) else math.nan
        if self.owner and number == -1:
            return None
        if not 0 <= number < math.inf:
            self._refuse(entry, "is not a number of seconds", "write a number that is not negative")
            return None
        return number

    def word(self, name: str, *words: str) -> str | None:
        """One of these, whatever its case."""
        entry = self.entry(name)
        if entry is None:
            return None
        if entry.value.lower() not in words:
            likely = difflib.get_close_matches(entry.value.lower(), words, n=1, cutoff=0.0)[0]
            self._refuse(
                entry, f'"{entry.value}" is unknown', f"use one of {', '.join(words)}; nearest is {likely}"
            )
            return None
        return entry.value.lower()

    def refuse(self, name: str, what: str, remedy: str) -> None:
        """Note that PgBouncer would refuse this key."""
        if entry := self.entries.get(name):
            self._refuse(entry, what, remedy)

    def _refuse(self, entry: Entry, what: str, remedy: str) -> None:
        self.problems.append(ImportProblem(entry.place, self.spell(entry.key), what, remedy))

    def spell(self, key: str) -> str:
        return f"{self.owner}: {key}" if self.owner else key


def _strtol(text: str) -> int | None:
    """None where digits do not fit the base that a leading 0 chooses."""
    sign, digits = (-1 if text.startswith("-") else 1), text.lstrip("+-")
    try:
        if digits.lower().startswith("0x"):
            return sign * int(digits, 16)
        return sign * int(digits, 8 if digits.startswith("0") else 10)
    except ValueError:
        return None


@attrs.define(eq=False)
class Import:
    """One import. `attention` is what somebody has to look at, `untranslated` what has no equivalent."""

    where: str
    files: Files
    general: Section
    databases: dict[str, Section]
    users: dict[str, Section]
    userlist: dict[str, Stored]
    problems: list[ImportProblem]
    document: Document = attrs.field(factory=Document)
    attention: list[str] = attrs.field(factory=list)
    untranslated: list[str] = attrs.field(factory=list)

    @property
    def socket_dir(self) -> str:
        entry = self.general.entry("unix_socket_dir")
        return "/tmp" if entry is None else entry.value

    def warn(self, table: Table, text: str, entry: Entry | Place | None = None) -> None:
        """Say it at its place in the document and to whoever imports."""
        table.say(text)
        place = entry.place if entry is not None and not isinstance(entry, Place) else entry
        self.attention.append(f"{place or self.where}: {text}")

    def drop(self, table: Table, section: Section, entry: Entry) -> None:
        """Comment on a key that has no equivalent, or that nobody knows."""
        known = setting(section.kind, entry.key)
        name = section.spell(entry.key)
        if known is not None and known.here:
            # Looked at by nobody: an auth_user of a database where no query is, for one.
            table.say(f"{entry.key} = {shown(entry)} ({short(entry.place)}) has no effect here")
            return
        if known is not None:
            table.say(
                f"{entry.key} = {shown(entry)} ({short(entry.place)}): no equivalent. {plain(known.remark)}"
            )
            self.untranslated.append(name)
            return
        names = [one.name for one in SECTIONS[section.kind]]
        nearest = difflib.get_close_matches(entry.key, names, n=1, cutoff=0.0)[0]
        text = (
            f"{entry.key}: PgBouncer has no such key in [{section.kind}]; the nearest known one is {nearest}"
        )
        self.warn(table, text if not section.owner else f"{section.owner}: {text}", entry)


def shown(entry: Entry) -> str:
    """A value in a comment: not too long, and never a secret."""
    if entry.key in _HAS_SECRETS:
        return "..."
    value = entry.value if len(entry.value) <= _LONGEST_SHOWN else entry.value[:_LONGEST_SHOWN] + "..."
    return value or "(empty)"


def short(place: Place) -> str:
    """A place in a comment: the file without its directories."""
    return str(attrs.evolve(place, file=PurePath(place.file).name))


def plain(markdown: str) -> str:
    """Without its marks."""
    return markdown.replace("`", "")
