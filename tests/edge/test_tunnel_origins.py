"""Several origins, and origins of several processes, behind one edge; and who an edge is to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.edge.test_tunnel import between, cancel_sleep, tunnelled
from tests.edge.tunnelled import NAME, SECRET, Papers, edge_config, origin_config, poolers
from tests.net.harness import watcher
from tests.net.peer import Peer
from tests.support.pooler import Pooler
from tests.support.talk import ask, done
from tests.support.target import DATABASE, USER

if TYPE_CHECKING:
    from pathlib import Path

    from tests.edge.tunnelled import Started
    from trio_pool.cli.postgres import LocalPostgres

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

BOTH = f"trio-pool://{USER}@{NAME},paris/{DATABASE}?via=tunnel"


@pytest.fixture
def postgres(any_postgres: LocalPostgres) -> LocalPostgres:
    return any_postgres


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    return Papers(tmp_path)


async def test_an_origin_that_stops_hurts_nobody(postgres: LocalPostgres, papers: Papers) -> None:
    """Busy clients, one of them in transactions: when one of two origins of a name stops, nobody gets an
    error, and the other one serves them.
    """
    over = trio.Event()

    async def busy(number: int) -> None:
        async with await there.log_in() as client:
            count = 0
            while not over.is_set():
                count += 1
                if number % 2:
                    assert await client.rows(f"select {count}") == [str(count)]
                else:
                    assert await ask(client, "begin") == done("BEGIN", "T")
                    assert await client.rows(f"select {count}") == [str(count)]
                    assert await ask(client, "commit") == done("COMMIT")

    async with tunnelled(postgres, papers) as there:
        second = await there.both.start(origin_config(postgres, papers.dial(there.wire.address)))
        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(busy, number)
            await there.edge.running.until(lambda: leases(there.origin) > 20)
            await there.origin.stop()
            before = leases(second)
            await there.edge.running.until(lambda: leases(second) > before + 20)
            over.set()


def leases(started: Started) -> int:
    return sum(pool.pool.leases for pool in started.running.service.pools.values())


async def test_origins_of_two_names(postgres: LocalPostgres, papers: Papers) -> None:
    """The first one of the URL serves while it is there, else the second."""
    async with poolers() as both:
        listen = papers.listen(origins=[NAME, "paris"])
        config = edge_config(
            listen,
            database={"origin": BOTH},
            timeouts={"lease_wait": "10s", "server_connect": "1s", "server_idle": "1s"},
        )
        edge = await both.start(config)
        wire = await between(both, edge)
        paris = papers.issue("paris.pem", "paris")
        second = await both.start(origin_config(postgres, papers.dial(wire.address, certificate=paris)))
        async with await edge.running.log_in() as client:
            assert await client.rows("select 1") == ["1"]
        assert leases(second)
        first = await both.start(origin_config(postgres, papers.dial(wire.address)))
        await second.stop()
        async with await edge.running.log_in() as client:
            assert await client.rows("select 1") == ["1"]
        assert leases(first)


async def test_an_edge_is_who_its_certificate_says(postgres: LocalPostgres, papers: Papers) -> None:
    """Under the method `cert` the origin asks for the edge's name, for no password; another is refused."""
    at_origin = {"auth": {"method": "cert"}, "users": {"edge-1": {}, "edge-2": {}}}
    for user, served in (("edge-1", True), ("edge-2", False)):
        listen = papers.listen(certificate=papers.issue("edge-1.pem", "edge-1", "127.0.0.1"))
        database = {"origin": f"trio-pool://{user}@{NAME}/{DATABASE}?via=tunnel"}
        timeouts = {"lease_wait": "300ms", "server_connect": "5s"}
        edge = edge_config(listen, database=database, timeouts=timeouts)
        del edge["databases"][DATABASE]["password"]
        async with poolers() as both:
            near = await both.start(edge)
            assert near.running.service.tunnels is not None
            where = near.running.service.tunnels.address
            await both.start(origin_config(postgres, papers.dial(where), **at_origin))
            if served:
                async with await Peer.log_in(near.running.address, {"user": USER}) as client:
                    assert await client.rows("select 1") == ["1"]
            else:
                failed = await both.log.wait_for("server connect failed")
                assert "certificate" in failed["error"]


async def test_an_origin_of_several_processes(postgres: LocalPostgres, papers: Papers) -> None:
    """Each of its processes keeps tunnels ready, and a cancel request reaches the one that runs the query."""
    async with poolers() as both, watcher(postgres) as superuser:
        edge = await both.start(edge_config(papers.listen()))
        tunnels = edge.running.service.tunnels
        assert tunnels is not None
        extra: dict[str, Any] = {
            "listen": {"addresses": [], "workers": 2},
            "users": {USER: {"password": SECRET}},
            "tunnel": {"dial": {"edges": papers.dial(tunnels.address, ready=2)}},
            "http": None,
        }
        origin = Pooler(postgres, tls=False, extra=extra, pool_size=4)
        await trio.to_thread.run_sync(origin.__enter__)
        try:
            await edge.running.until(lambda: tunnels.numbers[NAME].ready >= 4)
            for _ in range(4):
                async with await edge.running.log_in() as client, trio.open_nursery() as nursery:
                    nursery.start_soon(cancel_sleep, superuser, client)
                    (error,) = await client.run("select pg_sleep(60)")
                    assert error.sqlstate == "57014"
                edge.running.origin.retire_servers("the test")
        finally:
            await trio.to_thread.run_sync(origin.__exit__, None)
