"""pg8000: a protocol implementation in Python, unnamed statements, text formats."""

from __future__ import annotations

import io
import ssl
from typing import TYPE_CHECKING, Any, ClassVar

import pg8000.native
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
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.target import Target

pytestmark = pytest.mark.e2e

DatabaseError = pg8000.native.DatabaseError


class Pg8000(Driver):
    """Its native interface."""

    lacks: ClassVar[Mapping[str, str]] = {
        "bind_channel": "pg8000 binds the channel whenever it is offered, and cannot demand it",
        "pipeline": "pg8000 has no pipeline mode",
        "cancel": "pg8000 cannot send a cancel request",
    }

    def open(self, **options: Any) -> Any:
        target = self.target
        return pg8000.native.Connection(
            **{
                "user": target.user,
                "host": target.host,
                "port": target.port,
                "database": target.database,
                "password": target.password,
                "ssl_context": target.ssl_context() or False,
                **options,
            }
        )

    def fails(self, sqlstate: str, connection: Any, sql: str, **parameters: Any) -> None:
        with pytest.raises(DatabaseError) as caught:
            connection.run(sql, **parameters)
        assert caught.value.args[0]["C"] == sqlstate

    def connect(self) -> None:
        with self.open() as connection:
            assert connection.run("select current_user, 1") == [[self.target.user, 1]]
            assert isinstance(connection._usock, ssl.SSLSocket) is (self.target.certificates is not None)
        with pytest.raises(DatabaseError, match="28P01"):
            self.open(password="wrong")
        with pytest.raises(DatabaseError, match="3D000"):
            self.open(database="nowhere")
        if self.target.certificates is not None:
            stranger = self.target.certificates.client_context(self.target.certificates.stranger_ca)
            with pytest.raises(ssl.SSLCertVerificationError):
                self.open(ssl_context=stranger)

    def query(self) -> None:
        with self.open() as connection:
            assert connection.run("select 1 as a, 'x' as \"B c\", null::text as d") == [[1, "x", None]]
            assert [column["name"] for column in connection.columns] == ["a", "B c", "d"]
            assert connection.run("select 1 where false") == []
            assert connection.run("") is None
            assert connection.run("select 1; select 2") == [[1], [2]]

    def parameters(self) -> None:
        columns = ", ".join(f"cast(:p{place} as {sql_type})" for place, sql_type in enumerate(VALUES))
        parameters = {f"p{place}": value for place, value in enumerate(VALUES.values())}
        with self.open() as connection:
            assert connection.run(f"select {columns}", **parameters) == [list(VALUES.values())]

    def prepared(self) -> None:
        with self.open() as connection:
            twice = connection.prepare("select cast(:n as int) * 2")
            for number in range(100):
                assert twice.run(n=number) == [[2 * number]]
            connection.run("begin")
            assert twice.run(n=7) == [[14]]
            connection.run("commit")
            others = [connection.prepare(f"select cast(:n as int) + {column}") for column in range(10)]
            for _ in range(5):
                assert [other.run(n=1) for other in others] == [[[1 + column]] for column in range(10)]
            twice.close()
            assert others[3].run(n=4) == [[7]]
            assert connection.prepare("select cast(:n as int) * 3").run(n=2) == [[6]]

    def transactions(self) -> None:
        with self.open() as connection:
            connection.run(f"create table {self.table} (a int primary key)")
            connection.run("start transaction")
            connection.run(f"insert into {self.table} values (1)")
            connection.run("rollback")
            assert self._numbers(connection) == []
            connection.run("start transaction")
            connection.run(f"insert into {self.table} values (:a)", a=2)
            connection.run("commit")
            assert self._numbers(connection) == [2]

    def savepoints(self) -> None:
        with self.open() as connection:
            connection.run(f"create table {self.table} (a int primary key)")
            connection.run("begin")
            connection.run(f"insert into {self.table} values (1)")
            connection.run("savepoint before")
            connection.run(f"insert into {self.table} values (2)")
            self.fails("23505", connection, f"insert into {self.table} values (:a)", a=1)
            connection.run("rollback to before")
            connection.run(f"insert into {self.table} values (3)")
            connection.run("commit")
            assert self._numbers(connection) == [1, 3]

    def errors(self) -> None:
        with self.open() as connection:
            connection.run(f"create table {self.table} (a int primary key)")
            self.fails("42601", connection, "selec 1")
            self.fails("42601", connection, "selec :a", a=1)
            connection.run(f"insert into {self.table} values (1)")
            self.fails("23505", connection, f"insert into {self.table} values (:a)", a=1)
            connection.run("begin")
            connection.run(f"insert into {self.table} values (2)")
            self.fails("22012", connection, "select 1 / cast(:a as int)", a=0)
            self.fails("25P02", connection, "select 1")
            self.fails("25P02", connection, "select cast(:a as int)", a=1)
            connection.run("rollback")
            assert self._numbers(connection) == [1]

    def copy_in(self) -> None:
        sql = f"copy {self.table} from stdin"
        with self.open() as connection:
            connection.run(f"create table {self.table} (a int primary key)")
            connection.run(sql, stream=io.StringIO("".join(f"{number}\n" for number in range(20000))))
            assert connection.row_count == 20000
            with pytest.raises(DatabaseError, match="23505"):
                connection.run(sql, stream=io.StringIO("-1\n1\n"))
            assert difference(self._numbers(connection), list(range(20000))) is None

    def copy_out(self) -> None:
        received = io.StringIO()
        sql = "copy (select i, 'row ' || i from generate_series(1, 20000) as i) to stdout"
        with self.open() as connection:
            connection.run(sql, stream=received)
            assert connection.run("select 1") == [[1]]
        expected = "".join(f"{number}\trow {number}\n" for number in range(1, 20001))
        assert difference(received.getvalue(), expected) is None

    def many_rows(self) -> None:
        with self.open() as connection:
            rows = connection.run(MANY_ROWS_SQL)
        expected = [[number, f"row {number}"] for number in range(1, MANY_ROWS + 1)]
        assert difference(rows, expected) is None

    def big_value(self) -> None:
        value = big_value()
        sql = "select length(cast(:v as text)), cast(:v as text)"
        with self.open() as connection:
            [[length, received]] = connection.run(sql, v=value)
        assert length == BIG_VALUE_BYTES
        assert difference(received, value) is None

    def _numbers(self, connection: Any) -> list[int]:
        return [number for (number,) in connection.run(f"select a from {self.table} order by a")]


@actions_of(Pg8000)
def test_pg8000(action: str, target: Target) -> None:
    """pg8000 finds what PostgreSQL promises; see `tests.support.actions.ACTIONS`."""
    Pg8000(target).perform(action)
