"""Links that are lost, origins that stop, are gone, or are something else: clear errors, bounded waiting, and
recovery without help.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trustme

from tests.net.harness import Running, origin_url, watcher
from tests.net.origins import answer_queries, greeting, read_startup, scripted
from tests.net.peer import Peer
from tests.support.faulty import network
from tests.support.linked import (
    EDGE,
    EDGE_PASSWORD,
    collecting,
    edge_table,
    linked,
    mutual,
    origin_table,
    serving,
    url,
)
from tests.support.requests import Reply
from tests.support.talk import ask, done
from tests.support.target import DATABASE, PASSWORD
from trio_pool.protocol import link
from trio_pool.wire import messages

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.certificates import Certificates
    from trio_pool.cli.postgres import LocalPostgres

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

SLEEP = "select pg_sleep(60)"


async def asleep(eye: Peer, wanted: int) -> None:
    """Return when so many sleep at the database."""
    sql = "select count(*) from pg_stat_activity where query = 'select pg_sleep(60)' and state = 'active'"
    while await eye.rows(sql) != [str(wanted)]:  # noqa: ASYNC110 - PostgreSQL tells nobody
        await trio.sleep(0.01)


async def test_links_are_ready_before_anybody_comes(postgres: LocalPostgres) -> None:
    """Without a client there are two; with leases more, several opened at the same time; those in excess are
    closed when they have been idle for long.
    """
    async with linked(
        postgres,
        origin={"pool_size": 6},
        edge={"pool_size": 12},
        edge_timeouts={"server_idle": "300ms"},
    ) as both:
        await both.edge.until(lambda: len(both.links().pool.idle) == 2)
        peers = [await both.edge.log_in() for _ in range(6)]
        for peer in peers:
            assert await ask(peer, "begin") == done("BEGIN", "T")
            assert await peer.rows("select 1") == ["1"]
        pool = both.links().pool
        await both.edge.until(lambda: len(pool.idle) == 2 + 6 // 4)
        for peer in peers:
            assert await ask(peer, "commit") == done("COMMIT")
            peer.close()
        await both.edge.until(lambda: pool.servers == 2)


async def test_an_origin_that_stops_while_it_lets_us_in() -> None:
    """It says so right behind the login: nothing is begun there, and nobody notices."""

    async def script(peer: Peer, number: int) -> None:
        await read_startup(peer)
        await peer.send(greeting() + (link.note(link.LEAVING) if not number else b""))
        if number:
            await answer_queries(peer)
        elif await peer.more():
            raise AssertionError(bytes(peer.unread))

    async with (
        collecting() as log,
        scripted(script) as origin,
        serving(edge_table(url(origin.port), min_pool_size=0), log) as edge,
        await edge.log_in() as client,
    ):
        assert await client.rows("select 1") == ["1"]
        assert "the origin is stopping" in log.find("server connect failed")[0]["error"]


async def test_links_do_not_wait_for_each_other(postgres: LocalPostgres) -> None:
    """While one login hangs others are done: a burst of clients waits for one way, not for one after the
    other.
    """
    async with linked(postgres, origin={"pool_size": 8}, edge={"pool_size": 8}) as both:
        peers = [await both.edge.log_in() for _ in range(8)]
        for peer in peers:
            await peer.send(messages.query("begin; select 1"))
        await both.edge.until(lambda: len(both.links().pool.leased) == 8)
        for peer in peers:
            await peer.exchange()
            peer.close()


async def test_a_cut_link_ends_what_ran_for_it(postgres: LocalPostgres) -> None:
    """08006 for the client, which stays and goes on; its query has ended at the database a second later."""
    async with (
        collecting() as log,
        serving(origin_table(postgres), log) as far,
        network(far.address[1]) as way,
        serving(edge_table(url(way.port)), log, EDGE) as near,
        watcher(postgres) as eye,
        await near.log_in() as peer,
    ):
        await peer.send(messages.query(SLEEP))
        await asleep(eye, 1)
        way.cut()
        with trio.fail_after(1):
            (error,) = await peer.errors()
            await asleep(eye, 0)
        assert error.sqlstate == "08006"
        assert await peer.rows("select 1") == ["1"]


async def test_an_edge_that_is_killed_leaves_nothing_running(
    postgres: LocalPostgres, certificates: Certificates
) -> None:
    """The origin cancels what ran for a link whose edge is gone; nothing was said on it."""
    async with linked(postgres, certificates) as both, watcher(postgres) as eye:
        peer = await both.edge.log_in()
        await peer.send(messages.query(SLEEP))
        await asleep(eye, 1)
        (link,) = both.links().pool.leased
        link.transport._plain.sock.detach()  # nothing but the kernel's end of it remains
        for client in list(both.origin.service.clients.by_id.values()):
            if client.server is not None:
                client.on_gone()
        with trio.fail_after(1):
            await asleep(eye, 0)
        link.kill()
        peer.close()


async def test_an_origin_that_stops_hurts_nobody(postgres: LocalPostgres) -> None:
    """A busy edge of two origins: when the first stops, its links are closed by the edge between
    transactions, others are opened to the second, and no client gets an error.
    """
    async with (
        collecting() as log,
        serving(origin_table(postgres), log) as second,
        serving(origin_table(postgres), log) as first,
    ):
        table = edge_table(url(first.address[1], second.address[1]))
        async with serving(table, log, EDGE) as near, trio.open_nursery() as nursery:
            answered = trio.Event()
            nursery.start_soon(_busy, near, second, answered)
            nursery.start_soon(_busy, near, second, answered)
            nursery.start_soon(_idle, near, second)
            await near.until(lambda: bool(first.service.pools) and first.origin.pool.leases > 20)
            first.service.stop()
            await log.wait_for("stopped")
            answered.set()


async def _busy(near: Running, second: Running, answered: trio.Event) -> None:
    async with await near.log_in() as peer:
        count = 0
        while not (answered.is_set() and second.service.clients.connections):
            count += 1
            if count % 3:
                assert await peer.rows(f"select {count}") == [str(count)]
            else:
                assert await ask(peer, "begin") == done("BEGIN", "T")
                assert await peer.rows(f"select {count}") == [str(count)]
                assert await ask(peer, "commit") == done("COMMIT")


async def _idle(near: Running, second: Running) -> None:
    async with await near.log_in() as peer:
        assert await peer.rows("select 'before'") == ["before"]
        await near.until(lambda: second.service.clients.connections > 0)
        assert await peer.rows("select 'behind'") == ["behind"]


async def test_one_of_two_origins_is_gone(postgres: LocalPostgres) -> None:
    """The other one takes over, also when the first only hangs."""
    async with (
        collecting() as log,
        serving(origin_table(postgres), log) as far,
        network(far.address[1]) as way,
    ):
        table = edge_table(url(way.port, far.address[1]), {"server_connect": "1s"})
        async with serving(table, log, EDGE) as near, await near.log_in() as peer:
            assert await peer.rows("select 1") == ["1"]
            links = set(near.origin.servers())
            way.stall()
            way.cut()
            await near.until(lambda: links.isdisjoint(near.origin.servers()))
            assert await peer.rows("select 2") == ["2"]
            way.refusing = True
            way.cut()
            for link in near.origin.servers():
                link.retire("a test")
            assert await peer.rows("select 3") == ["3"]


async def test_an_origin_that_is_down_is_named(postgres: LocalPostgres) -> None:
    """08001 after `lease_wait`, with the cause; the client stays, and is served when the origin is back."""
    async with (
        collecting() as log,
        serving(origin_table(postgres), log) as far,
        network(far.address[1]) as way,
        serving(edge_table(url(way.port), {"lease_wait": "500ms"}), log, EDGE) as near,
        await near.log_in() as peer,
    ):
        assert await peer.rows("select 1") == ["1"]
        way.refusing = True
        way.cut()
        await near.until(lambda: not near.origin.pool.idle)
        began = trio.current_time()
        (error,) = await peer.run("select 2")
        assert error.sqlstate == "08001"
        assert "localhost" in f"{error.summary} {error.detail}"
        assert trio.current_time() - began < 2
        way.restore()
        while await peer.run("select 3"):  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_no_lease_at_the_origin_is_that_error(postgres: LocalPostgres) -> None:
    """53300 passes, and neither link nor client is lost."""
    async with (
        linked(postgres, origin={"pool_size": 1}, origin_timeouts={"lease_wait": "200ms"}) as both,
        await both.edge.log_in() as first,
        await both.edge.log_in() as second,
    ):
        assert await ask(first, "begin") == done("BEGIN", "T")
        assert await first.rows("select 1") == ["1"]
        links = both.links().servers()
        assert await ask(second, "select 2") == [Reply("E", "53300"), Reply("Z", "I")]
        assert set(links) <= set(both.links().servers())
        assert await ask(first, "commit") == done("COMMIT")
        assert await second.rows("select 2") == ["2"]


async def test_one_edge_does_not_take_everything(postgres: LocalPostgres) -> None:
    """`max_leases` and `max_clients` of an edge's user bound what it has of the origin."""
    table = origin_table(postgres, pool_size=3)
    table["users"] |= {
        EDGE: {"password": EDGE_PASSWORD, "max_leases": 1, "max_clients": 4},
        "other": {"password": EDGE_PASSWORD},
    }
    async with collecting() as log, serving(table, log) as far:
        where = url(far.address[1])
        async with (
            serving(edge_table(where), log, EDGE) as ann,
            serving(edge_table(where.replace(EDGE, "other")), log, "other") as ben,
            await ann.log_in() as greedy,
            await ann.log_in() as second,
            await ben.log_in() as modest,
        ):
            assert await ask(greedy, "begin") == done("BEGIN", "T")
            assert await greedy.rows("select 1") == ["1"]
            await second.send(messages.query("select 2"))
            await far.until(lambda: len(far.origin.pool.waiting) == 1)
            assert await modest.rows("select 3") == ["3"]
            assert far.service.clients.of_user[EDGE] <= 4
            assert await ask(greedy, "commit") == done("COMMIT")
            assert await second.read_rows() == ["2"]


async def test_an_idle_client_limit_does_not_end_links(postgres: LocalPostgres) -> None:
    """`client_idle` is for applications; a link is there to wait."""
    async with linked(postgres, origin_timeouts={"client_idle": "100ms"}) as both:
        await both.edge.until(lambda: len(both.links().pool.idle) == 2)
        before = both.links().servers()
        async with await Peer.log_in_by_password(both.origin.address) as direct:
            assert (await direct.farewell()).sqlstate == "57P05"
        assert both.links().servers() == before


async def test_postgresql_is_no_trio_pool(postgres: LocalPostgres) -> None:
    """PostgreSQL lets the edge in and says that it does not know the option; the error says so."""
    where = origin_url(postgres).replace("postgresql://", "trio-pool://")
    table = edge_table(where, {"lease_wait": "300ms"}, password=PASSWORD)
    async with collecting() as log, serving(table, log) as near:
        async with await Peer.connect(near.address) as peer:
            await peer.send(messages.startup({"user": "app", "database": DATABASE}))
            fatal = await peer.farewell()
        assert "is no trio-pool" in fatal.summary
        await log.wait_for("server connect failed", reason="server unsuitable")


async def test_certificates_that_are_not_right_are_named(
    postgres: LocalPostgres, certificates: Certificates, tmp_path: Path
) -> None:
    """An expired certificate of the origin, one of strangers, an edge without one where it must have one."""
    expired = _expired(tmp_path)
    table = origin_table(postgres, expired)
    async with collecting() as log, serving(table, log) as far:
        near = edge_table(url(far.address[1], query=f"sslrootcert={expired.ca}"), {"lease_wait": "300ms"})
        async with serving(near, log, EDGE):
            failed = await log.wait_for("server connect failed")
            assert "certificate has expired" in failed["error"]
    table = origin_table(postgres, certificates)
    table["auth"] = {"method": "cert"}
    async with collecting() as log, serving(table, log) as far:
        for query, said in (
            (f"sslrootcert={certificates.stranger_ca}", "self-signed certificate|unable to get local issuer"),
            (f"sslrootcert={certificates.ca}", "certificate"),
        ):
            near = edge_table(url(far.address[1], query=query), {"lease_wait": "300ms"})
            since = log.mark()
            async with serving(near, log, EDGE):
                failed = await log.wait_for("server connect failed", since=since)
                assert any(part in failed["error"] for part in said.split("|"))
        near = edge_table(url(far.address[1], query=mutual(certificates)).replace(f"{EDGE}@", "app@"))
        async with serving(near, log, "app") as edge, await edge.log_in() as peer:
            assert await peer.rows("select 1") == ["1"]


def _expired(directory: Path) -> Certificates:
    """Certificates whose server's was good until 2001."""
    import datetime

    authority = trustme.CA()
    past = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)
    leaf = authority.issue_cert("localhost", not_after=past)
    authority.cert_pem.write_to_path(directory / "ca.crt")
    (directory / "server.crt").write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(directory / "server.key")
    from tests.support.certificates import Certificates

    return Certificates(
        ca=directory / "ca.crt",
        server_certificate=directory / "server.crt",
        server_key=directory / "server.key",
        client_certificate=directory / "server.crt",
        client_key=directory / "server.key",
        stranger_ca=directory / "ca.crt",
    )
