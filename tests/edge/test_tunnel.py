"""The reverse dial: an origin that listens nowhere is used by an edge, over connections that it has made."""

from __future__ import annotations

import datetime
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
import trustme

from tests.edge.tunnelled import NAME, Both, Papers, Started, Wire, edge_config, origin_config, poolers
from tests.net.harness import watcher
from tests.net.peer import Peer
from tests.support.target import DATABASE, USER
from trio_pool.wire import messages
from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trio_pool.cli.postgres import LocalPostgres
    from trio_pool.net.tunnel import Numbers

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

SLEEPING = (
    "select count(*) from pg_stat_activity where query like 'select pg_sleep(60)%' and state = 'active'"
)


@pytest.fixture
def postgres(any_postgres: LocalPostgres) -> LocalPostgres:
    return any_postgres


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    return Papers(tmp_path)


@attrs.define(eq=False)
class Tunnelled:
    """`edge` is where clients come, `origin` has the database, `wire` is between them."""

    both: Both
    edge: Started
    origin: Started
    wire: Wire

    async def ready_on_both_sides(self, number: int) -> None:
        (dialler,) = self.origin.running.service.dialling.diallers
        await self.origin.running.until(lambda: dialler.numbers.ready >= number)
        await self.ready(number)

    @property
    def numbers(self) -> Numbers:
        """The edge's view."""
        assert self.edge.running.service.tunnels is not None
        return self.edge.running.service.tunnels.numbers[NAME]

    async def ready(self, number: int) -> None:
        await self.edge.running.until(lambda: self.numbers.ready >= number)

    async def log_in(self) -> Peer:
        return await self.edge.running.log_in()


@asynccontextmanager
async def tunnelled(
    pg: LocalPostgres,
    papers: Papers,
    *,
    edge: dict[str, Any] | None = None,
    listen: dict[str, Any] | None = None,
    origin: dict[str, Any] | None = None,
    **dial: Any,
) -> AsyncIterator[Tunnelled]:
    async with poolers() as both:
        started = await both.start(edge_config(papers.listen(**(listen or {})), **(edge or {})))
        wire = await between(both, started)
        config = origin_config(pg, papers.dial(wire.address, **dial), **(origin or {}))
        yield Tunnelled(both, started, await both.start(config), wire)


async def between(both: Both, edge: Started) -> Wire:
    """A network to an edge."""
    assert edge.running.service.tunnels is not None
    wire = Wire(edge.running.service.tunnels.address)
    await both.nursery.start(wire.run)
    return wire


def again(edge: Started, papers: Papers) -> dict[str, Any]:
    """The configuration of an edge that takes this one's place."""
    service = edge.running.service
    assert service.tunnels is not None
    return edge_config(papers.listen(address=service.tunnels.address)) | {
        "listen": {"addresses": list(service.addresses)}
    }


async def until_served(started: Started) -> None:
    """Return when a new client gets an answer."""
    while True:
        try:
            async with await started.running.log_in() as client:
                if await client.run("select 1") == []:
                    return
        except (OSError, AssertionError):
            await trio.sleep(0.01)


@pytest.mark.parametrize("scheme", ["trio-pool", "postgresql"])
async def test_an_origin_that_listens_nowhere_serves(
    postgres: LocalPostgres, papers: Papers, scheme: str
) -> None:
    """A client of the edge gets answers of the origin's database; the origin sees TLS, and counts it as its
    client.
    """
    async with (
        tunnelled(postgres, papers, edge={"scheme": scheme}) as there,
        await there.log_in() as client,
    ):
        assert await client.rows("select 1 + 1") == ["2"]
        assert there.origin.running.service.addresses == ()
        for one in there.origin.running.service.clients.by_id.values():
            assert one.peer == f"{there.wire.address} by tunnel"


async def test_many_clients_at_once(postgres: LocalPostgres, papers: Papers) -> None:
    """50 clients get their own answers, over as many tunnels as the edge has connections; others are ready
    for the next.
    """

    async def ask(number: int) -> None:
        async with await there.log_in() as client:
            for turn in range(5):
                assert await client.rows(f"select '{number} {turn}', pg_sleep(0.002)") == [f"{number} {turn}"]

    async with tunnelled(postgres, papers, edge={"database": {"pool_size": 8}}, ready=2) as there:
        async with trio.open_nursery() as clients:
            for number in range(50):
                clients.start_soon(ask, number)
        await there.ready(2)
        servers = there.edge.running.origin.pool.servers
        assert there.numbers.used >= servers
        (dialler,) = there.origin.running.service.dialling.diallers
        assert dialler.used == there.numbers.used


async def test_a_cancel_travels_by_tunnel(postgres: LocalPostgres, papers: Papers) -> None:
    """What a client cancels at the edge ends at the database, and nothing else does."""
    async with (
        tunnelled(postgres, papers) as there,
        await there.log_in() as client,
        await there.log_in() as other,
        watcher(postgres) as superuser,
        trio.open_nursery() as nursery,
    ):
        await other.rows("begin")
        await other.rows("select 1")
        nursery.start_soon(cancel_sleep, superuser, client)
        (error,) = await client.run("select pg_sleep(60)")
        assert error.sqlstate == "57014"
        assert await other.rows("select 2") == ["2"]
        assert await other.rows("commit") == []


async def until_asleep(superuser: Peer, number: int) -> None:
    """Return when so many queries sleep at the database."""
    while await superuser.rows(SLEEPING) != [str(number)]:  # noqa: ASYNC110 (PostgreSQL tells nobody)
        await trio.sleep(0.01)


async def cancel_sleep(superuser: Peer, client: Peer) -> None:
    await until_asleep(superuser, 1)
    await client.request_cancel()


async def test_without_a_tunnel_the_error_is_clear(papers: Papers) -> None:
    """As long as no origin has come, a client learns within `lease_wait` what is missing."""
    async with poolers() as both:
        edge = await both.start(
            edge_config(papers.listen(), timeouts={"lease_wait": "600ms", "server_connect": "200ms"})
        )
        async with await Peer.connect(edge.running.address) as client:
            await client.send(messages.startup({"user": USER, "database": DATABASE}))
            error = await client.farewell()
        assert error.sqlstate == "08001"
        assert f"no tunnel from '{NAME}'" in error.summary


async def test_a_cut_is_a_lost_server_and_a_vanished_client(postgres: LocalPostgres, papers: Papers) -> None:
    """A tunnel that ends in use costs its client one error; what it ran is cancelled at the database, and the
    next statement has another tunnel.
    """
    async with (
        tunnelled(postgres, papers) as there,
        await there.log_in() as client,
        watcher(postgres) as superuser,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(cut_sleep, there, superuser)
        (error,) = await client.run("select pg_sleep(60)")
        assert error.sqlstate in ("08006", "57P01")
        await until_asleep(superuser, 0)
        assert await client.rows("select 1") == ["1"]


async def cut_sleep(there: Tunnelled, superuser: Peer) -> None:
    await until_asleep(superuser, 1)
    there.wire.cut()


async def test_stalled_tunnels_are_passed_over(postgres: LocalPostgres, papers: Papers) -> None:
    """Ready tunnels through which nothing comes any more are found out before a login is sent over them, and
    replaced.
    """
    async with tunnelled(
        postgres, papers, edge={"scheme": "postgresql"}, listen={"ping": "300ms"}, ready=2
    ) as there:
        await there.ready_on_both_sides(2)
        made = there.wire.connections
        there.wire.stall()
        async with await there.log_in() as client:
            assert await client.rows("select 1") == ["1"]
        await there.edge.running.until(lambda: there.wire.connections >= made + 2)
        assert there.both.log.find("server connect failed") == []


async def test_silent_edges_are_given_up(postgres: LocalPostgres, papers: Papers) -> None:
    """Both sides find out that nothing comes any more, and have others within a few pings."""
    async with tunnelled(postgres, papers, edge={"scheme": "postgresql"}, listen={"ping": "100ms"}) as there:
        await there.ready_on_both_sides(4)
        made, mark = there.wire.connections, there.both.log.mark()
        there.wire.stall()
        await there.both.log.wait_for("tunnel lost", since=mark, error="it does not answer")
        await there.both.log.wait_for("tunnel lost", since=mark, error="the edge is silent")
        await there.edge.running.until(lambda: there.wire.connections >= made + 4)
        await there.ready(4)


async def test_old_tunnels_are_replaced(postgres: LocalPostgres, papers: Papers) -> None:
    """One that has been ready for `max_age` is not kept, and there is another."""
    async with tunnelled(postgres, papers, edge={"scheme": "postgresql"}, ready=1, max_age="200ms") as there:
        await there.both.log.wait_for("tunnel lost", error="it is old")
        await there.edge.running.until(lambda: there.wire.connections >= 3)
        async with await there.log_in() as client:
            assert await client.rows("select 1") == ["1"]


@pytest.mark.parametrize("how", ["stop", "crash"])
async def test_an_edge_is_started_again(postgres: LocalPostgres, papers: Papers, how: str) -> None:
    """The origin comes back to an edge that was away, without help."""
    async with tunnelled(postgres, papers) as there:
        await until_served(there.edge)
        config = again(there.edge, papers)
        await (there.edge.stop() if how == "stop" else there.edge.crash())
        await there.both.log.wait_for("tunnel failed")
        there.edge = await there.both.start(config)
        await until_served(there.edge)
        (dialler,) = there.origin.running.service.dialling.diallers
        await there.ready(4)
        assert dialler.failure is None


@pytest.mark.parametrize("how", ["stop", "crash"])
async def test_an_origin_is_started_again_under_load(
    postgres: LocalPostgres, papers: Papers, how: str
) -> None:
    """Clients have one clear error each for what ran, or wait; then they are served by the new process."""
    served: set[int] = set()

    async def ask(number: int) -> None:
        async with await there.log_in() as client:
            while True:
                await client.send(messages.query(f"select '{number}'"))
                replies = await client.exchange()
                assert replies, "the client's connection has ended"
                told = [tag for tag, _ in replies]
                assert told[-1] == Backend.READY_FOR_QUERY
                for tag, body in replies:
                    if tag == Backend.ERROR_RESPONSE:
                        assert messages.read_error(body).sqlstate in ("08006", "57P01", "08001")
                    elif tag == Backend.DATA_ROW:
                        assert body.endswith(str(number).encode())
                        served.add(number)

    async with tunnelled(postgres, papers) as there, trio.open_nursery() as clients:
        for number in range(10):
            clients.start_soon(ask, number)
        await there.edge.running.until(lambda: len(served) == 10)
        await (there.origin.stop() if how == "stop" else there.origin.crash())
        there.origin = await there.both.start(origin_config(postgres, papers.dial(there.wire.address)))
        served.clear()
        await there.edge.running.until(lambda: len(served) == 10)
        clients.cancel_scope.cancel()


async def test_two_origins_under_one_name(postgres: LocalPostgres, papers: Papers) -> None:
    """When one of two origins is gone, the other serves; and a cancel reaches the process that runs the
    query.
    """
    async with tunnelled(postgres, papers) as there, watcher(postgres) as superuser:
        second = await there.both.start(origin_config(postgres, papers.dial(there.wire.address)))
        await there.ready(8)
        for _ in range(4):
            async with (
                await there.log_in() as client,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(cancel_sleep, superuser, client)
                (error,) = await client.run("select pg_sleep(60)")
                assert error.sqlstate == "57014"
            there.edge.running.origin.retire_servers("the test")
        await second.stop()
        await until_served(there.edge)


@pytest.mark.parametrize(
    "wrong", ["origin's authority", "edge's authority", "name", "edge's name", "expired"]
)
async def test_who_may_not_come_is_refused(postgres: LocalPostgres, papers: Papers, wrong: str) -> None:
    """Nobody gets a tunnel without a certificate for it; both sides say why not, and the origin tries again
    with growing pauses.
    """
    stranger = trustme.CA()
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    dial: dict[str, Any] = {}
    listen: dict[str, Any] = {}
    match wrong:
        case "origin's authority":
            dial["certificate"] = papers.issue("wrong.pem", NAME, authority=stranger)
        case "edge's authority":
            listen["certificate"] = papers.issue("wrong.pem", "127.0.0.1", authority=stranger)
        case "name":
            dial["certificate"] = papers.issue("wrong.pem", "berlin")
        case "edge's name":
            listen["certificate"] = papers.issue("wrong.pem", "edge.example")
        case _:
            dial["certificate"] = papers.issue("wrong.pem", NAME, until=past)
    said = {
        "origin's authority": "unable to get local issuer certificate",
        "edge's authority": "unable to get local issuer certificate",
        "name": "no name in the certificate is one of an origin here",
        "edge's name": "IP address mismatch",
        "expired": "certificate has expired",
    }
    async with tunnelled(postgres, papers, listen=listen, **dial) as there:
        failed = await there.both.log.wait_for("tunnel failed")
        refused = await there.both.log.wait_for("tunnel refused")
        print(failed["error"], "|", refused["error"])
        assert any(said[wrong] in one["error"] for one in (failed, refused))
        await there.edge.running.until(lambda: there.wire.connections >= 3)
        assert there.numbers.ready == 0
        assert len(there.both.log.find("tunnel failed")) == 1


async def test_renewed_certificates_are_used_at_once(postgres: LocalPostgres, papers: Papers) -> None:
    """An origin whose certificate has expired is back when the file has been replaced, without a restart."""
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    expired = papers.issue("renewed.pem", NAME, until=past)
    async with tunnelled(postgres, papers, certificate=expired) as there:
        await there.both.log.wait_for("tunnel failed")
        papers.issue("renewed.pem", NAME)
        await until_served(there.edge)


async def test_nothing_is_left_behind(postgres: LocalPostgres, papers: Papers) -> None:
    """When both sides have stopped, no socket of theirs is open."""

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    async with tunnelled(postgres, papers) as there:
        await until_served(there.edge)
        await there.origin.stop()
        await there.edge.stop()
        before = descriptors()
        edge = await there.both.start(again(there.edge, papers))
        origin = await there.both.start(origin_config(postgres, papers.dial(there.wire.address)))
        await until_served(edge)
        async with await edge.running.log_in() as client:
            await client.rows("select 1")
            await origin.stop()
            await edge.stop()
        await there.edge.running.until(lambda: not there.wire._scopes)
        assert descriptors() == before
