"""A network that fails when it is told to: a TCP forwarder whose connections can be cut and stalled, and
which can refuse new ones.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs
import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

RESET = struct.pack("ii", 1, 0)
CHUNK = 65536


@attrs.define(eq=False)
class Network:
    """Forwards from `port` to `target`, a port of 127.0.0.1, which may change."""

    target: int
    port: int = 0
    refusing: bool = False
    """Whether new connections are reset."""
    connections: dict[trio.CancelScope, None] = attrs.field(factory=dict)
    _flowing: trio.Event = attrs.field(factory=trio.Event)

    def cut(self, count: int | None = None) -> int:
        """Reset so many of the connections, oldest first, or all of them; how many that were."""
        chosen = list(self.connections)[:count]
        for scope in chosen:
            scope.cancel()
        return len(chosen)

    def stall(self) -> None:
        """Hold back everything; connections stay, and nobody is told."""
        self._flowing = trio.Event()

    def restore(self) -> None:
        """Pass everything on again, what was held back first."""
        self.refusing = False
        self._flowing.set()

    async def serve(self, near: trio.SocketStream) -> None:
        """One connection."""
        far: trio.SocketStream | None = None
        with trio.CancelScope() as scope:
            self.connections[scope] = None
            try:
                if not self.refusing:
                    await self._flowing.wait()
                    far = await trio.open_tcp_stream("127.0.0.1", self.target)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._pass_on, near, far, scope)
                        nursery.start_soon(self._pass_on, far, near, scope)
            except* OSError:
                pass
            finally:
                self.connections.pop(scope, None)
                for stream in (near, far):
                    if stream is not None:
                        _reset(stream)

    async def _pass_on(
        self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        try:
            while data := await source.receive_some(CHUNK):
                await self._flowing.wait()
                await sink.send_all(data)
            await self._flowing.wait()
            await sink.send_eof()
        except trio.BrokenResourceError:
            scope.cancel()  # the other side is told as it was told to us


def _reset(stream: trio.SocketStream) -> None:
    with contextlib.suppress(OSError):
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    stream.socket.close()


@asynccontextmanager
async def network(target: int, host: str = "127.0.0.1") -> AsyncIterator[Network]:
    """Such a network, for as long as the block lasts."""
    (listener,) = await trio.open_tcp_listeners(0, host=host)
    one = Network(target, listener.socket.getsockname()[1])
    one.restore()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, one.serve, [listener])
        yield one
        nursery.cancel_scope.cancel()
