"""What the tables say, and that it is so."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.daemon.console.ways import psql, with_asyncpg, with_psycopg
from tests.support.pooler import Pooler
from tests.support.raw import RawClient
from trio_pool.wire import messages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_pool.cli.postgres import LocalPostgres

SECRET = "4711"


@pytest.fixture
def clients(own: Pooler) -> Iterator[list[RawClient]]:
    """Three: in a transaction; in a temporary table, so that it keeps its server; waiting for one of the two
    servers.
    """
    with ExitStack() as stack:
        found = [stack.enter_context(RawClient.log_in((own.host, own.port))) for _ in range(3)]
        assert found[0].run(f"begin; select {SECRET}") == []
        assert found[1].run("create temporary table kept (x int)") == []
        found[2].send(messages.query("select 3"))
        while psql(own, "SHOW POOLS")[1]["cl_waiting"] != "1" or not psql(own, "SHOW PINS"):
            pass  # PostgreSQL is asked what the session holds
        yield found


def test_pools_clients_and_servers(own: Pooler, clients: list[RawClient]) -> None:
    """Counts of PgBouncer's states, a client and its server linked to each other, how long who waits."""
    pools = {row["database"]: row for row in with_psycopg(own, "SHOW POOLS")}
    app = pools["app"]
    assert (app["user"], app["pool_mode"], app["load_balance_hosts"]) == ("app", "transaction", None)
    assert {k: v for k, v in app.items() if k.startswith(("cl_", "sv_")) and v} == {
        "cl_active": 2,
        "cl_waiting": 1,
        "sv_active": 2,
    }
    assert app["maxwait"] * 1_000_000 + app["maxwait_us"] > 0
    assert pools["pgbouncer"]["cl_active"] == 1
    assert pools["pgbouncer"]["pool_mode"] == "statement"
    shown = [row for row in with_psycopg(own, "SHOW CLIENTS") if row["database"] == "app"]
    servers = with_psycopg(own, "SHOW SERVERS")
    assert sorted(row["state"] for row in shown) == ["active", "active", "waiting"]
    assert {row["ptr"]: row["link"] for row in shown if row["link"]} == {
        row["link"]: row["ptr"] for row in servers
    }
    assert sorted(row["port"] for row in shown) == sorted(c.sock.getsockname()[1] for c in clients)
    assert {row["state"] for row in servers} == {"active"}
    assert {row["addr"] for row in servers} == {"127.0.0.1"}
    assert {row["port"] for row in servers} == {own.pg.port}
    assert len(with_psycopg(own, "SHOW SOCKETS")) == 3 + 2 + 1
    descriptors = {row["fd"]: row["link"] for row in with_psycopg(own, "SHOW FDS")}
    linked = {fd: link for fd, link in descriptors.items() if link}
    assert {link: fd for fd, link in linked.items()} == linked
    assert len(linked) == 4


def test_leases_and_pins(own: Pooler, clients: list[RawClient]) -> None:
    """Who holds which server, doing what, without its data; why it keeps it; how many wait."""
    leases = with_asyncpg(own, "SHOW LEASES")
    assert [row["waiting"] for row in leases] == [1, 1]
    assert [row["user"] for row in leases] == ["app", "app"]
    assert leases[0]["state"] == "idle in transaction"
    assert leases[0]["transaction"] > 0
    assert leases[0]["held"] >= leases[1]["held"] > 0
    assert [row["pins"] for row in leases] == ["", "temporary object"]
    assert SECRET not in str(leases)
    processes = {row["id"]: row["remote_pid"] for row in with_asyncpg(own, "SHOW SERVERS")}
    assert {row["server"] for row in leases} == set(processes)
    (pin,) = with_asyncpg(own, "SHOW PINS")
    assert (pin["client"], pin["server"]) == (leases[1]["client"], leases[1]["server"])
    assert (pin["reason"], pin["total"]) == ("temporary object", 1)
    assert pin["pinned"] > 0
    assert clients[1].run("drop table kept") == []
    assert clients[2].errors() == []  # it has waited for that
    assert with_asyncpg(own, "SHOW PINS") == []


def test_prepared_statements(own: Pooler) -> None:
    """Each once, however many clients have it, without its constants; and how often they were used."""
    with ExitStack() as stack:
        for _ in range(2):
            client = stack.enter_context(RawClient.log_in((own.host, own.port)))
            client.send(messages.parse(b"s", f"select {SECRET}\0\0\0".encode()) + messages.SYNC)
            assert client.errors() == []
            for _ in range(3):
                client.send(messages.bind(b"s", ()) + messages.EXECUTE + messages.SYNC)
                assert client.errors() == []
        (row,) = (row for row in with_psycopg(own, "SHOW PREPARED") if row["clients"])
        assert (row["clients"], row["servers"], row["statement"]) == (2, 1, "select $1")
    totals = {row["database"]: row for row in with_psycopg(own, "SHOW STATS_TOTALS")}["app"]
    counted = [int(totals[name]) for name in ("client_parse_count", "server_parse_count", "bind_count")]
    assert counted == [2, 1, 6]


def test_statistics(own: Pooler) -> None:
    """Counts and times of what clients have done, by database and altogether."""
    with RawClient.log_in((own.host, own.port)) as client:
        for sql in ("select pg_sleep(0.05)", "begin", "select 2", "commit"):
            assert client.run(sql) == []
        assert client.value("select repeat('x', 1000)") == "x" * 1000
    stats = {row["database"]: row for row in with_psycopg(own, "SHOW STATS")}
    app = {name: int(value) for name, value in stats["app"].items() if name != "database"}
    assert app["total_server_assignment_count"] == app["total_xact_count"] == 3
    assert app["total_query_count"] == 4
    assert 50_000 <= app["total_query_time"] <= app["total_xact_time"] + 1000
    assert app["total_sent"] > 1000 > app["total_received"] > 100
    assert 50_000 // 4 <= app["avg_query_time"] == app["total_query_time"] // 4
    sums = {row["name"]: int(row["value"]) for row in with_psycopg(own, "SHOW TOTALS")}
    assert sums["total_server_bytes"] == app["total_sent"]
    assert sums["total_query_count"] == 4 + 2  # of the console


def test_timeouts_and_how_often_they_were_over(postgres: LocalPostgres) -> None:
    """Those of each database, in the file's spelling and in seconds, and those that users have themselves."""
    extra = {"timeouts": {"query": "100ms"}, "users": {"app": {"timeouts": {"lease_wait": "3s"}}}}
    with Pooler(postgres, auth="trust", tls=False, extra=extra) as own:
        with RawClient.log_in((own.host, own.port)) as client:
            assert [error.sqlstate for error in client.run("select pg_sleep(9)")] == ["57014"]
        rows = with_psycopg(own, "SHOW TIMEOUTS")
    found = {(row["database"], row["user"], row["timeout"]): row for row in rows}
    assert {k: found["app", None, "query"][k] for k in ("setting", "seconds", "exceeded")} == {
        "setting": "100ms",
        "seconds": 0.1,
        "exceeded": 1,
    }
    assert found["app", None, "transaction"]["seconds"] is None
    assert found["app", None, "transaction"]["exceeded"] == 0
    assert found["app", None, "client_login"]["exceeded"] is None  # not counted by database
    assert found[None, "app", "lease_wait"]["seconds"] == 3.0


def test_databases_users_and_lists(own: Pooler, clients: list[RawClient]) -> None:
    """Limits as they are configured, and how many there are now."""
    app = {row["name"]: row for row in with_psycopg(own, "SHOW DATABASES")}["app"]
    assert (app["host"], app["port"], app["database"]) == ("127.0.0.1", own.pg.port, "app")
    assert (app["force_user"], app["pool_size"], app["server_lifetime"]) == ("app", 2, 3600)
    assert (app["current_connections"], app["current_client_connections"]) == (2, 3)
    assert (app["paused"], app["disabled"]) == (0, 0)
    users = {row["name"]: row for row in with_psycopg(own, "SHOW USERS")}
    assert (users["app"]["current_connections"], users["app"]["current_client_connections"]) == (2, 3)
    lists = {row["list"]: row["items"] for row in with_psycopg(own, "SHOW LISTS")}
    assert (lists["databases"], lists["users"], lists["pools"]) == (2, 2, 2)
    assert (lists["used_clients"], lists["used_servers"], lists["login_clients"]) == (len(clients) + 1, 2, 0)


def test_no_secret_is_shown(own: Pooler, clients: list[RawClient]) -> None:
    """Neither passwords nor the secrets of cancel keys are in any table that has room for them."""
    assert clients
    assert "ecret" not in str([with_psycopg(own, f"SHOW {name}") for name in ("CONFIG", "FDS", "USERS")])
    assert {row["cancel"] for row in with_psycopg(own, "SHOW FDS")} == {None}
