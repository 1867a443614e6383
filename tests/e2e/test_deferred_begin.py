"""A BEGIN that is answered ahead of time can be told from another by the leases that it does not take, and by
nothing else.
"""

from __future__ import annotations

import asyncio
from contextlib import closing
from difflib import ndiff
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg
import pg8000.dbapi
import pg8000.native
import psycopg
import psycopg2
import pytest
import sqlalchemy as sa
import trio

from tests.net.harness import Running, pooler
from tests.support import requests
from tests.support.conversations import CONVERSATIONS, SET_UP, SINK
from tests.support.requests import Reply
from tests.support.serving import direct, server_pids, serving
from tests.support.talk import ask, done, refused, replies
from tests.support.target import DATABASE, USER
from tests.support.transcripts import held, prepared, spelled, synced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_pool.cli.postgres import LocalPostgres

pytestmark = pytest.mark.e2e


@pytest.fixture(autouse=True)
def sink(postgres: LocalPostgres) -> Iterator[None]:
    postgres.run_sql(f"{SET_UP} grant all on {SINK} to {USER}", DATABASE)
    yield
    postgres.run_sql(f"drop table {SINK}", DATABASE)


def leases(running: Running) -> int:
    return running.origin.pool.leases


# -- on the wire ---------------------------------------------------------------------------------------------


@pytest.mark.trio
@pytest.mark.parametrize("kind", CONVERSATIONS)
@pytest.mark.parametrize("deferred", [True, False], ids=["deferred", "not deferred"])
async def test_conversations_are_those_of_a_direct_connection(
    postgres: LocalPostgres, kind: str, deferred: bool
) -> None:
    """Every message of every reply is the same as without the pooler, byte for byte; an empty transaction
    takes no lease, another as many as it has to.
    """
    differences: dict[str, list[str]] = {}  # direct: -, pooled: +
    counted: dict[str, int] = {}
    async with serving(postgres, session={"deferred_begin": deferred}, limit=90) as running:
        async with await running.log_in() as first:
            assert await first.rows("select 1") == ["1"]
        before = server_pids(running)
        for conversation in CONVERSATIONS[kind]:
            async with direct(postgres) as peer:
                expected = await held(peer, conversation)
            async with await running.log_in() as peer:
                taken = leases(running)
                actual = await held(peer, conversation)
                counted[conversation.name] = leases(running) - taken
            if actual != expected:
                compared = ndiff(spelled(expected), spelled(actual))
                differences[conversation.name] = [line for line in compared if line[0] != "?"]
            await running.at_rest()
        for name, lines in differences.items():
            print(name, *lines, sep="\n    ")
        assert sorted(differences) == []
        assert server_pids(running) == before
    if deferred:
        promised = {one.name: one.leases for one in CONVERSATIONS[kind] if one.leases is not None}
        assert {name: counted[name] for name in promised if counted[name] > promised[name]} == {}
    else:
        assert min(counted.values()) >= 1


# -- leases --------------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_it_waits_for_nobody(postgres: LocalPostgres) -> None:
    """While somebody else holds the only server, BEGIN is answered at once, COMMIT and ROLLBACK right behind
    it too; the first statement waits.
    """
    async with (
        pooler(postgres, pool_size=1) as running,
        await running.log_in() as holder,
        await running.log_in() as peer,
    ):
        await holder.rows("begin")
        await holder.rows("select 1")
        assert len(running.origin.pool.leased) == 1
        for end in ("commit", "rollback"):
            assert await ask(peer, "begin") == done("BEGIN", "T")
            assert await ask(peer, end) == done(end.upper())
            begun = [Reply("1"), Reply("2"), Reply("n"), Reply("C", "BEGIN"), Reply("Z", "T")]
            assert await replies(peer, synced(prepared("begin"))) == begun
            ended = [Reply("1"), Reply("2"), Reply("n"), Reply("C", end.upper()), Reply("Z", "I")]
            assert await replies(peer, synced(prepared(end))) == ended
        await peer.rows("begin isolation level repeatable read")
        assert not running.origin.pool.waiting
        await peer.send(requests.query("show transaction_isolation"))
        await running.until(lambda: len(running.origin.pool.waiting) == 1)
        await holder.rows("rollback")
        assert await peer.read_rows() == ["repeatable read"]
        await peer.rows("commit")


@pytest.mark.trio
async def test_nothing_reaches_the_server_before_the_first_statement(postgres: LocalPostgres) -> None:
    """Then BEGIN does together with it, and COMMIT by itself: one lease for each transaction that does
    something.
    """
    async with pooler(postgres, pool_size=1) as running, await running.log_in() as peer:
        assert await peer.rows("select 1") == ["1"]
        before = leases(running)
        for _ in range(10):
            await peer.rows("begin")
            await peer.rows("commit")
        assert leases(running) == before
        for number in range(10):
            await peer.rows("begin")
            assert leases(running) == before + number
            assert await peer.rows("select 1") == ["1"]
            assert await peer.rows("select pg_current_xact_id_if_assigned() is null") == ["t"]
            await peer.rows("commit")
            assert leases(running) == before + number + 1


@pytest.mark.trio
async def test_the_first_statement_gets_no_server(postgres: LocalPostgres) -> None:
    """When `lease_wait` is over the statement gets 53300 in its place, and the transaction is a failed one
    until the client ends it; then everything works.
    """
    async with (
        pooler(postgres, pool_size=1, timeouts={"lease_wait": "200ms"}) as running,
        await running.log_in() as holder,
        await running.log_in() as peer,
    ):
        await holder.rows("begin")
        await holder.rows("select 1")
        for end in ("rollback", "commit", "end", "abort"):
            await peer.rows("begin")
            assert await ask(peer, "select 1") == refused("53300", "E")
            assert await ask(peer, "select 1") == refused("25P02", "E")
            assert await ask(peer, end) == done("ROLLBACK")
        await peer.rows("begin")
        statement = synced(prepared("select 1"), prepared("select 2"))
        assert await replies(peer, statement) == refused("53300", "E")
        assert await replies(peer, statement) == refused("25P02", "E")
        assert await replies(peer, synced(prepared("rollback"))) == [
            *(Reply("1"), Reply("2"), Reply("n"), Reply("C", "ROLLBACK"), Reply("Z", "I"))
        ]
        await holder.rows("commit")
        await peer.rows("begin")
        assert await peer.rows("select 1") == ["1"]
        await peer.rows("commit")


@pytest.mark.trio
async def test_a_pipeline_whose_server_does_not_come(postgres: LocalPostgres) -> None:
    """BEGIN, statements and COMMIT in one write, all of them answered as in a transaction that failed."""
    async with (
        pooler(postgres, pool_size=1, timeouts={"lease_wait": "200ms"}) as running,
        await running.log_in() as holder,
        await running.log_in() as peer,
    ):
        await holder.rows("begin")
        await holder.rows("select 1")
        texts = ("begin", "select 1", "select 2", "commit", "begin", "commit")
        assert await replies(peer, b"".join(map(requests.query, texts)), len(texts)) == [
            *done("BEGIN", "T"),
            *refused("53300", "E"),
            *refused("25P02", "E"),
            *done("ROLLBACK"),
            *done("BEGIN", "T"),
            *done("COMMIT"),
        ]


@pytest.mark.trio
async def test_who_leaves_has_left_nothing(postgres: LocalPostgres) -> None:
    """A client that goes behind its BEGIN, with and without a word, never had a server."""
    async with pooler(postgres, pool_size=1) as running, await running.log_in() as other:
        assert await other.rows("select 1") == ["1"]
        before = leases(running)
        for farewell in (requests.TERMINATE, b""):
            async with await running.log_in() as peer:
                await peer.rows("begin read only")
                await peer.send(farewell)
        await running.until(lambda: len(running.service.clients) == 1)
        assert leases(running) == before
        assert await other.rows("show transaction_read_only") == ["off"]


# -- drivers -------------------------------------------------------------------------------------------------


def with_psycopg(host: str, port: int, count: Callable[[], int]) -> list[int]:
    with psycopg.connect(host=host, port=port, user=USER, dbname=DATABASE, autocommit=True) as connection:
        counts = [count()]
        with connection.transaction():
            pass
        counts.append(count())
        with pytest.raises(ZeroDivisionError), connection.transaction():
            raise ZeroDivisionError
        counts.append(count())
        with connection.transaction():
            assert connection.execute("select 1").fetchone() == (1,)
            assert connection.execute("select %s::int", (2,)).fetchone() == (2,)
        counts.append(count())
        with connection.transaction(), connection.transaction():  # a savepoint
            assert connection.execute("select 1").fetchone() == (1,)
        counts.append(count())
    return counts


def with_psycopg2(host: str, port: int, count: Callable[[], int]) -> list[int]:
    with closing(psycopg2.connect(host=host, port=port, user=USER, dbname=DATABASE)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        counts = [count()]
        cursor.execute("begin")
        cursor.execute("commit")
        counts.append(count())
        cursor.execute("begin")
        cursor.execute("rollback")
        counts.append(count())
        connection.autocommit = False  # psycopg2 begins by itself from now on
        cursor.execute("select 1")
        cursor.execute("select 2")
        assert cursor.fetchone() == (2,)
        connection.commit()
        counts.append(count())
        connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        cursor.execute("show transaction_isolation")
        assert cursor.fetchone() == ("repeatable read",)
        connection.rollback()
        counts.append(count())
    return counts


def with_pg8000(host: str, port: int, count: Callable[[], int]) -> list[int]:
    with closing(pg8000.native.Connection(USER, host=host, port=port, database=DATABASE)) as connection:
        counts = [count()]
        connection.run("START TRANSACTION")
        connection.run("COMMIT")
        counts.append(count())
        connection.run("BEGIN READ ONLY")
        connection.run("ROLLBACK")
        counts.append(count())
    with closing(pg8000.dbapi.connect(USER, host=host, port=port, database=DATABASE)) as connection:
        before = count()
        cursor = connection.cursor()  # begins by itself
        cursor.execute("select %s::int", (3,))
        assert cursor.fetchone() == [3]
        connection.commit()
        counts.append(counts[-1] + count() - before)
        cursor.execute("select 4")
        connection.rollback()
        counts.append(counts[-1] + count() - before - 1)
    return counts


def with_asyncpg(host: str, port: int, count: Callable[[], int]) -> list[int]:
    async def run() -> list[int]:
        connection: Any = await asyncpg.connect(host=host, port=port, user=USER, database=DATABASE, ssl=False)
        try:
            counts = [count()]
            async with connection.transaction():
                pass
            counts.append(count())
            with pytest.raises(ZeroDivisionError):
                async with connection.transaction(isolation="repeatable_read", readonly=True):
                    raise ZeroDivisionError
            counts.append(count())
            async with connection.transaction(isolation="repeatable_read"):
                assert await connection.fetchval("show transaction_isolation") == "repeatable read"
                assert await connection.fetchval("select $1::int", 2) == 2
            counts.append(count())
            async with connection.transaction(), connection.transaction():
                assert await connection.fetchval("select 1") == 1
            counts.append(count())
        finally:
            await connection.close()
        return counts

    return asyncio.run(run())


def with_sqlalchemy(host: str, port: int, count: Callable[[], int]) -> list[int]:
    engine = sa.create_engine(f"postgresql+psycopg://{USER}@{host}:{port}/{DATABASE}?sslmode=disable")
    try:
        with engine.connect() as connection:
            connection.scalar(sa.text("select 1"))
        counts = [count()]
        with engine.begin():
            pass
        counts.append(count())
        with engine.connect() as connection, connection.begin() as transaction:
            transaction.rollback()
        counts.append(count())
        with engine.begin() as connection:
            assert connection.scalar(sa.text("select 1")) == 1
            assert connection.scalar(sa.text("select :n"), {"n": 2}) == 2
        counts.append(count())
        with engine.connect() as connection:
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
            assert connection.scalar(sa.text("show transaction_isolation")) == "repeatable read"
            connection.commit()
        counts.append(count())
    finally:
        engine.dispose()
    return counts


@pytest.mark.parametrize(
    "run", [with_psycopg, with_psycopg2, with_pg8000, with_asyncpg, with_sqlalchemy], ids=lambda f: f.__name__
)
def test_drivers_begin_for_nothing(
    postgres: LocalPostgres, run: Callable[[str, int, Callable[[], int]], list[int]]
) -> None:
    """Two transactions in which nothing happens cost no lease, two others one each, whoever speaks for the
    program.
    """

    async def main() -> list[int]:
        async with pooler(postgres, pool_size=1) as running:
            host, port = running.address
            async with await running.log_in() as first:
                assert await first.rows("select 1") == ["1"]
            return await trio.to_thread.run_sync(run, host, port, partial(leases, running))

    counts = trio.run(main)
    assert [count - counts[0] for count in counts] == [0, 0, 0, 1, 2]
