"""The stream of changes against real servers: what arrives, what it takes, and what it leaves behind."""

from __future__ import annotations

import math
import os
import signal
from typing import TYPE_CHECKING

import psycopg
import pytest
import trio

from tests.net.streams import EVERYTHING, streamed
from trio_pool.cli.postgres import LocalPostgres
from trio_pool.net import replication
from trio_pool.net.replication import Phase

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_pool.cli.postgres import Installation

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

DATABASE = "changing"
FILL = "insert into other select g, repeat('x', 900) from generate_series(1, 3000) g"
SLOTS = "select count(*) from pg_replication_slots"
SCHEMA = """
create table plain (id int primary key, value text);
create table other (id int primary key, value text);
create table log (id bigserial primary key, value text);
create table parent (id int primary key);
create table child (id int primary key, parent int references parent on delete cascade);
create table parted (id int primary key) partition by range (id);
create table low partition of parted for values from (0) to (100);
create table high partition of parted for values from (100) to (200);
create table bare (id int, value text);
create table whole (id int, value text); alter table whole replica identity full;
create table generated (id int, twice int generated always as (2 * id) stored unique not null);
alter table generated replica identity using index generated_twice_key;
create unlogged table scratch (id int primary key);
create function note() returns trigger language plpgsql as
  'begin insert into log (value) values (new.value); return new; end';
create table noted (id int primary key, value text);
create trigger note after insert on noted for each row execute function note();
"""


@pytest.fixture(scope="module")
def server(installation: Installation) -> Iterator[LocalPostgres]:
    """One of its own, since it is restarted."""
    settings: dict[str, str | int | bool] = {
        "wal_level": "logical",
        "max_prepared_transactions": 4,
        "logical_decoding_work_mem": "64kB",
        "synchronous_commit": True,
    }
    with LocalPostgres(bin_dir=installation.bin_dir, settings=settings) as pg:
        yield pg


@pytest.fixture
def origin(server: LocalPostgres) -> Iterator[LocalPostgres]:
    """With a fresh database."""
    server.run_sql(f"create database {DATABASE}")
    server.run_sql(SCHEMA, DATABASE)
    yield server
    server.run_sql(f"drop database {DATABASE} with (force)")


WRITES = [
    ("insert into plain values (1, 'a'); update plain set value = 'b'; delete from plain", {"plain"}),
    ("truncate plain", {"plain"}),
    ("copy plain from stdin;\n7\tseven\n\\.\n", {"plain"}),
    ("begin; insert into plain values (8); insert into other values (8); commit", {"plain", "other"}),
    ("begin; insert into plain values (9); rollback", set()),
    (
        "begin; savepoint s; insert into plain values (10); rollback to s; insert into other values (10);"
        " commit",
        {"other"},
    ),
    ("insert into parted values (1)", {"parted", "low"}),
    ("insert into parted values (101); update parted set id = 2 where id = 101", {"parted", "low", "high"}),
    ("insert into parent values (1); insert into child values (1, 1)", {"parent", "child"}),
    ("delete from parent", {"parent", "child"}),
    ("insert into noted values (1, 'x')", {"noted", "log"}),
    ("insert into whole values (1, 'x'); update whole set value = 'y'; delete from whole", {"whole"}),
    ("begin; insert into plain values (20); prepare transaction 'p'; commit prepared 'p'", {"plain"}),
    ("begin; insert into plain values (21); prepare transaction 'q'; rollback prepared 'q'", set()),
    ("insert into other select g, repeat('x', 500) from generate_series(100, 3000) g", {"other"}),
    ("merge into other using (values (100)) v (id) on other.id = v.id when matched then delete", {"other"}),
    ("truncate parent cascade", {"parent", "child"}),
]


async def test_writes_of_all_kinds_arrive_with_their_tables(
    origin: LocalPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever writes, and however: the tables that a committed transaction has changed are told, with those
    that they are partitions of, and no others."""
    monkeypatch.setattr(replication, "UPKEEP", math.inf)  # TRUNCATE alters a table; that would be told, too
    async with streamed(origin, DATABASE) as told:
        seen = {}
        for text, _ in WRITES:
            seen[text] = await told.told_of(text)
        names = dict(
            line.split("|") for line in (await told.sql("select oid, relname from pg_class")).splitlines()
        )
        assert dict(WRITES) == {text: {names[str(oid)] for oid in oids} for text, oids in seen.items()}


async def test_only_tables_with_an_identity_are_covered_and_nobody_is_disturbed(
    origin: LocalPostgres,
) -> None:
    """A table whose UPDATE would fail if it were published is not, and is known not to be covered."""
    async with streamed(origin, DATABASE) as told:
        for table in ("plain", "parted", "low", "whole", "child"):
            assert told.stream.covers(await told.oids(table)), table
        for table in ("bare", "generated", "scratch"):
            assert not told.stream.covers(await told.oids(table)), table
        assert not told.stream.covers(await told.oids("plain", "bare"))
        await told.sql("insert into bare values (1); update bare set id = 2; delete from bare")
        await told.sql("insert into generated values (1); update generated set id = 2; delete from generated")
        await told.sql("insert into scratch values (1); update scratch set id = 2")
        assert sum(told.stream.state.uncovered.values()) == 3


async def test_the_publication_follows_the_schema(origin: LocalPostgres) -> None:
    """New tables are covered soon, those that lose their primary key at once no more."""
    async with streamed(origin, DATABASE) as told:
        await told.sql(
            "create table late (id int primary key); create table lower partition of parted"
            " for values from (-100) to (0)"
        )
        late = await told.oids("late", "lower")
        told.stream.schema_changed()
        await told.until(lambda: told.stream.covers(late))
        assert late < await told.told_of("insert into late values (1); insert into parted values (-1)")
        plain = await told.oids("plain")
        await told.sql("insert into plain values (1); alter table plain drop constraint plain_pkey")
        told.stream.schema_changed()
        await told.until(lambda: not told.stream.covers(plain))
        # The lock that ALTER PUBLICATION waits for is none that a writer takes.
        await told.until(lambda: not told.stream.state.uncovered.get("just published"))
        await told.comes("select count(*) from pg_publication_tables where tablename = 'plain'", "0")
        await told.sql("update plain set value = 'still possible'")


async def test_rows_of_an_unknown_table_end_everything(origin: LocalPostgres) -> None:
    """A partition that was made a moment ago is streamed, and nobody knows yet who reads it."""
    async with streamed(origin, DATABASE) as told:
        begin = len(told.changes)
        await told.sql(
            "create table newest partition of parted for values from (200) to (300);"
            "insert into parted values (250)"
        )
        await told.until(lambda: EVERYTHING in told.changes[begin:])


async def test_a_commit_is_told_again_when_it_can_be_seen(origin: LocalPostgres) -> None:
    """A transaction that waits for a synchronous standby is streamed before anybody sees it; what is read in
    between is told to be old when the wait is over."""
    async with streamed(origin, DATABASE) as told:
        plain = await told.oids("plain")
        origin.run_sql("alter system set synchronous_standby_names = 'nobody'")
        origin.run_sql("select pg_reload_conf()")
        try:
            begin = len(told.changes)
            with psycopg.connect(origin.dsn(DATABASE), autocommit=True) as waiting:
                pid = waiting.info.backend_pid
                async with trio.open_nursery() as nursery:
                    waiting.execute("set synchronous_commit = on")
                    insert = lambda: waiting.execute("insert into plain values (1)")  # noqa: E731
                    nursery.start_soon(trio.to_thread.run_sync, insert)
                    await told.until(lambda: plain in told.changes[begin:])
                    await told.comes("select count(*) from plain", "0")
                    assert [plain] == told.changes[begin:]
                    await told.sql(f"set synchronous_commit = off; select pg_cancel_backend({pid})")
            await told.until(lambda: [plain, plain] == told.changes[begin:])
        finally:
            origin.run_sql("set synchronous_commit = off; alter system reset synchronous_standby_names")
            origin.run_sql("select pg_reload_conf()")


async def test_it_is_fresh_and_says_so_when_it_is_not(origin: LocalPostgres) -> None:
    """A walsender that stands still is noticed within `max_lag`, and so is that it goes on."""
    async with streamed(origin, DATABASE, max_lag=0.5) as told:
        assert told.stream.fresh(trio.current_time())
        pid = (await told.sql("select active_pid from pg_replication_slots")).strip()
        os.kill(int(pid), signal.SIGSTOP)
        try:
            await told.sql("insert into plain values (1)")
            await told.until(lambda: told.stream.state.phase is Phase.LAGGING, 5.0)
            assert not told.stream.fresh(trio.current_time())
        finally:
            os.kill(int(pid), signal.SIGCONT)
        await told.until(lambda: told.stream.state.phase is Phase.STREAMING, 5.0)
        assert told.stream.fresh(trio.current_time())


async def test_it_survives_its_walsender_and_its_server(origin: LocalPostgres) -> None:
    """A lost stream is told at once, another one begins by itself, and everything cached goes with it."""
    async with streamed(origin, DATABASE) as told:
        for broken in (
            lambda: origin.run_sql("select pg_terminate_backend(active_pid) from pg_replication_slots"),
            origin.restart,
        ):
            told.states.clear()
            changes = len(told.changes)
            await trio.to_thread.run_sync(broken)
            await told.until(lambda: any(not s.connected for s in told.states))
            await told.streaming()
            assert EVERYTHING in told.changes[changes:]
            assert await told.oids("plain") == await told.told_of(
                "insert into plain values (1) on conflict (id) do update set value = 'x'"
            )


async def test_nothing_is_left_behind(origin: LocalPostgres) -> None:
    """Neither slot nor publication outlives the task; a publication that another one uses does."""
    async with streamed(origin, DATABASE) as told:
        async with streamed(origin, DATABASE) as other:
            await other.comes("select count(*) from pg_replication_slots where temporary", "2")
        await told.comes(SLOTS, "1")
        await told.comes("select pubname from pg_publication", "trio_pool")
    await told.comes(SLOTS, "0")
    await told.comes("select pubname from pg_publication", "")


async def test_a_publication_that_is_dropped_is_made_again(origin: LocalPostgres) -> None:
    """PostgreSQL 18 streams nothing without it, silently: then nothing is proven, and another one begins."""
    async with streamed(origin, DATABASE) as told:
        plain = await told.oids("plain")
        begin, told.states[:] = len(told.changes), []
        await told.sql("drop publication trio_pool; insert into plain values (1)")
        await told.until(lambda: any(not state.connected for state in told.states))
        await told.streaming()
        assert EVERYTHING in told.changes[begin:]
        assert await told.told_of("insert into plain values (2)") == plain


async def test_a_slot_in_the_making_waits_and_can_be_given_up(origin: LocalPostgres) -> None:
    """While an older transaction is open the state names it, and ending the task ends the waiting slot."""
    with psycopg.connect(origin.dsn(DATABASE)) as older:
        older.execute("insert into plain values (1)")
        async with streamed(origin, DATABASE, wait=False) as told:
            await told.until(lambda: told.stream.state.phase is Phase.WAITING)
            assert f"pid {older.info.backend_pid}" in (told.stream.state.error or "")
        await told.comes(SLOTS, "0")


async def test_a_role_without_rights_is_told_what_it_lacks(origin: LocalPostgres) -> None:
    """Not being allowed is a state with a remedy, not an error of anybody else."""
    origin.run_sql("drop role if exists weak; create role weak login")
    try:
        async with streamed(origin, DATABASE, user="weak", wait=False) as told:
            await told.until(lambda: told.stream.state.error is not None)
            assert "GRANT CREATE ON DATABASE" in (told.stream.state.error or "")
            assert not told.stream.fresh(trio.current_time())
        origin.run_sql(f"grant create on database {DATABASE} to weak")
        async with streamed(origin, DATABASE, user="weak", wait=False) as told:
            await told.until(lambda: told.stream.state.error is not None)
            assert "ALTER ROLE weak REPLICATION" in (told.stream.state.error or "")
        origin.run_sql("alter role weak replication")
        async with streamed(origin, DATABASE, user="weak") as told:
            assert not told.stream.covers(await told.oids("plain"))
            assert "the table belongs to another role" in told.stream.state.uncovered
    finally:
        origin.run_sql("drop owned by weak", DATABASE)
        origin.run_sql("drop role weak")


async def test_a_publication_made_by_hand_is_used_as_it_is(origin: LocalPostgres) -> None:
    """What somebody has made is neither changed nor removed, and covers what it publishes."""
    origin.run_sql("create publication handmade for table only plain", DATABASE)
    async with streamed(origin, DATABASE, publication="handmade") as told:
        assert told.stream.covers(await told.oids("plain"))
        assert not told.stream.covers(await told.oids("other"))
    await told.comes("select tablename from pg_publication_tables", "plain")


async def test_wal_level_is_named(installation: Installation) -> None:
    """Where the server writes too little WAL, the state says which setting to change."""
    with LocalPostgres(bin_dir=installation.bin_dir, settings={"wal_level": "replica"}) as pg:
        async with streamed(pg, "postgres", wait=False) as told:
            await told.until(lambda: told.stream.state.phase is Phase.BROKEN)
            assert told.stream.state.error == (
                "wal_level is replica: set wal_level = logical in postgresql.conf and restart PostgreSQL"
            )


async def test_a_slot_that_holds_back_too_much_is_given_up(
    origin: LocalPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction that stays open makes the origin keep WAL; beyond the limit the slot goes, and why
    is said."""
    monkeypatch.setattr(replication, "UPKEEP", 0.1)
    with psycopg.connect(origin.dsn(DATABASE)) as open_for_long:
        async with streamed(origin, DATABASE, max_slot_wal=1 << 20) as told:
            open_for_long.execute("insert into plain values (1)")
            await told.sql(FILL)
            await told.sql("checkpoint")
            await told.until(lambda: told.stream.state.phase is Phase.BROKEN)
            assert "held back" in (told.stream.state.error or "")
            await told.comes(SLOTS, "0")


async def test_the_lag_is_measured(origin: LocalPostgres) -> None:
    """A change is told within the lag that the stream says it has, on a quiet machine in milliseconds."""
    async with streamed(origin, DATABASE) as told:
        plain = await told.oids("plain")
        lags = []
        with psycopg.connect(origin.dsn(DATABASE), autocommit=True) as writer:
            for i in range(20):
                begin = len(told.changes)
                writer.execute("insert into plain values (%s)", [i])
                committed = trio.current_time()
                await told.until(lambda begin=begin: plain in told.changes[begin:])  # type: ignore[misc]
                lags.append(trio.current_time() - committed)
        print(f"lag: median {sorted(lags)[10] * 1e3:.2f} ms, worst {max(lags) * 1e3:.2f} ms")
        assert max(lags) < told.stream.cache.max_lag
