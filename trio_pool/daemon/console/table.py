"""Rows and columns as the console answers them, and their encoding in both formats of the protocol.

The types are those of PgBouncer's console, so that clients that look at them see no difference, and two more
for tables of our own.
"""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING, Final, TypeAlias

import attrs

from trio_pool.wire import messages
from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Value: TypeAlias = str | int | float | None
Row: TypeAlias = tuple[Value, ...]

TEXT_FORMAT: Final = 0
BINARY_FORMAT: Final = 1
_MOST_INT4: Final = (1 << 31) - 1
_MOST_INT8: Final = (1 << 63) - 1
_NUMERIC_BASE: Final = 10_000  # NBASE in numeric.c


class Type(enum.Enum):
    """A column's type: its OID and size as RowDescription names them (`pg_type.dat`)."""

    BOOL = 16, 1
    BYTEA = 17, -1
    INT8 = 20, 8
    INT4 = 23, 4
    TEXT = 25, -1
    FLOAT8 = 701, 8
    NUMERIC = 1700, -1


@attrs.frozen
class Column:
    name: str
    type: Type = Type.TEXT

    def describe(self, form: int) -> bytes:
        """Its part of a RowDescription."""
        oid, size = self.type.value
        return messages.text(self.name) + struct.pack("!IHIhiH", 0, 0, oid, size, -1, form)


def columns(texts: str = "", /, **types: Type) -> tuple[Column, ...]:
    """Columns in their order: names of texts separated by spaces, then others by their types."""
    return (*map(Column, texts.split()), *(Column(name, kind) for name, kind in types.items()))


def of(kind: Type, names: str) -> tuple[Column, ...]:
    """Columns of one type, their names separated by spaces."""
    return tuple(Column(name, kind) for name in names.split())


def row_description(described: Sequence[Column], formats: Sequence[int]) -> bytes:
    parts = [column.describe(form) for column, form in zip(described, formats, strict=True)]
    return messages.message(Backend.ROW_DESCRIPTION, struct.pack("!H", len(parts)) + b"".join(parts))


def data_row(row: Row, described: Sequence[Column], formats: Sequence[int]) -> bytes:
    values = [
        encoded(value, column.type, form) for value, column, form in zip(row, described, formats, strict=True)
    ]
    return messages.message(Backend.DATA_ROW, struct.pack("!H", len(values)) + b"".join(values))


def encoded(value: Value, kind: Type, form: int) -> bytes:
    """A value with its length in front. What does not fit into an integer becomes the largest that does."""
    if value is None:
        return messages.NULL
    if kind in (Type.INT4, Type.INT8):
        value = min(int(value), _MOST_INT4 if kind is Type.INT4 else _MOST_INT8)
    data = _binary(value, kind) if form == BINARY_FORMAT else _text(value, kind)
    return struct.pack("!I", len(data)) + data


def _text(value: str | float, kind: Type) -> bytes:
    if kind is Type.BOOL:
        return b"t" if value else b"f"
    if kind is Type.FLOAT8:
        return repr(float(value)).encode()
    return str(value).replace("\0", "").encode(errors="replace")


def _binary(value: str | float, kind: Type) -> bytes:
    match kind:
        case Type.BOOL:
            return b"\1" if value else b"\0"
        case Type.INT4:
            return struct.pack("!i", value)
        case Type.INT8:
            return struct.pack("!q", value)
        case Type.FLOAT8:
            return struct.pack("!d", value)
        case Type.NUMERIC:
            return _numeric(int(value))
        case Type.TEXT | Type.BYTEA:
            return _text(value, kind)


def _numeric(value: int) -> bytes:
    """A whole number that is not negative, as `numeric_send` writes it: digits of base 10,000."""
    digits: list[int] = []
    while value:
        value, digit = divmod(value, _NUMERIC_BASE)
        digits.insert(0, digit)
    return struct.pack(f"!HhHH{len(digits)}H", len(digits), max(0, len(digits) - 1), 0, 0, *digits)


def formats_of(given: Sequence[int], described: Iterable[Column]) -> tuple[int, ...]:
    """One format per column, from what Bind says: none means text, one is for all.

    Raises ValueError if there are others than columns, or a format that is neither text nor binary.
    """
    count = len(tuple(described))
    if not set(given) <= {TEXT_FORMAT, BINARY_FORMAT}:
        raise ValueError(f"unsupported format code: {max(given)}")
    if not given:
        return (TEXT_FORMAT,) * count
    if len(given) == 1:
        return (given[0],) * count
    if len(given) != count:
        raise ValueError(f"bind message has {len(given)} result formats but query has {count} columns")
    return tuple(given)
