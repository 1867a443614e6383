"""Reading and writing whole messages on a connection that is not in the data plane yet (start-up, login) or
never will be (cancel requests).

The slow path by design: one message at a time, awaited, under the deadline of whoever calls. `upgrade`
replaces the plain transport by a TLS one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from trio_pool.net.transport import PlainTransport, TLSTransport
from trio_pool.wire.frames import MAX_AUTHENTICATION, Assembler

if TYPE_CHECKING:
    import ssl


class EndOfStream(Exception):
    """The peer closed the connection. `error` says how, where the system told."""

    def __init__(self, error: OSError | None = None) -> None:
        super().__init__("the connection was closed" if error is None else f"the connection broke: {error}")
        self.error = error


@attrs.define(eq=False)
class Conversation:
    """One connection before it enters the data plane."""

    transport: PlainTransport | TLSTransport
    assembler: Assembler

    @classmethod
    def over(cls, transport: PlainTransport, limit: int = MAX_AUTHENTICATION) -> Conversation:
        return cls(transport, Assembler(limit))

    @property
    def unread(self) -> bool:
        """Whether more has arrived than was asked for; before TLS that is an attack."""
        return bool(self.assembler.buffer)

    async def startup(self) -> bytes:
        """The body of the next packet without a tag."""
        while (body := self.assembler.startup()) is None:
            await self.receive()
        return body

    async def message(self) -> tuple[int, bytes]:
        """Tag and body of the next message."""
        while (message := self.assembler.message()) is None:
            await self.receive()
        return message

    async def byte(self) -> bytes:
        """The one byte that answers an SSLRequest.

        Exactly one is taken, so that nothing in front of the handshake can be smuggled in.
        """
        while not self.assembler.buffer:
            await self.receive()
        first = bytes(self.assembler.buffer[:1])
        del self.assembler.buffer[:1]
        return first

    async def receive(self) -> None:
        """Wait for more bytes. Raises `EndOfStream`."""
        while True:
            await trio.lowlevel.wait_readable(self.transport.fileno())
            data = self.transport.receive()
            if data:
                self.assembler.feed(data)
                return
            if data == b"":
                raise EndOfStream(self.transport.error)

    async def send(self, data: bytes) -> None:
        """Send everything. A peer that reads nothing holds us until the caller's deadline."""
        if not self.transport.send(data):
            await self._drain()

    async def end(self) -> None:
        """Wait until the peer closes; whatever it still says is ignored."""
        try:
            while True:
                await self.receive()
                self.assembler.rest()
        except EndOfStream:
            return

    async def upgrade(
        self, context: ssl.SSLContext, *, server_side: bool, server_hostname: str | None = None
    ) -> TLSTransport:
        """Negotiate TLS. Raises `ssl.SSLError` or `EndOfStream`."""
        assert isinstance(self.transport, PlainTransport)
        tls = TLSTransport(self.transport, context, server_side=server_side, server_hostname=server_hostname)
        if self.assembler.buffer:  # direct TLS: its first bytes were read to recognise it
            tls.feed_handshake(self.assembler.rest())
        while not tls.handshake():
            await self._drain()
            await trio.lowlevel.wait_readable(tls.fileno())
            if not tls.receive_handshake():
                raise EndOfStream(tls.error)
        await self._drain()
        self.transport = tls
        self.assembler.feed(tls.decrypted() or b"")
        return tls

    async def _drain(self) -> None:
        while self.transport.pending:
            await trio.lowlevel.wait_writable(self.transport.fileno())
            self.transport.flush()
