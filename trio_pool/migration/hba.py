"""PgBouncer's auth_hba_file: what `hba_load_rules` in its hba.c takes.

A line that PgBouncer cannot read it ignores, with a warning; here it becomes an `Ignored`, so that nothing
of the file is lost.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, TypeAlias

import attrs

from trio_pool.migration.problems import CannotImport, Place

if TYPE_CHECKING:
    from trio_pool.migration.files import Files

ANY_ADDRESS = ("0.0.0.0/0", "::/0")
DEEPEST_NAMES = 10

_TOKEN = re.compile(r'\s*(?:(#.*)|(,)|"((?:[^"]|"")*)"|([^\s,#"]+))', re.DOTALL)
_NO_NAMES = {"samerole", "samegroup"}


@attrs.frozen
class Names:
    """Databases or users of a rule: everybody, those of the same name as the other side, or these."""

    all: bool = False
    same: bool = False
    names: tuple[str, ...] = ()


@attrs.frozen
class Rule:
    """One line. `networks` is empty for `local`; `method` is PgBouncer's word, `options` what follows it."""

    kind: str
    databases: Names
    users: Names
    networks: tuple[str, ...]
    method: str
    options: tuple[str, ...]
    place: Place


@attrs.frozen
class Ignored:
    """A line that PgBouncer ignores, and why."""

    why: str
    text: str
    place: Place


Line: TypeAlias = Rule | Ignored


class _Unreadable(Exception):
    pass


Token: TypeAlias = tuple[str, bool]
"""Its text, and whether it stood in quotes; a comma is (",", False) and nothing else is."""


def parse_hba(text: str, where: str, files: Files) -> list[Line]:
    """All lines but empty ones and comments."""
    lines: list[Line] = []
    for number, raw in enumerate(text.split("\n"), 1):
        place = Place(where, number)
        try:
            tokens = _tokens(raw)
            if tokens:
                lines.append(_rule(tokens, place, files))
        except _Unreadable as unreadable:
            lines.append(Ignored(str(unreadable), raw.strip(), place))
    return lines


def _tokens(line: str) -> list[Token]:
    found: list[Token] = []
    position = 0
    while line[position:].strip():
        match = _TOKEN.match(line, position)
        if match is None:
            raise _Unreadable("a quote is not closed")
        comment, comma, quoted, bare = match.groups()
        if comment is not None:
            break
        if comma:
            found.append((",", False))
        elif quoted is not None:
            found.append((quoted.replace('""', '"'), True))
        else:
            found.append((bare, False))
        position = match.end()
    return found


def _rule(tokens: list[Token], place: Place, files: Files) -> Rule:
    rest = tokens.copy()
    kind = rest.pop(0)[0]
    if kind not in {"local", "host", "hostssl", "hostnossl"}:
        raise _Unreadable(f'"{kind}" is no type of connection')
    databases = _names(rest, place, files)
    users = _names(rest, place, files)
    networks = () if kind == "local" else _networks(rest)
    if not rest:
        raise _Unreadable("it names no method")
    method = rest.pop(0)[0]
    return Rule(kind, databases, users, networks, method, tuple(text for text, _ in rest), place)


def _names(rest: list[Token], place: Place, files: Files, depth: int = 0) -> Names:
    """Takes a list of names separated by commas off the front."""
    found = Names()
    while True:
        if not rest or rest[0] == (",", False):
            raise _Unreadable("a name is missing")
        text, quoted = rest.pop(0)
        found = _with_name(found, text, quoted, place, files, depth)
        if not rest or rest[0] != (",", False):
            return found
        rest.pop(0)


def _with_name(found: Names, text: str, quoted: bool, place: Place, files: Files, depth: int) -> Names:
    if quoted:
        return attrs.evolve(found, names=(*found.names, text))
    if text == "all":
        return attrs.evolve(found, all=True)
    if text == "sameuser":
        return attrs.evolve(found, same=True)
    if text == "replication":
        raise _Unreadable("connections for replication are not pooled")
    if text in _NO_NAMES or text.startswith("+"):
        raise _Unreadable(f"{text} is not supported")
    if text.startswith("@"):
        if depth >= DEEPEST_NAMES:
            raise _Unreadable("files of names include each other")
        return _with_file(found, text[1:], place, files, depth)
    return attrs.evolve(found, names=(*found.names, text))


def _with_file(found: Names, name: str, place: Place, files: Files, depth: int) -> Names:
    try:
        text = files.read(name, place, "@" + name)
    except CannotImport:
        raise _Unreadable(f"the file @{name} cannot be read") from None
    for line in text.split("\n"):
        tokens = _tokens(line)
        while tokens:
            more = _names(tokens, place, files, depth + 1)
            found = Names(found.all or more.all, found.same or more.same, found.names + more.names)
    return found


def _networks(rest: list[Token]) -> tuple[str, ...]:
    if not rest or rest[0] == (",", False):
        raise _Unreadable("it names no address")
    address = rest.pop(0)[0]
    if address == "all":
        return ANY_ADDRESS
    if "/" not in address:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise _Unreadable(f'"{address}" is no address; names of hosts are not supported') from None
        if not rest:
            raise _Unreadable(f"{address} has no mask")
        address += f"/{rest.pop(0)[0]}"
    try:
        network = ipaddress.ip_network(address, strict=False)
    except ValueError:
        raise _Unreadable(f'"{address}" is no network') from None
    try:
        ipaddress.ip_network(address)
    except ValueError:
        raise _Unreadable(
            f"{address} has bits beyond its mask, so PgBouncer finds nobody in it; is {network} meant?"
        ) from None
    return (str(network),)
