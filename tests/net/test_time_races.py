"""Time limits that are over at the worst moment.

The origins are scripted where the moment must be met exactly; with a real PostgreSQL chance has to find it.
"""

from __future__ import annotations

import random
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from tests.net.harness import Running, pooler
from tests.support import requests
from tests.support.held import Backend, HeldOrigin, held_origin
from tests.support.requests import Reply, read_replies
from tests.support.serving import server_pids
from tests.support.talk import (
    ask,
    done,
    executed,
    extended,
    nothing_comes,
    refused,
    replies,
    selected,
    told,
)
from trio_pool.wire import messages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.net.peer import Peer
    from trio_pool.cli.postgres import LocalPostgres

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

LIMIT = 0.3
SPAN = "300ms"
CANCEL = 0.5
SLOW = "SELECT 'slow'"
SYNC = requests.SYNC
PARSED = [Reply("1"), Reply("2")]
FAILED = refused("25P02", "E")
SQLSTATES = {"query": "57014", "transaction": "25P04", "idle_in_transaction": "25P03"}
SUMMARIES = {
    "query": "canceling statement due to query timeout",
    "transaction": "rolling back transaction due to transaction timeout",
}
"""Whoever reads another one looks for somebody who has cancelled."""


@asynccontextmanager
async def racing(
    origin: HeldOrigin, *limits: str, pool_size: int = 1, **timeouts: str
) -> AsyncIterator[tuple[Running, Peer]]:
    """A pooler with these limits and a client of it, who can go on as if nothing had happened."""
    configured = {
        "idle_in_transaction": "0",
        "cancel": f"{CANCEL * 1000:.0f}ms",
        **dict.fromkeys(limits, SPAN),
        **timeouts,
    }
    async with pooler(origin.url, pool_size=pool_size, timeouts=configured) as running:
        async with await running.log_in() as peer:
            assert await ask(peer, "SELECT 'first'") == selected("first")
            yield running, peer
            origin.may_close.set()
            assert await ask(peer, "SELECT 'good'") == selected("good")
            assert await replies(peer, extended("SELECT $1::text", "as new") + SYNC) == [
                *executed("as new"),
                Reply("Z", "I"),
            ]
        await running.at_rest()


def overslept(seconds: float) -> None:
    """Stop everything, so that what is due by then is found due at once."""
    time.sleep(max(0.0, seconds))  # the event loop shall not run meanwhile; on a late machine it has not


async def begun(peer: Peer) -> None:
    assert await ask(peer, "BEGIN") == done("BEGIN", "T")
    assert await ask(peer, "SELECT 'within'") == selected("within", status="T")


async def ended(peer: Peer) -> None:
    assert await ask(peer, "SELECT 'refused'") == FAILED
    assert await ask(peer, "ROLLBACK") == done("ROLLBACK")


# -- the answer and the timer --------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["simple", "extended"])
@pytest.mark.parametrize("limit", ["query", "transaction"])
async def test_the_answer_arrives_as_the_time_is_over(limit: str, protocol: str) -> None:
    """Both are found at once: the statement has been done, so its answer is what the client gets."""
    async with held_origin("slow") as origin, racing(origin, limit) as (_, peer):
        started = trio.current_time()
        await peer.send(requests.query(SLOW) if protocol == "simple" else extended(SLOW) + SYNC)
        backend = await origin.held("slow")
        origin.before_answer = lambda _: overslept(started + LIMIT + 0.05 - trio.current_time())
        await trio.sleep_until(started + LIMIT - 0.05)
        backend.released.set()
        expected = selected("slow") if protocol == "simple" else [*executed("slow"), Reply("Z", "I")]
        assert await told(peer) == expected


@pytest.mark.parametrize("offset", [-0.004, -0.001, 0.0, 0.001, 0.004])
@pytest.mark.parametrize("limit", ["query", "transaction"])
async def test_the_answer_arrives_about_when_the_time_is_over(limit: str, offset: float) -> None:
    """Whoever comes first: the client gets the row or the error, and the server is as good as before."""
    async with held_origin("slow") as origin, racing(origin, limit) as (running, peer):
        for number in range(5):
            started = trio.current_time()
            await peer.send(requests.query(f"SELECT 'slow {number}'"))
            backend = await origin.held(f"slow {number}")
            await trio.sleep_until(started + LIMIT + offset)
            backend.released.set()
            answer = await told(peer)
            assert answer in (selected(f"slow {number}"), refused(SQLSTATES[limit]))
            assert await ask(peer, f"SELECT 'behind {number}'") == selected(f"behind {number}")
        assert running.log.find("server disconnected") == []


@pytest.mark.parametrize("protocol", ["simple", "extended"])
@pytest.mark.parametrize("both", [("transaction",), ("transaction", "idle_in_transaction")])
async def test_a_commit_in_flight(both: tuple[str, ...], protocol: str) -> None:
    """It is never cancelled, and its outcome is what the client gets, however late."""
    async with held_origin("COMMIT") as origin, racing(origin, *both) as (_, peer):
        await begun(peer)
        await peer.send(requests.query("COMMIT") if protocol == "simple" else extended("COMMIT") + SYNC)
        backend = await origin.held("COMMIT")
        await nothing_comes(peer, 3 * LIMIT)
        assert origin.cancels == []
        backend.released.set()
        assert await told(peer) == [*([] if protocol == "simple" else PARSED), *done("COMMIT")]


async def test_what_was_sent_with_a_commit_in_flight() -> None:
    """The next transaction has a time of its own."""
    async with held_origin("COMMIT") as origin, racing(origin, "transaction") as (_, peer):
        await begun(peer)
        await peer.send(b"".join(map(requests.query, ("COMMIT", "BEGIN", "SELECT 'next'", "ROLLBACK"))))
        backend = await origin.held("COMMIT")
        await nothing_comes(peer, 2 * LIMIT)
        backend.released.set()
        assert await told(peer, 4) == [
            *(*done("COMMIT"), *done("BEGIN", "T")),
            *(*selected("next", status="T"), *done("ROLLBACK")),
        ]
        assert origin.cancels == []


async def test_two_limits_are_over_at_once() -> None:
    """The statement gets one error, the transaction is over, and nothing else comes."""
    async with held_origin("slow") as origin, racing(origin, "query", "transaction") as (_, peer):
        (found,) = {await _two_at_once(origin, peer)}
        assert found in ("57014", "25P04")
    async with (
        held_origin("slow") as origin,
        racing(origin, "transaction", "idle_in_transaction") as (running, peer),
    ):
        await begun(peer)
        await running.until(lambda: len(running.origin.pool.idle) == 1)
        error, ready = await ask(peer, "SELECT 'refused'")
        assert (error.tag, ready) == ("E", Reply("Z", "E"))
        assert error.content in ("25P03", "25P04")
        await ended(peer)


async def _two_at_once(origin: HeldOrigin, peer: Peer) -> str:
    await peer.send(b"".join(map(requests.query, ("BEGIN", SLOW))))
    await origin.held("slow")
    overslept(LIMIT + 0.05)
    answer = await told(peer, 2)
    assert answer[:2] == done("BEGIN", "T")
    assert answer[2:] == refused(answer[2].content, "E")
    await nothing_comes(peer, 0.05)
    if answer[2].content == "57014":  # so the other is for the next statement
        assert await ask(peer, "SELECT 'refused'") in (FAILED, refused("25P04", "E"))
    await ended(peer)
    return answer[2].content


# -- the lease -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [None, -0.002, 0.0, 0.002])
@pytest.mark.parametrize("before", ["", "BEGIN"], ids=["autocommit", "behind BEGIN"])
async def test_a_lease_arrives_as_the_waiter_gives_up(before: str, offset: float | None) -> None:
    """The statement runs or gets 53300; in the latter case the server never sees it, and is not lost.

    Without an offset both are found at once.
    """
    async with (
        held_origin("holding") as origin,
        racing(origin, lease_wait=SPAN) as (running, peer),
        await running.log_in() as holder,
    ):
        for number in range(1 if offset is None else 5):
            status = "T" if before else "I"
            if before:
                assert await ask(peer, before) == done(before, "T")
            await holder.send(requests.query(f"SELECT 'holding {number}'"))
            backend = await origin.held(f"holding {number}")
            started = trio.current_time()
            await peer.send(requests.query(f"SELECT 'waited {number}'"))
            await running.until(lambda: len(running.origin.pool.waiting) == 1)
            if offset is None:
                origin.before_answer = lambda _: overslept(LIMIT)
                await trio.sleep_until(started + LIMIT - 0.05)
            else:
                await trio.sleep_until(started + LIMIT + offset)
            backend.released.set()
            answer = await told(peer)
            ran = any(f"waited {number}" in text for text in origin.seen)
            if ran:
                assert answer == selected(f"waited {number}", status=status)
            else:
                assert answer == refused("53300", "E" if before else "I")
            assert await told(holder) == selected(f"holding {number}")
            if before:
                assert await ask(peer, "ROLLBACK") == done("ROLLBACK")
        assert running.log.find("server disconnected") == []


# -- the cancel ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_transaction", [False, True], ids=["alone", "in a transaction"])
async def test_a_cancel_that_comes_too_late(in_transaction: bool) -> None:
    """The answer was faster: the client gets it, and neither its next statement nor anybody else's reaches
    the server before the request has had its effect.
    """
    status = "T" if in_transaction else "I"
    async with (
        held_origin("slow", obeys=False, closes=False) as origin,
        racing(origin, "query", cancel="5s") as (running, peer),
        await running.log_in() as other,
    ):
        if in_transaction:
            await begun(peer)
        await peer.send(requests.query(SLOW))
        backend = await origin.held("slow")
        await origin.until(lambda: len(origin.cancels) == 1)
        backend.released.set()
        answered = await _answer_while_cancelling(origin, peer, other, backend)
        origin.may_close.set()
        answered += await told(peer, 2 - sum(reply.tag == "Z" for reply in answered))
        assert answered == [*selected("slow", status=status), *selected("next", status=status)]
        if in_transaction:
            assert await ask(peer, "ROLLBACK") == done("ROLLBACK")
        assert await told(other) == selected("other")
        assert running.log.find("server disconnected") == []


@pytest.mark.parametrize("protocol", ["simple", "extended"])
async def test_a_cancel_that_comes_too_late_for_a_transaction(protocol: str) -> None:
    """The statement has been done, and its answer is what the client gets; the transaction has no more time
    all the same, which the next statement is told.
    """
    async with (
        held_origin("slow", obeys=False, closes=False) as origin,
        racing(origin, "transaction", cancel="5s") as (running, peer),
    ):
        await begun(peer)
        await peer.send(requests.query(SLOW) if protocol == "simple" else extended(SLOW) + SYNC)
        backend = await origin.held("slow")
        await origin.until(lambda: len(origin.cancels) == 1)
        backend.released.set()
        row = selected("slow", status="T") if protocol == "simple" else [*executed("slow"), Reply("Z", "T")]
        assert await told(peer) == row
        origin.may_close.set()
        assert await ask(peer, "SELECT 'refused'") == refused("25P04", "E")
        await ended(peer)
        assert running.log.find("server disconnected") == []


async def test_busy_transactions_until_the_time_is_over(postgres: LocalPostgres) -> None:
    """Wherever the limit falls between statements and their answers, each client is told 25P04, once, and the
    servers stay.
    """
    clients, rounds = 4, 150
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)

    async def be_busy(running: Running) -> None:
        async with await running.log_in() as peer:
            for _ in range(rounds):
                assert await ask(peer, "begin") == done("BEGIN", "T")
                answer = selected("quick", status="T")
                while answer == selected("quick", status="T"):
                    answer = await ask(peer, f"select 'quick' from pg_sleep({chance.random() * 0.01})")
                assert answer[-2:] == refused("25P04", "E")
                if chance.random() < 0.5:
                    assert await ask(peer, "select 'refused'") == FAILED
                assert await ask(peer, "rollback") == done("ROLLBACK")

    sizes = {"pool_size": clients, "min_pool_size": clients}
    async with pooler(postgres, database=sizes, timeouts={"transaction": "30ms"}) as running:
        async with await running.log_in() as first:
            assert await first.rows("select 1") == ["1"]
        await running.until(lambda: len(running.origin.pool.idle) == clients)
        before = server_pids(running)
        async with trio.open_nursery() as nursery:
            for _ in range(clients):
                nursery.start_soon(be_busy, running)
        await running.at_rest()
        assert server_pids(running) == before
        assert running.log.find("server disconnected") == []


async def _answer_while_cancelling(
    origin: HeldOrigin, peer: Peer, other: Peer, backend: Backend
) -> list[Reply]:
    """What the client gets while the cancel request is still open, and others ask as well."""
    taken = list(backend.seen)
    await peer.send(requests.query("SELECT 'next'"))
    await other.send(requests.query("SELECT 'other'"))
    got: list[Reply] = []
    with trio.move_on_after(0.3):  # for as long as it is open, which only the test ends
        got += await told(peer)
        await trio.sleep_forever()
    assert backend.seen == taken
    assert len(origin.backends) == 1
    return got


@pytest.mark.parametrize("limit", ["query", "transaction"])
async def test_the_cancelled_statement_was_the_last_to_be_hit(limit: str) -> None:
    """Its error is there, the request is still open: nobody's statement reaches the server."""
    async with (
        held_origin("slow", closes=False) as origin,
        racing(origin, limit, cancel="5s") as (running, peer),
        await running.log_in() as other,
    ):
        await peer.send(requests.query(SLOW))
        backend = await origin.held("slow")
        answered = await _answer_until_closed(origin, peer, other, backend)
        assert answered[:2] == refused(SQLSTATES[limit])
        assert answered[2:] == selected("next")
        assert running.log.find("server disconnected") == []


async def _answer_until_closed(origin: HeldOrigin, peer: Peer, other: Peer, backend: Backend) -> list[Reply]:
    await origin.until(lambda: len(origin.cancels) == 1)
    answered = await _answer_while_cancelling(origin, peer, other, backend)
    origin.may_close.set()
    answered += await told(peer, 2 - sum(reply.tag == "Z" for reply in answered))
    assert await told(other) == selected("other")
    return answered


@pytest.mark.parametrize("in_transaction", [False, True], ids=["alone", "in a transaction"])
@pytest.mark.parametrize("limit", ["query", "transaction"])
@pytest.mark.parametrize("protocol", ["simple", "extended"])
async def test_an_origin_that_ignores_cancels(limit: str, protocol: str, in_transaction: bool) -> None:
    """After `cancel` the server is closed and replaced; the client gets its error in its place, whoever is
    behind it is answered, and it stays.
    """
    async with (
        held_origin("slow", obeys=False) as origin,
        racing(origin, limit) as (running, peer),
    ):
        if in_transaction:
            await begun(peer)
        started = trio.current_time()
        await peer.send(requests.query(SLOW) if protocol == "simple" else extended(SLOW) + SYNC)
        await origin.held("slow")
        answer = await told(peer)
        took = trio.current_time() - started
        assert answer == refused(SQLSTATES[limit], "E" if in_transaction else "I")
        assert LIMIT - 0.1 <= took < LIMIT + CANCEL + 2
        assert origin.cancels
        if in_transaction:
            await ended(peer)
        assert await ask(peer, "SELECT 'replaced'") == selected("replaced")
        assert len(origin.backends) == 2
        (lost,) = running.log.find("server disconnected")
        assert lost["reason"] == "server cleanup timeout"


async def test_an_origin_that_ignores_a_rollback() -> None:
    """The transaction's time is over while it idles, and the clean-up does not end: the server is closed and
    replaced; the client has the reason at its next statement, as ever.
    """
    async with (
        held_origin("ROLLBACK", obeys=False) as origin,
        racing(origin, "transaction") as (running, peer),
    ):
        await begun(peer)
        await origin.held("ROLLBACK")
        await running.log.wait_for("server disconnected")
        origin.holds = ()
        assert await ask(peer, "SELECT 'refused'") == refused("25P04", "E")
        await ended(peer)
        assert await ask(peer, "SELECT 'replaced'") == selected("replaced")
        assert len(origin.backends) == 2


# -- the clean-up --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["SELECT 'asked meanwhile'", "ROLLBACK"])
async def test_the_client_speaks_during_the_clean_up(what: str) -> None:
    """It is answered by itself, and its statement never reaches the server that is being rolled back."""
    async with held_origin("ROLLBACK") as origin, racing(origin, "transaction") as (running, peer):
        await begun(peer)
        backend = await origin.held("ROLLBACK")
        origin.holds = ()
        answer = await ask(peer, what)
        assert answer == (done("ROLLBACK") if what == "ROLLBACK" else refused("25P04", "E"))
        assert not any("meanwhile" in text for text in origin.seen)
        backend.released.set()
        await running.until(lambda: len(running.origin.pool.idle) == 1)
        if what != "ROLLBACK":
            await ended(peer)
        assert len(origin.backends) == 1


@pytest.mark.parametrize("farewell", [requests.TERMINATE, b""], ids=["with a word", "without"])
@pytest.mark.parametrize("moment", ["cancelling", "rolling back"])
async def test_the_client_leaves_during_the_clean_up(moment: str, farewell: bytes) -> None:
    """The server is cleaned all the same, and serves the next."""
    holds, closes = ("ROLLBACK", moment == "rolling back")
    async with (
        held_origin("slow", holds, obeys=moment == "rolling back", closes=closes) as origin,
        racing(origin, "transaction", cancel="5s") as (running, peer),
    ):
        async with await running.log_in() as leaving:
            await begun(leaving)
            if moment == "cancelling":
                await leaving.send(requests.query(SLOW))
                backend = await origin.held("slow")
                await origin.until(lambda: len(origin.cancels) == 1)
            else:
                backend = await origin.held("ROLLBACK")
            await leaving.send(farewell)
        with trio.move_on_after(LIMIT):  # it need not be noticed during the clean-up
            await running.until(lambda: len(running.service.clients) == 1)
        origin.holds, origin.obeys = (), True
        origin.may_close.set()
        backend.released.set()
        assert await ask(peer, "SELECT 'mine'") == selected("mine")
        assert len(origin.backends) == 1
        assert running.log.find("server disconnected") == []


@pytest.mark.parametrize("moment", ["cancelling", "rolling back"])
@pytest.mark.parametrize("limit", ["query", "transaction"])
async def test_the_server_dies_during_the_clean_up(limit: str, moment: str) -> None:
    """The client has an error in its place, is in a failed transaction, and can go on after it; the pool has
    another server.
    """
    if (limit, moment) == ("query", "rolling back"):
        limit = "idle_in_transaction"  # the limit of a query rolls nothing back
    async with (
        held_origin("slow", "ROLLBACK", obeys=False) as origin,
        racing(origin, limit, cancel="5s") as (running, peer),
    ):
        await begun(peer)
        if moment == "cancelling":
            await peer.send(requests.query(SLOW))
            backend = await origin.held("slow")
            await origin.until(lambda: len(origin.cancels) == 1)
        else:
            backend = await origin.held("ROLLBACK")
            await peer.send(requests.query("SELECT 'refused'"))
        origin.holds = ()
        await trio.aclose_forcefully(backend.stream)
        answer = await told(peer)
        assert answer == refused(answer[0].content, "E")
        # Which of the two is told first depends on what was noticed first.
        assert answer[0].content in (SQLSTATES[limit], "08006")
        await ended(peer)
        assert await ask(peer, "SELECT 'replaced'") == selected("replaced")
        await running.until(lambda: len(running.log.find("server disconnected")) == 1)


@pytest.mark.parametrize("limit", ["query", "transaction"])
async def test_the_client_cancels_as_the_time_is_over(limit: str) -> None:
    """One error, whoever was first; both requests have ended before the next statement is sent."""
    async with held_origin("slow") as origin, racing(origin, limit) as (_, peer):
        for _ in range(5):
            started = trio.current_time()
            await peer.send(requests.query(SLOW))
            await origin.held("slow")
            await trio.sleep_until(started + LIMIT)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer.request_cancel)
                answer = await told(peer)
            assert answer in (refused("57014"), refused(SQLSTATES[limit]))
            assert await ask(peer, "SELECT 'behind'") == selected("behind")


async def test_a_byte_arrives_as_the_pause_is_over() -> None:
    """Both are found at once: the statement runs, or is told that it comes too late; never both."""
    async with held_origin() as origin, racing(origin, "idle_in_transaction") as (_, peer):
        for number in range(3):
            await begun(peer)
            began = trio.current_time()
            await trio.sleep_until(began + LIMIT - 0.02)
            await peer.send(requests.query(f"SELECT 'late {number}'"))
            overslept(0.1)
            answer = await told(peer)
            ran = any(f"late {number}" in text for text in origin.seen)
            assert answer == (selected(f"late {number}", status="T") if ran else refused("25P03", "E"))
            assert await ask(peer, "ROLLBACK") == done("ROLLBACK")


# -- chance --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["query", "transaction"])
async def test_limits_are_hit_at_any_moment(postgres: LocalPostgres, limit: str) -> None:
    """Statements that take about as long as they may, alone, in transactions and in pipelines: every reply is
    the row or the error, in order, and the servers stay.
    """
    rounds, clients, span = 12, 4, 0.06
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    outcomes: set[str] = set()
    sqlstate = SQLSTATES[limit]

    async def one(running: Running, name: str) -> None:
        async with await running.log_in() as peer:
            for number in range(rounds):
                tags = [f"{name}.{number}.{n}" for n in range(chance.choice([1, 1, 2, 3]))]
                in_transaction = chance.random() < 0.4
                texts = [f"select '{tag}' from pg_sleep({span * chance.uniform(0.8, 1.2)})" for tag in tags]
                if in_transaction:
                    texts = ["begin", *texts[:1], "rollback"]
                simple = chance.random() < 0.5
                data = b"".join(requests.query(t) if simple else extended(t) + SYNC for t in texts)
                await peer.send(data)
                exchanged = [message for _ in texts for message in await peer.exchange()]
                said = {messages.read_error(body).summary for tag, body in exchanged if tag == ord("E")}
                answer = read_replies(b"".join(messages.message(*message) for message in exchanged))
                assert said <= {SUMMARIES[limit]}, f"{texts}: {answer}, {said}"
                errors = [reply.content for reply in answer if reply.tag == "E"]
                assert set(errors) <= {sqlstate}
                rows = [reply.content for reply in answer if reply.tag == "D"]
                assert rows == [tag for tag in tags if tag in rows]
                asked = 1 if in_transaction else len(tags)
                assert len(rows) + len(errors) >= asked
                assert len(errors) <= asked
                if in_transaction and rows and errors:  # the statement was done, and its ROLLBACK was hit
                    assert answer[-1] == Reply("Z", "E")
                    assert await ask(peer, "rollback") == done("ROLLBACK")
                else:
                    assert answer[-1] == Reply("Z", "I")
                outcomes.update(["row"] * bool(rows), errors)
                assert await ask(peer, f"select '{name}'") == selected(name)

    timeouts = {limit: f"{span * 1000:.0f}ms", "lease_wait": "20s"}
    async with pooler(postgres, pool_size=clients, timeouts=timeouts) as running:
        async with trio.open_nursery() as nursery:
            for number in range(clients):
                async with await running.log_in() as peer:
                    assert await peer.rows("select 1") == ["1"]
                nursery.start_soon(one, running, f"client {number}")
            await running.until(lambda: running.origin.pool.servers == clients)
            before = server_pids(running)
        await running.at_rest()
        assert before <= server_pids(running)
        assert running.log.find("server disconnected") == []
    assert outcomes == {"row", sqlstate}
