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
    extra = {"timeouts": {"lease_wait": "200ms"}}
    with Pooler(postgres, pool_size=1, tls=False, auth="trust", extra=extra) as running:
        yield running


def log_in(pooler: Pooler, **startup: str) -> RawClient:
    client = RawClient.connect((pooler.host, pooler.port))
    client.send(messages.startup({"user": USER, "database": DATABASE, **startup}))
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
    ("leave", "look"),
    [
        ("set work_mem = '1MB'", "show work_mem"),
        ("create temporary table t (i int)", "select count(*) from pg_class where relname = 't'"),
        ("declare c cursor with hold for select 1", "select count(*) from pg_cursors where name = 'c'"),
        ("do $$ begin perform set_config('work_mem', '1MB', false); end $$", "show work_mem"),
        ("set role none; set session authorization default", "select current_user"),
    ],
)
def test_what_a_command_leaves_reaches_nobody(one_server: Pooler, leave: str, look: str) -> None:
    """What a command leaves in the session is gone after its transaction, for its client and the others."""
    with log_in(one_server) as one, log_in(one_server) as other:
        before = one.value(look)
        assert one.run(leave) == []
        assert [client.value(look) for client in (other, one)] == [before, before]


@pytest.mark.parametrize(
    ("pin", "unpin"),
    [
        ("prepare p as select 1", "deallocate all"),
        ("prepare p as select 1", "discard all"),
        ("listen x", "discard all"),
    ],
)
def test_some_commands_pin(one_server: Pooler, pin: str, unpin: str) -> None:
    """PREPARE and LISTEN keep the client on its server connection, as the log says, until they are undone."""
    with log_in(one_server) as one, log_in(one_server) as other:
        since = one_server.mark()
        assert one.run(pin) == []
        assert [error.sqlstate for error in other.run("select 1")] == ["53300"]
        reason = {"prepare": "SQL PREPARE", "listen": "LISTEN"}[pin.split()[0]]
        assert one_server.wait_for_event("client pinned", since=since)["reason"] == reason
        assert one.run(unpin) == []
        assert other.value("select 1") == "1"
