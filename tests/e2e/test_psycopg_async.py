"""psycopg 3 with asyncio."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import errors

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
    from tests.support.target import Target

pytestmark = pytest.mark.e2e

Connection = psycopg.AsyncConnection[Any]


class AsyncPsycopg(Driver):
    """`AsyncConnection`: the protocol code is shared with the blocking one, the waiting is not."""

    async def open(self, **options: Any) -> Connection:
        return await psycopg.AsyncConnection.connect(**{**self.target.libpq(), "autocommit": True, **options})

    async def connect(self) -> None:
        async with await self.open() as connection:
            assert await self._rows(connection, "select current_user, 1") == [(self.target.user, 1)]
            assert connection.pgconn.ssl_in_use is (self.target.certificates is not None)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            await self.open(password="wrong")
        with pytest.raises(psycopg.OperationalError, match='database "nowhere" does not exist'):
            await self.open(dbname="nowhere")
        if self.target.certificates is not None:
            with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
                await self.open(sslrootcert=str(self.target.certificates.stranger_ca))

    async def bind_channel(self) -> None:
        if self.target.certificates is None:
            with pytest.raises(psycopg.OperationalError, match="channel binding required"):
                await self.open(channel_binding="require")
            return
        async with await self.open(channel_binding="require") as connection:
            assert await self._rows(connection, "select 1") == [(1,)]

    async def query(self) -> None:
        async with await self.open() as connection:
            assert await self._rows(connection, "select 1, 'x', null::text") == [(1, "x", None)]
            assert await self._rows(connection, "select 1 where false") == []
            assert (await connection.execute("")).description is None
            cursor = await connection.execute("select 1; select 2, 3")
            assert await cursor.fetchall() == [(1,)]
            assert cursor.nextset()
            assert await cursor.fetchall() == [(2, 3)]

    async def parameters(self) -> None:
        columns = ", ".join(f"%s::{sql_type}" for sql_type in VALUES)
        values = tuple(VALUES.values())
        async with await self.open() as connection:
            for binary in (False, True):
                cursor = await connection.execute(f"select {columns}", values, binary=binary)
                assert await cursor.fetchone() == values

    async def prepared(self) -> None:
        async with await self.open() as connection:
            connection.prepared_max = 3
            for number in range(50):
                for column in range(5):
                    sql = f"select %s::int + {column}"
                    cursor = await connection.execute(sql, [number], prepare=True)
                    assert await cursor.fetchone() == (number + column,)
                async with connection.transaction():
                    cursor = await connection.execute("select -%s::int", [number], prepare=True)
                    assert await cursor.fetchone() == (-number,)

    async def transactions(self) -> None:
        async with await self.open(autocommit=False) as connection:
            await connection.execute(f"create table {self.table} (a int primary key)")
            await connection.commit()
            await connection.execute(f"insert into {self.table} values (1)")
            await connection.rollback()
            assert await self._numbers(connection) == []
            await connection.execute(f"insert into {self.table} values (2)")
            await connection.commit()
            assert await self._numbers(connection) == [2]

    async def savepoints(self) -> None:
        async with await self.open() as connection:
            await connection.execute(f"create table {self.table} (a int primary key)")
            async with connection.transaction():
                await connection.execute(f"insert into {self.table} values (1)")
                with pytest.raises(errors.UniqueViolation):
                    await self._insert_in_savepoint(connection, 2, 1)
                await self._insert_in_savepoint(connection, 3)
            assert await self._numbers(connection) == [1, 3]

    async def _insert_in_savepoint(self, connection: Connection, *numbers: int) -> None:
        async with connection.transaction():
            for number in numbers:
                await connection.execute(f"insert into {self.table} values (%s)", [number])

    async def errors(self) -> None:
        async with await self.open() as connection:
            await connection.execute(f"create table {self.table} (a int primary key)")
            with pytest.raises(errors.SyntaxError):
                await connection.execute("selec 1")
            await connection.execute(f"insert into {self.table} values (1)")
            with pytest.raises(errors.UniqueViolation):
                await connection.execute(f"insert into {self.table} values (%s)", [1])

            await connection.set_autocommit(False)
            await connection.execute(f"insert into {self.table} values (2)")
            with pytest.raises(errors.DivisionByZero):
                await connection.execute("select 1 / %s::int", [0])
            with pytest.raises(errors.InFailedSqlTransaction):
                await connection.execute("select 1")
            await connection.rollback()
            assert await self._numbers(connection) == [1]

    async def copy_in(self) -> None:
        async with await self.open() as connection:
            await connection.execute(f"create table {self.table} (a int primary key)")
            await self._copy_numbers(connection, range(20000))
            with pytest.raises(ZeroDivisionError):
                await self._copy_numbers(connection, [-1], break_off=True)
            with pytest.raises(errors.UniqueViolation):
                await self._copy_numbers(connection, [-2, 1])
            assert difference(await self._numbers(connection), list(range(20000))) is None

    async def _copy_numbers(
        self, connection: Connection, numbers: list[int] | range, *, break_off: bool = False
    ) -> None:
        cursor = connection.cursor()
        async with cursor, cursor.copy(f"copy {self.table} from stdin") as copy:
            for number in numbers:
                await copy.write_row((number,))
            if break_off:
                raise ZeroDivisionError

    async def copy_out(self) -> None:
        sql = "copy (select i, 'row ' || i from generate_series(1, 20000) as i) to stdout"
        async with await self.open() as connection:
            async with connection.cursor() as cursor, cursor.copy(sql) as copy:
                received = [row async for row in copy.rows()]
            expected = [(str(number), f"row {number}") for number in range(1, 20001)]
            assert difference(received, expected) is None
            with pytest.raises(ZeroDivisionError):
                await self._give_up_copy(connection, sql)
            assert await self._rows(connection, "select 1") == [(1,)]

    async def _give_up_copy(self, connection: Connection, sql: str) -> None:
        async with connection.cursor() as cursor, cursor.copy(sql) as copy:
            await copy.read()
            raise ZeroDivisionError

    async def pipeline(self) -> None:
        async with await self.open() as connection:
            await connection.execute(f"create table {self.table} (a int primary key)")
            async with connection.pipeline():
                cursors = [await connection.execute("select %s::int", [number]) for number in range(200)]
                received = [await cursor.fetchone() for cursor in cursors]
            assert received == [(number,) for number in range(200)]
            with pytest.raises(errors.DivisionByZero):
                await self._fail_in_pipeline(connection)
            assert await self._numbers(connection) == [1]

    async def _fail_in_pipeline(self, connection: Connection) -> None:
        async with connection.pipeline() as pipeline:
            await connection.execute(f"insert into {self.table} values (1)")
            await pipeline.sync()
            await connection.execute(f"insert into {self.table} values (2)")
            await connection.execute("select 1 / %s::int", [0])
            await connection.execute(f"insert into {self.table} values (3)")

    async def cancel(self) -> None:
        async with await self.open() as connection:
            running = asyncio.create_task(connection.execute(long_query(self.marker)))
            await asyncio.to_thread(self.target.wait_until_running, self.marker)
            await connection.cancel_safe()
            with pytest.raises(errors.QueryCanceled):
                await running
            assert await self._rows(connection, "select 1") == [(1,)]

    async def many_rows(self) -> None:
        async with await self.open() as connection:
            rows = await self._rows(connection, MANY_ROWS_SQL)
        expected = [(number, f"row {number}") for number in range(1, MANY_ROWS + 1)]
        assert difference(rows, expected) is None

    async def big_value(self) -> None:
        value = big_value()
        async with await self.open() as connection:
            cursor = await connection.execute("select length(%s::text), %s::text", [value, value])
            row = await cursor.fetchone()
        assert row is not None
        assert row[0] == BIG_VALUE_BYTES
        assert difference(row[1], value) is None

    async def cursors(self) -> None:
        async with await self.open(autocommit=False) as connection:
            async with connection.cursor(self.marker, scrollable=True) as cursor:
                cursor.itersize = 100
                await cursor.execute("select generate_series(1, %s::int)", [250])
                assert [number async for (number,) in cursor] == list(range(1, 251))
                await cursor.scroll(10, mode="absolute")
                assert await cursor.fetchmany(2) == [(11,), (12,)]
                assert await self._rows(connection, "select 1") == [(1,)]
                assert await cursor.fetchone() == (13,)
            await connection.rollback()
            assert await self._rows(connection, "select 1") == [(1,)]

    async def listen(self) -> None:
        """The listener waits while the notifier is at work."""
        channel = f"c_{self.marker}"
        async with await self.open() as listener, await self.open() as notifier:
            await listener.execute(f"listen {channel}")
            heard = asyncio.create_task(self._hear(listener, 21))
            for number in range(20):
                await notifier.execute("select pg_notify(%s, %s)", [channel, str(number)])
            await notifier.execute(f"notify {channel}, 'last'")
            assert await heard == [*map(str, range(20)), "last"]
            assert await self._rows(listener, "select 1") == [(1,)]
            await listener.execute("unlisten *")

    async def _hear(self, connection: Connection, count: int) -> list[str]:
        return [notify.payload async for notify in connection.notifies(timeout=20, stop_after=count)]

    async def session_settings(self) -> None:
        async with (
            await self.open(options="-c statement_timeout=61s", application_name="one") as one,
            await self.open() as other,
        ):
            await one.execute("set timezone = 'Asia/Tokyo'")
            await other.execute("set timezone = 'Europe/Oslo'")
            for _ in range(3):
                assert await self._rows(one, "show timezone") == [("Asia/Tokyo",)]
                assert await self._rows(one, "show statement_timeout") == [("61s",)]
                assert await self._rows(one, "show application_name") == [("one",)]
                assert await self._rows(other, "show timezone") == [("Europe/Oslo",)]
                assert await self._rows(other, "show statement_timeout") == [("0",)]

    async def _rows(self, connection: Connection, sql: str) -> list[tuple[Any, ...]]:
        return await (await connection.execute(sql)).fetchall()

    async def _numbers(self, connection: Connection) -> list[int]:
        return [
            number for (number,) in await self._rows(connection, f"select a from {self.table} order by a")
        ]


@actions_of(AsyncPsycopg)
def test_psycopg_async(action: str, target: Target) -> None:
    """psycopg 3 with asyncio finds what PostgreSQL promises; see `tests.support.actions.ACTIONS`."""
    AsyncPsycopg(target).perform(action)


def test_psycopg_async_cursors(target: Target) -> None:
    """A cursor on the server lives as long as its transaction, with other statements in between."""
    AsyncPsycopg(target).perform("cursors")


def test_psycopg_async_listen(target: Target) -> None:
    """Every notification arrives once and in order, while the client waits for nothing else."""
    AsyncPsycopg(target).perform("listen")


def test_psycopg_async_session_settings(target: Target) -> None:
    """Settings of the login and of the session stay with their client."""
    AsyncPsycopg(target).perform("session_settings")
