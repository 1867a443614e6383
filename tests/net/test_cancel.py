"""Cancel requests: they reach the query that they were meant for, or none."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tests.net import origins
from tests.net.harness import Running, origin_url, pooler, watcher
from tests.net.origins import row, scripted
from tests.net.peer import Peer, cancel
from trio_pool.wire import messages
from trio_pool.wire.startup import CancelRequest, read_startup
from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    from trio_pool.cli.postgres import LocalPostgres

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

READY = messages.READY[ord("I")]
CANCELLED = messages.error("57014", "canceling statement due to user request")
SLEEP = "select pg_sleep(60)"


async def leasing(running: Running) -> None:
    """Return when a server is leased."""
    await running.until(lambda: len(running.origin.pool.leased) > 0)


async def cancel_until_told(running: Running, peer: Peer) -> str:
    """Cancel what runs, again if a request came before the query did; the query's SQLSTATE."""

    async def ask() -> None:
        while True:
            await peer.request_cancel()

    await leasing(running)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        (error,) = await peer.errors()
        nursery.cancel_scope.cancel()
    return error.sqlstate


async def test_a_cancel_reaches_only_its_own_query(postgres: LocalPostgres) -> None:
    """Many clients on few servers, cancelling all the time: nobody who did not ask for it ever gets 57014."""
    rounds = 60
    chance = random.Random(15)
    cancelled = 0

    async def patient(running: Running, name: str) -> None:
        async with await running.log_in() as peer:
            number = 0
            while True:
                number += 1
                sql = f"select '{name} {number}', pg_sleep({chance.random() * 0.004})"
                assert await peer.rows(sql) == [f"{name} {number}"]

    async def impatient(running: Running) -> None:
        nonlocal cancelled
        async with await running.log_in() as peer:
            for _ in range(rounds):
                await peer.send(messages.query(f"select pg_sleep({chance.random() * 0.02})"))
                await trio.sleep(chance.random() * 0.02)  # anywhere: before, in and behind the query
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(peer.request_cancel)
                    errors = await peer.errors()
                assert [error.sqlstate for error in errors] in ([], ["57014"])
                cancelled += len(errors)

    async with pooler(postgres, pool_size=3) as running:
        async with trio.open_nursery() as nursery:
            for name in ("ann", "ben", "cid", "dot"):
                nursery.start_soon(patient, running, name)
            async with trio.open_nursery() as cancelling:
                for _ in range(4):
                    cancelling.start_soon(impatient, running)
            nursery.cancel_scope.cancel()
        assert cancelled > rounds / 4
        await running.at_rest()
        assert running.log.find("server disconnected") == []


async def test_a_wrong_key_is_ignored(postgres: LocalPostgres) -> None:
    """A cancel request with a wrong secret, or of nobody, is closed without a word and does nothing."""
    async with pooler(postgres) as running, await running.log_in() as peer:
        await peer.send(messages.query("select pg_sleep(0.2)"))
        await leasing(running)
        wrong = bytes(byte ^ 1 for byte in peer.secret)
        for process_id, secret in (
            (peer.process_id, wrong),
            (peer.process_id, peer.secret + b"\0"),
            (peer.process_id, peer.secret[:3] + b"\0" * 29),
            (peer.process_id ^ 1, peer.secret),
            (0, peer.secret),
        ):
            await cancel(peer.address, process_id, secret)
        assert await peer.read_rows() == [""]


async def test_a_cancel_of_an_idle_client_does_nothing(postgres: LocalPostgres) -> None:
    """Neither now nor to the next query; nor does one of a client that is gone."""
    async with pooler(postgres, pool_size=1) as running:
        async with await running.log_in() as peer:
            for number in range(20):
                await peer.request_cancel()
                assert await peer.rows(f"select {number}") == [str(number)]
            await peer.rows("begin; select 0")
            await peer.request_cancel()
            assert await peer.rows("select 1") == ["1"]
        await running.at_rest()
        await peer.request_cancel()


async def test_a_waiting_client_is_cancelled(postgres: LocalPostgres) -> None:
    """Its statement gets 57014 at once and no server; the client stays and is served later."""
    async with (
        pooler(postgres, pool_size=1) as running,
        await running.log_in() as holder,
        await running.log_in() as waiter,
    ):
        await holder.rows("begin; select 0")
        await waiter.send(messages.query("select 'never'"))
        await running.until(lambda: len(running.origin.pool.waiting) > 0)
        await waiter.request_cancel()
        (error,) = await waiter.errors()
        assert (error.severity, error.sqlstate) == ("ERROR", "57014")
        await waiter.send(messages.query("select 'later'"))
        await holder.rows("commit")
        assert await waiter.read_rows() == ["later"]


async def test_a_cancel_in_a_transaction_keeps_it(postgres: LocalPostgres) -> None:
    """The transaction fails as on a direct connection, stays on its server, and ends with ROLLBACK."""
    async with pooler(postgres, pool_size=1) as running, await running.log_in() as peer:
        await peer.rows("begin; select 0")
        await peer.send(messages.query(SLEEP))
        assert await cancel_until_told(running, peer) == "57014"
        assert [error.sqlstate for error in await peer.run("select 1")] == ["25P02"]
        assert await peer.rows("rollback") == []
        assert await peer.rows("select 1") == ["1"]


async def test_a_cancel_goes_over_tls(postgres: LocalPostgres) -> None:
    """With `sslmode=require` the request for the origin is encrypted like everything else (where PostgreSQL
    can do TLS).
    """
    # The embedded PostgreSQL says no to the SSLRequest in front of the cancel request.
    sslmode = "prefer" if postgres.tls is None else "require"
    async with pooler(origin_url(postgres, sslmode), pool_size=1) as running, await running.log_in() as peer:
        await peer.send(messages.query(SLEEP))
        assert await cancel_until_told(running, peer) == "57014"
        await running.until(lambda: len(running.origin.pool.idle) == 1)
        async with watcher(postgres) as superuser:
            (server,) = running.origin.pool.idle
            ssl = await superuser.rows(
                f"select ssl from pg_stat_ssl where pid = {server.dialled.login.process_id}"
            )
            assert ssl == ["t" if postgres.tls is not None else "f"]
        assert running.log.find("a cancel request failed") == []


# -- origins that take their time ----------------------------------------------------------------------------


async def is_cancel_request(peer: Peer) -> bool:
    """Read a connection's first packet; anybody but a cancel request is let in."""
    packet = await origins.read_startup(peer)
    if not packet or isinstance(read_startup(packet), CancelRequest):
        return True
    await peer.send(origins.greeting())
    return False


async def test_a_server_is_not_reused_while_a_cancel_is_under_way() -> None:
    """Until the origin has closed the request's connection nobody else gets the server, however long its
    query is over.
    """
    asked: list[bytes] = []
    requested, signalled = trio.Event(), trio.Event()

    async def script(peer: Peer, _: int) -> None:
        if await is_cancel_request(peer):
            requested.set()
            await signalled.wait()
            return
        while (message := await peer.receive()) is not None:
            asked.append(message[1])
            if b"slow" in message[1]:
                await requested.wait()
                await peer.send(CANCELLED + READY)
            else:
                await peer.send(row("1") + READY)

    async with (
        scripted(script) as origin,
        pooler(origins.url(origin.port), pool_size=1) as running,
        await running.log_in() as peer,
        await running.log_in() as other,
    ):
        await peer.send(messages.query("select slow"))
        await leasing(running)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.request_cancel)
            assert [error.sqlstate for error in await peer.errors()] == ["57014"]
            await running.until(lambda: running.origin.pool.statistics().cancelling == 1)
            await other.send(messages.query("select other"))
            await running.until(lambda: len(running.origin.pool.waiting) > 0)
            assert asked == [b"select slow\0"]
            signalled.set()
            assert await other.read_rows() == ["1"]
        assert asked == [b"select slow\0", b"select other\0"]
        await running.at_rest(clients=2)


@pytest.mark.parametrize("ending", ["never", "refused"])
async def test_a_cancel_that_does_not_end_holds_the_server_for_a_bounded_time(ending: str) -> None:
    """An origin that never closes the request, or does not take it, holds up neither server nor client beyond
    `cancel`.
    """

    async def script(peer: Peer, number: int) -> None:
        if await is_cancel_request(peer):
            if ending == "never":
                await trio.sleep_forever()
            return
        while (message := await peer.receive()) is not None:
            if b"slow" in message[1]:
                await trio.sleep(0.1)
            await peer.send(row(str(number)) + READY)

    timeouts = {"cancel": "300ms"}
    async with (
        scripted(script) as origin,
        pooler(origins.url(origin.port), pool_size=1, timeouts=timeouts) as running,
        await running.log_in() as peer,
    ):
        await peer.send(messages.query("select slow"))
        await leasing(running)
        if ending == "refused":
            origin.listening.cancel()
            await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(2):
            await peer.request_cancel()
            assert await peer.read_rows() == ["0"]
            assert await peer.rows("select quick") == ["0"]
        assert bool(running.log.find("a cancel request failed")) is (ending == "refused")


async def test_a_flood_of_cancels_is_bounded() -> None:
    """A hundred requests for one query make a few connections to the origin, and every one of them is
    answered by closing.
    """
    requests = 0
    at_once = most = 0
    release = trio.Event()

    async def script(peer: Peer, _: int) -> None:
        nonlocal requests, at_once, most
        if not await is_cancel_request(peer):
            while (message := await peer.receive()) is not None:
                if b"slow" in message[1]:
                    await release.wait()
                    await peer.send(CANCELLED + READY)
                else:
                    await peer.send(row("1") + READY)
            return
        requests += 1
        at_once += 1
        most = max(most, at_once)
        await trio.sleep(0.02)
        at_once -= 1

    async with (
        scripted(script) as origin,
        pooler(origins.url(origin.port), pool_size=1) as running,
        await running.log_in() as peer,
    ):
        await peer.send(messages.query("select slow"))
        await leasing(running)
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(peer.request_cancel)
        assert 1 <= requests <= 20
        assert most == 1
        release.set()
        received = await peer.exchange()
        assert [tag for tag, _ in received] == [Backend.ERROR_RESPONSE, Backend.READY_FOR_QUERY]
        assert await peer.rows("select 1") == ["1"]
        await running.at_rest(clients=1)


async def test_a_cancel_passes_a_full_house(postgres: LocalPostgres) -> None:
    """`max_clients` does not keep a client from cancelling what it runs."""
    async with pooler(postgres, listen={"max_clients": 1}) as running, await running.log_in() as peer:
        await peer.send(messages.query(SLEEP))
        assert await cancel_until_told(running, peer) == "57014"
