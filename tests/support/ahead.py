"""A pooler whose servers are shared by reads that are sent ahead, and what makes that happen for certain.

A statement is sent ahead only if it is known to read only and to be fast; `know` brings that about by the way
that statements take, but for the time. What it waits behind is a read of a table that another connection has
locked: it runs until that lets go (`Gate`).
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from tests.support import requests
from tests.support.serving import server_pids, serving, superuser
from tests.support.target import DATABASE, USER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.net.harness import Running
    from tests.net.peer import Peer
    from trio_pool.cli.postgres import LocalPostgres
    from trio_pool.net.client import Client
    from trio_pool.net.queue_ahead import History, QueueAhead

BLOCKED: Final = "select n from ahead_gate"
"""What waits at the gate; its answer is `OPEN`."""
OPEN: Final = "7"
NOT_YET: Final = frozenset({"read for the first time", "the catalog is being asked"})
SETUP: Final = f"""
    create table ahead_gate (n int);
    insert into ahead_gate values ({OPEN});
    create table ahead_log (t text);
    create sequence ahead_numbers;
    grant all on ahead_gate, ahead_log, ahead_numbers to {USER};
"""
TEAR_DOWN: Final = "drop table if exists ahead_gate, ahead_log; drop sequence if exists ahead_numbers"


@attrs.define(eq=False)
class Gate:
    """The lock on a table, and whose it is."""

    superuser: Peer

    async def close(self) -> None:
        assert await self.superuser.rows("begin") == []
        assert await self.superuser.rows("lock table ahead_gate in access exclusive mode") == []

    async def open(self) -> None:
        assert await self.superuser.rows("commit") == []

    async def waits(self, count: int = 1) -> None:
        """Return when so many statements wait at it in PostgreSQL."""
        sql = "select count(*) from pg_locks where not granted and relation = 'ahead_gate'::regclass"
        while await self.superuser.rows(sql) != [str(count)]:  # noqa: ASYNC110
            await trio.sleep(0.005)


@attrs.define(eq=False)
class Sharing:
    """The pooler, and the gate."""

    running: Running
    gate: Gate

    @property
    def ahead(self) -> QueueAhead:
        found = self.running.origin.ahead
        assert found is not None
        return found

    def client(self, peer: Peer) -> Client:
        """What the pooler has of it."""
        return self.running.service.clients.by_id[peer.process_id]

    async def judge(self, peer: Peer, request: bytes) -> History | str:
        """What the pooler makes of a request of this client, once everybody has been asked: what it knows of
        it, or why it is not sent ahead.
        """
        ahead = self.ahead
        while True:
            before = ahead.statistics.not_eligible.copy()
            history = ahead.history_of(self.client(peer), request)
            if history is not None:
                return history
            (why,) = ahead.statistics.not_eligible - before
            if why not in NOT_YET:
                return why
            while ahead.knowledge.asks:
                await peer.rows("show server_version")  # the catalog is asked when a lease ends

    async def know(self, peer: Peer, request: bytes, seconds: float = 0.0) -> None:
        """It is known to read only, and to take so long. There has to be a free server for that."""
        history = await self.judge(peer, request)
        assert not isinstance(history, str), history
        history.seconds = seconds

    async def queued(self, *peers: Peer) -> None:
        """Return when these wait behind somebody else's statement."""
        await self.running.until(lambda: all(self.client(peer).queued is not None for peer in peers))

    async def hold(self, *holders: Peer) -> None:
        """These occupy a server each, until the gate is opened."""
        await self.gate.close()
        for peer in holders:
            await peer.send(requests.query(BLOCKED))
        await self.gate.waits(len(holders))


@asynccontextmanager
async def sharing(
    postgres: LocalPostgres,
    *,
    pool_size: int = 1,
    keeps: bool = True,
    database: dict[str, Any] | None = None,
    limit: float = 10.0,
    **tables: Any,
) -> AsyncIterator[Sharing]:
    """All servers are there from the beginning. In the end every one must be idle and, if the test `keeps`
    them, the one that it was, and no queue may be left.
    """
    postgres.run_sql(TEAR_DOWN + ";" + SETUP, DATABASE)
    sizes = {"pool_size": pool_size, "min_pool_size": pool_size, **(database or {})}
    try:
        async with (
            superuser(postgres) as direct,
            serving(postgres, databases={DATABASE: sizes}, limit=limit, **tables) as running,
        ):
            shared = Sharing(running, Gate(direct))
            async with await running.log_in() as teacher:
                pool = running.origin.pool
                await running.until(lambda: len(pool.idle) == pool_size)
                if running.origin.ahead is not None:
                    await shared.know(teacher, requests.query(BLOCKED))
                    shared.ahead.trip = 0.0005
            await running.at_rest()
            before = server_pids(running)
            yield shared
            await running.at_rest()
            if keeps:
                assert running.log.find("server disconnected") == []
                assert server_pids(running) == before
            if running.origin.ahead is not None:
                assert not shared.ahead.queues
            for server in pool.idle:
                assert server.queue is None
                assert server.session.free
                assert not server.session.takes_turns
    finally:
        postgres.run_sql(TEAR_DOWN, DATABASE)
