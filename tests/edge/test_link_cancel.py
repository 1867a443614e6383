"""Cancel requests, time limits and lost links: what ran for nobody any more ends at the database, and nothing
else does.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import trio

from tests.net.harness import watcher
from tests.net.peer import Peer
from tests.support.linked import Linked, linked
from tests.support.requests import Reply
from tests.support.talk import ask, done
from trio_pool.wire import messages

if TYPE_CHECKING:
    from tests.support.certificates import Certificates
    from trio_pool.cli.postgres import LocalPostgres

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

SLEEP = "select pg_sleep(60)"


async def sleeping(eye: Peer, wanted: int) -> None:
    """Return when so many sleep at the database."""
    sql = "select count(*) from pg_stat_activity where query = 'select pg_sleep(60)' and state = 'active'"
    while await eye.rows(sql) != [str(wanted)]:  # noqa: ASYNC110 - PostgreSQL tells nobody
        await trio.sleep(0.01)


async def test_a_cancel_reaches_the_database_over_the_link(
    postgres: LocalPostgres, certificates: Certificates
) -> None:
    """57014 for the query that it was meant for, over mutual TLS; client, link and server stay."""
    async with (
        linked(postgres, certificates) as both,
        watcher(postgres) as eye,
        await both.edge.log_in() as peer,
        await both.edge.log_in() as other,
    ):
        await peer.send(messages.query(SLEEP))
        await other.send(messages.query(SLEEP))
        await sleeping(eye, 2)
        links, servers = both.links().servers(), both.origin.origin.servers()
        await peer.request_cancel()
        assert [error.sqlstate for error in await peer.errors()] == ["57014"]
        await sleeping(eye, 1)
        assert await peer.rows("select 1") == ["1"]
        await other.request_cancel()
        assert [error.sqlstate for error in await other.errors()] == ["57014"]
        assert set(links) <= set(both.links().servers())
        assert set(servers) <= set(both.origin.origin.servers())


async def test_a_cancel_reaches_no_other_query(postgres: LocalPostgres) -> None:
    """Clients that cancel all the time beside others that do not, on few links: nobody who did not ask for it
    gets 57014. So a cancel connection that is closed means delivered, over both poolers.
    """
    chance = random.Random(8)
    rounds = 25
    cancelled = 0

    async def patient(both: Linked, name: str) -> None:
        async with await both.edge.log_in() as peer:
            number = 0
            while True:
                number += 1
                sql = f"select '{name} {number}', pg_sleep({chance.random() * 0.003})"
                assert await peer.rows(sql) == [f"{name} {number}"]

    async def insist(peer: Peer) -> None:
        """A request may come before its query."""
        while True:
            await peer.request_cancel()
            await trio.sleep(0.02)

    async def impatient(both: Linked) -> None:
        nonlocal cancelled
        async with await both.edge.log_in() as peer:
            for number in range(rounds):
                # On a busy machine most of the others end before they are cancelled.
                endless = number % 5 == 0
                seconds = 60 if endless else chance.random() * 0.02
                await peer.send(messages.query(f"select pg_sleep({seconds})"))
                await trio.sleep(chance.random() * 0.02)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(insist if endless else Peer.request_cancel, peer)
                    errors = await peer.errors()
                    if endless:
                        nursery.cancel_scope.cancel()
                assert [error.sqlstate for error in errors] in ([], ["57014"])
                cancelled += len(errors)

    async with linked(postgres, edge={"pool_size": 3}) as both:
        async with trio.open_nursery() as nursery:
            for name in ("ann", "ben", "cid"):
                nursery.start_soon(patient, both, name)
            async with trio.open_nursery() as cancelling:
                for _ in range(3):
                    cancelling.start_soon(impatient, both)
            nursery.cancel_scope.cancel()
        await both.at_rest()
    assert cancelled >= 3 * rounds // 5


@pytest.mark.parametrize("side", ["edge", "origin"])
async def test_a_query_timeout_is_one_error(postgres: LocalPostgres, side: str) -> None:
    """57014 once, wherever it is set; client, link and server stay."""
    limits = {f"{side}_timeouts": {"query": "100ms"}}
    async with linked(postgres, **limits) as both, await both.edge.log_in() as peer:  # type: ignore[arg-type]
        assert await peer.rows("select 1") == ["1"]
        links, servers = both.links().servers(), both.origin.origin.servers()
        assert await ask(peer, SLEEP) == [Reply("T", "1"), Reply("E", "57014"), Reply("Z", "I")]
        assert await peer.rows("select 1") == ["1"]
        assert set(links) <= set(both.links().servers())
        assert set(servers) <= set(both.origin.origin.servers())


@pytest.mark.parametrize("sides", ["edge", "origin", "edge origin"])
@pytest.mark.parametrize(("limit", "sqlstate"), [("transaction", "25P04"), ("idle_in_transaction", "25P03")])
async def test_a_transaction_that_takes_too_long_is_one_error(
    postgres: LocalPostgres, sides: str, limit: str, sqlstate: str
) -> None:
    """The documented error at the next statement, then 25P02 until it ends; client, link and server stay."""
    limits = {f"{side}_timeouts": {limit: "150ms"} for side in sides.split()}
    async with linked(postgres, **limits) as both, await both.edge.log_in() as peer:  # type: ignore[arg-type]
        assert await ask(peer, "begin") == done("BEGIN", "T")
        assert await peer.rows("select 1") == ["1"]
        links, servers = both.links().servers(), both.origin.origin.servers()
        await both.edge.until(lambda: not both.origin.origin.pool.leased)
        if "edge" in sides:
            await both.edge.until(lambda: not both.links().pool.leased)
        assert await ask(peer, "select 2") == [Reply("E", sqlstate), Reply("Z", "E")]
        assert await ask(peer, "select 3") == [Reply("E", "25P02"), Reply("Z", "E")]
        assert await ask(peer, "rollback") == done("ROLLBACK")
        assert await peer.rows("select 1") == ["1"]
        assert set(links) <= set(both.links().servers())
        assert set(servers) <= set(both.origin.origin.servers())


async def test_a_client_that_vanishes_at_the_edge_leaves_nothing(postgres: LocalPostgres) -> None:
    """Its query ends at the database within a second."""
    async with linked(postgres) as both, watcher(postgres) as eye:
        peer = await both.edge.log_in()
        await peer.send(messages.query(SLEEP))
        await sleeping(eye, 1)
        peer.close()
        with trio.fail_after(1):
            await sleeping(eye, 0)
        await both.at_rest()


async def test_an_origin_that_kills_a_session_ends_its_link(postgres: LocalPostgres) -> None:
    """The server behind a link is lost: 08006 for its client, in step, and the next query is answered."""
    async with (
        linked(postgres) as both,
        watcher(postgres) as eye,
        await both.edge.log_in() as peer,
    ):
        await peer.send(messages.query(SLEEP))
        await sleeping(eye, 1)
        (server,) = both.origin.origin.pool.leased
        assert await eye.rows(f"select pg_terminate_backend({server.dialled.login.process_id})") == ["t"]
        (error,) = await peer.errors()
        assert error.sqlstate == "08006"
        assert await peer.rows("select 1") == ["1"]
