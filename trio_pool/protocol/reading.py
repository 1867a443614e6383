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

from trio_pool.protocol.reading_kinds import Kind, Name, NotReading, Reading, Why
from trio_pool.protocol.reading_tree import NotOnlyReading, ReadingTree
from trio_pool.protocol.shapes import REMEMBERED, ZEROS, Memory, shape_of, statements_of

__all__ = [
    "REMEMBERED",
    "ZEROS",
    "Kind",
    "Name",
    "NotReading",
    "Reading",
    "Why",
    "known",
    "read",
    "reading_of",
    "shape_of",
]

_BROKEN = NotReading(Why.BROKEN)
_memory: Memory[Reading | NotReading] = Memory()


def known(text: bytes) -> Reading | NotReading | None:
    """What is remembered of a text; None if it has to be read. For the hot path."""
    return _memory.known(text)


def reading_of(text: bytes) -> Reading | NotReading:
    """`read`, and remember."""
    found = known(text)
    if found is None:
        found = read(text)
        _memory.remember(text, found, by_shape=found != _BROKEN)  # which a number can cause
    return found


def read(text: bytes) -> Reading | NotReading:
    """What a text refers to, with or without its NUL, without a memory."""
    statements = statements_of(text)
    if isinstance(statements, Why):
        return NotReading(statements)
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
