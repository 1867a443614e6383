"""SQLAlchemy over asyncpg: `AsyncEngine`, with both libraries' caches of statements on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

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
    from collections.abc import Mapping

    from tests.support.target import Target

pytestmark = pytest.mark.e2e


class AsyncSqlalchemy(Driver):
    """An `AsyncEngine` per action."""

    lacks: ClassVar[Mapping[str, str]] = {
        "bind_channel": "asyncpg has no SCRAM-SHA-256-PLUS",
        "pipeline": "SQLAlchemy has no pipeline mode",
        "copy_in": "SQLAlchemy has no COPY",
        "copy_out": "SQLAlchemy has no COPY",
    }

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.numbers = sa.Table(self.table, sa.MetaData(), sa.Column("a", sa.Integer, primary_key=True))

    def perform(self, action: str) -> None:
        asyncio.run(self._with_engine(action))

    async def _with_engine(self, action: str) -> None:
        self.engine = self.make_engine()
        try:
            await getattr(self, action)()
        finally:
            await self.engine.dispose()

    def make_engine(self, **options: Any) -> AsyncEngine:
        target = self.target
        arguments = {
            "host": target.host,
            "port": target.port,
            "user": target.user,
            "password": target.password,
            "database": target.database,
            "ssl": target.ssl_context() or False,
            **options,
        }
        return create_async_engine("postgresql+asyncpg://", connect_args=arguments, pool_pre_ping=True)

    async def connect(self) -> None:
        async with self.engine.connect() as connection:
            assert await connection.scalar(sa.text("select current_user")) == self.target.user
        with pytest.raises(sa.exc.DBAPIError, match="password authentication failed"):
            await self.make_engine(password="wrong").connect().start()
        with pytest.raises(sa.exc.DBAPIError, match='database "nowhere" does not exist'):
            await self.make_engine(database="nowhere").connect().start()

    async def query(self) -> None:
        async with self.engine.connect() as connection:
            found = (await connection.execute(sa.text("select 1 as a, 'x' as b, null as c"))).mappings().all()
            assert [dict(row) for row in found] == [{"a": 1, "b": "x", "c": None}]
            assert (await connection.execute(sa.text("select 1 where false"))).all() == []

    async def parameters(self) -> None:
        columns = ", ".join(f"cast(:p{place} as {sql_type})" for place, sql_type in enumerate(VALUES))
        parameters = {f"p{place}": value for place, value in enumerate(VALUES.values())}
        async with self.engine.connect() as connection:
            row = (await connection.execute(sa.text(f"select {columns}"), parameters)).one()
        assert list(row) == list(VALUES.values())

    async def prepared(self) -> None:
        twice = sa.text("select cast(:n as int) * 2")
        for number in range(50):
            async with self.engine.connect() as connection:
                assert await connection.scalar(twice, {"n": number}) == 2 * number

    async def transactions(self) -> None:
        await self._create()
        async with self.engine.connect() as connection:
            await connection.execute(self.numbers.insert(), [{"a": 1}, {"a": 2}])
            await connection.rollback()
            assert await self._stored(connection) == []
        async with self.engine.begin() as connection:
            await connection.execute(self.numbers.insert(), [{"a": number} for number in range(1000)])
        async with self.engine.connect() as connection:
            assert await self._stored(connection) == list(range(1000))

    async def savepoints(self) -> None:
        await self._create()
        async with self.engine.begin() as connection:
            await connection.execute(self.numbers.insert(), {"a": 1})
            with pytest.raises(sa.exc.IntegrityError):
                await self._insert_nested(connection, 2, 1)
            await self._insert_nested(connection, 3)
        async with self.engine.connect() as connection:
            assert await self._stored(connection) == [1, 3]

    async def errors(self) -> None:
        await self._create()
        async with self.engine.connect() as connection:
            with pytest.raises(sa.exc.ProgrammingError, match="syntax error"):
                await connection.execute(sa.text("selec 1"))
            with pytest.raises(sa.exc.DBAPIError, match="current transaction is aborted"):
                await connection.execute(sa.text("select 1"))
            await connection.rollback()
            await connection.execute(self.numbers.insert(), {"a": 1})
            await connection.commit()
            with pytest.raises(sa.exc.IntegrityError, match="duplicate key"):
                await connection.execute(self.numbers.insert(), {"a": 1})
            await connection.rollback()
            assert await self._stored(connection) == [1]

    async def cancel(self) -> None:
        async with self.engine.connect() as connection:
            driver_connection: Any = (await connection.get_raw_connection()).driver_connection
            running = asyncio.create_task(driver_connection.fetch(long_query(self.marker)))
            await asyncio.to_thread(self.target.wait_until_running, self.marker)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert await connection.scalar(sa.text("select 1")) == 1

    async def many_rows(self) -> None:
        async with self.engine.connect() as connection:
            rows = [tuple(row) for row in await connection.execute(sa.text(MANY_ROWS_SQL))]
        expected = [(number, f"row {number}") for number in range(1, MANY_ROWS + 1)]
        assert difference(rows, expected) is None

    async def big_value(self) -> None:
        value = big_value()
        sql = sa.text("select length(cast(:v as text)), cast(:v as text)")
        async with self.engine.connect() as connection:
            length, received = (await connection.execute(sql, {"v": value})).one()
        assert length == BIG_VALUE_BYTES
        assert difference(received, value) is None

    async def _create(self) -> None:
        async with self.engine.begin() as connection:
            await connection.run_sync(self.numbers.metadata.create_all)

    async def _insert_nested(self, connection: AsyncConnection, *numbers: int) -> None:
        async with connection.begin_nested():
            for number in numbers:
                await connection.execute(self.numbers.insert(), {"a": number})

    async def _stored(self, connection: AsyncConnection) -> list[int]:
        return list(await connection.scalars(sa.select(self.numbers.c.a).order_by(self.numbers.c.a)))


@actions_of(AsyncSqlalchemy)
def test_sqlalchemy_async(action: str, target: Target) -> None:
    """SQLAlchemy over asyncpg finds what PostgreSQL promises; see `tests.support.actions.ACTIONS`."""
    AsyncSqlalchemy(target).perform(action)
