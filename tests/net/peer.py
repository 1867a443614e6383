"""A client without a driver, awaited message by message; of the pooler, or of PostgreSQL itself."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Self

import attrs
import trio

from tests.support.target import DATABASE, PASSWORD, USER
from trio_pool.protocol.login import Login
from trio_pool.wire import messages
from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from trio_pool.wire.messages import ErrorFields

Address = tuple[str, int] | str
Message = tuple[int, bytes]


def where(spelling: str) -> tuple[str, int]:
    """Host and port of an address as the pooler logs it."""
    host, _, port = spelling.rpartition(":")
    return host.strip("[]"), int(port)


@attrs.define(eq=False)
class Peer:
    """One connection. `process_id` and `secret` are its cancel key, once it has logged in."""

    stream: trio.abc.Stream
    address: Address
    unread: bytearray = attrs.field(factory=bytearray)
    process_id: int = 0
    secret: bytes = b""

    @classmethod
    async def connect(cls, address: Address) -> Self:
        """Connect and say nothing. A text is the path of a Unix socket."""
        if isinstance(address, tuple):
            return cls(await trio.open_tcp_stream(*address), address)
        return cls(await trio.open_unix_socket(address), address)

    @classmethod
    async def log_in(cls, address: Address, parameters: Mapping[str, str] | None = None) -> Self:
        """A client under the method `trust`, as the tests' user unless the parameters say otherwise."""
        peer = await cls.connect(address)
        try:
            await peer.start({"user": USER, "database": DATABASE, **(parameters or {})})
        except BaseException:
            peer.close()
            raise
        return peer

    @classmethod
    async def log_in_by_password(cls, address: Address, password: str = PASSWORD) -> Self:
        """A client under any method that asks for a password."""
        peer = await cls.connect(address)
        login = Login(
            {"user": USER, "database": DATABASE},
            password,
            tls=False,
            channel_binding=None,
            allow_cleartext=True,
            client_nonce="rOprNGfwEbeRWgbNEkqO",
        )
        try:
            await peer.send(login.begin())
            while not login.done:
                message = await peer.receive()
                assert message is not None
                reply = login.receive(*message)
                if reply:
                    await peer.send(reply)
        except BaseException:
            peer.close()
            raise
        peer.process_id, peer.secret = login.process_id, login.secret
        return peer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await trio.aclose_forcefully(self.stream)

    def close(self) -> None:
        """Go away without a word."""
        stream = self.stream.transport_stream if isinstance(self.stream, trio.SSLStream) else self.stream
        assert isinstance(stream, trio.SocketStream)
        stream.socket.close()

    async def start(self, parameters: Mapping[str, str]) -> None:
        """Send a StartupMessage and expect to be let in without a password."""
        await self.send(messages.startup(parameters))
        for tag, body in await self.exchange():
            assert tag != Backend.ERROR_RESPONSE, messages.read_error(body)
            if tag == Backend.BACKEND_KEY_DATA:
                self.process_id, self.secret = messages.read_backend_key_data(body)

    async def encrypt(
        self, context: ssl.SSLContext, *, direct: bool = False, certificate: str = "localhost"
    ) -> None:
        """Negotiate TLS, by SSLRequest unless `direct`."""
        if not direct:
            await self.send(messages.SSL_REQUEST)
            assert await self.byte() == b"S"
        self.stream = trio.SSLStream(self.stream, context, server_hostname=certificate, https_compatible=True)
        await self.stream.do_handshake()

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def more(self) -> bool:
        """Receive. False at the end, however it came."""
        try:
            data = await self.stream.receive_some(65536)
        except trio.BrokenResourceError:
            return False
        self.unread += data
        return bool(data)

    async def byte(self) -> bytes:
        """One byte, b"" at the end."""
        while not self.unread:
            if not await self.more():
                return b""
        first = bytes(self.unread[:1])
        del self.unread[:1]
        return first

    async def receive(self) -> Message | None:
        """Tag and body of the next message, None at the end."""
        while len(self.unread) < 5 or len(self.unread) <= int.from_bytes(self.unread[1:5], "big"):
            if not await self.more():
                return None
        end = 1 + int.from_bytes(self.unread[1:5], "big")
        message = self.unread[0], bytes(self.unread[5:end])
        del self.unread[:end]
        return message

    async def exchange(self) -> list[Message]:
        """All messages up to ReadyForQuery, or up to the end."""
        received = []
        while (message := await self.receive()) is not None:
            received.append(message)
            if message[0] == Backend.READY_FOR_QUERY:
                break
        return received

    async def read_rows(self) -> list[str]:
        """The first column of the rows up to ReadyForQuery; raises `AssertionError` at an error or an end."""
        exchanged = await self.exchange()
        for tag, body in exchanged:
            assert tag != Backend.ERROR_RESPONSE, messages.read_error(body)
        assert exchanged
        assert exchanged[-1][0] == Backend.READY_FOR_QUERY
        rows = [body for tag, body in exchanged if tag == Backend.DATA_ROW]
        return [row[6 : 6 + int.from_bytes(row[2:6], "big")].decode() for row in rows]

    async def rows(self, sql: str) -> list[str]:
        """The first column of a query's rows."""
        await self.send(messages.query(sql))
        return await self.read_rows()

    async def table(self, sql: str) -> list[dict[str, str | None]]:
        """A query's rows, by the names of their columns. Raises `AssertionError` at an error."""
        await self.send(messages.query(sql))
        names: list[str] = []
        rows: list[list[str | None]] = []
        for tag, body in await self.exchange():
            assert tag != Backend.ERROR_RESPONSE, messages.read_error(body)
            if tag == Backend.ROW_DESCRIPTION:
                names = re.findall("([^\\0]+)\\0.{18}", body[2:].decode("latin-1"), re.DOTALL)
            elif tag == Backend.DATA_ROW:
                rows.append(messages.read_row(body))
        return [dict(zip(names, row, strict=True)) for row in rows]

    async def errors(self) -> list[ErrorFields]:
        """The errors up to ReadyForQuery, or up to the end."""
        return [
            messages.read_error(body) for tag, body in await self.exchange() if tag == Backend.ERROR_RESPONSE
        ]

    async def run(self, sql: str) -> list[ErrorFields]:
        """The errors of a query."""
        await self.send(messages.query(sql))
        return await self.errors()

    async def farewell(self) -> ErrorFields:
        """The FATAL error with which the other side closes the connection."""
        message = await self.receive()
        assert message is not None, "closed without a word"
        tag, body = message
        assert tag == Backend.ERROR_RESPONSE
        error = messages.read_error(body)
        assert error.severity == "FATAL"
        assert await self.at_end()
        return error

    async def at_end(self) -> bool:
        """Whether the next thing is the end of the connection."""
        return not self.unread and not await self.more()

    async def request_cancel(self) -> None:
        """Ask, on a connection of its own, to cancel what this client does; returns when the request is
        closed.
        """
        await cancel(self.address, self.process_id, self.secret)


async def cancel(address: Address, process_id: int, secret: bytes) -> None:
    """Send a CancelRequest and wait until the other side closes."""
    async with await Peer.connect(address) as peer:
        await peer.send(messages.cancel_request(process_id, secret))
        assert await peer.at_end()
