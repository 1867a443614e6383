"""The HTTP server: hypercorn's connections on our own listening socket, in the service's nursery.

It is a guest of the data plane. Whatever fails in here is logged and ends one HTTP connection at most; how
many there are is bounded; and when it is cancelled it is gone at once, whether its clients read or not. That
last point is why hypercorn's own accept loop is not used: its connections send inside a shield, which only
closing the socket ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import attrs
import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.logging import Logger
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, LifespanState

from trio_pool.net.listeners import listening, spell

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hypercorn.typing import AppWrapper, ASGIFramework, ResponseSummary, WWWScope
    from starlette.applications import Starlette

    from trio_pool.config.address import TcpAddress

log = structlog.get_logger()

MOST_CONNECTIONS = 200
"""More are closed as soon as they are accepted: the descriptors are for PostgreSQL's clients."""


async def serve_http(
    address: TcpAddress,
    app: Starlette,
    *,
    count: Callable[[int], None] = lambda change: None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled, which takes no time. `started` gets the URL, with the port that was chosen.

    `count` is told how many more sockets (or fewer) a task waits on for something to read. Raises OSError
    with the address in it if that cannot be listened on, and nothing after that.
    """
    try:
        listener = listening(address)
        sock = listener.__enter__()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(address)) from error
    try:
        server = _Server(ASGIWrapper(cast("ASGIFramework", app)), _configuration(), count)
        task_status.started(f"http://{spell(sock)}")
        await server.run(trio.SocketListener(trio.socket.from_stdlib_socket(sock)))
    except Exception as error:
        log.error("internal error in the HTTP server", address=str(address), exc_info=error)
    finally:
        listener.__exit__(None, None, None)


async def run_apart(task: Callable[[], Awaitable[None]]) -> None:
    """Run what belongs to the web and not to a request; its errors end it, are logged, and go no further."""
    try:
        await task()
    except Exception as error:
        log.error("internal error in a task of the HTTP server", exc_info=error)


@attrs.define(eq=False)
class _Server:
    """Open connections and what they are served with."""

    app: AppWrapper
    config: Config
    count: Callable[[int], None]
    context: WorkerContext = attrs.field(factory=lambda: WorkerContext(None))
    streams: set[trio.SocketStream] = attrs.field(factory=set)

    async def run(self, listener: trio.SocketListener) -> None:
        self.count(1)
        try:
            async with trio.open_nursery() as connections:
                connections.start_soon(self._cut_when_cancelled)
                await trio.serve_listeners(self._serve, [listener], handler_nursery=connections)
        finally:
            self.count(-1)

    async def _cut_when_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            for stream in self.streams:
                stream.socket.close()

    async def _serve(self, stream: trio.SocketStream) -> None:
        """One connection, and the boundary behind which its errors stay."""
        if len(self.streams) >= MOST_CONNECTIONS:
            stream.socket.close()
            return
        self.streams.add(stream)
        self.count(1)
        try:
            state = ConnectionState(LifespanState())
            await TCPServer(self.app, self.config, self.context, state, cast("Any", stream))
        except Exception as error:
            log.error("internal error in an HTTP connection", exc_info=error)
        finally:
            self.count(-1)
            self.streams.discard(stream)
            stream.socket.close()


def _configuration() -> Config:
    config = Config()
    config.logger_class = _Log
    config.include_server_header = False
    return config


class _Log(Logger):
    """Hypercorn's log as ours. Requests are not logged."""

    def __init__(self, config: Config) -> None:
        pass

    async def access(self, request: WWWScope, response: ResponseSummary, request_time: float) -> None:
        pass

    async def critical(self, message: str, *args: Any, **kwargs: Any) -> None:
        log.error(message % args)

    async def error(self, message: str, *args: Any, **kwargs: Any) -> None:
        log.error(message % args)

    async def warning(self, message: str, *args: Any, **kwargs: Any) -> None:
        log.warning(message % args)

    async def info(self, message: str, *args: Any, **kwargs: Any) -> None:
        log.debug(message % args)

    async def debug(self, message: str, *args: Any, **kwargs: Any) -> None:
        log.debug(message % args)

    async def exception(self, message: str, *args: Any, **kwargs: Any) -> None:
        log.error("internal error in an HTTP request", error=message % args, exc_info=True)

    async def log(self, level: int, message: str, *args: Any, **kwargs: Any) -> None:
        log.debug(message % args)
