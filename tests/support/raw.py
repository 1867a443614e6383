"""A client without a driver: one socket, blocking, message by message. For what drivers hide."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Self

import attrs

from tests.support.target import DATABASE, USER
from trio_pool.wire import messages
from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    from trio_pool.wire.messages import ErrorFields

SECONDS = 15.0


@attrs.define(eq=False)
class RawClient:
    """One connection without TLS. Everything that waits fails after 15 seconds."""

    sock: socket.socket
    _unread: bytes = b""

    @classmethod
    def connect(cls, address: tuple[str, int] | str) -> Self:
        """Connect and say nothing. A text is the path of a Unix socket."""
        if isinstance(address, tuple):
            return cls(socket.create_connection(address, SECONDS))
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(SECONDS)
        sock.connect(address)
        return cls(sock)

    @classmethod
    def log_in(cls, address: tuple[str, int] | str, user: str = USER, database: str = DATABASE) -> Self:
        """A client under the method `trust`; raises `AssertionError` if it is not let in."""
        client = cls.connect(address)
        client.send(messages.startup({"user": user, "database": database}))
        assert client.errors() == []
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def receive(self) -> tuple[int, bytes] | None:
        """Tag and body of the next message, None at the end."""
        while len(self._unread) < 5 or len(self._unread) < 1 + int.from_bytes(self._unread[1:5], "big"):
            chunk = self.sock.recv(65536)
            if not chunk:
                assert self._unread == b""
                return None
            self._unread += chunk
        end = 1 + int.from_bytes(self._unread[1:5], "big")
        message = self._unread[0], self._unread[5:end]
        self._unread = self._unread[end:]
        return message

    def exchange(self) -> list[tuple[int, bytes]]:
        """All messages up to ReadyForQuery, or up to the end."""
        received = []
        while (message := self.receive()) is not None:
            received.append(message)
            if message[0] == Backend.READY_FOR_QUERY:
                break
        return received

    def errors(self) -> list[ErrorFields]:
        """The errors up to ReadyForQuery, or up to the end."""
        return [messages.read_error(body) for tag, body in self.exchange() if tag == Backend.ERROR_RESPONSE]

    def value(self, sql: str) -> str:
        """The first column of the only row of a query; raises `AssertionError` if it fails."""
        self.send(messages.query(sql))
        rows = []
        for tag, body in self.exchange():
            assert tag != Backend.ERROR_RESPONSE, messages.read_error(body)
            if tag == Backend.DATA_ROW:
                rows.append(body[6 : 6 + int.from_bytes(body[2:6], "big")].decode())
        assert len(rows) == 1
        return rows[0]

    def value_or_error(self, sql: str) -> str:
        """The first column of the only row of a query, or the SQLSTATE with which it fails."""
        self.send(messages.query(sql))
        found = [
            messages.read_error(body).sqlstate
            if tag == Backend.ERROR_RESPONSE
            else messages.read_row(body)[0] or ""
            for tag, body in self.exchange()
            if tag in (Backend.ERROR_RESPONSE, Backend.DATA_ROW)
        ]
        assert len(found) == 1
        return found[0]

    def run(self, sql: str) -> list[ErrorFields]:
        """The errors of a query."""
        self.send(messages.query(sql))
        return self.errors()

    def farewell(self) -> tuple[str, str]:
        """Severity and SQLSTATE of the error with which the other side closes the connection."""
        message = self.receive()
        assert message is not None
        tag, body = message
        assert tag == Backend.ERROR_RESPONSE
        assert self.receive() is None
        error = messages.read_error(body)
        return error.severity, error.sqlstate
