"""What a walsender streams with the plugin `pgoutput`: which tables each committed transaction has changed.

Sources: PostgreSQL 18, sections "Streaming Replication Protocol" and "Logical Replication Message Formats",
`proto_version` 1. It knows no tables and no rows: of a row only the OID of its table is read, and its
columns are passed over as they come, so that a row of a gigabyte needs no memory here.

Commits come in the order in which they stand in the WAL, which is not quite the order in which they can be
seen: a transaction becomes visible after its record has been written, with a synchronous standby much later.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import attrs

from trio_pool.wire import messages
from trio_pool.wire.frames import HEADER_SIZE, MAX_LARGE, MAX_LOGIN_REPLY, FramingError, header
from trio_pool.wire.tags import Backend, Frontend

if TYPE_CHECKING:
    from typing import TypeAlias

    from trio_pool.wire.messages import ErrorFields

_EPOCH: Final = 946_684_800.0
"""PostgreSQL counts microseconds from 2000-01-01; this is that moment in Unix time, in seconds."""

_XLOG_DATA: Final = ord("w")
_KEEPALIVE: Final = ord("k")
_STATUS: Final = ord("r")
_BEGIN: Final = ord("B")
_COMMIT: Final = ord("C")
_TRUNCATE: Final = ord("T")
_ROWS: Final = b"IUD"
_PASSED_OVER: Final = b"ROYM"
"""Relation, Origin, Type and Message: nothing in them is needed."""

_XLOG_HEADER: Final = 1 + 8 + 8 + 8
_INSIDE: Final = HEADER_SIZE + _XLOG_HEADER
"""Where the logical message begins in a CopyData."""
_NEEDED: Final = _INSIDE + 1 + 4
"""How much of a CopyData is needed to know what it is, and of which table."""

_begin = struct.Struct("!QqI")
_commit = struct.Struct("!BQQq")
_keepalive = struct.Struct("!QqB")
_truncated = struct.Struct("!IB")
_status = struct.Struct("!BQQQqB")
_oid = struct.Struct("!I")


@attrs.frozen
class Committed:
    """A transaction that has been committed, however little it has changed.

    `tables` are OIDs, empty if it has changed nothing that is published. `end` is the position behind its
    commit record. `xid` has no epoch. `at` is the server's time, in Unix seconds.
    """

    tables: frozenset[int]
    xid: int
    lsn: int
    end: int
    at: float


@attrs.frozen
class Keepalive:
    """Everything up to `position` has been sent. `at` is the server's time, in Unix seconds."""

    position: int
    at: float
    reply_requested: bool


@attrs.frozen
class Ended:
    """The server streams no more; `error` is its reason, None if it has none."""

    error: ErrorFields | None


if TYPE_CHECKING:
    Event: TypeAlias = Committed | Keepalive | Ended


@attrs.define(eq=False)
class _Transaction:
    lsn: int
    xid: int
    tables: set[int] = attrs.field(factory=set)


class ChangeReader:
    """Reads the stream from CopyBothResponse on, in whatever pieces it comes."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skip = 0
        """Bytes still to come of a message that is known well enough."""
        self._transaction: _Transaction | None = None
        self._ended = False

    def receive(self, data: bytes) -> list[Event]:
        """What these bytes complete. Raises `FramingError` if they are no such stream."""
        events: list[Event] = []
        self._buffer += data
        start = 0
        while True:
            if self._skip:
                step = min(self._skip, len(self._buffer) - start)
                start += step
                self._skip -= step
            consumed = 0 if self._skip else self._next(start, events)
            if not consumed:
                break
            start += consumed
        del self._buffer[:start]
        return events

    def _next(self, start: int, events: list[Event]) -> int:
        """How many bytes of the buffer are done with; 0 if there must be more first."""
        here = len(self._buffer) - start
        if here < HEADER_SIZE:
            return 0
        tag, length = header(self._buffer, start)
        if self._ended:
            raise FramingError(f"message {chr(tag)!r} behind the end of the stream")
        size = length + 1
        limit = MAX_LARGE if tag == Backend.COPY_DATA else MAX_LOGIN_REPLY
        if not 4 <= length <= limit:
            raise FramingError(f"invalid length of message {chr(tag)!r}: {length}")
        if tag == Backend.COPY_DATA and size >= _NEEDED:
            if here < _NEEDED:
                return 0
            if self._passes(start):
                self._skip = size - _NEEDED
                return _NEEDED
            if length > MAX_LOGIN_REPLY:
                raise FramingError(f"invalid length of message {chr(tag)!r}: {length}")
        if here < size:
            return 0
        event = self._read(tag, bytes(self._buffer[start + HEADER_SIZE : start + size]))
        if event is not None:
            events.append(event)
        return size

    def _passes(self, start: int) -> bool:
        """Whether the beginning of a message is all of it that is needed."""
        if self._buffer[start + HEADER_SIZE] != _XLOG_DATA:
            return False
        kind = self._buffer[start + _INSIDE]
        if kind in _ROWS:
            self._changing().tables.add(_oid.unpack_from(self._buffer, start + _INSIDE + 1)[0])
            return True
        return kind in _PASSED_OVER

    def _read(self, tag: int, body: bytes) -> Event | None:
        match tag:
            case Backend.COPY_DATA:
                return self._copied(body)
            case Backend.ERROR_RESPONSE:
                self._ended = True
                return Ended(messages.read_error(body))
            case Backend.COPY_DONE:
                self._ended = True
                return Ended(None)
            case Backend.NOTICE_RESPONSE | Backend.PARAMETER_STATUS:
                return None
            case _:
                raise FramingError(f"message {chr(tag)!r} in a replication stream")

    def _copied(self, body: bytes) -> Event | None:
        if not body:
            raise FramingError("an empty message in a replication stream")
        if body[0] == _KEEPALIVE:
            position, clock, reply = _whole(_keepalive, body[1:], "keepalive")
            return Keepalive(position, _time(clock), reply != 0)
        if body[0] != _XLOG_DATA or len(body) <= _XLOG_HEADER:
            raise FramingError(f"not a message of a replication stream: {bytes(body[:1])!r}")
        return self._logical(body[_XLOG_HEADER], body[_XLOG_HEADER + 1 :])

    def _logical(self, kind: int, body: bytes) -> Event | None:
        match kind:
            case _ if kind == _BEGIN:
                if self._transaction is not None:
                    raise FramingError("Begin inside a transaction")
                lsn, _, xid = _whole(_begin, body, "Begin")
                self._transaction = _Transaction(lsn, xid)
            case _ if kind == _COMMIT:
                done = self._changing()
                _, lsn, end, clock = _whole(_commit, body, "Commit")
                if lsn != done.lsn:
                    raise FramingError("Commit of another transaction than the one that Begin has announced")
                self._transaction = None
                return Committed(frozenset(done.tables), done.xid, lsn, end, _time(clock))
            case _ if kind == _TRUNCATE:
                self._changing().tables.update(_truncated_tables(body))
            case _ if kind in _PASSED_OVER:
                pass
            case _:
                raise FramingError(f"logical replication message {chr(kind)!r}")
        return None

    def _changing(self) -> _Transaction:
        if self._transaction is None:
            raise FramingError("a change outside a transaction")
        return self._transaction


def _whole(layout: struct.Struct, body: bytes, name: str) -> tuple[int, ...]:
    if len(body) != layout.size:
        raise FramingError(f"malformed {name}")
    return layout.unpack(body)


def _truncated_tables(body: bytes) -> tuple[int, ...]:
    if len(body) >= _truncated.size:
        count = _truncated.unpack_from(body)[0]
        if len(body) == _truncated.size + 4 * count:
            return struct.unpack_from(f"!{count}I", body, _truncated.size)
    raise FramingError("malformed Truncate")


def _time(clock: int) -> float:
    return clock / 1e6 + _EPOCH


def standby_status(position: int, now: float, *, reply: bool = False) -> bytes:
    """A standby status update: everything up to the position is done with.

    `now` is Unix time; with `reply` the server answers with a keepalive at once.
    """
    clock = round((now - _EPOCH) * 1e6)
    return messages.message(
        Frontend.COPY_DATA, _status.pack(_STATUS, position, position, position, clock, reply)
    )


def read_lsn(text: str) -> int:
    """A position as SQL spells it, "16/B374D848". Raises ValueError."""
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)
