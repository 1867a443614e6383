"""What an edge says of a statement is what PostgreSQL would say, whatever happens to the schema."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from tests.net.harness import origin_url
from tests.net.peer import Peer
from tests.support import requests
from tests.support.requests import SYNC
from tests.support.serving import direct, serving
from tests.support.target import DATABASE, USER
from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.net.harness import Running
    from tests.net.peer import Message
    from trio_pool.cli.postgres import LocalPostgres

pytestmark = pytest.mark.trio
INT4, INT8, TEXT = 23, 20, 25


@pytest.fixture
async def running(postgres: LocalPostgres) -> AsyncIterator[Running]:
    """A pooler that remembers for a minute what statements are described as, with two servers."""
    database = {"statement_metadata": "60s", "pool_size": 2}
    async with serving(postgres, databases={"app": database}) as started:
        yield started


@pytest.fixture
def table() -> str:
    return f"t_{uuid.uuid4().hex}"


async def told(peer: Peer, *parts: bytes) -> list[Message]:
    await peer.send(b"".join(parts) + SYNC)
    return await peer.exchange()


def types(messages: list[Message]) -> list[int]:
    """The types of the columns that a RowDescription names."""
    (body,) = (body for tag, body in messages if tag == Backend.ROW_DESCRIPTION)
    found, at = [], 2
    while at < len(body):
        end = body.index(b"\0", at)
        found.append(int.from_bytes(body[end + 7 : end + 11], "big"))
        at = end + 19
    return found


async def prepared(peer: Peer, sql: str, name: str = "") -> list[Message]:
    """What Parse and Describe are answered with."""
    return await told(peer, requests.parse(name, sql), requests.describe(name))


def answered(running: Running) -> int:
    """How often a Describe was answered without a server."""
    return running.origin.statements.descriptions.answers


async def test_the_answer_is_postgresqls(postgres: LocalPostgres, running: Running) -> None:
    """Byte by byte, for results, commands without rows and parameters, outside a transaction and in one."""
    for sql in ("select $1::int, 'a'::text as b", "set work_mem = '4MB'", "select", ""):
        async with direct(postgres) as straight:
            expected = await prepared(straight, sql)
        async with await running.log_in() as first, await running.log_in() as second:
            assert await prepared(first, sql) == expected
            before = answered(running)
            assert await prepared(second, sql) == expected
            assert await prepared(second, sql, "named") == expected
            assert answered(running) == before + 2
            await second.run("begin")
            await second.run("select 1")
            within = await prepared(second, sql)
            assert within[:-1] == expected[:-1]
            assert within[-1] == (Backend.READY_FOR_QUERY, b"T")
            assert await second.rows("select 2") == ["2"]
            await second.run("rollback")


async def test_a_schema_changed_through_the_pool(running: Running, table: str) -> None:
    """From the answer to the ALTER TABLE on, the new type is told, also to who knows the statement."""
    sql = f"select a from {table}"
    async with await running.log_in() as first, await running.log_in() as second:
        await first.run(f"create table {table} (a int)")
        for peer in (first, second):
            assert types(await prepared(peer, sql)) == [INT4]
        await first.run(f"alter table {table} alter a type bigint")
        for peer in (second, first):
            assert types(await prepared(peer, sql)) == [INT8]
        await first.run(f"drop table {table}")
        assert [tag for tag, _ in await prepared(second, sql)] == [
            Backend.ERROR_RESPONSE,
            Backend.READY_FOR_QUERY,
        ]


async def test_a_schema_changed_in_a_transaction(running: Running, table: str) -> None:
    """Who changes it sees it at once, others when it is committed, nobody if it is rolled back."""
    sql = f"select a from {table}"
    async with await running.log_in() as first, await running.log_in() as second:
        await first.run(f"create table {table} (a int)")
        assert types(await prepared(second, sql)) == [INT4]
        for end, expected in (("rollback", INT4), ("commit", INT8)):
            await first.run("begin")
            await first.run(f"alter table {table} alter a type bigint")
            assert types(await prepared(first, sql)) == [INT8]
            await first.run(end)
            assert types(await prepared(second, sql)) == [expected]
        await first.run(f"drop table {table}")


async def test_a_schema_changed_past_the_pool(postgres: LocalPostgres, running: Running, table: str) -> None:
    """A prepared statement of another result type is PostgreSQL's own error, once; then it is new."""
    sql = f"select a from {table}"
    async with (
        direct(postgres) as elsewhere,
        await running.log_in() as first,
        await running.log_in() as second,
    ):
        await elsewhere.run(f"create table {table} (a int)")
        execution = (requests.bind("s"), requests.execute())
        assert types(await prepared(first, sql, "s")) == [INT4]
        await told(first, *execution)
        await elsewhere.run(f"alter table {table} alter a type text")
        assert types(await prepared(second, sql, "s")) == [INT4]
        (error,) = (body for tag, body in await told(second, *execution) if tag == Backend.ERROR_RESPONSE)
        assert b"cached plan must not change result type" in error
        assert types(await prepared(second, sql, "again")) == [TEXT]
        await elsewhere.run(f"drop table {table}")


async def test_a_schema_changed_through_another_pool(postgres: LocalPostgres, table: str) -> None:
    """A pool learns at once what passes through another one of its database, DDL inside of DO included; what
    it has prepared under the old schema is new.
    """
    sql = f"select a from {table}"
    own = {"origin": origin_url(postgres), "statement_metadata": "60s"}
    async with (
        serving(postgres, databases={DATABASE: own, "other": own}) as running,
        await running.log_in() as first,
        await Peer.log_in(running.address, {"user": USER, "database": "other"}) as second,
    ):
        assert len(running.service.pools) == 2
        await second.run(f"create table {table} (a int)")
        for change, expected in (
            (f"alter table {table} alter a type bigint", INT8),
            (f"do $$ begin alter table {table} alter a type text; end $$", TEXT),
        ):
            await prepared(first, sql, f"before {expected}")
            await second.run(change)
            assert types(await prepared(first, sql, f"behind {expected}")) == [expected]
            answer = await told(first, requests.bind(f"behind {expected}"), requests.execute())
            assert [tag for tag, _ in answer] == [
                Backend.BIND_COMPLETE,
                Backend.COMMAND_COMPLETE,
                Backend.READY_FOR_QUERY,
            ]
        await second.run(f"drop table {table}")


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("name", ["", "s"])
async def test_what_postgresql_would_not_have_prepared(
    postgres: LocalPostgres, running: Running, table: str, name: str, begun: bool
) -> None:
    """A table that was dropped past the pool: who is told of its columns from memory gets PostgreSQL's own
    error for Parse when it binds, and its transaction has failed; then nobody is told of them any more.
    """
    sql = f"select a from {table}"
    execution = (requests.bind(name), requests.execute())
    async with direct(postgres) as elsewhere, await running.log_in() as first:
        await elsewhere.run(f"create table {table} (a int)")
        await prepared(first, sql)
        await elsewhere.run(f"drop table {table}")
        refused = await told(elsewhere, requests.parse("", sql))
        async with await running.log_in() as second:
            if begun:
                await second.run("begin")
                await second.run("select 1")
            assert types(await prepared(second, sql, name)) == [INT4]
            answer = await told(second, *execution)
            assert answer[:-1] == refused[:-1]
            assert answer[-1] == (Backend.READY_FOR_QUERY, b"E" if begun else b"I")
        async with await running.log_in() as third:
            assert await prepared(third, sql, name) == refused


async def test_what_hides_a_table(running: Running, table: str) -> None:
    """A temporary table of one's own and another search_path mean another table, to nobody else."""
    sql = f"select a from {table}"
    async with await running.log_in() as first, await running.log_in() as second:
        await first.run(f"create table {table} (a int)")
        assert types(await prepared(second, sql)) == [INT4]
        await first.run(f"create temporary table {table} (a text)")
        assert types(await prepared(first, sql)) == [TEXT]
        assert types(await prepared(first, sql, "mine")) == [TEXT]
        assert types(await prepared(second, sql)) == [INT4]
        await first.run(f"drop table pg_temp.{table}")
        await first.run(f"create schema s_{table}")
        await first.run(f"create table s_{table}.{table} (a bigint)")
        assert types(await prepared(second, sql)) == [INT4]
        await first.run(f"set search_path = s_{table}")
        assert types(await prepared(first, sql)) == [INT8]
        assert types(await prepared(second, sql)) == [INT4]
        await second.run("begin")
        await second.run(f"set local search_path = s_{table}")
        assert types(await prepared(second, sql)) == [INT8]
        await second.run("rollback")
        assert types(await prepared(second, sql)) == [INT4]
        await first.run(f"drop schema s_{table} cascade")
        await second.run(f"drop table {table}")
