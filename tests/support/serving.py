"""A pooler inside the test's Trio program whose whole configuration the test says: several databases, users
with limits of their own, settings of `[session]`.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio_pool
from tests.net.harness import LIMIT, Running, origin_url, served
from tests.net.peer import Peer
from tests.support.target import DATABASE, PASSWORD, USER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from trio_pool.cli.postgres import LocalPostgres
    from trio_pool.net.server import Server


@asynccontextmanager
async def serving(
    origin: LocalPostgres | str,
    *,
    databases: Mapping[str, Mapping[str, Any]] | None = None,
    limit: float = LIMIT,
    **tables: Any,
) -> AsyncIterator[Running]:
    """Serve these databases in front of one origin, "app" alone by default; every one has a pool of 1 unless
    it says otherwise. `tables` are the configuration's other ones.

    When the block ends, nothing of the pooler's own may have failed.
    """
    url = origin if isinstance(origin, str) else origin_url(origin)
    common = {"origin": url, "password": PASSWORD, "pool_size": 1}
    config = trio_pool.Config.from_dict(
        {
            "listen": {"addresses": ["127.0.0.1:0"]},
            "auth": {"method": "trust"},
            "users": {USER: {"password": PASSWORD}},
            "databases": {name: {**common, **own} for name, own in (databases or {DATABASE: {}}).items()},
            **tables,
        }
    )
    async with served(config, limit) as running:
        yield running


@asynccontextmanager
async def superuser(pg: LocalPostgres) -> AsyncIterator[Peer]:
    """A superuser's connection to the tests' database, past the pooler."""
    async with await Peer.connect(f"{pg.socket_dir}/.s.PGSQL.{pg.port}") as peer:
        await peer.start({"user": pg.superuser, "database": DATABASE})
        yield peer


@asynccontextmanager
async def direct(pg: LocalPostgres) -> AsyncIterator[Peer]:
    """A connection of the tests' user past the pooler."""
    async with await Peer.connect(f"{pg.socket_dir}/.s.PGSQL.{pg.port}") as peer:
        await peer.start({"user": USER, "database": DATABASE})
        yield peer


def servers(running: Running) -> Iterator[Server]:
    """All server connections that have logged in."""
    for origin in running.service.pools.values():
        yield from origin.pool.idle
        yield from origin.pool.leased


def server_pids(running: Running) -> set[int]:
    """The process ids of PostgreSQL behind them."""
    return {server.dialled.login.process_id for server in servers(running)}
