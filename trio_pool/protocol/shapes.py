"""What is remembered of SQL texts, found by their shape: see `reading` for what a shape is and why it holds.

It must never know what is remembered.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Generic, TypeVar

import postgast
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from trio_pool.protocol.facts import AMBIGUOUS, BROKEN_IN_TWO
from trio_pool.protocol.reading_kinds import Why
from trio_pool.protocol.sql import LONGEST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from postgast import pg_query_pb2 as ast

REMEMBERED = 1024
"""Texts and shapes that are remembered, each."""
LONGEST_SHAPE = 1024
"""Bytes of the longest text that has a shape. Many different numbers in one text are rarely of one shape."""

ZEROS = bytes.maketrans(b"123456789", b"000000000")
_SHAPELESS = re.compile(rb"[\"'$\\\x80-\xff]|--|/\*|[A-Za-z_]0|0[A-Za-z_]|\.0+\.|(?<!0)\.0|0\.(?!0)")

Found = TypeVar("Found")


class Memory(Generic[Found]):
    """Of what was found in texts; nothing that is found may be false."""

    def __init__(self) -> None:
        # Two dictionaries: what is no shape of its own text may look like that of another.
        self._shapes: dict[bytes, Found] = {}
        self._texts: dict[bytes, Found] = {}

    def known(self, text: bytes) -> Found | None:
        """What is remembered of a text. For the hot path."""
        return self._shapes.get(text.translate(ZEROS)) or self._texts.get(text)

    def remember(self, text: bytes, found: Found, *, by_shape: bool = True) -> None:
        """`by_shape`: it holds for all texts of the shape."""
        shape = shape_of(text) if by_shape else None
        if shape is not None:
            _remember(self._shapes, shape, found)
        elif len(text) <= LONGEST:
            _remember(self._texts, text, found)


def _remember(memory: dict[bytes, Found], key: bytes, found: Found) -> None:
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


def statements_of(text: bytes) -> Sequence[ast.RawStmt] | Why:
    """The statements of a text, with or without its NUL; or why it is not read."""
    text = text.partition(b"\0")[0]
    if len(text) > LONGEST:
        return Why.LONG
    if AMBIGUOUS.search(text):
        return Why.AMBIGUOUS
    try:
        source = text.decode()
    except UnicodeDecodeError:
        if BROKEN_IN_TWO.search(text):
            return Why.AMBIGUOUS
        source = text.decode("latin-1")
    try:
        statements: Sequence[ast.RawStmt] = postgast.parse(source).stmts
    except (postgast.PgQueryError, DecodeError):
        return Why.BROKEN
    return statements
