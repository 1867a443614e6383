"""Session state in transaction mode: the promises of docs/semantics.md. One server, two clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.pooler import Pooler
from tests.support.raw import RawClient
from tests.support.target import DATABASE, USER
from trio_pool.wire import messages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_pool.cli.postgres import LocalPostgres

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def one_server(postgres: LocalPostgres) -> Iterator[Pooler]:
    """A pooler whose only server connection every client gets."""
    extra = {"timeouts": {"lease_wait": "1500ms"}}
    with Pooler(postgres, pool_size=1, tls=False, auth="trust", extra=extra) as running:
        yield running


def log_in(pooler: Pooler, **startup: str) -> RawClient:
    client = RawClient.connect((pooler.host, pooler.port))
    client.send(messages.startup({"user": USER, "database": DATABASE, **startup}))
    assert client.errors() == []
    return client


def superuser(pooler: Pooler) -> RawClient:
    """A superuser's connection past the pooler."""
    pg = pooler.pg
    client = RawClient.connect(f"{pg.socket_dir}/.s.PGSQL.{pg.port}")
    client.send(messages.startup({"user": pg.superuser, "database": DATABASE}))
    assert client.errors() == []
    return client


def test_reported_settings_stay_with_their_client(one_server: Pooler) -> None:
    """What SET changes and PostgreSQL reports stays with the client, and reaches nobody else."""
    with log_in(one_server) as one, log_in(one_server) as other:
        default = other.value("show timezone")
        one.run("set timezone = 'Asia/Tokyo'")
        other.run("set timezone = 'Europe/Oslo'")
        assert [client.value("show timezone") for client in (one, other)] == ["Asia/Tokyo", "Europe/Oslo"]
        one.run("begin; set timezone = 'Asia/Seoul'; rollback")
        other.run("reset timezone")
        assert [client.value("show timezone") for client in (one, other)] == ["Asia/Tokyo", default]


def test_settings_of_the_login_stay_with_their_client(one_server: Pooler) -> None:
    """Settings of the startup message, reported or not, hold in every transaction of the client only."""
    with (
        log_in(
            one_server, options="-c statement_timeout=4s -c search_path=pg_catalog", work_mem="3MB"
        ) as one,
        log_in(one_server) as other,
    ):
        names = ("statement_timeout", "search_path", "work_mem")
        theirs = [other.value(f"show {name}") for name in names]
        assert theirs == ["0", '"$user", public', "4MB"]
        for _ in range(2):
            assert [one.value(f"show {name}") for name in names] == ["4s", "pg_catalog", "3MB"]
            assert [other.value(f"show {name}") for name in names] == theirs


@pytest.mark.parametrize(
    ("pin", "unpin", "reason"),
    [
        ("create temporary table t (i int)", "drop table t", "temporary object"),
        ("select 1 as i into temporary t", "discard temp", "temporary object"),
        ("create function pg_temp.f() returns int return 1", "drop function pg_temp.f()", "temporary object"),
        ("do 'begin create temporary table t (); end'", "drop table t", "temporary object"),
        ("select pg_advisory_lock(7)", "select pg_advisory_unlock(7)", "session advisory lock"),
        ("select pg_try_advisory_lock_shared(7)", "select pg_advisory_unlock_all()", "session advisory lock"),
        ("declare c cursor with hold for select 1", "close c", "cursor WITH HOLD"),
        ("declare c cursor with hold for select 1", "discard all", "cursor WITH HOLD"),
        ("select nextval('numbers'), lastval()", "discard sequences", "sequence values"),
    ],
)
def test_what_cannot_be_carried_along_pins(one_server: Pooler, pin: str, unpin: str, reason: str) -> None:
    """The client keeps its server, with a reason in the log, until PostgreSQL says that the state is gone."""
    with log_in(one_server) as one, log_in(one_server) as other:
        one.run("create sequence if not exists numbers")
        before = one_server.mark()
        assert one.run(pin) == []
        pinned = one_server.wait_for_event("client pinned", since=before)
        assert (pinned["reason"], pinned["pool"]) == (reason, "app/app")
        assert other.value_or_error("select 1") == "53300"
        assert one.run(unpin) == []
        assert one_server.wait_for_event("client unpinned", since=before)["reason"] == reason
        assert other.value_or_error("select 1") == "1"


@pytest.mark.parametrize(
    "harmless",
    [
        "begin; create temporary table t (i int) on commit drop; commit",
        "create temporary table t (i int); drop table t",
        "begin; create temporary table t (i int); rollback",
        "begin; select pg_advisory_xact_lock(7); commit",
        "select pg_advisory_lock(7); select pg_advisory_unlock(7)",
        "begin; declare c cursor for select 1; fetch c; commit",
        "set work_mem = '1MB'; reset work_mem",
        "prepare p as select 1; execute p; deallocate p",
        "listen news; unlisten *",
    ],
)
def test_what_ends_with_the_transaction_pins_nobody(one_server: Pooler, harmless: str) -> None:
    """Nothing is left, so the server goes to the next client at once."""
    with log_in(one_server) as one, log_in(one_server) as other:
        before = one_server.mark()
        assert one.run(harmless) == []
        assert other.value_or_error("select 1") == "1"
        assert one_server.log_events("client pinned", before) == []


@pytest.mark.parametrize(
    ("keep", "reason"),
    [
        ("select setseed(0.5)", "setseed"),
        ("select set_config('app.' || 'x', '1', false)", "set_config of a computed name"),
    ],
)
def test_what_nothing_removes_ends_with_its_server(one_server: Pooler, keep: str, reason: str) -> None:
    """The client keeps its server for good, and the server ends with the client."""
    before = one_server.mark()
    with log_in(one_server) as one:
        assert one.run(keep) == []
        assert one_server.wait_for_event("client pinned", since=before)["reason"] == reason
        assert one.run("discard all") == []
    ended = one_server.wait_for_event("server disconnected", since=before)
    assert ended["reason"] == "server not provably clean"
    with log_in(one_server) as other:
        assert other.value("select current_setting('app.x', true) is null") == "t"


def test_last_values_of_sequences_that_nobody_asks_for_give_way(postgres: LocalPostgres) -> None:
    """nextval keeps the server only as long as nobody waits for it, until some client has asked for currval
    or lastval; from then on also what inserts keeps it.
    """
    extra = {"timeouts": {"lease_wait": "1500ms"}}
    with (
        Pooler(postgres, pool_size=1, tls=False, auth="trust", extra=extra) as pooler,
        log_in(pooler) as one,
        log_in(pooler) as other,
    ):
        one.run("drop table if exists numbered; create table numbered (i serial, v int)")
        first = one.value("select nextval('numbered_i_seq')")
        assert one.value("select currval('numbered_i_seq')") == first
        assert other.value_or_error("select 1") == "53300"
        one.run("discard sequences")
        assert one.run("insert into numbered (v) values (1)") == []
        assert other.value_or_error("select 1") == "53300"
    with (
        Pooler(postgres, pool_size=1, tls=False, auth="trust", extra=extra) as pooler,
        log_in(pooler) as one,
        log_in(pooler) as other,
    ):
        for client in (one, other, one, other):
            assert client.value_or_error("select nextval('numbered_i_seq') > 0") == "t"
            assert client.run("insert into numbered (v) values (1)") == []
        assert other.value_or_error("select 1") == "1"
        assert one.value_or_error("select currval('numbered_i_seq')") == "55000"


def test_a_role_that_is_gone_is_an_error_of_the_clients_statement(one_server: Pooler) -> None:
    """Settings that cannot be made again are an error for the statement behind them, which has not run; the
    connection and its replies stay in step, and nobody else notices.
    """
    with log_in(one_server) as one, log_in(one_server) as other, superuser(one_server) as boss:
        boss.run("create role shortlived; grant shortlived to app; drop table if exists written")
        one.run("create table written (i int); set role shortlived")
        assert other.value("select current_user") == USER
        boss.run("drop role shortlived")
        for _ in range(2):
            assert one.value_or_error("insert into written values (1) returning 1") == "22023"
        assert other.value("select count(*) from written") == "0"
        one.send(messages.query("select 1") + messages.query("select 2"))
        assert [error.sqlstate for error in one.errors() + one.errors()] == ["22023", "22023"]
        assert other.value("select current_user") == USER


@pytest.fixture(scope="module")
def rejecting(postgres: LocalPostgres) -> Iterator[Pooler]:
    extra = {"session": {"unpoolable": "reject"}}
    with Pooler(postgres, pool_size=1, tls=False, auth="trust", extra=extra) as running:
        yield running


@pytest.mark.parametrize(
    ("refused", "feature"),
    [
        ("create temporary table t (i int)", "temporary table"),
        ("select pg_advisory_lock(7)", "session advisory lock"),
        ("declare c cursor with hold for select 1", "cursor WITH HOLD"),
        ("load 'plpgsql'", "LOAD"),
        ("select 1; select pg_advisory_lock(7)", "session advisory lock"),
    ],
)
def test_what_would_pin_can_be_refused(rejecting: Pooler, refused: str, feature: str) -> None:
    """An error with 0A000 that names the feature, in the place of the statement, which has not run."""
    with log_in(rejecting) as one:
        (error,) = one.run(refused)
        assert error.sqlstate == "0A000"
        assert feature in error.summary
        assert one.value("select count(*) from pg_locks where locktype = 'advisory'") == "0"
        one.run("begin")
        assert [error.sqlstate for error in one.run(refused)] == ["0A000"]
        assert one.value_or_error("select 1") == "25P02"
        one.run("rollback")
        extended = messages.parse(b"", refused.encode() + b"\0\0\0") + messages.bind(b"", [])
        extended += messages.EXECUTE
        if ";" not in refused:
            one.send(extended + messages.SYNC + messages.query("select 1"))
            assert [error.sqlstate for error in one.errors()] == ["0A000"]
            assert one.errors() == []


def test_what_ends_with_the_transaction_is_not_refused(rejecting: Pooler) -> None:
    """Refusing is for what would pin."""
    with log_in(rejecting) as one:
        assert one.run("begin; create temporary table t (i int) on commit drop; commit") == []
        assert one.run("select pg_advisory_xact_lock(7)") == []
        assert one.run("set work_mem = '1MB'; prepare p as select 1; listen news; unlisten *") == []


@pytest.fixture(scope="module")
def strict(postgres: LocalPostgres) -> Iterator[Pooler]:
    extra = {"session": {"strict": True}, "timeouts": {"lease_wait": "1500ms"}}
    with Pooler(postgres, pool_size=1, tls=False, auth="trust", extra=extra) as running:
        yield running


def test_the_strict_mode_finds_what_functions_hide(strict: Pooler) -> None:
    """What a function leaves stays with its client, or pins it, and reaches nobody else."""
    with log_in(strict) as one, log_in(strict) as other:
        one.run(
            "create or replace function quiet() returns void language sql as"
            " $$ select set_config('work_mem', '1MB', false) $$;"
            "create or replace function locks() returns void language sql as $$ select pg_advisory_lock(7) $$"
        )
        one.run("select quiet()")
        assert [client.value("show work_mem") for client in (other, one, other)] == ["4MB", "1MB", "4MB"]
        one.run("select locks()")
        assert other.value_or_error("select 1") == "53300"
        one.run("select pg_advisory_unlock(7)")
        assert other.value_or_error("select 1") == "1"
