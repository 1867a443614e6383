"""Who is let in to the console, and how its connections end."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.pooler import ADMIN, ADMIN_PASSWORD, Pooler
from tests.support.raw import RawClient
from tests.support.target import DATABASE, PASSWORD, USER

if TYPE_CHECKING:
    from trio_pool.cli.postgres import LocalPostgres

pytestmark = pytest.mark.e2e

CONSOLES = ["trio_pool", "pgbouncer"]


def psql(
    pooler: Pooler,
    command: str,
    *,
    user: str = ADMIN,
    password: str = ADMIN_PASSWORD,
    database: str = "pgbouncer",
) -> subprocess.CompletedProcess[str]:
    """One command through psql."""
    url = f"postgresql://{user}@{pooler.host}:{pooler.port}/{database}"
    return subprocess.run(
        [str(pooler.pg.bin("psql")), "-X", "-A", "-t", "-c", command, url],
        env={"PGPASSWORD": password},
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.parametrize("database", CONSOLES)
def test_an_admin_gets_the_console_by_its_password(postgres: LocalPostgres, database: str) -> None:
    """Users of [admin] log in as to any other database; others, and wrong passwords, are refused."""
    with Pooler(postgres, tls=False, extra={"admin": {"users": [ADMIN]}}) as pooler:
        shown = psql(pooler, "show version", database=database)
        assert (shown.returncode, shown.stderr) == (0, "")
        assert "password authentication failed" in psql(pooler, "show version", password="no").stderr
        assert "FATAL:  not allowed" in psql(pooler, "show version", user=USER, password=PASSWORD).stderr


def test_an_admin_gets_in_where_nobody_else_does(postgres: LocalPostgres) -> None:
    """`max_clients` does not keep out who wants to see why."""
    extra = {"admin": {"users": [ADMIN]}, "listen": {"max_clients": 1}}
    with Pooler(postgres, tls=False, auth="trust", extra=extra) as pooler:
        address = pooler.host, pooler.port
        with RawClient.log_in(address) as client:
            with RawClient.log_in(address, ADMIN, "pgbouncer"), RawClient.connect(address) as other:
                other.send(b"")
            assert client.value("select 1") == "1"


def test_a_console_sees_the_others_leave_and_ends_last(postgres: LocalPostgres) -> None:
    """At a stop it stays until the last client has left, and is then told."""
    with Pooler(postgres, tls=False, auth="trust", extra={"admin": {"users": [ADMIN]}}) as pooler:
        address = pooler.host, pooler.port
        with RawClient.log_in(address) as client, RawClient.log_in(address, ADMIN, "trio_pool") as console:
            client.run("begin; select 1")
            assert console.run("shutdown wait_for_servers") == []
            pooler.wait_for_event("stopping")
            assert console.run("show clients") == []
            client.run("commit")
            assert client.farewell() == ("FATAL", "57P01")
            assert console.farewell() == ("FATAL", "57P01")
        assert pooler.wait_for_end() == 0


@pytest.mark.parametrize("database", [DATABASE, ""])
def test_commands_through_psql(postgres: LocalPostgres, database: str) -> None:
    """PAUSE, RESUME, RECONNECT, KILL and RELOAD, of one database and of all."""
    with Pooler(postgres, tls=False, auth="trust", extra={"admin": {"users": [ADMIN]}}) as pooler:
        for command in ("pause", "resume", "reconnect", "wait_close", "kill", "resume"):
            done = psql(pooler, f"{command} {database}")
            assert (done.stdout.strip(), done.stderr) == (command.upper(), "")
        done = psql(pooler, "reload")
        assert (done.returncode, done.stdout.strip()) == (0, "RELOAD")
        with RawClient.log_in((pooler.host, pooler.port)) as client:
            assert client.value("select 1") == "1"
