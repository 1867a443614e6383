"""The columns of a real PgBouncer, and ours."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from bench import poolers
from bench.login import Login
from tests.support.raw import RawClient
from tests.support.target import DATABASE, PASSWORD, USER
from trio_pool.daemon.console.show_process import PGBOUNCER, PRETENDED
from trio_pool.daemon.console.shows import PGBOUNCERS
from trio_pool.wire import messages
from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.pooler import Pooler
    from trio_pool.cli.postgres import LocalPostgres

PROGRAM = poolers.find_pgbouncer()

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="PgBouncer is not installed")

COMMANDS = [
    *("SHOW", "SHOW nothing", "BEGIN", "SELECT 1", "select version()", "show stats; show pools", "SET x"),
    *("PAUSE nowhere", "RESUME", f"RESUME {DATABASE}", "RESUME nowhere", "DISABLE", "KILL nowhere"),
    *("KILL_CLIENT", "KILL_CLIENT x", "KILL_CLIENT 1", "RELOAD x", "PAUSE pgbouncer", "KILL pgbouncer"),
    *("WAIT_CLOSE pgbouncer", "RECONNECT pgbouncer", "DISABLE pgbouncer", "SHUTDOWN x", "SET nothing = 1"),
    *("RECONNECT", f"DISABLE {DATABASE}", f"ENABLE {DATABASE}", "SET client_encoding TO 'UTF8'"),
    *("SET max_client_conn = 50", f"PAUSE {DATABASE}", f"RESUME {DATABASE}", "WAIT_CLOSE", "PAUSE", "PAUSE"),
    *("SUSPEND", f"KILL {DATABASE}", "RESUME", "SHUTDOWN WAIT_FOR_SERVERS"),
]
"""In an order that makes sense."""
NEWER = {"extra_float_digits"}
"""Settings at which PgBouncer pretends since 1.25 only."""


@pytest.fixture(scope="module")
def bouncer(postgres: LocalPostgres) -> Iterator[RawClient]:
    """A console of the real one."""
    assert PROGRAM is not None
    if poolers.pgbouncer_version(PROGRAM) != PGBOUNCER:
        pytest.skip(f"this is not PgBouncer {PGBOUNCER}")
    origin = Login(postgres.host, postgres.port, USER, DATABASE, PASSWORD)
    settings = poolers.Settings(ini=f"admin_users = postgres\n[databases]\n{DATABASE} = host=127.0.0.1\n")
    with (
        poolers.pgbouncer(PROGRAM, "pgbouncer", origin, settings) as target,
        RawClient.log_in((target.login.host, target.port), "postgres", "pgbouncer") as console,
    ):
        yield console


@pytest.fixture
def console(pooler: Pooler) -> Iterator[RawClient]:
    with RawClient.log_in((pooler.host, pooler.port), "admin", "pgbouncer") as client:
        yield client


def described(console: RawClient, command: str) -> list[tuple[str, int, int]]:
    """Name, type and size of each column."""
    console.send(messages.query(command))
    (body,) = (body for tag, body in console.exchange() if tag == Backend.ROW_DESCRIPTION)
    found, at = [], 2
    while at < len(body):
        end = body.index(b"\0", at)
        _, _, kind, size, _, _ = struct.unpack_from("!IHIhiH", body, end + 1)
        found.append((body[at:end].decode(), kind, size))
        at = end + 19
    return found


def named(console: RawClient, command: str) -> set[str | None]:
    """The first column of all rows."""
    console.send(messages.query(command))
    return {messages.read_row(body)[0] for tag, body in console.exchange() if tag == Backend.DATA_ROW}


@pytest.mark.parametrize("name", [*PGBOUNCERS, *(name for name in PRETENDED if name not in NEWER)])
def test_columns_are_pgbouncers(bouncer: RawClient, console: RawClient, name: str) -> None:
    """Names, order, types and sizes, as RowDescription has them."""
    assert described(console, f"SHOW {name}") == described(bouncer, f"SHOW {name}")


@pytest.mark.parametrize("name", ["LISTS", "STATE", "TOTALS"])
def test_rows_with_names_are_pgbouncers(bouncer: RawClient, console: RawClient, name: str) -> None:
    """Where a table is one of names and values."""
    assert named(console, f"SHOW {name}") == named(bouncer, f"SHOW {name}")


def test_every_name_in_config_is_pgbouncers_or_of_the_file(bouncer: RawClient, console: RawClient) -> None:
    """What has no dot is a key of PgBouncer 1.24, or of 1.25."""
    newer = {"query_wait_notify", "transaction_timeout"}
    ours = {name for name in named(console, "SHOW CONFIG") if name is not None and "." not in name}
    assert ours - named(bouncer, "SHOW CONFIG") == newer


def spoken(console: RawClient, command: str) -> list[tuple[int, str]]:
    """What comes, notices aside, with the texts of errors."""
    console.send(messages.query(command))
    found = []
    for tag, body in console.exchange():
        if tag == Backend.ERROR_RESPONSE:
            error = messages.read_error(body)
            found.append((tag, f"{error.sqlstate} {error.summary}"))
        elif tag == Backend.COMMAND_COMPLETE:
            found.append((tag, body.decode()))
    return found


def test_words_are_pgbouncers(own: Pooler, bouncer: RawClient) -> None:
    """Command tags, errors and their SQLSTATEs."""
    with RawClient.log_in((own.host, own.port), "admin", "pgbouncer") as console:
        ours = {command: spoken(console, command) for command in COMMANDS}
    assert own.wait_for_end() == 0
    assert ours == {command: spoken(bouncer, command) for command in COMMANDS}
