"""What each driver's clients cost in crossings between edge and origin, counted on the wire."""

from __future__ import annotations

import asyncio
import os
import subprocess
import uuid
from typing import TYPE_CHECKING

import asyncpg
import pg8000.native
import psycopg
import psycopg2
import pytest
import sqlalchemy

from tests.support.target import DATABASE, PASSWORD, USER

if TYPE_CHECKING:
    from tests.edge.path import Path

CONNECT = ["connect 0", "connect 0", "connect 0"]
"""StartupMessage, and the two messages of SCRAM."""


def new_sql() -> str:
    """A statement that nobody has prepared yet."""
    return f"select %s::int + 1 as a_{uuid.uuid4().hex}"


def run(path: Path, program: str, *arguments: str, script: str = "") -> None:
    """A program of PostgreSQL's, without TLS."""
    target = path.target
    where = ["-h", target.host, "-p", str(target.port), "-U", USER]
    subprocess.run(
        [path.pg.bin(program), *where, *arguments, DATABASE],
        input=script,
        text=True,
        check=True,
        capture_output=True,
        env={**os.environ, "PGPASSWORD": PASSWORD, "PGSSLMODE": "disable"},
    )


def psql(path: Path, *statements: str) -> list[str]:
    with path.seen() as turns:
        run(path, "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", script="\n".join(statements))
    return turns


def test_psql(path: Path) -> None:
    """Connecting costs nothing, a statement one crossing, the first like any other."""
    assert psql(path, "select 1;", "select 2;") == [*CONNECT, "Q 1", "Q 1"]


def test_psql_in_a_transaction(path: Path) -> None:
    """BEGIN travels with the first statement: three statements and COMMIT are four crossings."""
    turns = psql(path, "begin;", "select 1;", "select 2;", "select 3;", "commit;")
    assert turns == [*CONNECT, "Q 0", "Q 1", "Q 1", "Q 1", "Q 1"]


def test_psql_with_settings(path: Path) -> None:
    """What a client has set goes ahead of its next statement in the same write, at the edge and at the
    origin; nobody waits for the question that is asked behind SET.
    """
    turns = psql(path, "set work_mem = '5MB';", "select 1;", "show work_mem;", "reset all;", "select 2;")
    assert turns == [*CONNECT, "Q 1", "Q 1", "Q 1", "Q 1", "Q 1"]


@pytest.mark.parametrize(
    ("mode", "first", "later"),
    [
        ("simple", ["Q 1", "Q 1", "Q 1"], ["Q 1", "Q 1", "Q 1"]),
        ("extended", ["PBDES 1", "PBDES 1", "PBDES 1"], ["PBDES 1", "PBDES 1", "PBDES 1"]),
        ("prepared", ["PS 1", "BDES 1", "BDES 1", "BDES 1"], ["PS 0", "BDES 1", "BDES 1", "BDES 1"]),
    ],
)
def test_pgbench(path: Path, mode: str, first: list[str], later: list[str]) -> None:
    """One crossing per statement in all of its modes; it prepares at the cost of one, the first time only. It
    connects twice.
    """
    script = f"select 1 as a_{uuid.uuid4().hex};"
    for expected in (first, later):
        with path.seen() as turns:
            run(path, "pgbench", "-n", "-t", "3", "-M", mode, "-f", "/dev/stdin", script=script)
        assert turns == [*CONNECT, *CONNECT, *expected]


@pytest.mark.parametrize(("mode", "requests"), [("simple", "Q"), ("extended", "PBDES"), ("prepared", "BDES")])
def test_pgbench_in_a_transaction(path: Path, mode: str, requests: str) -> None:
    """Three statements and COMMIT are four crossings once they are prepared."""
    script = "begin;\nselect 1;\nselect 2;\nselect 3;\ncommit;\n"
    for _ in range(2):  # the second time everything is known
        with path.seen() as turns:
            run(path, "pgbench", "-n", "-t", "1", "-M", mode, "-f", "/dev/stdin", script=script)
    prepared = [turn for turn in turns[2 * len(CONNECT) :] if turn != "PS 0"]
    assert prepared == [f"{requests} {crossings}" for crossings in (0, 1, 1, 1, 1)]


# -- asyncpg -------------------------------------------------------------------------------------------------


async def connect_asyncpg(path: Path) -> asyncpg.Connection:
    target = path.target
    return await asyncpg.connect(
        host=target.host, port=target.port, user=USER, password=PASSWORD, database=DATABASE, ssl=False
    )


def test_asyncpg(path: Path) -> None:
    """It waits for a new statement's description before it binds: two crossings, for the first of all
    clients. Whoever prepares the same later pays one, in and outside of transactions, like every execution.
    """
    sql = new_sql().replace("%s", "$1")

    async def talk() -> None:
        with path.seen() as turns:
            first = await connect_asyncpg(path)
        assert turns == CONNECT
        with path.seen() as turns:
            for _ in range(2):
                await first.fetchval(sql, 1)
        assert turns == ["PDH 1", "BES 1", "BES 1"]
        with path.seen() as turns:
            second = await connect_asyncpg(path)
            await second.fetchval(sql, 1)
        assert turns == [*CONNECT, "PDH 0", "BES 1"]
        third = await connect_asyncpg(path)
        with path.seen() as turns:
            async with third.transaction():
                for _ in range(3):
                    await third.fetchval(sql, 1)
        assert turns == ["Q 0", "PDH 0", "BES 1", "BES 1", "BES 1", "Q 1"]
        fourth = await connect_asyncpg(path)
        with path.seen() as turns:
            async with fourth.transaction():
                await fourth.execute("select 1")
                await fourth.fetchval(sql, 1)
                await fourth.fetchval(sql, 1)
        assert turns == ["Q 0", "Q 1", "PDH 0", "BES 1", "BES 1", "Q 1"]
        with path.seen() as turns:
            await fourth.execute("set work_mem = '5MB'")
            await fourth.fetchval(sql, 1)
        assert turns == ["Q 1", "BES 1"]
        for connection in (first, second, third, fourth):
            await connection.close()

    asyncio.run(talk())


# -- psycopg -------------------------------------------------------------------------------------------------


def test_psycopg(path: Path) -> None:
    """One crossing per statement; in the fifth use it prepares, which costs one more, the first time only."""
    for parse in ("PS 1", "PS 0"):
        sql = "select %s::int + 2 as psycopg_prepares"
        with path.seen() as turns, psycopg.connect(path.target.url(), autocommit=True) as connection:
            for _ in range(8):
                connection.execute(sql, [1])
        assert turns == [*CONNECT, *["PBDES 1"] * 5, parse, *["BDES 1"] * 3]


def test_psycopg_in_a_transaction(path: Path) -> None:
    """Without autocommit: BEGIN is deferred, three statements and COMMIT are four crossings."""
    with path.seen() as turns, psycopg.connect(path.target.url()) as connection:
        for _ in range(3):
            connection.execute("select 1")
        connection.commit()
    assert turns == [*CONNECT, "Q 0", "Q 1", "Q 1", "Q 1", "Q 1"]


def test_psycopg_with_settings(path: Path) -> None:
    """A SET is one crossing, and nothing afterwards."""
    with psycopg.connect(path.target.url(), autocommit=True) as connection:
        with path.seen() as turns:
            connection.execute("set work_mem = '6MB'")
            connection.execute("select %s::int", [1])
            connection.execute("show work_mem")
        assert turns == ["Q 1", "PBDES 1", "Q 1"]


def test_psycopg_in_a_pipeline(path: Path) -> None:
    """The statements of a pipeline cross together; it waits for them before it sends COMMIT."""
    with (
        psycopg.connect(path.target.url(), autocommit=True) as connection,
        path.seen() as turns,
        connection.pipeline(),
        connection.transaction(),
    ):
        for _ in range(3):
            connection.execute("select %s::int", [1])
    assert [turn.split()[-1] for turn in turns if not turn.endswith(" 0")] == ["1", "1"]


def test_psycopg2(path: Path) -> None:
    """BEGIN is deferred, three statements and COMMIT are four crossings; in autocommit each is one."""
    with path.seen() as turns:
        connection = psycopg2.connect(path.target.url())
    assert turns == CONNECT
    cursor = connection.cursor()
    with path.seen() as turns:
        for _ in range(3):
            cursor.execute("select 1")
        connection.commit()
    assert turns == ["Q 0", "Q 1", "Q 1", "Q 1", "Q 1"]
    connection.autocommit = True
    with path.seen() as turns:
        cursor.execute("select %s", [1])
    assert turns == ["Q 1"]
    connection.close()


# -- pg8000, SQLAlchemy --------------------------------------------------------------------------------------


def test_pg8000(path: Path) -> None:
    """It waits for Parse, for Describe and for the result: three crossings for a new statement, one for a
    known one.
    """
    target = path.target
    sql = new_sql().replace("%s", "cast(:a as int)").replace("::int", "")
    with path.seen() as turns:
        connection = pg8000.native.Connection(
            USER, host=target.host, port=target.port, database=DATABASE, password=PASSWORD, ssl_context=False
        )
    assert turns == CONNECT
    for parse, describe in (("PHS 1", "DHS 1"), ("PHS 0", "DHS 0")):
        with path.seen() as turns:
            connection.run(sql, a=1)
        assert turns == [parse, describe, "BHEHS 1"]
    with path.seen() as turns:
        connection.run("begin")
        for _ in range(3):
            connection.run(sql, a=1)
        connection.run("commit")
    assert turns == ["Q 0", *["PHS 0", "DHS 0", "BHEHS 1"] * 3, "Q 1"]
    connection.close()


def test_sqlalchemy(path: Path) -> None:
    """A session of its own, on a connection that its pool has: BEGIN is deferred, three statements and COMMIT
    are four crossings, and ROLLBACK on return to the pool is none, for nothing is open.
    """
    target = path.target
    url = sqlalchemy.URL.create(
        "postgresql+psycopg", USER, PASSWORD, target.host, target.port, DATABASE, {"sslmode": "disable"}
    )
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:  # what it looks at in its first connection
        connection.execute(sqlalchemy.text("select 1"))
    with path.seen() as turns, engine.begin() as connection:
        for number in range(3):
            connection.execute(sqlalchemy.text(f"select {number}"))
    assert turns == ["Q 0", "Q 1", "Q 1", "Q 1", "Q 1"]
    engine.dispose()
