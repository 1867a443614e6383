"""Where messages end: the assembler, the header, the limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_pool.wire import messages
from trio_pool.wire.frames import (
    FRONTEND_LIMITS,
    MAX_LARGE,
    MAX_SMALL,
    MAX_STARTUP,
    Assembler,
    FramingError,
    header,
)
from trio_pool.wire.tags import Frontend

bodies = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300)), max_size=8)


@given(bodies, st.data())
def test_messages_survive_any_chunking(sent: list[tuple[int, bytes]], data: st.DataObject) -> None:
    """However the bytes are cut, the same messages come out, and what follows them is kept."""
    stream = b"".join(messages.message(tag, body) for tag, body in sent) + b"tail"
    assembler = Assembler()
    received: list[tuple[int, bytes]] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        assembler.feed(stream[:size])
        stream = stream[size:]
        while len(received) < len(sent) and (message := assembler.message()) is not None:
            received.append(message)
    assert received == sent
    assert assembler.rest() == b"tail"


@given(st.binary(min_size=4, max_size=200))
def test_a_startup_packet_byte_by_byte(body: bytes) -> None:
    """A packet without a tag is complete with its last byte and not before."""
    assembler = Assembler()
    packet = messages.untagged(body)
    for position, byte in enumerate(packet):
        assert assembler.startup() is None, position
        assembler.feed(bytes([byte]))
    assert assembler.startup() == body


@pytest.mark.parametrize("length", [0, 3, 7, MAX_STARTUP + 5, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_startup_packet_of_impossible_length(length: int) -> None:
    """It is refused at its length, before a byte of its body is waited for."""
    assembler = Assembler()
    assembler.feed(length.to_bytes(4, "big"))
    with pytest.raises(FramingError, match=str(length)):
        assembler.startup()


@pytest.mark.parametrize("length", [0, 3, 4 + 101, 0xFFFFFFFF])
def test_a_message_of_impossible_length(length: int) -> None:
    """So is a message; the limit is the assembler's."""
    assembler = Assembler(limit=100)
    assembler.feed(b"p" + length.to_bytes(4, "big"))
    with pytest.raises(FramingError, match=str(length)):
        assembler.message()


def test_the_header_counts_as_postgresql_does() -> None:
    """The length counts itself and not the tag."""
    assert header(b"xx" + messages.query("a"), 2) == (Frontend.QUERY, 4 + 2)


def test_limits_are_postgresqls() -> None:
    """Large messages just under 1 GiB, small ones 10,000 bytes, anything else is no message (postgres.c)."""
    large = {Frontend.QUERY, Frontend.PARSE, Frontend.BIND, Frontend.FUNCTION_CALL, Frontend.COPY_DATA}
    small = {
        Frontend.DESCRIBE,
        Frontend.EXECUTE,
        Frontend.CLOSE,
        Frontend.SYNC,
        Frontend.FLUSH,
        Frontend.TERMINATE,
        Frontend.COPY_DONE,
        Frontend.COPY_FAIL,
    }
    expected = [MAX_LARGE if tag in large else MAX_SMALL if tag in small else 0 for tag in range(256)]
    assert expected == list(FRONTEND_LIMITS)
