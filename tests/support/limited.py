"""A pooler with short time limits and one client of it, both of which must survive the test."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

import attrs
import trio

from tests.net.peer import Peer
from tests.support import requests
from tests.support.requests import Reply
from tests.support.serving import server_pids, serving
from tests.support.talk import ask, done, extended, refused, replies, selected
from tests.support.target import DATABASE, USER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from tests.net.harness import Running
    from trio_pool.cli.postgres import LocalPostgres

LIMIT: Final = 0.3
"""Seconds that are too long, for what the tests let last for ever."""
SPAN: Final = f"{LIMIT * 1000:.0f}ms"
SINK: Final = "limited"
"""A table of one column, text: empty before and after every test."""
SYNC: Final = requests.SYNC
FAILED: Final = refused("25P02", "E")
ENDED: Final = done("ROLLBACK")
PARSED: Final = [Reply("1"), Reply("2")]
SLEEPS: Final = f"select 'short' from pg_sleep({LIMIT / 2})"
BIG_ROW: Final = "x" * 1000
BIG_ROWS: Final = 60_000
BIG: Final = f"select repeat('x', {len(BIG_ROW)}) from generate_series(1, {BIG_ROWS})"
"""More than all sockets on the way hold."""
SLOW: Final = "select 'slow' from pg_sleep(30)"


@attrs.define(eq=False)
class Limited:
    """The pooler and the client."""

    running: Running
    peer: Peer

    async def freed(self) -> None:
        """Return when the client has no server any more: every one is clean and idle."""
        pool = self.running.origin.pool
        await self.running.until(lambda: len(pool.idle) == pool.servers)

    async def begin(self, row: str = "never") -> None:
        """Begin a transaction that has written something."""
        assert await self.peer.rows("begin") == []
        assert await self.peer.rows(f"insert into {SINK} values ('{row}')") == []

    async def written(self) -> list[str]:
        """What has been committed."""
        async with await self.running.log_in() as other:
            return await other.rows(f"select t from {SINK} order by t")


@contextmanager
def sink(postgres: LocalPostgres) -> Iterator[None]:
    """The table, for as long as the block lasts; in the end it must be empty."""
    postgres.run_sql(f"create table {SINK} (t text); grant all on {SINK} to {USER}", DATABASE)
    try:
        yield
        assert postgres.run_sql(f"select t from {SINK}", DATABASE) == ""
    finally:
        postgres.run_sql(f"drop table {SINK}", DATABASE)


@asynccontextmanager
async def limited(
    postgres: LocalPostgres,
    timeouts: Mapping[str, str],
    *,
    pool_size: int = 1,
    keeps: bool = True,
    parameters: Mapping[str, str] | None = None,
) -> AsyncIterator[Limited]:
    """When the block ends the client must be able to go on as if nothing had happened, and every server must
    be idle and, if it `keeps` them, the one that it was.
    """
    with sink(postgres):
        async with serving(
            postgres,
            databases={DATABASE: {"pool_size": pool_size, "min_pool_size": pool_size}},
            timeouts={"lease_wait": "10s", "idle_in_transaction": "0", **timeouts},
        ) as running:
            async with await running.log_in(**(parameters or {})) as peer:
                assert await peer.rows("select 1") == ["1"]
                pool = running.origin.pool
                await running.until(lambda: len(pool.idle) == pool_size)
                before = server_pids(running)
                yield Limited(running, peer)
                await trio.lowlevel.checkpoint()
                for word in ("good", "as new"):
                    assert await ask(peer, f"select '{word}'") == selected(word)
            await running.at_rest()
            if keeps:
                assert server_pids(running) == before
                assert running.log.find("server disconnected") == []


async def fails_until_ended(peer: Peer, end: str = "rollback") -> None:
    """The transaction is a failed one; the client ends it."""
    assert await ask(peer, "select 1") == FAILED
    assert await replies(peer, extended("select $1::text", "x") + SYNC) == FAILED
    assert await ask(peer, "savepoint s") == FAILED
    assert await ask(peer, end) == ENDED


async def slow_reader(running: Running) -> Peer:
    """A client whose socket holds little."""
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await sock.connect(running.address)
    peer = Peer(trio.SocketStream(sock), running.address)
    await peer.start({"user": USER, "database": DATABASE})
    return peer
