"""Whether an SQL text is one statement that only reads, and what it refers to, from PostgreSQL's own parser.

The text says what is called by which name; what that is in a database, `catalog` says. In doubt a text is no
reading, with the reason.

It must never know the client, the server or a database.

What is remembered is found by *shape*: the text with every digit turned into a zero. One-off texts that
differ in their numbers only have one shape if their numbers have the same lengths. A shape is used only if
each run of digits in it is a number by itself, and nothing in it could make that look otherwise: no quote, no
dollar, no backslash, no comment, no character beyond ASCII. Then two texts of one shape are the same tokens
but for the values of numbers. What such a value decides:

- The type of the number by its magnitude, hence which of several overloaded functions is called: `catalog`
  looks at all functions of a name.
- Whether `float(n)` is `float4` or `float8`: a `Reading` has both.
- Which column ORDER BY 1 means, how much LIMIT 5 is: nothing else is called.
- Whether a length or precision is allowed: if not, the statement fails and does nothing.
"""

from __future__ import annotations

import re

import postgast
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from trio_pool.protocol.facts import AMBIGUOUS, BROKEN_IN_TWO
from trio_pool.protocol.reading_kinds import Kind, Name, NotReading, Reading, Why
from trio_pool.protocol.reading_tree import NotOnlyReading, ReadingTree
from trio_pool.protocol.sql import LONGEST

__all__ = ["Kind", "Name", "NotReading", "Reading", "Why", "known", "read", "reading_of", "shape_of"]

REMEMBERED = 1024
"""Texts and shapes that are remembered, each."""
LONGEST_SHAPE = 1024
"""Bytes of the longest text that has a shape. Many different numbers in one text are rarely of one shape."""

ZEROS = bytes.maketrans(b"123456789", b"000000000")
_SHAPELESS = re.compile(rb"[\"'$\\\x80-\xff]|--|/\*|[A-Za-z_]0|0[A-Za-z_]|\.0+\.|(?<!0)\.0|0\.(?!0)")
_BROKEN = NotReading(Why.BROKEN)
# Two dictionaries: what is no shape of its own text may look like that of another.
_shapes: dict[bytes, Reading | NotReading] = {}
_texts: dict[bytes, Reading | NotReading] = {}


def known(text: bytes) -> Reading | NotReading | None:
    """What is remembered of a text; None if it has to be read. For the hot path."""
    return _shapes.get(text.translate(ZEROS)) or _texts.get(text)


def reading_of(text: bytes) -> Reading | NotReading:
    """`read`, and remember."""
    found = known(text)
    if found is None:
        found = read(text)
        shape = shape_of(text)
        if shape is not None and found != _BROKEN:  # which a number can cause
            _remember(_shapes, shape, found)
        elif len(text) <= LONGEST:
            _remember(_texts, text, found)
    return found


def _remember(memory: dict[bytes, Reading | NotReading], key: bytes, found: Reading | NotReading) -> None:
    """Forgets the oldest, which is no more likely to come again than others."""
    if len(memory) >= REMEMBERED:
        del memory[next(iter(memory))]
    memory[key] = found


def shape_of(text: bytes) -> bytes | None:
    """What all texts have in common that are the same but for the digits of their numbers; None if that
    cannot be told without parsing it.
    """
    if len(text) > LONGEST_SHAPE:
        return None
    shape = text.translate(ZEROS)
    return None if _SHAPELESS.search(shape) else shape


def read(text: bytes) -> Reading | NotReading:
    """What a text refers to, with or without its NUL, without a memory."""
    text = text.partition(b"\0")[0]
    if len(text) > LONGEST:
        return NotReading(Why.LONG)
    if AMBIGUOUS.search(text):
        return NotReading(Why.AMBIGUOUS)
    try:
        source = text.decode()
    except UnicodeDecodeError:
        if BROKEN_IN_TWO.search(text):
            return NotReading(Why.AMBIGUOUS)
        source = text.decode("latin-1")
    try:
        statements = postgast.parse(source).stmts
    except (postgast.PgQueryError, DecodeError):
        return _BROKEN
    if len(statements) != 1:
        return NotReading(Why.MANY if statements else Why.EMPTY)
    statement = statements[0].stmt
    if statement.WhichOneof("node") != "select_stmt":
        return NotReading(Why.STATEMENT)
    tree = ReadingTree()
    try:
        tree.look(statement)
    except NotOnlyReading as found:
        return NotReading(found.why)
    return tree.reading()
