"""The console of any of several processes, the metrics and the page are about all of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.daemon.gathered.together import together
from tests.daemon.web.asking import Scrape, get
from tests.support.serving import superuser
from tests.support.target import DATABASE, USER

if TYPE_CHECKING:
    from tests.daemon.gathered.together import Worker
    from tests.net.peer import Peer
    from trio_pool.cli.postgres import LocalPostgres

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

APP = {"database": DATABASE, "user": USER}
Rows = list[dict[str, str | None]]


async def show(console: Peer, name: str) -> Rows:
    """The rows of a table."""
    return await console.table(f"SHOW {name}")


async def test_tables_are_those_of_all(any_postgres: LocalPostgres) -> None:
    """Whoever asks: clients, servers, leases and pools of both; handles tell file descriptors of different
    processes apart; servers are PostgreSQL's.
    """
    async with together(any_postgres, 2) as all_, superuser(any_postgres) as root:
        one, two = all_.workers
        async with (
            await one.log_in() as first,
            await two.log_in() as second,
            await one.console() as console,
            await two.console() as other,
        ):
            for peer in (first, second):
                await peer.rows("begin")
                await peer.rows("select 1")
            for asked in (console, other):
                clients = [row for row in await show(asked, "CLIENTS") if row["database"] == DATABASE]
                servers = await show(asked, "SERVERS")
                leases = await show(asked, "LEASES")
                assert len({row["id"] for row in clients}) == 2
                assert {row["link"] for row in clients} == {row["ptr"] for row in servers}
                assert {row["ptr"] for row in clients} == {row["link"] for row in servers}
                handles = [row["ptr"] for row in (*clients, *servers)]
                assert len(set(handles)) == 4
                at_postgres = await root.rows(
                    f"select pid from pg_stat_activity where usename = '{USER}' order by pid"
                )
                assert sorted(str(row["remote_pid"]) for row in servers) == sorted(at_postgres)
                assert {row["client"] for row in leases} == {row["id"] for row in clients}
                (pool,) = [row for row in await show(asked, "POOLS") if row["database"] == DATABASE]
                assert (pool["cl_active"], pool["sv_active"]) == ("2", "2")
                (of_console,) = [r for r in await show(asked, "POOLS") if r["database"] == "pgbouncer"]
                assert of_console["cl_active"] == "2"
                users = {row["name"]: row["current_client_connections"] for row in await show(asked, "USERS")}
                assert users[USER] == "2"
                workers = await show(asked, "WORKERS")
                assert [(row["worker"], row["clients"], row["leased"]) for row in workers] == [
                    ("0", "1", "1"),
                    ("1", "1", "1"),
                ]
                (database,) = [r for r in await show(asked, "DATABASES") if r["name"] == DATABASE]
                assert (database["pool_size"], database["current_connections"]) == ("2", "2")


async def test_every_table_can_be_shown(any_postgres: LocalPostgres) -> None:
    """None needs of the others what it has not asked for."""
    from trio_pool.daemon.console.shows import SHOWS

    async with (
        together(any_postgres, 2) as all_,
        await all_.workers[0].log_in() as client,
        await all_.workers[1].console() as console,
    ):
        await client.rows("select 1")
        found = {name: await show(console, name) for name in SHOWS}
    assert {name for name, rows in found.items() if not rows} == {
        *("PEERS", "PEER_POOLS", "DNS_HOSTS", "DNS_ZONES"),  # always empty
        *("LEASES", "PINS", "PREPARED", "CACHE_REASONS", "TUNNELS"),
    }


async def total(console: Peer) -> int:
    (row,) = [row for row in await show(console, "STATS") if row["database"] == DATABASE]
    return int(row["total_query_count"] or 0)


async def queries(worker: Worker, count: int) -> None:
    async with await worker.log_in() as peer:
        for _ in range(count):
            await peer.rows("select 1")


async def test_what_only_grows_never_falls(any_postgres: LocalPostgres) -> None:
    """SHOW STATS, `/metrics` and the page agree with what was done in all. When a worker dies, and another
    one comes in its place, what was told of it stays.
    """
    async with together(any_postgres, 2) as all_:
        await all_.serve_http()
        one, two = all_.workers
        async with await one.console() as console:
            await queries(one, 3)
            await queries(two, 4)
            assert await total(console) == 7
            first = await Scrape.of(all_)
            first.check()
            assert first.value("trio_pool_queries_total", **APP) == 7
            assert first.value("trio_pool_pool_size", **APP) == 2
            assert first.value("trio_pool_workers") == 2
            assert first.value("trio_pool_client_disconnects_total", **APP) == 2
            all_.kill(two)
            second = await Scrape.of(all_)
            assert second.fallen_since(first) == []
            assert second.value("trio_pool_queries_total", **APP) == 7
            assert second.value("trio_pool_servers", **APP) == 1
            assert await total(console) == 7
            again = await all_.start(1, restarts=1)
            await queries(again, 5)
            assert await total(console) == 12
            third = await Scrape.of(all_)
            assert third.fallen_since(second) == []
            assert third.value("trio_pool_queries_total", **APP) == 12
            assert third.value("trio_pool_worker_restarts_total") == 1
            assert [row["restarts"] for row in await show(console, "WORKERS")] == ["0", "1"]


async def test_the_page_and_readiness_are_about_all(any_postgres: LocalPostgres) -> None:
    """The snapshot has the workers; `/readyz` says no when nobody is there; `/healthz` is the parent's."""
    async with together(any_postgres, 2) as all_:
        await all_.serve_http()
        async with await all_.workers[1].log_in() as peer:
            await peer.rows("begin")
            await peer.rows("select 1")
            seen: Any = {}
            while not seen.get("leases"):
                seen = json.loads((await get(all_, "/snapshot.json")).body)
                await trio.lowlevel.checkpoint()
            assert [(row["index"], row["clients"], row["leased"]) for row in seen["workers"]] == [
                (0, 0, 0),
                (1, 1, 1),
            ]
            assert seen["process"]["clients"] == 1
        assert (await get(all_, "/readyz")).status == 200
        for worker in list(all_.workers):
            all_.kill(worker)
        answer = await get(all_, "/readyz")
        assert answer.status == 503
        assert json.loads(answer.body)["not_ready_because"] == ["no worker serves"]
        assert (await get(all_, "/healthz")).status == 200


async def test_a_pause_is_one_of_all(any_postgres: LocalPostgres) -> None:
    """It waits for the leases of all, holds for those that come later, and is over for all at RESUME. When it
    is given up, nobody is paused.
    """
    async with together(any_postgres, 2) as all_:
        one, two = all_.workers
        async with await one.console() as console, await two.log_in() as holder:
            await holder.rows("begin")
            await holder.rows("select 1")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(console.run, "PAUSE")
                await all_.until(lambda: all(w.service.operations.all_paused for w in all_.workers))
                later = await all_.start(2)
                assert later.service.operations.all_paused
                nursery.cancel_scope.cancel()
            console.close()
            await all_.until(lambda: not any(w.service.operations.all_paused for w in all_.workers))
            all_.kill(later)
            assert await holder.rows("select 2") == ["2"]
        async with await two.console() as console, await one.log_in() as holder:
            await holder.rows("begin")
            await holder.rows("select 1")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(console.run, "PAUSE")
                await all_.until(lambda: all(w.service.operations.all_paused for w in all_.workers))
                await holder.rows("commit")
            third = await all_.start(2)
            assert third.service.operations.all_paused
            assert await console.run("RESUME") == []
            assert not any(worker.service.operations.all_paused for worker in all_.workers)
            (refused,) = await console.run("RESUME")
            assert refused.summary == "pooler is not paused/suspended"


async def test_commands_reach_everybody(any_postgres: LocalPostgres) -> None:
    """DISABLE, KILL_CLIENT of another process' client, RECONNECT, KILL."""
    async with together(any_postgres, 2) as all_:
        one, two = all_.workers
        async with await one.console() as console, await two.log_in() as client, await two.log_in() as other:
            await client.rows("select 1")
            assert await console.run(f"DISABLE {DATABASE}") == []
            assert [w.service.operations.is_disabled(DATABASE) for w in all_.workers] == [True, True]
            assert await console.run(f"ENABLE {DATABASE}") == []
            (row,) = [r for r in await show(console, "CLIENTS") if r["id"] == str(client.process_id)]
            assert await console.run(f"KILL_CLIENT {row['id']}") == []
            assert (await client.farewell()).sqlstate == "57P01"
            (refused,) = await console.run(f"KILL_CLIENT {row['id']}")
            assert refused.summary == "client not found"
            assert await console.run("RECONNECT") == []
            assert await console.run("WAIT_CLOSE") == []
            assert await console.run("KILL") == []
            assert (await other.farewell()).sqlstate == "57P01"
            assert await console.run("RESUME") == []


async def test_a_worker_that_dies_is_no_reason_for_an_error(any_postgres: LocalPostgres) -> None:
    """Neither for a pause that waited for it, nor for who looks."""
    async with together(any_postgres, 2) as all_:
        one, two = all_.workers
        async with await one.console() as console, await two.log_in() as holder:
            await holder.rows("begin")
            await holder.rows("select 1")
            found: list[Any] = []

            async def pause() -> None:
                found.append(await console.run("PAUSE"))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(pause)
                await all_.until(lambda: one.service.operations.all_paused)
                all_.kill(two)
            assert found == [[]]
            assert len(await show(console, "WORKERS")) == 1
