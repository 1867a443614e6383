"""SQLAlchemy over psycopg 3: what its engine, pool and Core send on their own account."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import sqlalchemy as sa

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


class Sqlalchemy(Driver):
    """An `Engine` per action; its own pool keeps the connection, so one action is one or two clients."""

    lacks: ClassVar[Mapping[str, str]] = {
        "pipeline": "SQLAlchemy has no pipeline mode",
        "copy_in": "SQLAlchemy has no COPY",
        "copy_out": "SQLAlchemy has no COPY",
    }

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.numbers = sa.Table(self.table, sa.MetaData(), sa.Column("a", sa.Integer, primary_key=True))

    def perform(self, action: str) -> None:
        self.engine = self.make_engine()
        try:
            super().perform(action)
        finally:
            self.engine.dispose()

    def make_engine(self, **options: Any) -> sa.Engine:
        arguments = {**self.target.libpq(), **options}
        return sa.create_engine("postgresql+psycopg://", connect_args=arguments, pool_pre_ping=True)

    def refused(self, message: str, **options: Any) -> None:
        with pytest.raises(sa.exc.OperationalError, match=message):
            self.make_engine(**options).connect()

    def connect(self) -> None:
        with self.engine.connect() as connection:
            assert connection.scalar(sa.text("select current_user")) == self.target.user
        self.refused("password authentication failed", password="wrong")
        self.refused('database "nowhere" does not exist', dbname="nowhere")
        if self.target.certificates is not None:
            self.refused("certificate verify failed", sslrootcert=str(self.target.certificates.stranger_ca))

    def bind_channel(self) -> None:
        if self.target.certificates is None:
            self.refused("channel binding required", channel_binding="require")
            return
        engine = self.make_engine(channel_binding="require")
        with engine.connect() as connection:
            assert connection.scalar(sa.text("select 1")) == 1
        engine.dispose()

    def query(self) -> None:
        with self.engine.connect() as connection:
            found = connection.execute(sa.text("select 1 as a, 'x' as b, null as c")).mappings().all()
            assert [dict(row) for row in found] == [{"a": 1, "b": "x", "c": None}]
            assert connection.execute(sa.text("select 1 where false")).all() == []
            assert sa.inspect(connection).has_table(self.table) is False

    def parameters(self) -> None:
        columns = ", ".join(f"cast(:p{place} as {sql_type})" for place, sql_type in enumerate(VALUES))
        parameters = {f"p{place}": value for place, value in enumerate(VALUES.values())}
        with self.engine.connect() as connection:
            row = connection.execute(sa.text(f"select {columns}"), parameters).one()
        assert list(row) == list(VALUES.values())

    def prepared(self) -> None:
        """psycopg prepares what is executed more than five times."""
        twice = sa.text("select cast(:n as int) * 2")
        for number in range(50):
            with self.engine.connect() as connection:
                assert connection.scalar(twice, {"n": number}) == 2 * number

    def transactions(self) -> None:
        self._create()
        with self.engine.connect() as connection:
            connection.execute(self.numbers.insert(), [{"a": 1}, {"a": 2}])
            connection.rollback()
            assert self._stored(connection) == []
        with self.engine.begin() as connection:
            connection.execute(self.numbers.insert(), [{"a": number} for number in range(1000)])
        with self.engine.connect() as connection:
            assert self._stored(connection) == list(range(1000))
        serializable = self.engine.execution_options(isolation_level="SERIALIZABLE")
        with serializable.connect() as connection:
            assert connection.scalar(sa.text("show transaction_isolation")) == "serializable"
        with self.engine.connect() as connection:
            assert connection.scalar(sa.text("show transaction_isolation")) == "read committed"

    def savepoints(self) -> None:
        self._create()
        with self.engine.begin() as connection:
            connection.execute(self.numbers.insert(), {"a": 1})
            with pytest.raises(sa.exc.IntegrityError):
                self._insert_nested(connection, 2, 1)
            self._insert_nested(connection, 3)
            assert self._stored(connection) == [1, 3]
        with self.engine.connect() as connection:
            assert self._stored(connection) == [1, 3]

    def errors(self) -> None:
        self._create()
        with self.engine.connect() as connection:
            with pytest.raises(sa.exc.ProgrammingError, match="syntax error"):
                connection.execute(sa.text("selec 1"))
            with pytest.raises(sa.exc.InternalError, match="current transaction is aborted"):
                connection.execute(sa.text("select 1"))
            connection.rollback()
            connection.execute(self.numbers.insert(), {"a": 1})
            connection.commit()
            with pytest.raises(sa.exc.IntegrityError, match="duplicate key"):
                connection.execute(self.numbers.insert(), {"a": 1})
            connection.rollback()
            assert self._stored(connection) == [1]
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            with pytest.raises(sa.exc.DataError, match="division by zero"):
                connection.execute(sa.text("select 1 / cast(:n as int)"), {"n": 0})
            assert connection.scalar(sa.text("select 1")) == 1

    def cancel(self) -> None:
        with self.engine.connect() as connection:
            driver_connection = connection.connection.driver_connection
            assert driver_connection is not None
            cancelling = self.cancelling(self.marker, driver_connection.cancel_safe)
            message = "canceling statement due to user request"
            with cancelling, pytest.raises(sa.exc.OperationalError, match=message):
                connection.execute(sa.text(long_query(self.marker)))
            connection.rollback()
            assert connection.scalar(sa.text("select 1")) == 1

    def many_rows(self) -> None:
        with self.engine.connect().execution_options(yield_per=50_000) as connection:
            rows = [tuple(row) for row in connection.execute(sa.text(MANY_ROWS_SQL))]
        expected = [(number, f"row {number}") for number in range(1, MANY_ROWS + 1)]
        assert difference(rows, expected) is None

    def big_value(self) -> None:
        value = big_value()
        sql = sa.text("select length(cast(:v as text)), cast(:v as text)")
        with self.engine.connect() as connection:
            length, received = connection.execute(sql, {"v": value}).one()
        assert length == BIG_VALUE_BYTES
        assert difference(received, value) is None

    def _create(self) -> None:
        self.numbers.metadata.create_all(self.engine)

    def _insert_nested(self, connection: sa.Connection, *numbers: int) -> None:
        with connection.begin_nested():
            for number in numbers:
                connection.execute(self.numbers.insert(), {"a": number})

    def _stored(self, connection: sa.Connection) -> list[int]:
        return list(connection.scalars(sa.select(self.numbers.c.a).order_by(self.numbers.c.a)))


@actions_of(Sqlalchemy)
def test_sqlalchemy(action: str, target: Target) -> None:
    """SQLAlchemy over psycopg finds what PostgreSQL promises; see `tests.support.actions.ACTIONS`."""
    Sqlalchemy(target).perform(action)
