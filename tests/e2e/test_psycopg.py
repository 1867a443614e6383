"""psycopg 3, blocking."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import errors
from psycopg.types.json import Jsonb

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


class Psycopg(Driver):
    """As most programs use it: `connect`, autocommit, `transaction()` blocks, automatic preparing."""

    def open(self, **options: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(**{**self.target.libpq(), "autocommit": True, **options})

    def connect(self) -> None:
        with self.open() as connection:
            assert connection.execute("select current_user, 1").fetchone() == (self.target.user, 1)
            assert connection.pgconn.ssl_in_use is (self.target.certificates is not None)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            self.open(password="wrong")
        with pytest.raises(psycopg.OperationalError, match='database "nowhere" does not exist'):
            self.open(dbname="nowhere")
        if self.target.certificates is not None:
            with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
                self.open(sslrootcert=str(self.target.certificates.stranger_ca))

    def bind_channel(self) -> None:
        if self.target.certificates is None:
            with pytest.raises(psycopg.OperationalError, match="channel binding required"):
                self.open(channel_binding="require")
            return
        with self.open(channel_binding="require") as connection:
            assert connection.execute("select 1").fetchone() == (1,)

    def query(self) -> None:
        with self.open() as connection:
            cursor = connection.execute("select 1 as a, 'x' as \"B c\", null::text as d")
            assert cursor.description is not None
            assert [column.name for column in cursor.description] == ["a", "B c", "d"]
            assert cursor.fetchall() == [(1, "x", None)]
            assert connection.execute("select 1 where false").fetchall() == []
            assert connection.execute("").pgresult is not None
            assert connection.execute("").description is None
            cursor = connection.execute("select 1; select 2, 3")
            assert cursor.fetchall() == [(1,)]
            assert cursor.nextset()
            assert cursor.fetchall() == [(2, 3)]

    def parameters(self) -> None:
        columns = ", ".join(f"%s::{sql_type}" for sql_type in VALUES)
        values = tuple(VALUES.values())
        with self.open() as connection:
            for binary in (False, True):
                assert connection.execute(f"select {columns}", values, binary=binary).fetchone() == values
            document = {"a": [1, None, "\u20ac"]}
            assert connection.execute("select %s", [Jsonb(document)]).fetchone() == (document,)

    def prepared(self) -> None:
        with self.open() as connection:
            connection.prepared_max = 3
            for number in range(100):
                assert self._twice(connection, number) == (2 * number,)
                if number % 10 == 0:
                    with connection.transaction():
                        assert self._twice(connection, number) == (2 * number,)
                        assert self._twice(connection, -number) == (-2 * number,)
            for number in range(20):
                for column in range(5):
                    sql = f"select %s::int + {column} as c{column}"
                    assert connection.execute(sql, [number], prepare=True).fetchone() == (number + column,)

    def _twice(self, connection: psycopg.Connection[Any], number: int) -> Any:
        return connection.execute("select %s::int * 2", [number], prepare=True).fetchone()

    def transactions(self) -> None:
        with self.open(autocommit=False) as connection:
            connection.execute(f"create table {self.table} (a int primary key)")
            connection.commit()
            connection.execute(f"insert into {self.table} values (1)")
            connection.rollback()
            assert self._rows(connection) == []
            connection.execute(f"insert into {self.table} values (2)")
            assert connection.info.transaction_status.name == "INTRANS"
            connection.commit()
            assert connection.info.transaction_status.name == "IDLE"
            assert self._rows(connection) == [2]

    def savepoints(self) -> None:
        with self.open() as connection:
            connection.execute(f"create table {self.table} (a int primary key)")
            with connection.transaction():
                connection.execute(f"insert into {self.table} values (1)")
                with pytest.raises(errors.UniqueViolation):
                    self._insert_in_savepoint(connection, 2, 1)
                with connection.transaction("kept"):
                    connection.execute(f"insert into {self.table} values (3)")
            assert self._rows(connection) == [1, 3]

    def _insert_in_savepoint(self, connection: psycopg.Connection[Any], *numbers: int) -> None:
        with connection.transaction():
            for number in numbers:
                connection.execute(f"insert into {self.table} values (%s)", [number])

    def errors(self) -> None:
        with self.open() as connection:
            connection.execute(f"create table {self.table} (a int primary key)")
            with pytest.raises(errors.SyntaxError) as caught:
                connection.execute("selec 1")
            assert caught.value.diag.statement_position == "1"
            connection.execute(f"insert into {self.table} values (1)")
            with pytest.raises(errors.UniqueViolation) as violated:
                connection.execute(f"insert into {self.table} values (%s)", [1])
            assert violated.value.diag.table_name == self.table

            connection.autocommit = False
            connection.execute(f"insert into {self.table} values (2)")
            with pytest.raises(errors.DivisionByZero):
                connection.execute("select 1 / %s::int", [0])
            with pytest.raises(errors.InFailedSqlTransaction):
                connection.execute("select 1")
            connection.rollback()
            assert self._rows(connection) == [1]

    def copy_in(self) -> None:
        with self.open() as connection:
            connection.execute(f"create table {self.table} (a int primary key, b text)")
            with connection.cursor() as cursor, cursor.copy(f"copy {self.table} from stdin") as copy:
                for number in range(20000):
                    copy.write_row((number, f"row\t{number}"))
            counted = connection.execute(f"select count(*), max(b) from {self.table}").fetchone()
            assert counted == (20000, "row\t9999")
            with pytest.raises(ZeroDivisionError):
                self._copy_one_row(connection, (-1, "never stored"), break_off=True)
            with pytest.raises(errors.UniqueViolation):
                self._copy_one_row(connection, (1, "there already"))
            assert connection.execute(f"select count(*) from {self.table}").fetchone() == (20000,)

    def _copy_one_row(
        self, connection: psycopg.Connection[Any], row: tuple[int, str], *, break_off: bool = False
    ) -> None:
        with connection.cursor() as cursor, cursor.copy(f"copy {self.table} from stdin") as copy:
            copy.write_row(row)
            if break_off:
                raise ZeroDivisionError

    def copy_out(self) -> None:
        sql = "copy (select i, 'row ' || i from generate_series(1, 20000) as i) to stdout"
        with self.open() as connection:
            with connection.cursor() as cursor, cursor.copy(sql) as copy:
                received = list(copy.rows())
            expected = [(str(number), f"row {number}") for number in range(1, 20001)]
            assert difference(received, expected) is None
            with pytest.raises(ZeroDivisionError), connection.cursor() as cursor, cursor.copy(sql) as copy:
                raise ZeroDivisionError
            assert connection.execute("select 1").fetchone() == (1,)

    def pipeline(self) -> None:
        with self.open() as connection:
            connection.execute(f"create table {self.table} (a int primary key)")
            with connection.pipeline():
                cursors = [connection.execute("select %s::int", [number]) for number in range(200)]
                assert [cursor.fetchone() for cursor in cursors] == [(number,) for number in range(200)]
            with connection.pipeline() as pipeline:
                connection.execute(f"insert into {self.table} values (1)")
                pipeline.sync()
                connection.execute(f"insert into {self.table} values (2)")
                with pytest.raises(errors.DivisionByZero):
                    connection.execute("select 1 / %s::int", [0]).fetchone()
                skipped = connection.execute(f"insert into {self.table} values (3)")
                with pytest.raises(errors.PipelineAborted):
                    skipped.fetchone()
            assert self._rows(connection) == [1]

    def cancel(self) -> None:
        with self.open() as connection:
            for cancel in (connection.cancel_safe, connection.cancel):
                marker = uuid.uuid4().hex
                with self.cancelling(marker, cancel), pytest.raises(errors.QueryCanceled):
                    connection.execute(long_query(marker))
                assert connection.execute("select 1").fetchone() == (1,)

    def many_rows(self) -> None:
        with self.open() as connection:
            rows = connection.execute(MANY_ROWS_SQL).fetchall()
            assert len(rows) == MANY_ROWS
            expected = [(number, f"row {number}") for number in range(1, MANY_ROWS + 1)]
            assert difference(rows, expected) is None
            with connection.cursor() as cursor:
                streamed = sum(number for number, _ in cursor.stream(MANY_ROWS_SQL, size=1000))
            assert streamed == MANY_ROWS * (MANY_ROWS + 1) // 2

    def big_value(self) -> None:
        value = big_value()
        with self.open() as connection:
            row = connection.execute("select length(%s::text), %s::text", [value, value]).fetchone()
        assert row is not None
        assert row[0] == BIG_VALUE_BYTES
        assert difference(row[1], value) is None

    def cursors(self) -> None:
        sql = "select generate_series(1, %s::int)"
        with self.open(autocommit=False) as connection:
            with connection.cursor(self.marker, scrollable=True) as cursor:
                cursor.itersize = 100
                cursor.execute(sql, [250])
                assert [number for (number,) in cursor] == list(range(1, 251))
                cursor.scroll(10, mode="absolute")
                assert cursor.fetchmany(2) == [(11,), (12,)]
                cursor.scroll(-2)
                assert cursor.fetchone() == (11,)
                # Two at once, and a statement between their fetches.
                with connection.cursor("another") as another:
                    another.execute(sql, [3])
                    assert connection.execute("select 1").fetchone() == (1,)
                    assert (another.fetchone(), cursor.fetchone()) == ((1,), (12,))
            with pytest.raises(errors.InvalidCursorName):
                connection.execute(f'fetch from "{self.marker}"')
            connection.rollback()
        with self.open() as connection:
            with connection.transaction(), connection.cursor(self.marker) as cursor:
                cursor.execute("select 1 / (3 - i) from generate_series(1, 5) as i")
                assert cursor.fetchmany(1) == [(0,)]
            with pytest.raises(errors.NoActiveSqlTransaction), connection.cursor(self.marker) as cursor:
                cursor.execute("select 1")
            assert connection.execute("select 1").fetchone() == (1,)

    def listen(self) -> None:
        """Notifications come to an idle connection and along with replies."""
        channel = f"c_{self.marker}"
        with self.open() as listener, self.open() as notifier:
            listener.execute(f"listen {channel}")
            for number in range(20):
                notifier.execute("select pg_notify(%s, %s)", [channel, str(number)])
            with pytest.raises(ZeroDivisionError):
                self._notify_in_vain(notifier, channel)
            assert listener.execute("select 1").fetchone() == (1,)
            notifier.execute(f"notify {channel}, 'last'")
            received = [
                (notify.channel, notify.payload) for notify in listener.notifies(timeout=20, stop_after=21)
            ]
            assert received == [(channel, payload) for payload in [*map(str, range(20)), "last"]]
            listener.execute("unlisten *")

    def _notify_in_vain(self, connection: psycopg.Connection[Any], channel: str) -> None:
        with connection.transaction():
            connection.execute(f"notify {channel}, 'rolled back'")
            raise ZeroDivisionError

    def session_settings(self) -> None:
        login = {"options": "-c statement_timeout=61s -c work_mem=3MB", "application_name": "one"}
        with self.open(**login) as one, self.open() as other:
            one.execute("set timezone = 'Asia/Tokyo'")
            other.execute("set timezone = 'Europe/Oslo'; set application_name = 'other'")
            names = ("timezone", "application_name", "statement_timeout")
            for _ in range(3):
                assert [self._shown(one, name) for name in names] == ["Asia/Tokyo", "one", "61s"]
                assert [self._shown(other, name) for name in names] == ["Europe/Oslo", "other", "0"]
            assert one.info.parameter_status("TimeZone") == "Asia/Tokyo"
            with one.transaction():
                one.execute("set local work_mem = '5MB'")
                assert self._shown(one, "work_mem") == "5MB"
            assert self._shown(one, "work_mem") == "3MB"
            with pytest.raises(errors.InvalidParameterValue):
                one.execute("set timezone = 'nowhere'")
            assert self._shown(one, "timezone") == "Asia/Tokyo"

    def _shown(self, connection: psycopg.Connection[Any], name: str) -> object:
        row = connection.execute(f"show {name}").fetchone()
        assert row is not None
        return row[0]

    def _rows(self, connection: psycopg.Connection[Any]) -> list[int]:
        rows = connection.execute(f"select a from {self.table} order by a").fetchall()
        return [number for (number,) in rows]


@actions_of(Psycopg)
def test_psycopg(action: str, target: Target) -> None:
    """psycopg 3 finds what PostgreSQL promises; see `tests.support.actions.ACTIONS`."""
    Psycopg(target).perform(action)


def test_psycopg_cursors(target: Target) -> None:
    """Cursors on the server live as long as their transaction, several of them at once."""
    Psycopg(target).cursors()


def test_psycopg_listen(target: Target) -> None:
    """Every notification that was committed arrives once and in order."""
    Psycopg(target).listen()


def test_psycopg_session_settings(target: Target) -> None:
    """Settings of the login and of the session stay with their client, those of a transaction end with it."""
    Psycopg(target).session_settings()
