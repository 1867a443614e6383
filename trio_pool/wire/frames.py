"""Where one message ends and the next begins.

A message is a tag byte, a four-byte length that counts itself but not the tag, and a body. Both session
machines walk the chunks they are given with `header` directly, because that walk is the only per-message loop
in the program; what they share is here: the header, the limits, and `Assembler`, which the slow conversations
(start-up, authentication, login) use to get whole messages.

Limits. PostgreSQL itself (`SocketBackend` in postgres.c) allows small messages 10,000 bytes and large ones
just under 1 GiB. Before authentication it allows a start-up packet of 10,000 bytes and an authentication
message of 65,535. We refuse what PostgreSQL would refuse, at the header, before a byte of the body is kept.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from trio_pool.wire.tags import Frontend

if TYPE_CHECKING:
    from collections.abc import Callable

header: Callable[[bytes | bytearray, int], tuple[int, int]] = struct.Struct("!BI").unpack_from
"""`header(buffer, offset) -> (tag, length)`; the length counts itself (4) but not the tag."""

HEADER_SIZE: Final = 5
MAX_STARTUP: Final = 10_000  # MAX_STARTUP_PACKET_LENGTH in pqcomm.h
MAX_AUTHENTICATION: Final = 65_535  # PG_MAX_AUTH_TOKEN_LENGTH in auth.c
MAX_SMALL: Final = 10_000  # PQ_SMALL_MESSAGE_LIMIT in libpq.h
MAX_LARGE: Final = 0x3FFFFFFF - 1  # PQ_LARGE_MESSAGE_LIMIT in libpq.h, MaxAllocSize - 1
MAX_LOGIN_REPLY: Final = 1 << 20  # ours: no message of a login is anywhere near it

FRONTEND_LIMITS: Final[tuple[int, ...]] = tuple(
    {
        Frontend.QUERY: MAX_LARGE,
        Frontend.PARSE: MAX_LARGE,
        Frontend.BIND: MAX_LARGE,
        Frontend.FUNCTION_CALL: MAX_LARGE,
        Frontend.COPY_DATA: MAX_LARGE,
        Frontend.DESCRIBE: MAX_SMALL,
        Frontend.EXECUTE: MAX_SMALL,
        Frontend.CLOSE: MAX_SMALL,
        Frontend.SYNC: MAX_SMALL,
        Frontend.FLUSH: MAX_SMALL,
        Frontend.TERMINATE: MAX_SMALL,
        Frontend.COPY_DONE: MAX_SMALL,
        Frontend.COPY_FAIL: MAX_SMALL,
    }.get(tag, 0)
    for tag in range(256)
)
"""The longest length field allowed per frontend tag after authentication; 0 for bytes that are no such tag.
"""


def between(data: bytes, start: int, end: int) -> bytes:
    """The bytes from `start` to `end`; none if the length of a malformed message makes them cross, where a
    slice that mypyc has compiled raises SystemError.
    """
    return data[start:end] if start < end else b""


class FramingError(Exception):
    """The bytes cannot be a message; the text says why, for the log and the peer."""


class Assembler:
    """Collects bytes and hands out whole messages; for start-up and login, where speed does not matter.

    `limit` is the longest body accepted; it is checked as soon as the length is known.
    """

    __slots__ = ("buffer", "limit")

    def __init__(self, limit: int = MAX_AUTHENTICATION) -> None:
        self.limit = limit
        self.buffer = bytearray()

    def feed(self, data: bytes) -> None:
        self.buffer += data

    def startup(self) -> bytes | None:
        """The body of the next message without a tag, or None if it is not complete."""
        if len(self.buffer) < 4:
            return None
        length = int.from_bytes(self.buffer[:4], "big")
        if not 8 <= length <= MAX_STARTUP + 4:
            raise FramingError(f"invalid length of startup packet: {length}")
        return self._take(4, length) if len(self.buffer) >= length else None

    def message(self) -> tuple[int, bytes] | None:
        """Tag and body of the next message, or None if it is not complete."""
        if len(self.buffer) < HEADER_SIZE:
            return None
        tag, length = header(self.buffer, 0)
        if length < 4 or length - 4 > self.limit:
            raise FramingError(f"invalid length of message {chr(tag)!r}: {length}")
        return (tag, self._take(HEADER_SIZE, length + 1)) if len(self.buffer) > length else None

    def rest(self) -> bytes:
        """What came after the last whole message; the assembler is empty afterwards."""
        rest = bytes(self.buffer)
        self.buffer.clear()
        return rest

    def _take(self, start: int, end: int) -> bytes:
        body = bytes(self.buffer[start:end])
        del self.buffer[:end]
        return body
