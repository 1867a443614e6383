"""Writes made past the pooler end what it keeps, and memory answers nothing that nobody vouches for."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
import trio.lowlevel

from tests.support.caching import caching
from tests.support.prepared import forget_prepared
from tests.support.talk import ask, done, selected
from tests.support.target import DATABASE, USER
from trio_pool.cache.statuses import Status
from trio_pool.cli.postgres import LocalPostgres
from trio_pool.config.model import Invalidation
from trio_pool.daemon.census import Census
from trio_pool.net import replication
from trio_pool.net.replication import Phase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.net.peer import Peer
    from tests.support.caching import Caching
    from tests.support.requests import Reply
    from trio_pool.cli.postgres import Installation
    from trio_pool.daemon.service import Service
    from trio_pool.net.changes import Changes

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

READ = "SELECT value FROM kept WHERE id = 1"
SECONDS = 20.0


@asynccontextmanager
async def streaming(
    pg: LocalPostgres, *, wait: bool = True, cache: dict[str, Any] | None = None
) -> AsyncIterator[Caching]:
    """A pooler whose cache learns of all writes."""
    pg.run_sql(f"ALTER ROLE {USER} REPLICATION")
    await trio.to_thread.run_sync(forget_prepared, pg)
    own = {"invalidation": "replication", **(cache or {})}
    async with caching(pg, cache=own) as shared, await shared.running.log_in() as peer:
        await ask(peer, READ)
        if wait:
            await until(lambda: not changes(shared).bypassed)
        yield shared
    await left_nothing(pg)


def changes(shared: Caching) -> Changes:
    found = shared.cached.changes
    assert found is not None
    return found


async def until(condition: Callable[[], bool]) -> None:
    """Nobody is told when it comes to be."""
    with trio.fail_after(SECONDS):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.005)


async def reads(peer: Peer, expected: list[Reply], sql: str = READ) -> float:
    """Ask until this is the answer; how long that took."""
    began = trio.current_time()
    with trio.fail_after(SECONDS):
        while await ask(peer, sql) != expected:
            await trio.lowlevel.checkpoint()
    return trio.current_time() - began


async def comes(shared: Caching, peer: Peer, sql: str, expected: Status) -> list[Reply]:
    """Ask until it has this status; the answer."""
    with trio.fail_after(SECONDS):
        while True:
            answer, status = await shared.asked(peer, sql)
            if status is expected:
                return answer
            await ask(peer, "select 1")  # the catalog is asked when a lease ends


async def left_nothing(pg: LocalPostgres) -> None:
    """PostgreSQL removes a temporary slot a moment after its connection; the publication goes at about that
    time.
    """
    left = "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_publication)"
    with trio.fail_after(SECONDS):
        while await run(pg, left) != "0":  # noqa: ASYNC110
            await trio.sleep(0.01)


async def run(pg: LocalPostgres, sql: str) -> str:
    return (await trio.to_thread.run_sync(pg.run_sql, sql, DATABASE)).strip()


async def test_writes_made_elsewhere_are_noticed(postgres: LocalPostgres) -> None:
    """Whoever asks again a moment after a commit, made past the pooler, gets what was committed."""
    async with streaming(postgres) as shared, await shared.running.log_in() as peer:
        lags = []
        await ask(shared.direct, "SET synchronous_commit = on")
        for number in range(40):
            await comes(shared, peer, READ, Status.HIT)
            await ask(shared.direct, f"UPDATE kept SET value = 'n {number}' WHERE id = 1")
            lags.append(await reads(peer, selected(f"n {number}")))
        median, p95, worst = (sorted(lags)[rank] * 1e3 for rank in (20, 38, 39))
        print(f"lag: median {median:.2f} ms, p95 {p95:.2f} ms, worst {worst:.2f} ms")
        await comes(shared, peer, READ, Status.HIT)
        await ask(shared.direct, "TRUNCATE kept")
        await reads(peer, selected())


async def test_writes_that_pass_are_noticed_at_once_all_the_same(postgres: LocalPostgres) -> None:
    """Nobody who writes through the pooler waits for the stream to read it."""
    async with streaming(postgres) as shared, await shared.running.log_in() as peer:
        for number in range(20):
            await comes(shared, peer, READ, Status.HIT)
            assert await ask(peer, f"UPDATE kept SET value = 'n {number}' WHERE id = 1") == done("UPDATE 1")
            assert await ask(peer, READ) == selected(f"n {number}")


async def test_what_the_stream_does_not_tell_of_is_not_kept(any_postgres: LocalPostgres) -> None:
    """A table without a primary key is asked for every time, until it has one."""
    async with streaming(any_postgres) as shared, await shared.running.log_in() as peer:
        await ask(shared.direct, "DROP TABLE IF EXISTS bare")
        await ask(peer, "CREATE TABLE bare (id int)")
        await comes(shared, peer, "SELECT id FROM bare", Status.UNCACHEABLE)
        await ask(shared.direct, "UPDATE bare SET id = 2")
        await ask(peer, "ALTER TABLE bare ADD PRIMARY KEY (id)")
        table = frozenset({int(await run(any_postgres, "SELECT 'bare'::regclass::oid"))})
        await until(lambda: changes(shared).covers(table))
        await comes(shared, peer, "SELECT id FROM bare", Status.HIT)
        await ask(shared.direct, "INSERT INTO bare VALUES (7)")
        await reads(peer, selected("7"), "SELECT id FROM bare")
        await ask(peer, "DROP TABLE bare")


@pytest.mark.parametrize("when_stale", ["bypass", "serve"])
async def test_a_broken_stream(
    any_postgres: LocalPostgres, when_stale: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is away, the origin is asked, or memory answers, as configured; with the next stream nothing
    of before is answered."""
    served = Status.HIT if when_stale == "serve" else Status.BYPASSED
    monkeypatch.setattr(replication, "UNUSABLE", 0.1)
    async with (
        streaming(any_postgres, cache={"when_stale": when_stale}) as shared,
        await shared.running.log_in() as peer,
    ):
        await until(lambda: changes(shared).stream.state.connected)
        kept = await comes(shared, peer, READ, Status.HIT)
        await ask(shared.direct, f"ALTER ROLE {USER} NOREPLICATION")
        await ask(shared.direct, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots")
        await until(lambda: not changes(shared).stream.state.connected)
        assert await shared.asked(peer, READ) == (kept, served)
        await ask(shared.direct, "UPDATE kept SET value = 'unseen' WHERE id = 1")
        await until(lambda: "REPLICATION" in (changes(shared).stream.state.error or ""))
        await ask(shared.direct, f"ALTER ROLE {USER} REPLICATION")
        await until(lambda: changes(shared).stream.state.connected)
        assert await ask(peer, READ) == selected("unseen")


async def test_a_server_that_streams_nothing(installation: Installation) -> None:
    """With too low a wal_level everything works, nothing is answered from memory, and it is said why."""
    with LocalPostgres(bin_dir=installation.bin_dir, settings={"wal_level": "replica"}) as pg:
        pg.run_sql(f"create role {USER} login; create database {DATABASE} owner {USER}")
        async with streaming(pg, wait=False) as shared, await shared.running.log_in() as peer:
            await until(lambda: changes(shared).stream.state.phase is Phase.BROKEN)
            assert "wal_level is replica" in (changes(shared).stream.state.error or "")
            assert await comes(shared, peer, READ, Status.BYPASSED) == selected("value 1")
            assert not shared.hits


async def test_what_is_seen_of_the_stream(any_postgres: LocalPostgres) -> None:
    """How old the last proof is, and how many tables are covered, in what console and metrics read."""
    async with streaming(any_postgres) as shared:
        (seen,) = Census(shared.running.service).caches()
        assert (seen.invalidation, seen.bypassed) == ("replication", False)
        assert seen.told >= 1
        assert 0.0 <= seen.behind < SECONDS


async def test_a_reload_begins_and_ends_streams(any_postgres: LocalPostgres) -> None:
    """With other settings there is another stream, and without `replication` there is none, nor a slot."""
    async with streaming(any_postgres) as shared:
        service, first = shared.running.service, changes(shared)
        await reloaded(service, max_lag=2.0)
        assert changes(shared) is not first
        await until(lambda: not changes(shared).bypassed)
        await reloaded(service, invalidation=Invalidation.WRITES)
        assert shared.cached.changes is None
        await left_nothing(any_postgres)
        async with await shared.running.log_in() as peer:
            await comes(shared, peer, READ, Status.HIT)


async def reloaded(service: Service, **cache: Any) -> None:
    """Another configuration of the cache takes effect."""
    database = service.config.databases[DATABASE]
    database = attrs.evolve(database, cache=attrs.evolve(database.cache, **cache))
    config = attrs.evolve(service.config, databases={DATABASE: database})
    service.reread = lambda: config
    await service.reload()
