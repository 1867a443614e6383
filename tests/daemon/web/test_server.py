"""The HTTP server is a guest: nothing that happens in it touches those who are pooled, or delays the end."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tests.daemon.web.asking import HTTP, get
from tests.net.harness import logged, pooler
from tests.net.peer import where
from tests.support.pooler import ORIGIN_PASSWORD_VARIABLE, Pooler, to_toml
from tests.support.serving import serving
from tests.support.target import PASSWORD
from trio_pool.config.address import TcpAddress
from trio_pool.daemon.web import server
from trio_pool.daemon.web.server import run_apart, serve_http

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path
    from typing import Any

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    from trio_pool.cli.postgres import LocalPostgres

LOOPBACK = TcpAddress("127.0.0.1", 0)
GET = b"GET /%b HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def fine(request: Request) -> Response:
    return PlainTextResponse("fine")


async def broken(request: Request) -> Response:
    raise ZeroDivisionError


class Endless:
    """An answer that has no end."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.send = send

    def __await__(self) -> Generator[Any, None, None]:
        return self.answer().__await__()

    async def answer(self) -> None:
        await self.send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await self.send({"type": "http.response.body", "body": bytes(1 << 16), "more_body": True})


APP = Starlette(
    routes=[Route("/fine", fine), Route("/broken", broken), Route("/endless", Endless)],
)


async def answered(stream: trio.SocketStream) -> bytes:
    """The same; nothing if the connection is closed instead."""
    try:
        return await ask(stream, b"fine")
    except trio.BrokenResourceError:
        return b""


@attrs.define
class Count:
    """What `count` has been told."""

    sockets: int = 0

    def __call__(self, change: int) -> None:
        self.sockets += change


async def ask(stream: trio.SocketStream, path: bytes) -> bytes:
    """The first bytes of the answer."""
    await stream.send_all(GET % path)
    return bytes(await stream.receive_some(4096))


@pytest.mark.trio
async def test_what_fails_in_a_request_fails_alone() -> None:
    """It is a 500 and a line of the log with its traceback; the next request is served."""
    with logged() as log, trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            url = await nursery.start(serve_http, LOOPBACK, APP)
            address = where(url.removeprefix("http://"))
            async with await trio.open_tcp_stream(*address) as stream:
                assert (await ask(stream, b"broken")).startswith(b"HTTP/1.1 500 ")
            entry = await log.wait_for("internal error in an HTTP request")
            assert entry["exc_info"]
            async with await trio.open_tcp_stream(*address) as stream:
                assert (await ask(stream, b"fine")).startswith(b"HTTP/1.1 200 ")
            nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_bug_of_the_server_ends_the_server_alone() -> None:
    """It is logged; whoever started it goes on."""

    def count(change: int) -> None:
        if change < 0:
            raise ZeroDivisionError

    with logged() as log, trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            url = await nursery.start(partial(serve_http, LOOPBACK, APP, count=count))
            async with await trio.open_tcp_stream(*where(url.removeprefix("http://"))) as stream:
                assert (await ask(stream, b"fine")).startswith(b"HTTP/1.1 200 ")
            await log.wait_for("internal error in the HTTP server")
        assert not nursery.cancel_scope.cancelled_caught


@pytest.mark.trio
async def test_a_task_of_the_web_fails_alone() -> None:
    """It is logged, and whoever started it goes on."""

    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError

    with logged() as log:
        await run_apart(fail)
    assert log.find("internal error in a task of the HTTP server") != []


@pytest.mark.trio
async def test_who_does_not_read_does_not_hold_up_the_end() -> None:
    """A client that asked for more than the sockets take and reads none of it is cut off at once, and the
    count of sockets comes out even.
    """
    count = Count()
    with logged(), trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            url = await nursery.start(partial(serve_http, LOOPBACK, APP, count=count))
            assert count.sockets == 1
            address = where(url.removeprefix("http://"))
            streams = [await trio.open_tcp_stream(*address) for _ in range(5)]
            for stream in streams:
                await stream.send_all(GET % b"endless")
                await stream.receive_some(1)
            await trio.sleep(0.2)  # nothing tells when its buffers are full
            assert count.sockets == 6
            began = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - began < 1.0
        assert count.sockets == 0
        for stream in streams:
            await trio.aclose_forcefully(stream)


@pytest.mark.trio
async def test_a_flood_of_connections_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than so many are closed without an answer, and served again when others have left."""
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 3)
    with logged(), trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            url = await nursery.start(serve_http, LOOPBACK, APP)
            address = where(url.removeprefix("http://"))
            streams = [await trio.open_tcp_stream(*address) for _ in range(3)]
            for stream in streams:
                assert (await ask(stream, b"fine")).startswith(b"HTTP/1.1 200 ")
            async with await trio.open_tcp_stream(*address) as late:
                assert await answered(late) == b""
            for stream in streams:
                await stream.aclose()
            answer = b""
            while not answer:  # not before the server has noticed that the others have left
                async with await trio.open_tcp_stream(*address) as late:
                    answer = await answered(late)
            assert answer.startswith(b"HTTP/1.1 200 ")
            nursery.cancel_scope.cancel()


@pytest.mark.e2e
@pytest.mark.trio
async def test_the_web_ends_with_the_pooler(postgres: LocalPostgres) -> None:
    """With a connection open that does not read, a stop takes no longer than without."""
    async with serving(postgres, http=HTTP) as running:
        service = running.service
        assert service.http_address is not None
        address = where(service.http_address.removeprefix("http://"))
        assert running.log.find("ready", http=service.http_address) != []
        async with await trio.open_tcp_stream(*address) as stream:
            for _ in range(200):
                with trio.move_on_after(0.05):
                    await stream.send_all(GET % b"metrics")
            began = trio.current_time()
            service.stop()
            await running.log.wait_for("stopped")
            assert trio.current_time() - began < 1.0


@pytest.mark.e2e
@pytest.mark.trio
async def test_without_an_address_there_is_no_web(postgres: LocalPostgres) -> None:
    """Then nothing listens, and the ready line says so."""
    async with pooler(postgres) as running:
        assert running.service.http_address is None
        assert running.log.find("ready", http=None) != []


@pytest.mark.e2e
@pytest.mark.trio
async def test_unknown_paths_and_methods(postgres: LocalPostgres) -> None:
    """404 and 405, and HEAD where there is GET."""
    async with serving(postgres, http=HTTP) as running:
        assert (await get(running.service, "/nothing")).status == 404
        assert running.service.http_address is not None
        address = where(running.service.http_address.removeprefix("http://"))
        async with await trio.open_tcp_stream(*address) as stream:
            await stream.send_all(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            assert (await stream.receive_some(4096)).startswith(b"HTTP/1.1 405 ")
        async with await trio.open_tcp_stream(*address) as stream:
            await stream.send_all(b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await stream.receive_some(4096)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.e2e
def test_a_port_in_use_is_an_error_at_the_start(postgres: LocalPostgres, tmp_path: Path) -> None:
    """Exit status 1, and the address is named."""
    with Pooler(postgres, tls=False, auth="trust") as first:
        taken = first.ready["http"].removeprefix("http://")
        path = tmp_path / "trio-pool.toml"
        path.write_text(to_toml({**first.configuration(), "http": {"address": taken}}))
        ended = subprocess.run(
            [sys.executable, "-m", "trio_pool", "serve", "--config", str(path)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env={**os.environ, ORIGIN_PASSWORD_VARIABLE: PASSWORD},
        )
    assert ended.returncode == 1
    why = os.strerror(errno.EADDRINUSE)
    assert f"cannot serve: [Errno {errno.EADDRINUSE}] {why}: '{taken}'" in ended.stderr
    assert '"ready"' not in ended.stderr
