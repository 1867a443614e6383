"""Every table, through psql and through drivers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import psycopg2
import pytest

from tests.daemon.console.ways import ADMIN, WAYS, Refused, Way, psql, run_psql
from tests.support.raw import RawClient
from trio_pool.daemon.console.shows import SHOWS
from trio_pool.wire import messages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.pooler import Pooler

ONCE_AND_EMPTY = {"PEERS", "PEER_POOLS", "DNS_HOSTS", "DNS_ZONES", "CACHE_REASONS", "TUNNELS"}
"""Of which there is nothing here."""


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


@pytest.fixture(scope="module")
def pinned(pooler: Pooler) -> Iterator[RawClient]:
    """A client that has prepared a statement and keeps its server."""
    with RawClient.log_in((pooler.host, pooler.port)) as client:
        assert client.run("create temporary table kept (x int)") == []
        prepared = messages.parse(b"s", b"select 'secret', $1::int\0\0\0") + messages.bind(b"s", ["1"])
        client.send(prepared + messages.EXECUTE + messages.SYNC)
        assert client.errors() == []
        yield client


@pytest.mark.parametrize("database", ["pgbouncer", "trio_pool"])
def test_both_names_lead_to_the_console(pooler: Pooler, database: str, way: Way) -> None:
    """Whichever name a client uses, the console is "pgbouncer" in the tables."""
    assert way(pooler, "SHOW POOLS", database=database)[0]["database"] == "pgbouncer"


@pytest.mark.usefixtures("pinned")
@pytest.mark.parametrize("name", SHOWS)
def test_every_table(pooler: Pooler, way: Way, name: str) -> None:
    """Each answers with its columns, in either protocol and in both formats."""
    rows = way(pooler, f"SHOW {name};")
    if name in ONCE_AND_EMPTY:
        assert rows == []
    else:
        assert list(rows[0]) == [column.name for column in SHOWS[name].columns]


def test_help_is_a_notice(pooler: Pooler, way: Way) -> None:
    """As in PgBouncer: no rows, but a notice with all commands."""
    assert way(pooler, "SHOW HELP") == []
    shown = run_psql(pooler.pg, pooler.host, pooler.port, "SHOW HELP", user=ADMIN).stderr
    assert shown.startswith("NOTICE:  Console usage\nDETAIL:  \n\tSHOW HELP|CONFIG|")
    assert all(name in shown for name in SHOWS)


def test_what_drivers_do_by_themselves(pooler: Pooler, way: Way) -> None:
    """They set and show some settings of a session; the console pretends, as PgBouncer does."""
    for command in ("SET client_encoding TO 'UTF8'", "set datestyle to 'ISO'", "SET application_name = 'x'"):
        assert way(pooler, command) == []
    assert way(pooler, "SHOW client_encoding") == [{"client_encoding": "UTF-8"}]
    assert way(pooler, "SHOW TimeZone") == [{"timezone": "GMT"}]


@pytest.mark.parametrize("command", ["SHOW POLLS", "SELECT 1", "BEGIN", "FROBNICATE"])
def test_a_refused_command_leaves_the_connection(pooler: Pooler, command: str) -> None:
    """The next command is answered; nothing has to be rolled back, since there are no transactions."""
    with psycopg.connect(
        host=pooler.host, port=pooler.port, user=ADMIN, dbname="pgbouncer", autocommit=True, sslmode="disable"
    ) as client:
        for prepare in (False, True, False):
            with pytest.raises(psycopg.Error, match=f"invalid command '{command}', use SHOW HELP;"):
                client.execute(command, prepare=prepare)
            assert client.execute("SHOW VERSION").fetchall() != []


def test_a_driver_without_autocommit_is_refused_as_by_pgbouncer(pooler: Pooler) -> None:
    """Its BEGIN is; the hint says what to do."""
    client = psycopg2.connect(
        host=pooler.host, port=pooler.port, user=ADMIN, dbname="pgbouncer", sslmode="disable"
    )
    with client.cursor() as cursor, pytest.raises(psycopg2.Error, match="connect with autocommit"):
        cursor.execute("SHOW POOLS")
    client.close()


def test_the_error_names_the_nearest_command(pooler: Pooler) -> None:
    """psql prints it as the hint."""
    with pytest.raises(Refused, match=r"HINT:  The nearest command is SHOW POOLS\."):
        psql(pooler, "SHOW POLLS")


def test_only_those_in_admin_users_come_in(pooler: Pooler) -> None:
    """Others are told what PgBouncer tells them."""
    done = run_psql(pooler.pg, pooler.host, pooler.port, "SHOW POOLS", user="app")
    assert done.returncode == 2
    assert "FATAL:  not allowed" in done.stderr
