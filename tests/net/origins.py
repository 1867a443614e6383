"""Origins that misbehave on purpose: a proxy that breaks off a real PostgreSQL's answers, and one that says
what a test tells it to.
"""

from __future__ import annotations

import contextlib
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs
import trio

from tests.net.peer import Peer
from tests.support.target import DATABASE, USER
from trio_pool.wire import messages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio_pool.cli.postgres import LocalPostgres

PARAMETERS = {
    "application_name": "",
    "client_encoding": "UTF8",
    "server_version": "18.0",
    "standard_conforming_strings": "on",
}


def url(port: int, sslmode: str = "disable") -> str:
    return f"postgresql://{USER}@127.0.0.1:{port}/{DATABASE}?sslmode={sslmode}"


@attrs.define(eq=False)
class Proxy:
    """Passes bytes between the pooler and PostgreSQL; of the latter's it can pass some and then something
    else.
    """

    pg: LocalPostgres
    scram: bool = False
    """Whether the login is a real one; else PostgreSQL trusts it, which is much faster."""
    port: int = 0
    listening: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    passed: int = 0
    """Bytes of PostgreSQL's on the latest connection."""
    _left: int | None = None
    _instead: bytes = b""
    _together: bool = False
    _connections: set[trio.CancelScope] = attrs.field(factory=set)

    def break_off(self, after: int, instead: bytes = b"", *, together: bool = False) -> None:
        """Pass so many more bytes of PostgreSQL's answers, counted from now on, then `instead`, then close.
        Once.

        With `together`, `instead` arrives with the last of them.
        """
        self._left, self._instead, self._together = after, instead, together

    def mend(self) -> None:
        """Pass everything."""
        self._left = None

    def close_all(self) -> None:
        """Close every connection."""
        for scope in self._connections:
            scope.cancel()

    async def serve(self, near: trio.SocketStream) -> None:
        """One connection of the pooler's."""
        with trio.CancelScope() as scope:
            self._connections.add(scope)
            try:
                async with near, await self._connect() as far:
                    self.passed = 0
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._requests, near, far)
                        await self._answers(far, near)
                        nursery.cancel_scope.cancel()
            except* trio.BrokenResourceError:
                pass
            finally:
                self._connections.discard(scope)

    async def _connect(self) -> trio.SocketStream:
        if self.scram:
            return await trio.open_tcp_stream(self.pg.host, self.pg.port)
        return await trio.open_unix_socket(f"{self.pg.socket_dir}/.s.PGSQL.{self.pg.port}")

    async def _requests(self, near: trio.SocketStream, far: trio.SocketStream) -> None:
        async for data in near:
            await far.send_all(data)
        await far.send_eof()

    async def _answers(self, far: trio.SocketStream, near: trio.SocketStream) -> None:
        async for data in far:
            if self._left is None:
                self.passed += len(data)
                await near.send_all(data)
                continue
            now = data[: self._left]
            self._left -= len(now)
            self.passed += len(now)
            if self._left or len(now) == len(data):
                await near.send_all(now)
                continue
            self._left = None
            if self._together:
                await near.send_all(now + self._instead)
                return
            if now:
                await near.send_all(now)
            if self._instead:
                await trio.sleep(
                    0.002
                )  # so that it is a segment of its own: TCP tells nobody when it was read
                await near.send_all(self._instead)
            return


@attrs.define(eq=False)
class Scripted:
    """An origin that does what `script` says on each connection; `number` counts them from 0."""

    script: Callable[[Peer, int], Awaitable[None]]
    port: int = 0
    listening: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    connected: list[float] = attrs.field(factory=list)
    """When."""

    async def serve(self, stream: trio.SocketStream) -> None:
        number = len(self.connected)
        self.connected.append(trio.current_time())
        async with Peer(stream, "") as peer:
            # The pooler may have had enough.
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self.script(peer, number)


async def read_startup(peer: Peer) -> bytes:
    """The body of the packet that opens a connection; b"" at the end."""
    while len(peer.unread) < 4 or len(peer.unread) < int.from_bytes(peer.unread[:4], "big"):
        if not await peer.more():
            return b""
    size = int.from_bytes(peer.unread[:4], "big")
    body = bytes(peer.unread[4:size])
    del peer.unread[:size]
    return body


def greeting(process_id: int = 1, secret: bytes = b"1234") -> bytes:
    """From AuthenticationOk to ReadyForQuery."""
    return (
        messages.AUTHENTICATION_OK
        + b"".join(messages.parameter_status(name, value) for name, value in PARAMETERS.items())
        + messages.backend_key_data(process_id, secret)
        + messages.READY[ord("I")]
    )


async def record_greeting(pg: LocalPostgres) -> bytes:
    """What a PostgreSQL says to somebody whom it trusts, from AuthenticationOk to ReadyForQuery."""
    async with await Peer.connect(f"{pg.socket_dir}/.s.PGSQL.{pg.port}") as peer:
        await peer.send(messages.startup({"user": USER, "database": DATABASE}))
        return b"".join(messages.message(*message) for message in await peer.exchange())


def row(value: str) -> bytes:
    """The answer to a query with one column and one row, up to ReadyForQuery."""
    text = value.encode()
    column = messages.text("v") + bytes(6) + b"\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0"
    return (
        messages.message(ord("T"), b"\0\1" + column)
        + messages.message(ord("D"), b"\0\1" + len(text).to_bytes(4, "big") + text)
        + messages.command_complete("SELECT 1")
    )


async def let_in(peer: Peer) -> bytes:
    """Log the pooler in without a password.

    The startup packet, b"" if it was another kind of connection's end.
    """
    packet = await read_startup(peer)
    await peer.send(greeting())
    return packet


async def answer_queries(peer: Peer, *, once: bool = False) -> None:
    """Answer everything, or the first thing, that is asked with one row."""
    while (message := await peer.receive()) is not None:
        if message[0] in b"QS":
            await peer.send(row("1") + messages.READY[ord("I")])
            if once:
                return


@asynccontextmanager
async def listening(origin: Proxy | Scripted) -> AsyncIterator[None]:
    """Serve an origin, on a port of its own that it is told.

    Cancelling its `listening` closes the port; connections live on.
    """
    (listener,) = await trio.open_tcp_listeners(origin.port, host="127.0.0.1")
    origin.port = listener.socket.getsockname()[1]
    origin.listening = trio.CancelScope()
    async with trio.open_nursery() as connections:

        async def accept() -> None:
            with origin.listening:
                await trio.serve_listeners(origin.serve, [listener], handler_nursery=connections)

        connections.start_soon(accept)
        yield
        connections.cancel_scope.cancel()


@asynccontextmanager
async def proxy(pg: LocalPostgres, *, scram: bool = False) -> AsyncIterator[Proxy]:
    """A proxy in front of a PostgreSQL, for as long as the block lasts."""
    one = Proxy(pg, scram)
    async with listening(one):
        yield one


@asynccontextmanager
async def scripted(script: Callable[[Peer, int], Awaitable[None]]) -> AsyncIterator[Scripted]:
    """An origin that does what a function says, for as long as the block lasts."""
    one = Scripted(script)
    async with listening(one):
        yield one


def closed_port() -> int:
    """A port at which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port
