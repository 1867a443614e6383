"""Plain and TLS sockets behind one small, non-blocking interface.

`receive` returns what has arrived, b"" at the end, None when there is nothing. `send` takes everything and
returns whether all of it is on its way; what is not stays in the transport (`pending`), and the caller stops
reading the other side until `flush` says True. So a transport holds at most what one read of the other side
produced.

Errors of the socket are not raised: a reset connection is one that has ended. `error` keeps the cause for the
log.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Final, Protocol

RECEIVE_SIZE: Final = 1 << 16
"""Bytes read at once when there is much to read."""
SMALL_RECEIVE_SIZE: Final = 1 << 12
"""Bytes read at once otherwise.

`recv` allocates what it is asked for; 4 KiB instead of 64 cost 1.1 microseconds less (measured, CPython
3.11).
"""
_BLOCKED: Final = (BlockingIOError, InterruptedError)


class Transport(Protocol):
    """What the lives of clients and servers need of a socket."""

    @property
    def pending(self) -> bool:
        """Whether something that was sent is still here."""

    @property
    def received(self) -> int:
        """Bytes that have come on the wire."""

    @property
    def sent(self) -> int:
        """Bytes that have gone out on the wire."""

    @property
    def error(self) -> OSError | None:
        """What ended the connection, where the system told."""

    def fileno(self) -> int: ...
    def receive(self) -> bytes | None: ...
    def send(self, data: bytes) -> bool: ...
    def flush(self) -> bool: ...
    def shutdown(self) -> None: ...
    def close(self) -> None: ...


class PlainTransport:
    """A non-blocking stream socket, as it is."""

    __slots__ = ("_rest", "_size", "error", "pending", "received", "sent", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._size = SMALL_RECEIVE_SIZE
        self.pending = False
        self.error: OSError | None = None
        self.received = 0
        """Bytes on the wire."""
        self.sent = 0
        self._rest = b""

    def fileno(self) -> int:
        return self.sock.fileno()

    def receive(self) -> bytes | None:
        try:
            data = self.sock.recv(self._size)
        except _BLOCKED:
            return None
        except OSError as error:
            self.error = error
            return b""
        self.received += len(data)
        if len(data) == self._size:
            self._size = RECEIVE_SIZE
        elif self._size == RECEIVE_SIZE and len(data) <= SMALL_RECEIVE_SIZE:
            self._size = SMALL_RECEIVE_SIZE
        return data

    def send(self, data: bytes) -> bool:
        if self.pending:
            self._rest += data
            return False
        try:
            sent = self.sock.send(data)
        except _BLOCKED:
            sent = 0
        except OSError as error:
            self.error = error
            return True  # nobody will ever read it; the reading side finds the end
        self.sent += sent
        if sent == len(data):
            return True
        self._rest = data[sent:]
        self.pending = True
        return False

    def flush(self) -> bool:
        data, self._rest = self._rest, b""
        self.pending = False
        return self.send(data) if data else True

    def shutdown(self) -> None:
        """Say that nothing more comes; what was sent is still delivered.

        Raises OSError if the peer is gone.
        """
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.sock.close()


class TLSTransport:
    """TLS over a plain transport: `ssl.SSLObject` between two memory buffers, no thread, no waiting.

    The handshake is driven from outside: `handshake` returns True when it is done, and wants to be called
    again whenever something was received.
    """

    __slots__ = ("_ended", "_incoming", "_outgoing", "_plain", "tls")

    def __init__(
        self,
        plain: PlainTransport,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_hostname: str | None = None,
    ) -> None:
        self._plain = plain
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ended = False
        self.tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )

    @property
    def pending(self) -> bool:
        return self._plain.pending

    @property
    def received(self) -> int:
        return self._plain.received

    @property
    def sent(self) -> int:
        return self._plain.sent

    @property
    def error(self) -> OSError | None:
        return self._plain.error

    def fileno(self) -> int:
        return self._plain.fileno()

    def handshake(self) -> bool:
        """One step. Raises `ssl.SSLError`; then the alert that tells the peer why has been sent."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            self._send_outgoing()
        return True

    def feed_handshake(self, data: bytes) -> None:
        """The beginning of a direct TLS handshake, which was read to recognise it."""
        self._incoming.write(data)

    def receive_handshake(self) -> bool:
        """Take what has arrived for the next step. False at the end of the connection."""
        data = self._plain.receive()
        if data:
            self._incoming.write(data)
        return data != b""

    def receive(self) -> bytes | None:
        data = self._plain.receive()
        if data:
            self._incoming.write(data)
        elif data == b"":
            self._ended = True
        return self.decrypted()

    def decrypted(self) -> bytes | None:
        """What has been received and not been read yet: behind a handshake that ended with the peer's first
        words.
        """
        pieces: list[bytes] = []
        try:
            while piece := self.tls.read(max(self._incoming.pending, SMALL_RECEIVE_SIZE)):
                pieces.append(piece)
            self._ended = True  # close_notify
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._plain.error = error
            self._ended = True
        if self._outgoing.pending:
            self._send_outgoing()  # answers to key updates and the like
        if pieces:
            return b"".join(pieces)
        return b"" if self._ended else None

    def send(self, data: bytes) -> bool:
        try:
            self.tls.write(data)
        except ssl.SSLError as error:
            self._plain.error = error
            return True
        return self._send_outgoing()

    def flush(self) -> bool:
        return self._plain.flush()

    def shutdown(self) -> None:
        self._notify()
        self._plain.shutdown()

    def close(self) -> None:
        self._notify()
        self._plain.close()

    def _notify(self) -> None:
        """Send close_notify, as PostgreSQL does; its answer is not waited for, since a dead peer must not
        hold us up.
        """
        with contextlib.suppress(ssl.SSLError, ValueError):  # no answer yet, or there never was a session
            self.tls.unwrap()
        if not self._plain.pending:
            self._send_outgoing()

    def _send_outgoing(self) -> bool:
        return self._plain.send(self._outgoing.read()) if self._outgoing.pending else not self._plain.pending
