"""Who gets a server when there are too few: order, shares, and what is said to those who get none."""

from __future__ import annotations

import resource
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
import trio

import trio_pool
from tests.net.harness import Running, logged, pooler, watcher
from tests.support.target import DATABASE
from trio_pool.pooling.pool import PoolKey
from trio_pool.wire import messages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.net.peer import Peer
    from trio_pool.cli.postgres import LocalPostgres
    from trio_pool.wire.messages import ErrorFields

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

NO_LEASE = ("ERROR", "53300", "failed to acquire a connection from the pool")
AT_ONCE = 32
"""Clients that connect at the same time; more would only wait for each other in the backlog."""


@pytest.fixture
def many_files() -> Iterator[None]:
    """Both ends of thousands of connections are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 6000
    assert hard in (resource.RLIM_INFINITY,) or hard >= wanted, "this test needs more descriptors"
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def hold(peer: Peer) -> None:
    """Open a transaction, and with it a lease."""
    assert await peer.rows("begin") == []
    assert await peer.rows("select 1") == ["1"]


def spell(error: ErrorFields) -> tuple[str, str, str]:
    return error.severity, error.sqlstate, error.summary


@asynccontextmanager
async def crowd(running: Running, count: int) -> AsyncIterator[list[Peer]]:
    """So many clients."""
    async with AsyncExitStack() as stack:
        peers: list[Peer] = []
        slots = trio.CapacityLimiter(AT_ONCE)

        async def join() -> None:
            async with slots:
                peers.append(await stack.enter_async_context(await running.log_in()))

        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(join)
        yield peers


async def test_a_greedy_user_cannot_take_the_whole_pool(postgres: LocalPostgres) -> None:
    """Another user's client is served at once, past those of the greedy one, who are served when it gives
    something back.
    """
    async with (
        pooler(postgres, pool_size=3, database={"max_leases_per_user": 2}) as running,
        AsyncExitStack() as stack,
    ):
        greedy = [await stack.enter_async_context(await running.log_in(user="greedy")) for _ in range(5)]
        modest = await stack.enter_async_context(await running.log_in(user="modest"))
        pool = running.origin.pool
        for peer in greedy[:2]:
            await hold(peer)
        for peer in greedy[2:]:
            await peer.send(messages.query("select 'served'"))
        await running.until(lambda: len(pool.waiting) == 3)
        for turn in range(3):
            assert await modest.rows(f"select {turn}") == [str(turn)]
        running.check()
        assert len(pool.waiting) == 3
        await greedy[0].rows("commit")
        for peer in greedy[2:]:
            assert await peer.read_rows() == ["served"]
        await greedy[1].rows("commit")
        await running.at_rest(clients=6)


async def test_who_is_refused_learns_why(postgres: LocalPostgres) -> None:
    """The pool, the queue, the user's bound, and who has had a lease longest; of others only that they are
    there. The log has everything.
    """
    async with (
        pooler(
            postgres, pool_size=2, database={"max_leases_per_user": 1}, timeouts={"lease_wait": "300ms"}
        ) as running,
        await running.log_in(user="alice") as hers,
        await running.log_in(user="alice") as again,
        await running.log_in(user="bob") as his,
        await running.log_in(user="carol") as third,
    ):
        await hold(hers)
        await hold(his)
        await his.send(messages.query("select pg_sleep(3), 'secret'"))
        (error,) = await again.run("select 1")
        assert spell(error) == NO_LEASE
        detail, hint = error.detail or "", error.hint or ""
        assert detail.startswith(
            f"Pool {running.origin.pool.key} has 2 server connections of at most 2, 2 leased. "
            '1 client waits, the longest for 0.3 s. User "alice" has 1 lease, and may have no more. '
            f'Longest leases: client {hers.process_id} of user "alice" from 127.0.0.1:'
        )
        assert ": idle in transaction; " in detail
        assert f"; client {his.process_id} of another user for 0." in detail
        assert "max_leases" in hint
        for hidden in ("bob", "secret"):
            assert hidden not in detail + hint
        (error,) = await third.run("select 1")
        assert spell(error) == NO_LEASE
        assert "alice" not in (error.detail or "")
        assert "may have no more" not in (error.detail or "")
        entry = running.log.find("no lease")[0]
        assert (entry["level"], entry["users"], entry["size"]) == ("warning", {"alice": 1}, 2)
        assert [(holder["user"], holder["doing"]) for holder in entry["holders"]] == [
            ("alice", "idle in transaction"),
            ("bob", "select pg_sleep($1), $2"),
        ]
        await his.request_cancel()
        assert [error.sqlstate for error in await his.errors()] == ["57014"]


async def test_a_full_queue_refuses_at_once(postgres: LocalPostgres) -> None:
    """With the error of those whose wait is over, and the client stays."""
    async with (
        pooler(postgres, pool_size=1, database={"max_waiting": 1}, timeouts={"lease_wait": "1h"}) as running,
        await running.log_in() as holder,
        await running.log_in() as waiting,
        await running.log_in() as refused,
    ):
        await hold(holder)
        await waiting.send(messages.query("select 'patient'"))
        await running.until(lambda: len(running.origin.pool.waiting) == 1)
        (error,) = await refused.run("select 1")
        assert spell(error) == NO_LEASE
        assert "1 client waits" in (error.detail or "")
        assert "max_waiting" in (error.hint or "")
        await holder.rows("commit")
        assert await waiting.read_rows() == ["patient"]
        assert await refused.rows("select 'here'") == ["here"]


async def test_refusals_are_logged_once_a_second(postgres: LocalPostgres) -> None:
    """With the number of those refused since, so that a thousand at once are one line."""
    async with (
        pooler(postgres, pool_size=1, timeouts={"lease_wait": "200ms"}) as running,
        await running.log_in() as holder,
        crowd(running, 30) as peers,
    ):
        await hold(holder)
        errors: list[ErrorFields] = []

        async def ask(peer: Peer) -> None:
            errors.extend(await peer.run("select 1"))

        for _ in range(2):
            before = running.log.mark()
            async with trio.open_nursery() as nursery:
                for peer in peers:
                    nursery.start_soon(ask, peer)
            assert len(running.log.find("no lease", since=before)) <= 1
            await trio.sleep(1.1)  # it is of time that this promise is
        assert Counter(map(spell, errors)) == {NO_LEASE: 60}
        assert list(map(spell, await peers[0].run("select 1"))) == [NO_LEASE]
        assert sum(entry["refused"] for entry in running.log.find("no lease")) == 61
        assert running.origin.shortage.refused == 61


@pytest.mark.slow
async def test_a_thousand_clients_are_served_in_order(postgres: LocalPostgres, many_files: None) -> None:
    """Each once, in the order in which they have asked."""
    async with (
        pooler(postgres, pool_size=1, timeouts={"lease_wait": "100s"}, limit=100) as running,
        await running.log_in() as holder,
        crowd(running, 1000) as peers,
    ):
        await holder.rows("create table turn (n int)")
        await holder.rows("insert into turn values (0)")
        await hold(holder)
        turns: dict[int, str] = {}

        async def ask(peer: Peer) -> None:
            (turns[peer.process_id],) = await peer.rows("update turn set n = n + 1 returning n")

        async with trio.open_nursery() as nursery:
            for peer in peers:
                nursery.start_soon(ask, peer)
            await running.until(lambda: len(running.origin.pool.waiting) == 1000)
            order = [waiter.process_id for waiter in running.origin.pool.waiting]
            await holder.rows("commit")
        assert turns == {process_id: str(turn) for turn, process_id in enumerate(order, 1)}
        await holder.rows("drop table turn")
        await running.at_rest(clients=1001)


@pytest.mark.slow
async def test_a_crowd_loses_no_server(postgres: LocalPostgres, many_files: None) -> None:
    """Two thousand clients on four servers: everybody gets an answer that is its own, and four are idle."""
    async with (
        pooler(postgres, pool_size=4, timeouts={"lease_wait": "100s"}, limit=100) as running,
        crowd(running, 2000) as peers,
    ):

        async def ask(peer: Peer) -> None:
            for turn in range(2):
                word = f"{peer.process_id} {turn}"
                assert await peer.rows(f"select '{word}'") == [word]

        async with trio.open_nursery() as nursery:
            for peer in peers:
                nursery.start_soon(ask, peer)
        await running.at_rest(clients=2000)
        pool = running.origin.pool
        assert (len(pool.idle), pool.servers) == (4, 4)
        assert pool.leases >= 4000


# -- pools of several users --------------------------------------------------------------------------------


TENANTS = ("tenant_a", "tenant_b", "tenant_c")


@asynccontextmanager
async def tenants(postgres: LocalPostgres, max_servers: int) -> AsyncIterator[Running]:
    """A pooler where each of the tenants has a pool of its own."""
    async with watcher(postgres) as admin:
        for name in TENANTS:
            await admin.run(f"drop role if exists {name}")
            assert await admin.run(f"create role {name} login") == []
    origin = f"postgresql://{quote(str(postgres.socket_dir), safe='')}:{postgres.port}/{DATABASE}"
    config = trio_pool.Config.from_dict(
        {
            "listen": {"addresses": ["127.0.0.1:0"]},
            "auth": {"method": "trust"},
            "databases": {DATABASE: {"origin": origin, "pool_size": 3, "max_servers": max_servers}},
        }
    )
    with logged() as log, trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            running = Running(await nursery.start(trio_pool.serve, config), log)
            yield running
            running.check()
            nursery.cancel_scope.cancel()
    assert log.find("server connect failed") == []


def servers_of(running: Running, user: str) -> int:
    return running.service.pools[PoolKey(DATABASE, user)].pool.servers


async def test_an_idle_server_gives_way_to_another_users_client(postgres: LocalPostgres) -> None:
    """Who needs a connection gets the place of one that nobody uses, and there are never too many."""
    first, second, _ = TENANTS
    async with tenants(postgres, max_servers=1) as running:
        for turn in range(3):
            for user in (first, second):
                async with await running.log_in(user=user) as peer:
                    assert await peer.rows("select current_user") == [user]
                    other = second if user == first else first
                    if turn:
                        assert (servers_of(running, user), servers_of(running, other)) == (1, 0)
        gone = running.log.find("server disconnected")
        assert {entry["reason"] for entry in gone} == {"server gave way to another pool"}


async def test_a_busy_user_leaves_servers_to_others(postgres: LocalPostgres) -> None:
    """Clients that never stop asking do not keep another user's from being served, nor are they stopped."""
    first, second, third = TENANTS
    async with tenants(postgres, max_servers=3) as running, AsyncExitStack() as stack:
        answered: Counter[str] = Counter()
        served = trio.Event()

        async def ask(user: str) -> None:
            peer = await stack.enter_async_context(await running.log_in(user=user))
            while True:
                assert await peer.rows("select current_user") == [user]
                answered[user] += 1
                assert sum(servers_of(running, name.user) for name in running.service.pools) <= 3
                if min(answered[name] for name in TENANTS) >= 50:
                    served.set()

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(ask, first)
            await running.until(lambda: answered[first] > 100)
            for user in (second, third):
                for _ in range(4):
                    nursery.start_soon(ask, user)
            await served.wait()
            nursery.cancel_scope.cancel()
