"""What an SQL text can do to the session of a PostgreSQL backend, from PostgreSQL's own parser.

Facts decide when to ask the server about its session, never what the session is: they must not miss anything
that the text itself says, and may suspect too much. What no text says is not here: what functions, triggers,
rules and views of users do, and what `DO`, `CALL` and functions that run SQL given as text build at run time
(for these, everything is suspected, and literal texts are searched for words).

It must never know the client, the server or the pool.

Four things are not as they look:

- Which bytes are inside a string depends on the session: on `standard_conforming_strings`, and on encodings
  with characters whose second byte looks like a backslash (SJIS, BIG5, GBK, GB18030, UHC, JOHAB). A text
  whose meaning they can change is unknown, not guessed at.
- libpg_query walks its tree on the C stack, unchecked: 21,000 levels (`1+1+1...`, two bytes each) end the
  process on a stack of 8 MB. So a text longer than `LONGEST` is not parsed. And protobuf ends at 100
  levels, with an error.
- In a single-byte encoding under a Turkish locale, PostgreSQL takes the dotted capital I in a name for an
  `i`.
- A definition does not run what it stores: the body of a function, a view, a rule.
"""

from __future__ import annotations

import functools
import re

import postgast
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from trio_pool.protocol.facts_kinds import (
    NOTHING,
    UNKNOWN,
    Ask,
    Discard,
    Facts,
    Prepared,
    PreparedAction,
)
from trio_pool.protocol.facts_tree import TreeReader
from trio_pool.protocol.plain import plain
from trio_pool.protocol.sql import LONGEST

__all__ = [
    "AMBIGUOUS",
    "BROKEN_IN_TWO",
    "LONGEST",
    "NOTHING",
    "QUIET",
    "UNKNOWN",
    "Ask",
    "Discard",
    "Facts",
    "Prepared",
    "PreparedAction",
    "facts_of",
    "known_facts",
    "minded_facts",
    "read",
]

REMEMBERED = 1024
QUIET = Facts()
"""Of texts that are not plain and yet do nothing: SET LOCAL, DDL. Compared by identity."""


def facts_of(text: bytes) -> Facts:
    """The facts of a text, with or without its NUL; the very object `NOTHING` if there are none."""
    return NOTHING if plain(text) else parsed_facts(text)


def known_facts(text: bytes) -> Facts:
    """The facts of a text: `NOTHING` only if it is plain, `QUIET` if it is not and does nothing. Hot path."""
    return NOTHING if plain(text) else minded_facts(text)


def minded_facts(text: bytes) -> Facts:
    """`known_facts` of a text that is not plain."""
    facts = parsed_facts(text)
    return QUIET if facts is NOTHING else facts


def parsed_facts(text: bytes) -> Facts:
    """`facts_of` a text that is not plain."""
    return _remembered(text) if len(text) <= LONGEST else UNKNOWN


@functools.lru_cache(maxsize=REMEMBERED)
def _remembered(text: bytes) -> Facts:
    return read(text)


# A backslash that escapes the quote behind it, or is the second half of a character.
AMBIGUOUS = re.compile(rb"(?<!\\)(?:\\\\)*\\'|[\x80-\xff]\\")
# Where the second half of a character may look like ASCII, outside of strings. Letters and digits do no harm.
BROKEN_IN_TWO = re.compile(rb"[\x80-\xff][@\[\]^`{|}~]")


def read(text: bytes) -> Facts:
    """The facts of a text by PostgreSQL 17's grammar, without a look at `plain`."""
    text = text.partition(b"\0")[0]
    if AMBIGUOUS.search(text):
        return UNKNOWN
    encoding = "utf-8"
    try:
        source = text.decode()
    except UnicodeDecodeError:
        if BROKEN_IN_TWO.search(text):
            return UNKNOWN
        encoding = "latin-1"
        source = text.decode(encoding)
    try:
        statements = postgast.parse(source).stmts
    except (postgast.PgQueryError, DecodeError):
        return UNKNOWN
    reader = TreeReader(source.encode(), encoding)
    for statement in statements:
        reader.look(statement)
    return reader.facts()
