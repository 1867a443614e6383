"""Ways to ask the console: psql, which speaks the simple protocol, and drivers, of which asyncpg and psycopg
(here, with binary results) speak the extended one.
"""

from __future__ import annotations

import asyncio
import csv
import io
import os
import subprocess
from typing import TYPE_CHECKING, Any, Protocol

import asyncpg
import psycopg
import psycopg2

if TYPE_CHECKING:
    from tests.support.pooler import Pooler
    from trio_pool.cli.postgres import LocalPostgres

ADMIN = "admin"
SECONDS = 20
NULL = "(null)"

Rows = list[dict[str, Any]]
"""None for NULL. psql has texts only."""


class Refused(Exception):
    """The console's error, in its words; from psql with the hint and the detail behind it."""


class Way(Protocol):
    def __call__(
        self, pooler: Pooler, command: str, *, user: str = ADMIN, database: str = "pgbouncer"
    ) -> Rows: ...


def psql(pooler: Pooler, command: str, *, user: str = ADMIN, database: str = "pgbouncer") -> Rows:
    done = run_psql(pooler.pg, pooler.host, pooler.port, command, user=user, database=database)
    if done.returncode:
        raise Refused(done.stderr)
    return list(_nulls(csv.DictReader(io.StringIO(done.stdout))))


def run_psql(
    pg: LocalPostgres, host: str, port: int, command: str, *, user: str, database: str = "pgbouncer"
) -> subprocess.CompletedProcess[str]:
    """One command, its rows as CSV with a header."""
    options = ["-X", "-q", "--csv", "-P", f"null={NULL}", "-v", "ON_ERROR_STOP=1"]
    where = ["-h", host, "-p", str(port), "-U", user, "-d", database]
    return subprocess.run(
        [str(pg.bin("psql")), *options, *where, "-c", command],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env={**os.environ, "PGSSLMODE": "disable"},
    )


def _nulls(rows: csv.DictReader[str]) -> Rows:
    return [{name: None if value == NULL else value for name, value in row.items()} for row in rows]


def with_asyncpg(pooler: Pooler, command: str, *, user: str = ADMIN, database: str = "pgbouncer") -> Rows:
    async def ask() -> Rows:
        connection = await asyncpg.connect(
            host=pooler.host, port=pooler.port, user=user, database=database, ssl=False, timeout=SECONDS
        )
        try:
            statement = await connection.prepare(command)
            names = [attribute.name for attribute in statement.get_attributes()]
            found = [dict(row) for row in await statement.fetch()]
        finally:
            await connection.close()
        assert all(list(row) == names for row in found)
        return found

    try:
        return asyncio.run(ask())
    except asyncpg.PostgresError as error:
        raise Refused(str(error)) from error


def with_psycopg(pooler: Pooler, command: str, *, user: str = ADMIN, database: str = "pgbouncer") -> Rows:
    connection = psycopg.connect(
        host=pooler.host,
        port=pooler.port,
        user=user,
        dbname=database,
        sslmode="disable",
        autocommit=True,
        connect_timeout=SECONDS,
    )
    with connection, connection.cursor(binary=True) as cursor:
        try:
            cursor.execute(command, prepare=True)
        except psycopg.Error as error:
            raise Refused(str(error)) from error
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in (cursor.fetchall() if names else ())]


def with_psycopg2(pooler: Pooler, command: str, *, user: str = ADMIN, database: str = "pgbouncer") -> Rows:
    connection = psycopg2.connect(
        host=pooler.host,
        port=pooler.port,
        user=user,
        dbname=database,
        sslmode="disable",
        connect_timeout=SECONDS,
    )
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(command)
            names = [column.name for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in (cursor.fetchall() if names else ())]
    except psycopg2.Error as error:
        raise Refused(str(error)) from error
    finally:
        connection.close()


WAYS: dict[str, Way] = {
    "psql": psql,
    "asyncpg": with_asyncpg,
    "psycopg": with_psycopg,
    "psycopg2": with_psycopg2,
}
