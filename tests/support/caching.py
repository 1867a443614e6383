"""A pooler that answers repeated reads from memory, and how to ask it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import attrs
import trio

from tests.support import requests
from tests.support.serving import serving, superuser
from tests.support.talk import ask, replies
from tests.support.target import DATABASE
from trio_pool.cache.statuses import Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.net.harness import Running
    from tests.net.peer import Peer
    from tests.support.requests import Reply
    from trio_pool.cli.postgres import LocalPostgres
    from trio_pool.net.cached import CachedReads

PATIENCE = 20.0
"""Seconds within which the catalog has been asked, on a machine that does much else."""
SETUP = """
DROP TABLE IF EXISTS kept CASCADE;
CREATE TABLE kept (id int PRIMARY KEY, value text);
INSERT INTO kept SELECT n, 'value ' || n FROM generate_series(1, 100) AS n;
"""


@attrs.define(eq=False)
class Caching:
    """The pooler, and a connection past it."""

    running: Running
    direct: Peer

    @property
    def cached(self) -> CachedReads:
        found = self.running.origin.cached
        assert found is not None
        return found

    def count(self, status: Status) -> int:
        """Requests that had this status so far."""
        return self.cached.statistics.statuses()[status]

    @property
    def hits(self) -> int:
        return self.count(Status.HIT)

    async def asked(self, peer: Peer, request: bytes | str) -> tuple[list[Reply], Status | None]:
        """What is answered, and the status that was counted; None if none was."""
        before = self.cached.statistics.statuses()
        if isinstance(request, str):
            answer = await ask(peer, request)
        else:
            answer = await replies(peer, request)
        counted = self.cached.statistics.statuses() - before
        statuses = {status for status in counted if status is not Status.MISS or len(counted) == 1}
        assert len(statuses) <= 1, counted
        return answer, next(iter(statuses), None)

    async def keep(self, peer: Peer, request: bytes | str) -> list[Reply]:
        """Ask until it is answered from memory, and return that answer."""
        with trio.move_on_after(PATIENCE):
            while True:
                answer, status = await self.asked(peer, request)
                if status is Status.HIT:
                    return answer
                await ask(peer, "select 1")  # the catalog is asked when a lease ends
        raise AssertionError(f"never a hit: {self.cached.statistics.reasons()}")

    async def settled(self) -> None:
        """The catalog is not being asked anything: no server is leased for that."""
        knowledge = self.running.origin.knowledge
        await self.running.until(lambda: not knowledge._asked and not knowledge._asking.locked())


@asynccontextmanager
async def caching(
    postgres: LocalPostgres,
    *,
    setup: str = SETUP,
    pool_size: int = 2,
    cache: dict[str, Any] | None = None,
    database: dict[str, Any] | None = None,
    others: dict[str, dict[str, Any]] | None = None,
    **tables: Any,
) -> AsyncIterator[Caching]:
    """With the tables of `setup`, which the tests' user owns, and with other databases."""
    postgres.run_sql(f"SET ROLE app; {setup}", DATABASE)
    own = {"pool_size": pool_size, "cache": {"enabled": True, **(cache or {})}, **(database or {})}
    async with (
        superuser(postgres) as direct,
        serving(postgres, databases={DATABASE: own, **(others or {})}, **tables) as running,
    ):
        yield Caching(running, direct)
        await running.at_rest()


def prepared(name: str, sql: str) -> bytes:
    return requests.parse(name, sql) + requests.SYNC


def bound(name: str, *parameters: str) -> bytes:
    """One execution of a prepared statement."""
    return requests.bind(name, *parameters) + requests.execute() + requests.SYNC


def unnamed(sql: str, *parameters: str) -> bytes:
    """What drivers send that prepare nothing."""
    return (
        requests.parse("", sql)
        + requests.bind("", *parameters)
        + requests.describe_portal()
        + requests.execute()
        + requests.SYNC
    )
