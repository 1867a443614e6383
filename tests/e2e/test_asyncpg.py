"""asyncpg: binary formats, named statements for everything, its own protocol code."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any, ClassVar

import asyncpg
import pytest

from tests.support.actions import (
    BIG_VALUE_BYTES,
    MANY_ROWS,
    MANY_ROWS_SQL,
    VALUES,
    Driver,
    actions_of,
    big_value,
    difference,
    long_query,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from contextlib import AbstractAsyncContextManager

    from tests.support.target import Target

pytestmark = pytest.mark.e2e


class Asyncpg(Driver):
    """With its statement cache on, as it comes; introspection queries and all."""

    lacks: ClassVar[Mapping[str, str]] = {
        "bind_channel": "asyncpg has no SCRAM-SHA-256-PLUS",
        "pipeline": "asyncpg pipelines only executemany, which `prepared` runs",
    }

    def open(self, **options: Any) -> AbstractAsyncContextManager[Any]:
        """A connection that is closed in order at the end of its block."""
        target = self.target
        return _closing(
            **{
                "host": target.host,
                "port": target.port,
                "user": target.user,
                "password": target.password,
                "database": target.database,
                "ssl": target.ssl_context() or False,
                **options,
            }
        )

    async def connect(self) -> None:
        async with self.open() as connection:
            assert await connection.fetchval("select current_user") == self.target.user
            with_tls = connection._transport.get_extra_info("ssl_object") is not None
            assert with_tls is (self.target.certificates is not None)
        with pytest.raises(asyncpg.InvalidPasswordError):
            await self.open(password="wrong").__aenter__()
        with pytest.raises(asyncpg.InvalidCatalogNameError):
            await self.open(database="nowhere").__aenter__()
        if self.target.certificates is not None:
            context = self.target.certificates.client_context(self.target.certificates.stranger_ca)
            with pytest.raises(ssl.SSLCertVerificationError):
                await self.open(ssl=context).__aenter__()

    async def query(self) -> None:
        async with self.open() as connection:
            rows = await connection.fetch("select 1 as a, 'x' as \"B c\", null::text as d")
            assert [dict(row) for row in rows] == [{"a": 1, "B c": "x", "d": None}]
            assert await connection.fetch("select 1 where false") == []
            assert await connection.fetch("") == []
            assert await connection.execute("select 1; select 2, 3") == "SELECT 1"

    async def parameters(self) -> None:
        columns = ", ".join(f"${place}::{sql_type}" for place, sql_type in enumerate(VALUES, 1))
        values = tuple(VALUES.values())
        async with self.open() as connection:
            assert tuple(await connection.fetchrow(f"select {columns}", *values)) == values

    async def prepared(self) -> None:
        async with self.open(statement_cache_size=3) as connection:
            await connection.execute(f"create table {self.table} (a int primary key)")
            statement = await connection.prepare("select $1::int * 2")
            for number in range(100):
                assert await statement.fetchval(number) == 2 * number
                if number % 10 == 0:
                    async with connection.transaction():
                        assert await statement.fetchval(-number) == -2 * number
            for number in range(20):
                for column in range(5):
                    found = await connection.fetchval(f"select $1::int + {column}", number)
                    assert found == number + column
            await connection.executemany(
                f"insert into {self.table} values ($1)", [(number,) for number in range(5000)]
            )
            assert await connection.fetchval(f"select count(*) from {self.table}") == 5000
            with pytest.raises(asyncpg.UniqueViolationError):
                await connection.executemany(f"insert into {self.table} values ($1)", [(-1,), (1,), (-2,)])
            assert await connection.fetchval(f"select count(*) from {self.table}") == 5000

    async def transactions(self) -> None:
        async with self.open() as connection:
            await connection.execute(f"create table {self.table} (a int primary key)")
            with pytest.raises(ZeroDivisionError):
                await self._insert(connection, 1, break_off=True)
            assert await self._numbers(connection) == []
            await self._insert(connection, 2)
            assert not connection.is_in_transaction()
            assert await self._numbers(connection) == [2]
            async with connection.transaction(isolation="serializable", readonly=True, deferrable=True):
                assert await connection.fetchval("show transaction_isolation") == "serializable"
                with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                    await connection.execute(f"delete from {self.table}")

    async def savepoints(self) -> None:
        async with self.open() as connection:
            await connection.execute(f"create table {self.table} (a int primary key)")
            async with connection.transaction():
                await self._insert(connection, 1)
                with pytest.raises(ZeroDivisionError):
                    await self._insert(connection, 2, break_off=True)
                await self._insert(connection, 3)
            assert await self._numbers(connection) == [1, 3]

    async def _insert(self, connection: Any, number: int, *, break_off: bool = False) -> None:
        async with connection.transaction():
            await connection.execute(f"insert into {self.table} values ($1)", number)
            if break_off:
                raise ZeroDivisionError

    async def errors(self) -> None:
        async with self.open() as connection:
            await connection.execute(f"create table {self.table} (a int primary key)")
            for run in (connection.execute, connection.fetch):
                with pytest.raises(asyncpg.PostgresSyntaxError):
                    await run("selec 1")
            await self._insert(connection, 1)
            with pytest.raises(asyncpg.UniqueViolationError) as violated:
                await connection.execute(f"insert into {self.table} values ($1)", 1)
            assert violated.value.table_name == self.table

            transaction = connection.transaction()
            await transaction.start()
            await connection.execute(f"insert into {self.table} values (2)")
            with pytest.raises(asyncpg.DivisionByZeroError):
                await connection.fetchval("select 1 / $1::int", 0)
            with pytest.raises(asyncpg.InFailedSQLTransactionError):
                await connection.fetchval("select 1")
            await transaction.rollback()
            assert await self._numbers(connection) == [1]

    async def copy_in(self) -> None:
        async with self.open() as connection:
            await connection.execute(f"create table {self.table} (a int primary key, b text)")
            records = [(number, f"row\t{number}") for number in range(20000)]
            assert await connection.copy_records_to_table(self.table, records=records) == "COPY 20000"
            with pytest.raises(ZeroDivisionError):
                await connection.copy_to_table(self.table, source=_breaks_off())
            with pytest.raises(asyncpg.UniqueViolationError):
                await connection.copy_records_to_table(self.table, records=[(-1, ""), (1, "there already")])
            found = await connection.fetchrow(f"select count(*), min(a), max(b) from {self.table}")
            assert tuple(found) == (20000, 0, "row\t9999")

    async def copy_out(self) -> None:
        sql = "select i, 'row ' || i from generate_series(1, 20000) as i"
        async with self.open() as connection:
            received = bytearray()

            async def keep(data: bytes) -> None:
                received.extend(data)

            async def give_up(_: bytes) -> None:
                raise ZeroDivisionError

            assert await connection.copy_from_query(sql, output=keep) == "COPY 20000"
            expected = "".join(f"{number}\trow {number}\n" for number in range(1, 20001))
            assert difference(received.decode(), expected) is None
            with pytest.raises(ZeroDivisionError):
                await connection.copy_from_query(sql, output=give_up)
            assert await connection.fetchval("select 1") == 1

    async def cancel(self) -> None:
        async with self.open() as connection:
            running = asyncio.create_task(connection.fetch(long_query(self.marker)))
            await asyncio.to_thread(self.target.wait_until_running, self.marker)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert await connection.fetchval("select 1") == 1
            with pytest.raises(TimeoutError):
                await connection.fetch("select pg_sleep(60)", timeout=0.1)
            assert await connection.fetchval("select 1") == 1

    async def many_rows(self) -> None:
        async with self.open() as connection:
            rows = await connection.fetch(MANY_ROWS_SQL)
            assert len(rows) == MANY_ROWS
            assert all(tuple(row) == (place, f"row {place}") for place, row in enumerate(rows, 1))
            async with connection.transaction():
                cursor = connection.cursor(MANY_ROWS_SQL, prefetch=5000)
                total = sum([row["i"] async for row in cursor])
            assert total == MANY_ROWS * (MANY_ROWS + 1) // 2

    async def big_value(self) -> None:
        value = big_value()
        async with self.open() as connection:
            row = await connection.fetchrow("select length($1::text), $1::text", value)
        assert row[0] == BIG_VALUE_BYTES
        assert difference(row[1], value) is None

    async def _numbers(self, connection: Any) -> list[int]:
        return [row["a"] for row in await connection.fetch(f"select a from {self.table} order by a")]


class _closing:
    """`asyncpg.connect` as a context manager that closes the connection."""

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._connection: Any = None

    async def __aenter__(self) -> Any:
        self._connection = await asyncpg.connect(**self._options)
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()


async def _breaks_off() -> AsyncIterator[bytes]:
    yield b"-1\tnever stored\n"
    raise ZeroDivisionError


@actions_of(Asyncpg)
def test_asyncpg(action: str, target: Target) -> None:
    """asyncpg finds what PostgreSQL promises; see `tests.support.actions.ACTIONS`."""
    Asyncpg(target).perform(action)
