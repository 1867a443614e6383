"""psycopg2: libpq's simple protocol, parameters pasted into the text by the client."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Any, ClassVar

import psycopg2
import psycopg2.extras
import pytest
from psycopg2 import errors

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
    from collections.abc import Iterator, Mapping

    from tests.support.target import Target

pytestmark = pytest.mark.e2e


class Psycopg2(Driver):
    """Cursors over one connection, autocommit unless the action is about transactions."""

    lacks: ClassVar[Mapping[str, str]] = {"pipeline": "psycopg2 has no pipeline mode"}

    @contextlib.contextmanager
    def open(self, *, autocommit: bool = True, **options: Any) -> Iterator[Any]:
        """A cursor whose connection is closed at the end of the block."""
        connection = psycopg2.connect(**{**self.target.libpq(), **options})
        with contextlib.closing(connection):
            connection.autocommit = autocommit
            with connection.cursor() as cursor:
                yield cursor

    def refused(self, message: str, **options: Any) -> None:
        with pytest.raises(psycopg2.OperationalError, match=message), self.open(**options):
            pass

    def connect(self) -> None:
        with self.open() as cursor:
            assert rows(cursor, "select current_user, 1") == [(self.target.user, 1)]
            assert cursor.connection.info.ssl_in_use is (self.target.certificates is not None)
        self.refused("password authentication failed", password="wrong")
        self.refused('database "nowhere" does not exist', dbname="nowhere")
        if self.target.certificates is not None:
            stranger = str(self.target.certificates.stranger_ca)
            self.refused("certificate verify failed", sslrootcert=stranger)

    def bind_channel(self) -> None:
        if self.target.certificates is None:
            self.refused("channel binding required", channel_binding="require")
            return
        with self.open(channel_binding="require") as cursor:
            assert rows(cursor, "select 1") == [(1,)]

    def query(self) -> None:
        with self.open() as cursor:
            assert rows(cursor, "select 1 as a, 'x' as \"B c\", null::text as d") == [(1, "x", None)]
            assert [column.name for column in cursor.description] == ["a", "B c", "d"]
            assert rows(cursor, "select 1 where false") == []
            assert rows(cursor, "select 1; select 2, 3") == [(2, 3)]

    def parameters(self) -> None:
        psycopg2.extras.register_uuid()
        columns = ", ".join(f"%s::{sql_type}" for sql_type in VALUES)
        with self.open() as cursor:
            cursor.execute(f"select {columns}", list(VALUES.values()))
            received = [
                bytes(value) if isinstance(value, memoryview) else value for value in cursor.fetchone()
            ]
        assert received == list(VALUES.values())

    def prepared(self) -> None:
        """By SQL: psycopg2 has no other way."""
        with self.open() as cursor:
            cursor.execute("prepare twice (int) as select $1 * 2")
            for number in range(100):
                assert rows(cursor, "execute twice (%s)", [number]) == [(2 * number,)]
            cursor.execute("begin")
            assert rows(cursor, "execute twice (%s)", [7]) == [(14,)]
            cursor.execute("rollback")
            cursor.execute("deallocate twice")
            with pytest.raises(errors.InvalidSqlStatementName):
                cursor.execute("execute twice (1)")
            cursor.execute("prepare twice as select 'another'")
            assert rows(cursor, "execute twice") == [("another",)]

    def transactions(self) -> None:
        with self.open(autocommit=False) as cursor:
            connection = cursor.connection
            cursor.execute(f"create table {self.table} (a int primary key)")
            connection.commit()
            cursor.execute(f"insert into {self.table} values (1)")
            connection.rollback()
            assert self._numbers(cursor) == []
            cursor.execute(f"insert into {self.table} values (2)")
            connection.commit()
            assert connection.status == psycopg2.extensions.STATUS_READY
            assert self._numbers(cursor) == [2]

    def savepoints(self) -> None:
        with self.open(autocommit=False) as cursor:
            cursor.execute(f"create table {self.table} (a int primary key)")
            cursor.execute(f"insert into {self.table} values (1)")
            cursor.execute("savepoint before")
            cursor.execute(f"insert into {self.table} values (2)")
            with pytest.raises(errors.UniqueViolation):
                cursor.execute(f"insert into {self.table} values (1)")
            cursor.execute("rollback to savepoint before")
            cursor.execute(f"insert into {self.table} values (3)")
            cursor.execute("release savepoint before")
            cursor.connection.commit()
            assert self._numbers(cursor) == [1, 3]

    def errors(self) -> None:
        with self.open() as cursor:
            cursor.execute(f"create table {self.table} (a int primary key)")
            with pytest.raises(errors.SyntaxError):
                cursor.execute("selec 1")
            cursor.execute(f"insert into {self.table} values (1)")
            with pytest.raises(errors.UniqueViolation):
                cursor.execute(f"insert into {self.table} values (1)")
            with pytest.raises(errors.DivisionByZero):
                cursor.execute(f"insert into {self.table} values (2); select 1 / 0")
            cursor.connection.autocommit = False
            cursor.execute(f"insert into {self.table} values (3)")
            with pytest.raises(errors.DivisionByZero):
                cursor.execute("select 1 / 0")
            with pytest.raises(errors.InFailedSqlTransaction):
                cursor.execute("select 1")
            cursor.connection.rollback()
            assert self._numbers(cursor) == [1]

    def copy_in(self) -> None:
        sql = f"copy {self.table} from stdin"
        with self.open() as cursor:
            cursor.execute(f"create table {self.table} (a int primary key)")
            cursor.copy_expert(sql, io.StringIO("".join(f"{number}\n" for number in range(20000))))
            assert cursor.rowcount == 20000
            with pytest.raises(errors.QueryCanceled):
                cursor.copy_expert(sql, BreaksOff())
            with pytest.raises(errors.UniqueViolation):
                cursor.copy_expert(sql, io.StringIO("-1\n1\n"))
            assert difference(self._numbers(cursor), list(range(20000))) is None

    def copy_out(self) -> None:
        sql = "copy (select i, 'row ' || i from generate_series(1, 20000) as i) to stdout"
        with self.open() as cursor:
            received = io.StringIO()
            cursor.copy_expert(sql, received)
            expected = "".join(f"{number}\trow {number}\n" for number in range(1, 20001))
            assert difference(received.getvalue(), expected) is None

    def cancel(self) -> None:
        with self.open() as cursor:
            cancelling = self.cancelling(self.marker, cursor.connection.cancel)
            with cancelling, pytest.raises(errors.QueryCanceled):
                cursor.execute(long_query(self.marker))
            assert rows(cursor, "select 1") == [(1,)]

    def many_rows(self) -> None:
        with self.open(autocommit=False) as cursor:
            expected = [(number, f"row {number}") for number in range(1, MANY_ROWS + 1)]
            assert difference(rows(cursor, MANY_ROWS_SQL), expected) is None
            with cursor.connection.cursor(self.marker) as on_server:
                on_server.itersize = 50_000
                on_server.execute(MANY_ROWS_SQL)
                assert difference(list(on_server), expected) is None

    def big_value(self) -> None:
        value = big_value()
        with self.open() as cursor:
            [(length, received)] = rows(cursor, "select length(%s), %s", [value, value])
        assert length == BIG_VALUE_BYTES
        assert difference(received, value) is None

    def _numbers(self, cursor: Any) -> list[int]:
        return [number for (number,) in rows(cursor, f"select a from {self.table} order by a")]


class BreaksOff:
    """A file that fails while it is read."""

    def read(self, _size: int = -1) -> str:
        raise ZeroDivisionError


def rows(cursor: Any, sql: str, parameters: list[Any] | None = None) -> list[tuple[Any, ...]]:
    cursor.execute(sql, parameters)
    fetched: list[tuple[Any, ...]] = cursor.fetchall()
    return fetched


@actions_of(Psycopg2)
def test_psycopg2(action: str, target: Target) -> None:
    """psycopg2 finds what PostgreSQL promises; see `tests.support.actions.ACTIONS`."""
    Psycopg2(target).perform(action)
