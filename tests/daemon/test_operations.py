"""What an operator does to a running pooler: pause, resume, disable, reconnect, kill, suspend."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tests.net.harness import Running, canary, pooler, watcher
from tests.net.peer import Peer
from tests.support.serving import server_pids, serving
from tests.support.target import DATABASE, USER
from trio_pool.daemon.operations import OperationError
from trio_pool.wire import messages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from trio_pool.cli.postgres import LocalPostgres

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

PID = "select pg_backend_pid()"


@asynccontextmanager
async def paused(running: Running, database: str | None = None) -> AsyncIterator[None]:
    """A pause that is complete, ended at the end of the block."""
    await running.service.operations.pause(database)
    yield
    await running.service.operations.resume(database)


def _has(collection: Collection[object], number: int) -> bool:
    return len(collection) == number


async def sessions(pg: LocalPostgres) -> int:
    """How many PostgreSQL has of the pooler's."""
    async with watcher(pg) as peer:
        (count,) = await peer.rows(f"select count(*) from pg_stat_activity where usename = '{USER}'")
    return int(count)


async def until_no_sessions(pg: LocalPostgres) -> None:
    """PostgreSQL's processes need a moment to end."""
    while await sessions(pg):  # noqa: ASYNC110
        await trio.sleep(0.01)


# -- PAUSE and RESUME ------------------------------------------------------------------------------------


async def test_a_pause_closes_every_server_and_nobody_notices(postgres: LocalPostgres) -> None:
    """Under load: PAUSE returns when PostgreSQL has no session of ours, clients wait, and go on at RESUME."""
    async with pooler(postgres) as running, canary(running, "one"), canary(running, "two"):
        for _ in range(3):
            async with paused(running, DATABASE):
                assert running.origin.pool.servers == 0
                await until_no_sessions(postgres)
                running.check()


async def test_a_pause_waits_for_transactions(postgres: LocalPostgres) -> None:
    """PAUSE returns behind the last transaction; meanwhile nobody else gets a server."""
    async with pooler(postgres) as running, await running.log_in() as busy, await running.log_in() as other:
        await busy.rows("begin")
        (before,) = await busy.rows(PID)
        operations = running.service.operations
        async with trio.open_nursery() as nursery:
            nursery.start_soon(operations.pause, None)
            await running.until(lambda: operations.state(DATABASE) == "paused")
            await other.send(messages.query(PID))
            await running.until(lambda: len(running.origin.pool.waiting) == 1)
            assert await busy.rows(PID) == [before]
            assert running.origin.pool.servers == 1
            await busy.rows("commit")
        assert running.origin.pool.servers == 0
        await operations.resume(None)
        (after,) = await other.read_rows()
        assert after != before


async def test_a_deferred_begin_waits_as_well(postgres: LocalPostgres) -> None:
    """BEGIN is answered during a pause, its first statement behind it; the transaction is whole."""
    async with pooler(postgres) as running, await running.log_in() as client:
        async with paused(running):
            assert await client.rows("begin") == []
            await client.send(messages.query("select txid_current()"))
            await running.until(lambda: len(running.origin.pool.waiting) == 1)
        (xid,) = await client.read_rows()
        assert await client.rows("select txid_current()") == [xid]
        assert await client.rows("commit") == []


async def test_who_waits_is_served_in_order(postgres: LocalPostgres) -> None:
    """After RESUME, clients get servers in the order in which they asked."""
    async with pooler(postgres, pool_size=1, database={"queue_ahead": 0}) as running:
        async with trio.open_nursery() as nursery:
            served: dict[int, str] = {}

            async def ask(number: int, client: Peer) -> None:
                async with client:
                    (served[number],) = await client.rows("select clock_timestamp()")

            clients = [await running.log_in() for _ in range(5)]
            waiting = running.origin.pool.waiting
            async with paused(running):
                for number, client in enumerate(clients):
                    nursery.start_soon(ask, number, client)
                    await running.until(partial(_has, waiting, number + 1))
        assert sorted(served, key=lambda number: served[number]) == list(range(5))


async def test_a_pause_is_no_part_of_lease_wait(postgres: LocalPostgres) -> None:
    """Clients wait as long as a pause takes, those that log in as well; `lease_wait` counts from RESUME."""
    async with (
        pooler(postgres, timeouts={"lease_wait": "300ms"}) as running,
        await running.log_in() as client,
        trio.open_nursery() as nursery,
    ):

        async def newcomer() -> None:
            async with await running.log_in(work_mem="5MB") as peer:
                assert await peer.rows("show work_mem") == ["5MB"]

        async with paused(running):
            await client.send(messages.query("select 'served'"))
            nursery.start_soon(newcomer)
            await trio.sleep(1.0)
        assert await client.read_rows() == ["served"]


async def test_lease_wait_counts_again_behind_a_pause(postgres: LocalPostgres) -> None:
    """Who gets no server within `lease_wait` of RESUME is told so."""
    limits = {"lease_wait": "300ms"}
    async with pooler(postgres, pool_size=1, timeouts=limits) as running, await running.log_in() as holder:
        async with await running.log_in() as client:
            waiting = running.origin.pool.waiting
            async with paused(running):
                await holder.send(messages.query("select pg_sleep(1)"))
                await running.until(partial(_has, waiting, 1))
                await client.send(messages.query("select 1"))
                await running.until(partial(_has, waiting, 2))
            assert [error.sqlstate for error in await client.errors()] == ["53300"]
        assert await holder.read_rows() == [""]


async def test_max_waiting_does_not_count_in_a_pause(postgres: LocalPostgres) -> None:
    """Nobody is refused because many wait for the end of a pause."""
    async with pooler(postgres, database={"max_waiting": 1}) as running:
        clients = [await running.log_in() for _ in range(4)]
        async with paused(running):
            for client in clients:
                await client.send(messages.query("select 1"))
            await running.until(lambda: len(running.origin.pool.waiting) == 4)
        for client in clients:
            assert await client.read_rows() == ["1"]
            client.close()


async def test_one_database_is_paused_and_others_are_not(postgres: LocalPostgres) -> None:
    """PAUSE of a database leaves the others alone; RESUME must name it too."""
    async with serving(postgres, databases={DATABASE: {}, "other": {}}) as running:
        operations = running.service.operations
        await operations.pause("other")
        assert (operations.state("other"), operations.state(DATABASE)) == ("paused", "active")
        async with await running.log_in() as client:
            assert await client.rows("select 1") == ["1"]
        with pytest.raises(OperationError, match=r"^pooler is not paused/suspended$"):
            await operations.resume(None)
        with pytest.raises(OperationError, match=r"^database app is not paused$"):
            await operations.resume(DATABASE)
        await operations.resume("other")
        async with await running.log_in(database="other") as client:
            assert await client.rows("select 1") == ["1"]


async def test_a_pool_that_is_new_in_a_pause_is_paused(postgres: LocalPostgres) -> None:
    """Who comes to a paused database first waits like everybody."""
    async with serving(postgres) as running, trio.open_nursery() as nursery:

        async def newcomer() -> None:
            async with await running.log_in() as peer:
                assert await peer.rows("select 1") == ["1"]

        async with paused(running):
            nursery.start_soon(newcomer)
            await running.until(lambda: bool(running.service.pools))
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert running.origin.pool.servers == 0


async def test_a_pause_that_is_cancelled_is_undone(postgres: LocalPostgres) -> None:
    """Whoever cancels a PAUSE that waits finds everything as it was."""
    async with pooler(postgres, pool_size=1) as running, await running.log_in() as busy:
        await busy.rows("begin; select 1")
        with trio.move_on_after(0.1) as scope:
            await running.service.operations.pause(None)
        assert scope.cancelled_caught
        assert running.service.operations.state(DATABASE) == "active"
        await busy.rows("commit")
        assert await busy.rows("select 1") == ["1"]


async def test_a_listener_hears_again_after_a_pause(postgres: LocalPostgres) -> None:
    """A pause closes the listening connection too; behind it the client hears what is notified."""
    async with pooler(postgres) as running, await running.log_in() as listener:
        await listener.rows("listen news")
        await running.until(lambda: running.origin.listening.connected)
        async with paused(running):
            await until_no_sessions(postgres)
        await running.until(lambda: running.origin.listening.statistics().connected)
        async with await running.log_in() as speaker:
            await speaker.rows("notify news, 'heard'")
        message = await listener.receive()
        assert message is not None
        assert message[0] == ord("A")


async def test_reads_that_are_sent_ahead_end_at_a_pause(postgres: LocalPostgres) -> None:
    """A pool whose servers are always shared by readers comes to rest all the same."""
    async with pooler(postgres, pool_size=1) as running, trio.open_nursery() as nursery:

        async def read() -> None:
            async with await running.log_in() as peer:
                while True:
                    assert await peer.rows("select 1") == ["1"]

        for _ in range(6):
            nursery.start_soon(read)
        ahead = running.service.pools
        await running.until(
            lambda: (
                bool(ahead)
                and running.origin.ahead is not None
                and running.origin.ahead.statistics.queued > 20
            )
        )
        for _ in range(5):
            async with paused(running):
                running.check()
        assert running.origin.ahead is not None
        before = running.origin.ahead.statistics.queued
        await running.until(
            lambda: running.origin.ahead is not None and running.origin.ahead.statistics.queued > before + 20
        )
        nursery.cancel_scope.cancel()


# -- DISABLE, RECONNECT, WAIT_CLOSE ----------------------------------------------------------------------


async def test_a_disabled_database_takes_no_new_clients(postgres: LocalPostgres) -> None:
    """DISABLE refuses logins and leaves clients alone; ENABLE ends that."""
    async with pooler(postgres) as running, await running.log_in() as old:
        operations = running.service.operations
        operations.disable(DATABASE)
        assert operations.state(DATABASE) == "disabled"
        async with await Peer.connect(running.address) as new:
            await new.send(messages.startup({"user": USER, "database": DATABASE}))
            fault = await new.farewell()
            assert (fault.sqlstate, fault.summary) == ("55000", 'database "app" is disabled')
        assert await old.rows("select 1") == ["1"]
        operations.enable(DATABASE)
        async with await running.log_in() as new:
            assert await new.rows("select 1") == ["1"]


async def test_reconnect_replaces_servers_when_they_are_given_back(postgres: LocalPostgres) -> None:
    """RECONNECT: idle servers go at once, a leased one behind its transaction; WAIT_CLOSE waits for it."""
    async with pooler(postgres) as running, await running.log_in() as busy, await running.log_in() as idle:
        await busy.rows("begin")
        (kept,) = await busy.rows(PID)
        (gone,) = await idle.rows(PID)
        operations = running.service.operations
        operations.reconnect(None)
        (new,) = await idle.rows(PID)
        assert new not in (kept, gone)
        assert await busy.rows(PID) == [kept]
        async with trio.open_nursery() as nursery:
            waited = trio.CancelScope()

            async def wait() -> None:
                with waited:
                    await operations.wait_close(DATABASE)

            nursery.start_soon(wait)
            await trio.sleep(0.1)
            assert len(nursery.child_tasks) == 1
            await busy.rows("commit")
        assert not waited.cancelled_caught
        assert int(kept) not in server_pids(running)
        assert await busy.rows("select 1") == ["1"]


async def test_reconnect_under_load(postgres: LocalPostgres) -> None:
    """Nobody notices, also where readers share servers."""
    async with pooler(postgres) as running, canary(running, "one") as one, canary(running, "two"):
        for _ in range(5):
            before = server_pids(running)
            running.service.operations.reconnect(DATABASE)
            await running.service.operations.wait_close(None)
            await one.heard(3)
            assert not before & server_pids(running)


# -- KILL ------------------------------------------------------------------------------------------------


async def test_a_client_is_killed_and_its_server_lives(postgres: LocalPostgres) -> None:
    """KILL_CLIENT: FATAL 57P01; what runs is cancelled, and its server serves the next."""
    async with pooler(postgres, pool_size=1) as running, await running.log_in() as victim:
        (pid,) = await victim.rows(PID)
        await victim.send(messages.query("select pg_sleep(60)"))
        await running.until(lambda: len(running.origin.pool.leased) == 1)
        (client_id,) = running.service.clients.by_id
        assert running.service.operations.kill_client(client_id)
        assert (await victim.farewell()).sqlstate == "57P01"
        assert not running.service.operations.kill_client(client_id)
        async with await running.log_in() as next_one:
            assert await next_one.rows(PID) == [pid]


async def test_kill_closes_everything_of_a_database(postgres: LocalPostgres) -> None:
    """KILL: clients get FATAL 57P01, what runs is cancelled, new clients wait until RESUME."""
    async with pooler(postgres) as running:
        busy, idle = await running.log_in(), await running.log_in()
        await busy.rows("begin; create table killed ()")
        await busy.send(messages.query("select pg_sleep(60)"))
        assert await idle.rows("select 1") == ["1"]
        operations = running.service.operations
        await operations.kill(DATABASE)
        for client in (busy, idle):
            assert (await client.farewell()).sqlstate == "57P01"
            client.close()
        assert running.origin.pool.servers == 0
        await until_no_sessions(postgres)
        assert operations.state(DATABASE) == "paused"
        async with await running.log_in() as later:
            await later.send(messages.query("select to_regclass('killed') is null"))
            await running.until(lambda: len(running.origin.pool.waiting) == 1)
            await operations.resume(DATABASE)
            assert await later.read_rows() == ["t"]


# -- SUSPEND ---------------------------------------------------------------------------------------------


async def test_suspend_stops_reading_until_resume(postgres: LocalPostgres) -> None:
    """SUSPEND: what was asked before is answered or waits, nothing more is read; RESUME goes on."""
    async with pooler(postgres) as running, await running.log_in() as client:
        assert await client.rows("select 1") == ["1"]
        await running.service.operations.suspend()
        await client.send(messages.query("select 2"))
        with trio.move_on_after(0.2) as silence:
            await client.receive()
        assert silence.cancelled_caught
        with pytest.raises(OperationError, match=r"^already suspended/paused$"):
            await running.service.operations.pause(None)
        await running.service.operations.resume(None)
        assert await client.read_rows() == ["2"]


# -- refusals --------------------------------------------------------------------------------------------


async def test_refusals_are_in_the_words_of_pgbouncer(postgres: LocalPostgres) -> None:
    """Scripts that look for these texts find them."""
    async with serving(postgres) as running:
        operations = running.service.operations
        for what, act in {
            "pause": operations.pause("pgbouncer"),
            "kill": operations.kill("trio_pool"),
            "wait in": operations.wait_close("pgbouncer"),
        }.items():
            with pytest.raises(OperationError, match=f"^cannot {what} admin db: "):
                await act
        for what in ("disable", "enable", "reconnect"):
            with pytest.raises(OperationError, match=f"^cannot {what} admin db: pgbouncer$"):
                getattr(operations, what)("pgbouncer")
        with pytest.raises(OperationError, match=r"^no such database: nowhere$"):
            await operations.pause("nowhere")
        await operations.pause(None)
        for again in (operations.pause(None), operations.pause(DATABASE), operations.suspend()):
            with pytest.raises(OperationError, match=r"^already suspended/paused$"):
                await again
        await operations.resume(None)
        await operations.pause(DATABASE)
        with pytest.raises(OperationError, match=r"^cannot suspend with paused databases$"):
            await operations.suspend()


# -- SHUTDOWN --------------------------------------------------------------------------------------------


async def test_shutdown_waits_for_clients(postgres: LocalPostgres) -> None:
    """WAIT_FOR_CLIENTS: nobody new comes in, clients go on as long as they like, and then it ends."""
    async with pooler(postgres) as running, await running.log_in() as client:
        running.service.operations.shutdown("wait_for_clients")
        await running.log.wait_for("stopping")
        with pytest.raises(OSError, match=r"^all attempts to connect"):
            await Peer.connect(running.address)
        for _ in range(3):
            assert await client.rows("select 1") == ["1"]
        with pytest.raises(OperationError, match=r"^pooler is shutting down$"):
            await running.service.operations.resume(None)
        client.close()
        await running.log.wait_for("stopped")


async def test_shutdown_ends_a_pause(postgres: LocalPostgres) -> None:
    """Transactions that wait for the end of a pause end as at any stop."""
    async with serving(postgres) as running, await running.log_in() as client:
        await running.service.operations.pause(None)
        await client.rows("begin")
        await client.send(messages.query("select 'in time'"))
        await running.until(lambda: len(running.origin.pool.waiting) == 1)
        running.service.operations.shutdown("wait_for_servers")
        assert (await client.farewell()).sqlstate == "57P01"
        await running.log.wait_for("stopped")
