"""The end of a pooler inside somebody's Trio program: what it leaves in PostgreSQL, and what it costs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import trio

import trio_pool
from tests.net.harness import Running, origin_url, pooler, watcher
from tests.support.target import DATABASE, PASSWORD, USER
from trio_pool.daemon.stopping import AT_ONCE, Losses
from trio_pool.wire import messages

if TYPE_CHECKING:
    from tests.net.peer import Peer
    from trio_pool.cli.postgres import LocalPostgres

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

MARK = "who stops here"
SLEEP = messages.query(f"select pg_sleep(60) /* {MARK} */")
RUNNING = (
    f"select count(*) from pg_stat_activity where position($${MARK}$$ in query) > 0 and state <> 'idle'"
    " and pid <> pg_backend_pid()"
)
SLACK = 4.0
"""Seconds that a busy machine may add."""


async def wait_for_count(superuser: Peer, count: int) -> None:
    """Return when so many statements with the mark run."""
    with trio.fail_after(SLACK):
        while await superuser.rows(RUNNING) != [str(count)]:  # noqa: ASYNC110
            await trio.sleep(0.005)


async def stopped(running: Running) -> None:
    """Return when the service has ended, as the log tells."""
    with trio.fail_after(2 * SLACK):
        await running.log.wait_for("stopped")


async def test_a_cancelled_pooler_cancels_what_runs(postgres: LocalPostgres) -> None:
    """A program that cancels the nursery it serves in leaves no running statement, no open transaction."""
    async with watcher(postgres) as superuser:
        async with (
            pooler(postgres) as running,
            await running.log_in() as busy,
            await running.log_in() as idle,
        ):
            await idle.rows(f"begin; select 1 /* {MARK} */")
            await busy.send(SLEEP)
            await wait_for_count(superuser, 2)
        await wait_for_count(superuser, 0)


async def test_a_pooler_cancelled_at_its_start_ends(postgres: LocalPostgres) -> None:
    """Cancellation before the first client can come is not waited out by anything that is shielded."""
    config = trio_pool.Config.from_dict(
        {
            "listen": {"addresses": ["127.0.0.1:0"]},
            "users": {USER: {"password": PASSWORD}},
            "databases": {DATABASE: {"origin": origin_url(postgres), "password": PASSWORD}},
        }
    )
    with trio.fail_after(SLACK), trio.CancelScope() as scope:
        scope.cancel()
        await trio_pool.serve(config)
    assert scope.cancelled_caught


async def test_what_a_stop_costs_is_counted(postgres: LocalPostgres) -> None:
    """`ending.losses` of a service that drained: clients, statements, transactions."""
    async with pooler(postgres, pool_size=3, timeouts={"drain": "100ms"}) as running:
        async with (
            await running.log_in() as idle,
            await running.log_in() as busy,
            await running.log_in() as holder,
            await running.log_in() as failed,
            watcher(postgres) as superuser,
        ):
            await holder.rows(f"begin; select 1 /* {MARK} */")
            await failed.run("begin; select 1/0")
            await busy.send(SLEEP)
            await wait_for_count(superuser, 2)
            running.service.stop()
            for peer in (idle, holder, failed):
                assert (await peer.farewell()).sqlstate == "57P01"
            assert [error.sqlstate for error in await busy.errors()] == ["57014"]
            assert (await busy.farewell()).sqlstate == "57P01"
            await stopped(running)
            await wait_for_count(superuser, 0)
        assert running.service.ending.losses == Losses(given_up=3, cancelled=1, rolled_back=2)
        assert not running.service.ending.hurried


async def test_a_client_that_leaves_in_time_costs_nothing(postgres: LocalPostgres) -> None:
    """Open transactions may end while `drain` lasts."""
    async with pooler(postgres, timeouts={"drain": "30s"}) as running:
        async with await running.log_in() as peer:
            await peer.rows("begin; select 1")
            running.service.stop()
            await running.log.wait_for("stopping")
            assert await peer.rows("commit") == []
            assert (await peer.farewell()).sqlstate == "57P01"
        await stopped(running)
        assert running.service.ending.losses == Losses()


async def test_a_client_that_vanishes_while_it_is_given_up(postgres: LocalPostgres) -> None:
    """Nobody is there to be told, and everything ends all the same."""
    async with pooler(postgres, timeouts={"drain": "100ms"}) as running, watcher(postgres) as superuser:
        peer = await running.log_in()
        await peer.send(SLEEP)
        await wait_for_count(superuser, 1)
        running.service.stop()
        await running.log.wait_for("stopping")
        peer.close()
        await stopped(running)
        await wait_for_count(superuser, 0)


async def test_a_hard_stop_without_a_drain_before_it(postgres: LocalPostgres) -> None:
    """`stop_at_once` is complete by itself, and bounded although `drain` is not."""
    async with pooler(postgres, timeouts={"drain": "0"}) as running, watcher(postgres) as superuser:
        assert running.service.config.timeouts.drain == math.inf
        async with await running.log_in() as peer:
            await peer.send(SLEEP)
            await wait_for_count(superuser, 1)
            running.service.stop_at_once()
            with trio.fail_after(AT_ONCE + SLACK):
                assert (await peer.farewell()).sqlstate == "57P01"
                await running.log.wait_for("stopped")
        await wait_for_count(superuser, 0)
        assert running.service.ending.hurried
        assert running.service.ending.losses == Losses(given_up=1, cancelled=1)
