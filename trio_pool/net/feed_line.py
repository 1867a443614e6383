"""A connection between two trio-pools on which one tells the other what ends kept answers (`cache.feed`).

In the data plane, because what it says should get ahead of what clients do next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from trio_pool.cache import feed
from trio_pool.net.connection import Connection
from trio_pool.protocol import link
from trio_pool.wire import messages
from trio_pool.wire.frames import HEADER_SIZE, MAX_LOGIN_REPLY, FramingError, header
from trio_pool.wire.tags import Backend, Frontend

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_pool.cache.feed import Told
    from trio_pool.net.poller import Poller
    from trio_pool.net.transport import Transport

log = structlog.get_logger()

FAREWELL = "the edge has ended it"


class FeedLine(Connection):
    """Either end. `on_told` gets each message; it may raise `FramingError`. The end wakes the mailbox."""

    __slots__ = ("_rest", "on_told", "over")

    def __init__(self, poller: Poller, transport: Transport, on_told: Callable[[Told], None]) -> None:
        super().__init__(poller, transport)
        self.on_told = on_told
        self.over = ""
        """Why it has ended; "" while it lives."""
        self._rest = b""

    def open(self, unread: bytes) -> None:
        """Enter the data plane, with what has come already."""
        self.attach()
        self.receive(unread)

    def end(self, why: str) -> None:
        """Nothing comes or goes any more. The transport is the owner's to close."""
        if not self.over:
            self.over = why
            self.detach()
            self.mailbox.wake()

    def on_readable(self) -> None:
        while not self.over:
            data = self.transport.receive()
            if data is None:
                return
            if data == b"":
                error = self.transport.error
                return self.end("the connection was closed" if error is None else str(error))
            self.receive(data)

    def on_gone(self) -> None:
        self.on_readable()

    def on_drained(self) -> None:
        """Nobody waits for that."""

    def on_crash(self, error: Exception) -> None:
        log.error("internal error in a feed", exc_info=error)
        self.end("internal error")

    def receive(self, data: bytes) -> None:
        """Everything in these bytes."""
        buffer = self._rest + data if self._rest else data
        start = 0
        try:
            while len(buffer) - start >= HEADER_SIZE and not self.over:
                tag, length = header(buffer, start)
                if not 4 <= length <= MAX_LOGIN_REPLY:
                    raise FramingError(f"invalid length of message {chr(tag)!r}: {length}")
                end = start + 1 + length
                if end > len(buffer):
                    break
                self._read(tag, buffer[start + HEADER_SIZE : end])
                start = end
        except FramingError as error:
            return self.end(str(error))
        self._rest = buffer[start:]

    def _read(self, tag: int, body: bytes) -> None:
        match tag:
            case Backend.NOTIFICATION_RESPONSE if body.startswith(bytes(4)):
                channel, payload = messages.read_notification(body)
                if channel == link.CHANNEL and payload != link.LEAVING:
                    self.on_told(feed.read(payload))
                elif payload == link.LEAVING:
                    self.end("the origin is stopping")
            case Frontend.QUERY:
                self.on_told(feed.read(body))
            case Backend.ERROR_RESPONSE:
                self.end(messages.read_error(body).summary)
            case Frontend.TERMINATE:
                self.end(FAREWELL)
            case _:
                raise FramingError(f"unexpected message {chr(tag)!r} on a feed")
