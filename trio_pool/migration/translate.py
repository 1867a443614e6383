"""The whole translation, part by part, and then whatever no part has taken: nothing goes without a word."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from trio_pool.config.model import Config
from trio_pool.config.problems import ConfigurationError
from trio_pool.migration.authentication import translate_authentication
from trio_pool.migration.context import Import, Section
from trio_pool.migration.databases import translate_databases
from trio_pool.migration.general import (
    translate_admin,
    translate_listen,
    translate_session,
    translate_timeouts,
    translate_tls,
)
from trio_pool.migration.ini import Ini, parse_connection_string, parse_ini
from trio_pool.migration.problems import CannotImport, ImportProblem, Place
from trio_pool.migration.settings import setting
from trio_pool.migration.userlist import Stored, parse_userlist
from trio_pool.migration.users import translate_users

if TYPE_CHECKING:
    from trio_pool.migration.document import Document, Table
    from trio_pool.migration.files import Files
    from trio_pool.migration.ini import Entry

_KNOWN_SECTIONS = ("pgbouncer", "databases", "users", "peers")


@attrs.frozen
class Translation:
    """`attention`: what has to be looked at, with its place. `untranslated`: keys without an equivalent."""

    document: Document
    attention: tuple[str, ...]
    untranslated: tuple[str, ...]


def translate(text: str, where: str, files: Files, userlist: str | None = None) -> Translation:
    """PgBouncer's configuration `text` from the file `where`; `userlist` names a file in place of auth_file.

    Raises `CannotImport` with everything that PgBouncer would refuse too, and for files that cannot be read.
    """
    work = _begin(parse_ini(text, where, files), where, files, userlist)
    work.document.table().say(
        f"Made by trio-pool import-pgbouncer from {where}. Behind a key stands what it was made from."
    )
    translate_listen(work)
    translate_tls(work)
    translate_databases(work)
    translate_authentication(work)
    translate_users(work)
    translate_timeouts(work)
    translate_session(work)
    translate_admin(work)
    _say_what_is_left(work)
    if work.problems:
        raise CannotImport(work.problems)
    return Translation(
        work.document,
        tuple(dict.fromkeys((*work.attention, *_still_wrong(work.document)))),
        tuple(dict.fromkeys(work.untranslated)),
    )


def _begin(ini: Ini, where: str, files: Files, userlist: str | None) -> Import:
    problems: list[ImportProblem] = []
    general = Section("pgbouncer", {entry.key: entry for entry in ini.section("pgbouncer")}, problems)
    work = Import(
        where,
        files,
        general,
        databases=_connection_strings(ini, "databases", problems),
        users=_connection_strings(ini, "users", problems),
        userlist=_read_userlist(general, files, userlist, problems),
        problems=problems,
    )
    for entry in ini.section("peers"):
        work.document.table("listen").say(
            f"[peers] {entry.key} = {entry.value}: no equivalent. With listen.workers, cancel requests find "
            f"their process "
            "by themselves."
        )
        work.untranslated.append(f"[peers] {entry.key}")
    for section in ini.sections():
        if section not in _KNOWN_SECTIONS:
            first = ini.section(section)[0]
            work.warn(work.document.table(), f"[{section}]: PgBouncer has no such section", first)
    return work


def _connection_strings(ini: Ini, name: str, problems: list[ImportProblem]) -> dict[str, Section]:
    found = {}
    for entry in ini.section(name):
        try:
            pairs = parse_connection_string(entry)
        except CannotImport as error:
            problems += error.problems
            pairs = {}
        found[entry.key] = Section(name, pairs, problems, entry.key)
    return found


def _read_userlist(
    general: Section, files: Files, userlist: str | None, problems: list[ImportProblem]
) -> dict[str, Stored]:
    entry = general.entry("auth_file")
    name = userlist if userlist is not None else general.text("auth_file")
    if not name:
        return {}
    named_at = Place(name) if userlist is not None or entry is None else entry.place
    try:
        return parse_userlist(files.read(name, named_at, "" if userlist else "auth_file"), name)
    except CannotImport as error:
        problems += error.problems
        return {}


def _say_what_is_left(work: Import) -> None:
    """Comments on all keys that nobody has asked for, at the place of their equivalent if they had one."""
    for entry in _left(work.general):
        known = setting("pgbouncer", entry.key)
        work.drop(work.document.table(*(known.home if known else ())), work.general, entry)
    for header, sections in (("databases", work.databases), ("users", work.users)):
        for name, section in sections.items():
            there = name and work.document.has(header, name)
            table: Table = work.document.table(header, name) if there else work.document.table(header)
            for entry in _left(section):
                work.drop(table, section, entry)


def _left(section: Section) -> list[Entry]:
    return [entry for key, entry in section.entries.items() if key not in section.taken]


def _still_wrong(document: Document) -> list[str]:
    """What the reader says to it: files that are not on this machine, for one."""
    try:
        Config.from_dict(document.data(), environ={}, base=Path())
    except ConfigurationError as error:
        return [
            f"to be put right before it serves: {problem.key}: {problem.what}" for problem in error.problems
        ]
    return []
