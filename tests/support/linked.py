"""An edge and an origin in the test's own Trio program: two poolers, the first of which has the second for
its origin.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import attrs
import trio

import trio_pool
from tests.net.harness import LIMIT, Log, Running, logged, origin_url
from tests.support.target import DATABASE, PASSWORD, USER
from trio_pool.pooling.pool import PoolKey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from tests.support.certificates import Certificates
    from trio_pool.cli.postgres import LocalPostgres

EDGE = "edge"
"""The user that edges log in to the origin as."""
EDGE_PASSWORD = "the edge's"
TIMEOUTS = {"lease_wait": "10s", "server_connect": "10s", "drain": "5s"}
Table = dict[str, Any]


@attrs.frozen
class Linked:
    """Both of them. The pools of the tests' database: `links` is the edge's, whose servers are links."""

    edge: Running
    origin: Running

    @property
    def log(self) -> Log:
        return self.edge.log

    def links(self) -> Any:
        return self.edge.service.pools[PoolKey(DATABASE, EDGE)]

    def check(self) -> None:
        self.edge.check()
        self.origin.check()

    async def at_rest(self) -> None:
        """Return when no client is left at the edge and nothing is leased anywhere."""

        def resting() -> bool:
            self.check()
            pools = [*self.edge.service.pools.values(), *self.origin.service.pools.values()]
            return not self.edge.service.clients.connections and all(
                not (pool.pool.leased or pool.pool.waiting or pool.pool.others[state])
                for pool in pools
                for state in pool.pool.others
            )

        await self.edge.until(resting)


def url(*ports: int, query: str = "sslmode=disable") -> str:
    """An edge's origin at these ports."""
    hosts = ",".join(f"localhost:{port}" for port in ports)
    return f"trio-pool://{EDGE}@{hosts}/{DATABASE}?{query}"


def origin_table(pg: LocalPostgres | str, certificates: Certificates | None = None, **keys: Any) -> Table:
    """The configuration of an origin in front of a PostgreSQL; `keys` are of its database."""
    where = pg if isinstance(pg, str) else origin_url(pg)
    table: Table = {
        "listen": {"addresses": ["127.0.0.1:0"]},
        "auth": {"method": "scram-sha-256"},
        "users": {EDGE: {"password": EDGE_PASSWORD}, USER: {"password": PASSWORD}},
        "databases": {DATABASE: {"origin": where, "password": PASSWORD, "pool_size": 2, **keys}},
        "timeouts": dict(TIMEOUTS),
    }
    if certificates is not None:
        table["listen"]["tls"] = {
            "mode": "require",
            "certificate": str(certificates.server_certificate),
            "key": str(certificates.server_key),
            "client_ca": str(certificates.ca),
        }
    return table


def edge_table(url: str, timeouts: Mapping[str, str] | None = None, **keys: Any) -> Table:
    """The configuration of an edge; `keys` are of its database."""
    return {
        "listen": {"addresses": ["127.0.0.1:0"]},
        "auth": {"method": "trust"},
        "users": {USER: {"password": PASSWORD}},
        "databases": {DATABASE: {"origin": url, "password": EDGE_PASSWORD, "pool_size": 4, **keys}},
        "timeouts": {**TIMEOUTS, **(timeouts or {})},
    }


@asynccontextmanager
async def serving(table: Table, log: Log, user: str = USER) -> AsyncIterator[Running]:
    """A pooler with this configuration; nothing of its own may have failed when the block ends."""
    config = trio_pool.Config.from_dict(table)
    async with trio.open_nursery() as nursery:
        running = Running(await nursery.start(trio_pool.serve, config), log, DATABASE, user)
        yield running
        running.check()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def collecting(limit: float = LIMIT) -> AsyncIterator[Log]:
    """The log of all poolers in the block, which may take so many seconds and log no error."""
    with logged() as log, trio.fail_after(limit):
        try:
            yield log
        except BaseException:
            for entry in log.entries[-60:]:
                print(entry)
            raise
    assert [entry for entry in log.entries if entry["level"] == "error"] == []


@asynccontextmanager
async def linked(
    pg: LocalPostgres,
    certificates: Certificates | None = None,
    *,
    origin: Mapping[str, Any] | None = None,
    edge: Mapping[str, Any] | None = None,
    origin_timeouts: Mapping[str, str] | None = None,
    edge_timeouts: Mapping[str, str] | None = None,
    limit: float = LIMIT,
) -> AsyncIterator[Linked]:
    """An edge and an origin, with mutual TLS if there are certificates. `origin` and `edge` are keys of their
    databases.
    """
    table = origin_table(pg, certificates, **(origin or {}))
    table["timeouts"] |= origin_timeouts or {}
    async with collecting(limit) as log, serving(table, log) as far:
        query = "sslmode=disable" if certificates is None else mutual(certificates)
        near_table = edge_table(url(far.address[1], query=query), edge_timeouts, **(edge or {}))
        async with serving(near_table, log, EDGE) as near:
            yield Linked(near, far)


def mutual(certificates: Certificates) -> str:
    """What the edge's URL says for mutual TLS."""
    return (
        f"sslrootcert={certificates.ca}&sslcert={certificates.client_certificate}"
        f"&sslkey={certificates.client_key}"
    )
