"""A connection to an origin that listens: asks, and reads what comes.

Answers come in the order of the statements. Notifications come whenever the server is between two of them.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

import structlog
import trio

from trio_pool.errors import Reason, ServerFault, SqlState, internal_fault
from trio_pool.net.connection import Connection
from trio_pool.wire import messages
from trio_pool.wire.frames import HEADER_SIZE, MAX_LOGIN_REPLY, FramingError, header
from trio_pool.wire.tags import Backend, Frontend

if TYPE_CHECKING:
    from collections.abc import Collection

    from trio_pool.net.dial import Dialled
    from trio_pool.net.mailbox import Mailbox
    from trio_pool.net.poller import Poller

log = structlog.get_logger()


class Owner(Protocol):
    """Who is told what comes; all of it from the data plane."""

    def deliver(self, message: bytes) -> None:
        """A NotificationResponse. May raise `FramingError`."""

    def answered(self, line: ListeningConnection, statement: Statement) -> None:
        """A statement is done, or was refused."""

    def lost(self) -> None:
        """The connection is over."""


class Statement:
    """A Query whose ReadyForQuery has not come yet. `channels` are those that it LISTENs to."""

    __slots__ = ("channels", "fault")

    def __init__(self, channels: Collection[bytes] = ()) -> None:
        self.channels = channels
        self.fault: ServerFault | None = None


class ListeningConnection(Connection):
    """One, logged in. Its owner's task is woken when everything is answered, and at the end."""

    __slots__ = ("_owner", "_rest", "asked", "asked_at", "dialled", "fault", "heard_at")

    def __init__(self, owner: Owner, poller: Poller, mailbox: Mailbox, dialled: Dialled) -> None:
        super().__init__(poller, dialled.transport)
        self.mailbox = mailbox
        self.dialled = dialled
        self.asked: deque[Statement] = deque()
        self.asked_at = self.heard_at = trio.current_time()
        self.fault: ServerFault | None = None
        """Why it has ended; None while it lives."""
        self._owner = owner
        self._rest = b""

    def ask(self, sql: bytes, channels: Collection[bytes] = ()) -> None:
        """Send a Query without waiting for the answers to those before."""
        self.asked.append(Statement(channels))
        self.asked_at = trio.current_time()
        self.write(messages.message(Frontend.QUERY, sql + b"\0"))

    def receive(self, data: bytes) -> None:
        """Everything in these bytes."""
        try:
            self._walk(data)
        except FramingError as error:
            self.lose(
                ServerFault(
                    f"the server broke the protocol: {error}",
                    SqlState.PROTOCOL_VIOLATION,
                    reason=Reason.SERVER_PROTOCOL_VIOLATION,
                )
            )

    def _walk(self, data: bytes) -> None:
        """Hot path."""
        buffer = self._rest + data if self._rest else data
        start, size = 0, len(buffer)
        while size - start >= HEADER_SIZE and self.fault is None:
            tag, length = header(buffer, start)
            if not 4 <= length <= MAX_LOGIN_REPLY:
                raise FramingError(f"invalid length of message {chr(tag)!r}: {length}")
            end = start + 1 + length
            if end > size:
                break
            if tag == Backend.NOTIFICATION_RESPONSE:
                self._owner.deliver(buffer[start:end])
            else:
                self._take(tag, buffer[start + HEADER_SIZE : end])
            start = end
        self._rest = buffer[start:]

    def _take(self, tag: int, body: bytes) -> None:
        if tag == Backend.ERROR_RESPONSE:
            error = messages.read_error(body)
            if self.asked and error.severity == "ERROR":
                self.asked[0].fault = ServerFault(
                    error.summary, error.sqlstate, reason=Reason.SERVER_LOGIN_FAILED
                )
            else:
                self.lose(ServerFault(error.summary, error.sqlstate, reason=Reason.SERVER_CLOSED))
        elif tag == Backend.READY_FOR_QUERY:
            if not self.asked:
                raise FramingError("a ReadyForQuery that nothing has asked for")
            self._owner.answered(self, self.asked.popleft())
            if not self.asked:
                self.mailbox.wake()

    def lose(self, fault: ServerFault) -> None:
        """The connection is over."""
        if self.fault is None:
            self.fault = fault
            self.detach()
            self._owner.lost()
            self.mailbox.wake()

    def close(self) -> None:
        self.detach()
        if not self.transport.pending:
            self.transport.send(messages.TERMINATE)
        self.transport.close()

    # -- data plane ------------------------------------------------------------------------------------------

    def on_readable(self) -> None:
        """Notifications and answers."""
        data = self.transport.receive()
        if data is None:
            return
        self.heard_at = self.poller.now
        if not data:
            self.on_gone()
            return
        self.receive(data)

    def on_gone(self) -> None:
        why = f": {self.transport.error}" if self.transport.error else ""
        self.lose(
            ServerFault(
                f"the server closed the connection{why}",
                SqlState.CONNECTION_FAILURE,
                reason=Reason.SERVER_CLOSED,
            )
        )

    def on_drained(self) -> None:
        """Nobody is paused for it: what it sends comes from here."""

    def on_crash(self, error: Exception) -> None:
        log.error("internal error in a listening connection", exc_info=error)
        self.lose(internal_fault())
