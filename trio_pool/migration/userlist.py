"""PgBouncer's auth_file: `"user" "password"`, one a line, as `load_auth_file` in its loader.c reads it."""

from __future__ import annotations

import re

import attrs

from trio_pool.migration.problems import Place, cannot

_LINE = re.compile(r'"((?:[^"]|"")*)"[^"\n]*"((?:[^"]|"")*)"[^\n]*')


@attrs.frozen
class Stored:
    """A user's password as it is stored: clear text, "md5" and 32 digits, or a SCRAM secret; may be empty."""

    secret: str = attrs.field(repr=False)
    place: Place


def parse_userlist(text: str, where: str) -> dict[str, Stored]:
    """The users by name; a later line of the same user replaces an earlier one. Raises `CannotImport`."""
    users: dict[str, Stored] = {}
    position = 0
    while (start := re.compile(r"\s*").match(text, position)) and start.end() < len(text):
        position = start.end()
        place = Place(where, text.count("\n", 0, position) + 1)
        if text[position] == ";":
            position = (text.find("\n", position) + 1) or len(text)
            continue
        found = _LINE.match(text, position)
        if found is None:
            raise cannot(
                place, "", 'is not "user" "password"', 'put both in double quotes, with "" for a quote'
            )
        name, secret = (part.replace('""', '"') for part in found.groups())
        users[name] = Stored(secret, place)
        position = found.end()
    users.pop("", None)
    return users
