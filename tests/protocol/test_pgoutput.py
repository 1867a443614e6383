"""The stream of changes as bytes: whole, byte by byte, with more behind it, and broken."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from trio_pool.protocol.pgoutput import (
    ChangeReader,
    Committed,
    Ended,
    Keepalive,
    read_lsn,
    standby_status,
)
from trio_pool.protocol.running import Snapshot
from trio_pool.wire import messages
from trio_pool.wire.frames import FramingError
from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    from trio_pool.protocol.pgoutput import Event

LSN = 0x16_B374D848
CLOCK = 800_000_000_000_000
AT = CLOCK / 1e6 + 946_684_800


def copied(body: bytes) -> bytes:
    return messages.message(Backend.COPY_DATA, body)


def data(body: bytes) -> bytes:
    return copied(b"w" + struct.pack("!QQq", LSN, LSN, CLOCK) + body)


def begin(xid: int = 7) -> bytes:
    return data(b"B" + struct.pack("!QqI", LSN, CLOCK, xid))


def commit() -> bytes:
    return data(b"C" + struct.pack("!BQQq", 0, LSN, LSN + 48, CLOCK))


def row(kind: bytes, oid: int, size: int = 30) -> bytes:
    return data(kind + struct.pack("!I", oid) + b"\0" * size)


def truncate(*oids: int) -> bytes:
    return data(b"T" + struct.pack(f"!IB{len(oids)}I", len(oids), 0, *oids))


def keepalive(reply: int = 0) -> bytes:
    return copied(b"k" + struct.pack("!QqB", LSN, CLOCK, reply))


RELATION = data(b"R" + struct.pack("!I", 5) + b"public\0t\0d\0\0")
STREAM = b"".join(
    (
        keepalive(1),
        begin(),
        RELATION,
        data(b"Y" + struct.pack("!I", 9) + b"public\0mood\0"),
        data(b"O" + struct.pack("!Q", 1) + b"elsewhere\0"),
        row(b"I", 5, 100_000),
        row(b"U", 6),
        row(b"D", 6, 0),
        truncate(10, 11),
        data(b"M\0" + struct.pack("!Q", LSN) + b"prefix\0" + struct.pack("!I", 3) + b"abc"),
        commit(),
        messages.notice("00000", "by the way"),
        messages.parameter_status("TimeZone", "UTC"),
        begin(8),
        commit(),
        data(b"M\0" + struct.pack("!Q", LSN) + b"\0" + struct.pack("!I", 0)),
        messages.message(Backend.COPY_DONE),
    )
)
EVENTS: list[Event] = [
    Keepalive(LSN, AT, True),
    Committed(frozenset({5, 6, 10, 11}), 7, LSN, LSN + 48, AT),
    Committed(frozenset(), 8, LSN, LSN + 48, AT),
    Ended(None),
]


def test_a_whole_stream() -> None:
    """Each committed transaction comes with the tables that it has changed, whatever else there is."""
    assert ChangeReader().receive(STREAM) == EVENTS


@pytest.mark.parametrize("size", [1, 2, 29, 34, 35, 36, 4096])
def test_pieces_make_no_difference(size: int) -> None:
    """The network may cut the stream anywhere, in the middle of a row too."""
    reader = ChangeReader()
    events: list[Event] = []
    for start in range(0, len(STREAM), size):
        events += reader.receive(STREAM[start : start + size])
    assert events == EVENTS


def test_a_row_is_not_kept() -> None:
    """A row of any size needs no memory, and the commit behind it is found."""
    reader = ChangeReader()
    head = b"d" + struct.pack("!I", 500_000_000)
    head += b"w" + struct.pack("!QQq", LSN, LSN, CLOCK) + b"I" + struct.pack("!I", 5)
    assert reader.receive(begin() + head) == []
    left = 500_000_000 - 4 - (len(head) - 5)
    piece = b"\0" * (1 << 20)
    while left > len(piece):
        assert reader.receive(piece) == []
        assert len(reader._buffer) == 0
        left -= len(piece)
    assert [Committed(frozenset({5}), 7, LSN, LSN + 48, AT)] == reader.receive(piece[:left] + commit())


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (row(b"I", 5), "a change outside a transaction"),
        (commit(), "a change outside a transaction"),
        (truncate(5), "a change outside a transaction"),
        (begin() + begin(), "Begin inside a transaction"),
        (data(b"B" + b"\0" * 21), "malformed Begin"),
        (data(b"B" + b"\0" * 19), "malformed Begin"),
        (begin() + data(b"C" + b"\0" * 26), "malformed Commit"),
        (begin() + data(b"C" + b"\0" * 25), "Commit of another transaction"),
        (begin() + data(b"T" + struct.pack("!IB", 2, 0) + b"\0" * 4), "malformed Truncate"),
        (begin() + data(b"T" + struct.pack("!IB", 1, 0) + b"\0" * 5), "malformed Truncate"),
        (begin() + data(b"T\0"), "malformed Truncate"),
        (copied(b"k" + b"\0" * 18), "malformed keepalive"),
        (copied(b"k" + b"\0" * 16), "malformed keepalive"),
        (data(b""), "not a message of a replication stream"),
        (copied(b""), "an empty message"),
        (copied(b"x" + b"\0" * 40), "not a message of a replication stream"),
        (data(b"S" + b"\0" * 40), "logical replication message 'S'"),
        (messages.READY[ord("I")], "message 'Z' in a replication stream"),
        (b"d\0\0\0\3", "invalid length of message 'd'"),
        (b"k\0\0\0\x12", "message 'k' in a replication stream"),
        (b"d\x7f\xff\xff\xff", "invalid length of message 'd'"),
        (messages.message(Backend.COPY_DONE) + keepalive(), "behind the end"),
    ],
)
def test_what_is_no_such_stream_is_refused(broken: bytes, why: str) -> None:
    """Bytes that mean nothing end the stream instead of being passed over."""
    with pytest.raises(FramingError, match=why):
        ChangeReader().receive(broken + b"\0" * 32 * broken.startswith(b"k"))


def test_an_error_ends_the_stream() -> None:
    """The server's own words are kept."""
    (event,) = ChangeReader().receive(messages.error("57P01", "terminating connection", severity="FATAL"))
    assert isinstance(event, Ended)
    assert event.error is not None
    assert (event.error.sqlstate, event.error.summary) == ("57P01", "terminating connection")


def test_a_status_update() -> None:
    """Written, flushed and applied are one position: nothing is stored."""
    expected = copied(b"r" + struct.pack("!QQQqB", LSN, LSN, LSN, CLOCK, 1))
    assert expected == standby_status(LSN, AT, reply=True)
    assert read_lsn("16/B374D848") == LSN


@pytest.mark.parametrize(
    ("xid", "seen"),
    [(99, True), (100, False), (101, True), (102, False), (105, False), (2**32 - 1, True)],
)
def test_what_a_snapshot_has_seen(xid: int, seen: bool) -> None:
    """The stream names a transaction by 32 bits; those of another epoch are told apart."""
    assert seen is Snapshot.parse("100:105:100,102").has_seen(xid)
    start = 2**32 * 3
    assert seen is Snapshot.parse(f"{start + 100}:{start + 105}:{start + 100},{start + 102}").has_seen(xid)
