"""Sessions over two poolers: what one of them keeps in step, two keep in step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.support import requests
from tests.support.linked import linked
from tests.support.requests import Reply
from tests.support.talk import ask, done, executed, extended, nothing_comes, replies, selected
from trio_pool.wire import messages
from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    from tests.net.peer import Peer
    from tests.support.certificates import Certificates
    from trio_pool.cli.postgres import LocalPostgres

pytestmark = [pytest.mark.e2e, pytest.mark.trio]


async def test_an_origin_may_be_another_trio_pool(
    postgres: LocalPostgres, certificates: Certificates
) -> None:
    """Queries, prepared statements, settings and transactions over a mutually authenticated link."""
    async with linked(postgres, certificates) as both, await both.edge.log_in() as peer:
        assert await peer.rows("select 'over the link'") == ["over the link"]
        assert await replies(peer, extended("select $1::text", "x") + requests.SYNC) == [
            *executed("x"),
            Reply("Z", "I"),
        ]
        assert await ask(peer, "set work_mem = '7MB'") == done("SET")
        async with await both.edge.log_in() as other:
            assert await other.rows("show work_mem") != ["7MB"]
            assert await peer.rows("show work_mem") == ["7MB"]
            assert await ask(peer, "begin") == done("BEGIN", "T")
            assert await other.rows("select 1") == ["1"]
            assert await ask(peer, "select 2") == selected("2", status="T")
            assert await ask(peer, "commit") == done("COMMIT")
            assert await peer.rows("show work_mem") == ["7MB"]
        (link,) = {client.link for client in both.origin.service.clients.by_id.values()}
        assert link is True


async def test_notifications_reach_clients_of_an_edge(postgres: LocalPostgres) -> None:
    """Once, in order, one's own ahead of ReadyForQuery; not any more behind UNLISTEN."""
    async with (
        linked(postgres) as both,
        await both.edge.log_in() as listener,
        await both.edge.log_in() as other,
    ):
        assert await ask(listener, "listen news") == done("LISTEN")
        for number in range(5):
            assert await other.run(f"notify news, '{number}'") == []
        for number in range(5):
            message = await listener.receive()
            assert message is not None
            assert (message[0], message[1][4:]) == (
                Backend.NOTIFICATION_RESPONSE,
                b"news\0%d\0" % number,
            )
        await listener.send(messages.query("notify news, 'own'"))
        assert [tag for tag, _ in await listener.exchange()] == [
            Backend.COMMAND_COMPLETE,
            Backend.NOTIFICATION_RESPONSE,
            Backend.READY_FOR_QUERY,
        ]
        assert await ask(listener, "unlisten *") == done("UNLISTEN")
        assert await other.run("notify news, 'nobody'") == []
        await nothing_comes(listener, 0.05)


async def test_what_pins_at_the_edge_pins_at_the_origin(postgres: LocalPostgres) -> None:
    """A temporary table is there for its client, for nobody else, and gone with it."""
    async with linked(postgres) as both, await both.edge.log_in() as other:
        async with await both.edge.log_in() as peer:
            assert await ask(peer, "create temp table mine (n int)") == done("CREATE TABLE")
            assert await ask(peer, "insert into mine values (7)") == done("INSERT 0 1")
            for _ in range(6):
                assert [error.sqlstate for error in await other.run("table mine")] == ["42P01"]
            assert await ask(peer, "table mine") == selected("7")
            assert await ask(peer, "prepare here as table mine") == done("PREPARE")
            assert await ask(peer, "execute here") == selected("7")
        await both.edge.until(lambda: not both.links().pool.pinned)
        await both.edge.until(lambda: not both.origin.origin.pool.pinned)
        for _ in range(6):
            assert [error.sqlstate for error in await other.run("table mine")] == ["42P01"]


async def test_prepared_statements_are_renamed_twice(postgres: LocalPostgres) -> None:
    """Two clients with one name for two texts, on links and servers that change all the time."""
    async with (
        linked(postgres) as both,
        await both.edge.log_in() as ann,
        await both.edge.log_in() as ben,
    ):
        for peer, word in ((ann, "ann"), (ben, "ben")):
            parsed = requests.parse("s", f"select '{word} ' || $1::text") + requests.SYNC
            assert await replies(peer, parsed) == [Reply("1"), Reply("Z", "I")]
        run = requests.bind("s", "x") + requests.execute() + requests.SYNC
        for _ in range(4):
            for peer, word in ((ann, "ann"), (ben, "ben")):
                assert await replies(peer, run) == [
                    Reply("2"),
                    Reply("D", f"{word} x"),
                    Reply("C", "SELECT 1"),
                    Reply("Z", "I"),
                ]
        missing = requests.bind("none", "x") + requests.execute() + requests.SYNC
        error, _ = await replies(ann, missing)
        assert error == Reply("E", "26000")


async def test_copy_passes_both_ways(postgres: LocalPostgres) -> None:
    """Rows in, rows out, and a COPY that the client breaks off."""
    async with linked(postgres) as both, await both.edge.log_in() as peer:
        assert await ask(peer, "create table copied (n int)") == done("CREATE TABLE")
        try:
            await peer.send(messages.query("copy copied from stdin"))
            tag, _ = await peer.receive() or (0, b"")
            assert tag == Backend.COPY_IN_RESPONSE
            rows = b"".join(messages.message(ord("d"), b"%d\n" % n) for n in range(2000))
            assert await replies(peer, rows + messages.message(ord("c"), b"")) == done("COPY 2000")
            await peer.send(messages.query("copy copied from stdin"))
            assert (await peer.receive() or (0, b""))[0] == Backend.COPY_IN_RESPONSE
            assert await replies(peer, messages.copy_fail("no")) == [Reply("E", "57014"), Reply("Z", "I")]
            await peer.send(messages.query("copy copied to stdout"))
            copied = [body for tag, body in await peer.exchange() if tag == Backend.COPY_DATA]
            assert sorted(map(int, copied)) == list(range(2000))
        finally:
            assert await ask(peer, "drop table copied") == done("DROP TABLE")


async def test_a_client_that_does_not_read_stops_postgresql(postgres: LocalPostgres) -> None:
    """Back-pressure reaches over both poolers: neither keeps more than a few buffers, and what was held back
    arrives whole.
    """
    rows = 300
    async with linked(postgres) as both, await both.edge.log_in() as peer:
        await peer.send(messages.query(f"select repeat('x', 100000) from generate_series(1, {rows})"))
        await both.edge.until(lambda: any(link.paused_at is not None for link in both.links().servers()))
        await both.edge.until(
            lambda: any(server.paused_at is not None for server in both.origin.origin.servers())
        )
        received = await peer.read_rows()
        assert (len(received), {len(row) for row in received}) == (rows, {100_000})
        assert await peer.rows("select 1") == ["1"]


async def test_a_transaction_that_fails_is_one_to_the_edge(postgres: LocalPostgres) -> None:
    """A deferred BEGIN at both ends: errors, savepoints, a BEGIN that the database refuses."""
    async with linked(postgres) as both, await both.edge.log_in() as peer:
        assert await ask(peer, "begin isolation level serializable") == done("BEGIN", "T")
        assert await ask(peer, "show transaction_isolation") == [
            *selected("serializable", status="T")[:2],
            Reply("C", "SHOW"),
            Reply("Z", "T"),
        ]
        assert await ask(peer, "savepoint s") == done("SAVEPOINT", "T")
        assert await ask(peer, "select 1/0") == [Reply("E", "22012"), Reply("Z", "E")]
        assert await ask(peer, "select 1") == [Reply("E", "25P02"), Reply("Z", "E")]
        assert await ask(peer, "rollback to s") == done("ROLLBACK", "T")
        assert await ask(peer, "commit") == done("COMMIT")
        assert await ask(peer, "begin") == done("BEGIN", "T")
        assert await ask(peer, "commit") == done("COMMIT")
        await both.edge.until(lambda: not both.origin.origin.pool.leased)


async def test_settings_at_the_start_are_the_databases(postgres: LocalPostgres) -> None:
    """What a client asks for in its StartupMessage is what it finds, on every link."""
    async with (
        linked(postgres) as both,
        await both.edge.log_in(application_name="shop", options="-c work_mem=9MB") as peer,
        await both.edge.log_in() as other,
    ):
        for _ in range(4):
            assert await peer.rows("select current_setting('application_name')") == ["shop"]
            assert await other.rows("select current_setting('application_name')") == [""]
            assert await peer.rows("show work_mem") == ["9MB"]
        async with trio.open_nursery() as nursery:
            for who, name in ((peer, "shop"), (other, "")):
                nursery.start_soon(_names, who, name)


async def _names(peer: Peer, name: str) -> None:
    for _ in range(10):
        assert await peer.rows("select current_setting('application_name'), pg_sleep(0.002)") == [name]
