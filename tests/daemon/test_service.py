"""The daemon as a whole: stopping, limits, listeners, and the timeouts that act."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.pooler import Pooler, to_toml
from tests.support.raw import RawClient
from tests.support.target import DATABASE, USER
from trio_pool.wire import messages

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from trio_pool.cli.postgres import LocalPostgres

pytestmark = pytest.mark.e2e

PID = "select pg_backend_pid()"


def pooler_of(
    pg: LocalPostgres,
    *,
    pool_size: int = 2,
    timeouts: Mapping[str, str] | None = None,
    listen: Mapping[str, Any] | None = None,
    database: Mapping[str, Any] | None = None,
) -> Pooler:
    """A pooler that lets everybody in, without TLS, with some keys changed."""
    extra = {
        "timeouts": dict(timeouts or {}),
        "listen": dict(listen or {}),
        "databases": {DATABASE: dict(database or {})},
    }
    return Pooler(pg, pool_size=pool_size, tls=False, auth="trust", extra=extra)


def address(pooler: Pooler) -> tuple[str, int]:
    return pooler.host, pooler.port


def wait_for_reason(pooler: Pooler, event: str, reason: str) -> None:
    """Return when the log says that a connection has ended for this reason."""
    since = 0
    while pooler.wait_for_event(event, since=since)["reason"] != reason:
        since = pooler.mark()


# -- stopping --------------------------------------------------------------------------------------------


def test_a_stop_drains(postgres: LocalPostgres) -> None:
    """SIGTERM: idle clients are told at once, nobody new comes in, open transactions may end; status 0."""
    with pooler_of(postgres, timeouts={"drain": "30s"}) as pooler:
        with RawClient.log_in(address(pooler)) as busy, RawClient.log_in(address(pooler)) as idle:
            busy.run("begin; select 0")
            xid = busy.value("select txid_current()")
            assert idle.value("select 1") == "1"

            pooler.signal(signal.SIGTERM)
            assert idle.farewell() == ("FATAL", "57P01")
            with pytest.raises(ConnectionRefusedError):
                RawClient.connect(address(pooler))

            assert busy.value("select txid_current()") == xid
            assert busy.run("commit") == []
            assert busy.farewell() == ("FATAL", "57P01")
        assert pooler.wait_for_end() == 0
        assert pooler.log_events("drain is over") == []


def test_who_has_not_logged_in_does_not_delay_a_stop(postgres: LocalPostgres) -> None:
    """A client in the middle of its login is told and closed at once, whatever `drain` says."""
    with pooler_of(postgres, timeouts={"drain": "0", "client_login": "0"}) as pooler:
        with RawClient.connect(address(pooler)) as silent, RawClient.log_in(address(pooler)) as idle:
            pooler.signal(signal.SIGTERM)
            assert silent.farewell() == ("FATAL", "57P01")
            assert idle.farewell() == ("FATAL", "57P01")
        assert pooler.wait_for_end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_at_once(postgres: LocalPostgres, number: signal.Signals) -> None:
    """A second signal does not wait for transactions, tells clients, and makes the exit status 1."""
    with pooler_of(postgres, timeouts={"drain": "0"}) as pooler:
        with RawClient.log_in(address(pooler)) as busy:
            busy.run("begin; select 0")
            pooler.signal(number)
            pooler.wait_for_event("stopping")
            pooler.signal(number)
            assert busy.farewell() == ("FATAL", "57P01")
        assert pooler.wait_for_end() == 1
        assert "Traceback" not in pooler.log_text()


# -- limits ----------------------------------------------------------------------------------------------


def test_one_client_too_many_is_refused(postgres: LocalPostgres) -> None:
    """Beyond `max_clients` a client gets 53300, which disturbs nobody; a place that is left can be taken."""
    with pooler_of(postgres, listen={"max_clients": 1}) as pooler:
        with RawClient.log_in(address(pooler)) as first:
            with RawClient.connect(address(pooler)) as second:
                second.send(messages.startup({"user": USER, "database": DATABASE}))
                assert second.farewell() == ("FATAL", "53300")
            assert first.value("select 1") == "1"
            first.send(messages.message(ord("X")))
            assert first.receive() is None
        with RawClient.log_in(address(pooler)) as third:
            assert third.value("select 1") == "1"


# -- listeners -------------------------------------------------------------------------------------------


def test_a_unix_socket_replaces_what_a_dead_process_left(postgres: LocalPostgres, tmp_path: Path) -> None:
    """A left-over socket file is no obstacle; ours is there while it serves, and gone after it."""
    path = tmp_path / ".s.PGSQL.6432"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    assert path.exists()
    with pooler_of(postgres, listen={"addresses": ["127.0.0.1:0", f"unix:{path}"]}) as pooler:
        with RawClient.log_in(str(path)) as client:
            assert client.value("select 1") == "1"
        assert pooler.ready["addresses"][1] == f"unix:{path}"
    assert not path.exists()


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_an_address_that_somebody_has_is_named(tmp_path: Path, kind: str) -> None:
    """An address that a living process listens on is left to it; the error names it, the status is 1."""
    path = tmp_path / ".s.PGSQL.6432"
    with socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET) as owner:
        owner.bind(str(path) if kind == "unix" else ("127.0.0.1", 0))
        owner.listen()
        taken = f"unix:{path}" if kind == "unix" else f"127.0.0.1:{owner.getsockname()[1]}"
        file = tmp_path / "trio-pool.toml"
        configuration = {
            "listen": {"addresses": ["127.0.0.1:0", taken]},
            "databases": {"app": {"origin": "postgresql://app@127.0.0.1/app"}},
        }
        file.write_text(to_toml(configuration))
        done = subprocess.run(
            [sys.executable, "-m", "trio_pool", "serve", "--config", str(file)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        in_use = f"[Errno {errno.EADDRINUSE}] {os.strerror(errno.EADDRINUSE)}"
        assert done.stderr == f"trio-pool: cannot serve: {in_use}: '{taken}'\n"
        assert done.returncode == 1
        with RawClient.connect(str(path) if kind == "unix" else owner.getsockname()):
            owner.accept()[0].close()


def test_listens_on_ipv6(postgres: LocalPostgres) -> None:
    """An IPv6 address in brackets, beside an IPv4 one with the same port."""
    with pooler_of(postgres, listen={"addresses": ["[::1]:0"]}) as pooler:
        assert pooler.ready["addresses"] == [f"[::1]:{pooler.port}"]
        with RawClient.log_in(("::1", pooler.port)) as client:
            assert client.value("select 1") == "1"
        with pytest.raises(ConnectionRefusedError):
            RawClient.connect(("127.0.0.1", pooler.port))


# -- timeouts of clients ---------------------------------------------------------------------------------


def test_client_idle_closes_idle_clients(postgres: LocalPostgres) -> None:
    """A client without a statement for `client_idle` gets 57P05; one in a transaction does not."""
    with (
        pooler_of(postgres, timeouts={"client_idle": "200ms"}) as pooler,
        RawClient.log_in(address(pooler)) as in_transaction,
        RawClient.log_in(address(pooler)) as idle,
    ):
        in_transaction.run("begin; select 0")
        assert idle.value("select 1") == "1"
        assert idle.farewell() == ("FATAL", "57P05")
        assert in_transaction.run("commit") == []
        assert in_transaction.farewell() == ("FATAL", "57P05")


@pytest.mark.parametrize("beginning", [b"", messages.startup({"user": USER})[:9]])
def test_client_login_bounds_the_login(postgres: LocalPostgres, beginning: bytes) -> None:
    """A client that does not log in is closed after `client_login`, however far it came."""
    with pooler_of(postgres, timeouts={"client_login": "200ms"}) as pooler:
        with RawClient.connect(address(pooler)) as client:
            client.send(beginning)
            assert client.farewell() == ("FATAL", "28000")
        wait_for_reason(pooler, "client disconnected", "client login timeout")


def test_lease_wait_fails_the_statement_only(postgres: LocalPostgres) -> None:
    """After `lease_wait` the statement fails with 53300, and the client stays and is served later."""
    with (
        pooler_of(postgres, pool_size=1, timeouts={"lease_wait": "200ms"}) as pooler,
        RawClient.log_in(address(pooler)) as holder,
        RawClient.log_in(address(pooler)) as waiter,
    ):
        holder.run("begin; select 0")
        (error,) = waiter.run("select 1")
        assert (error.severity, error.sqlstate) == ("ERROR", "53300")
        assert error.summary == "failed to acquire a connection from the pool"
        assert error.detail is not None
        assert error.detail.startswith(
            f"Pool {DATABASE}/{USER} has 1 server connection of at most 1, 1 leased. 1 client waits, "
        )
        holder.run("commit")
        assert waiter.value("select 1") == "1"


def test_a_full_queue_refuses_at_once(postgres: LocalPostgres) -> None:
    """Beyond `max_waiting` a statement does not wait at all, and the client stays."""
    with (
        pooler_of(postgres, pool_size=1, database={"max_waiting": 1}) as pooler,
        RawClient.log_in(address(pooler)) as holder,
        RawClient.log_in(address(pooler)) as one,
        RawClient.log_in(address(pooler)) as other,
    ):
        holder.run("begin; select 0")
        for client in (one, other):
            client.send(messages.query("select 1"))
        answered, _, _ = select.select([one.sock, other.sock], [], [], 10)
        refused, waiting = (one, other) if answered == [one.sock] else (other, one)
        (error,) = refused.errors()
        assert (error.severity, error.sqlstate) == ("ERROR", "53300")
        holder.run("commit")
        assert waiting.errors() == []
        assert refused.value("select 1") == "1"


# -- servers ---------------------------------------------------------------------------------------------


def test_server_idle_closes_servers(postgres: LocalPostgres) -> None:
    """A server without a lease for `server_idle` is closed, and the next statement opens another."""
    with (
        pooler_of(postgres, timeouts={"server_idle": "200ms"}) as pooler,
        RawClient.log_in(address(pooler)) as client,
    ):
        first = client.value(PID)
        wait_for_reason(pooler, "server disconnected", "server idle timeout")
        assert client.value(PID) != first


def test_server_lifetime_replaces_servers(postgres: LocalPostgres) -> None:
    """A server older than `server_lifetime` is closed when it is free, not in the middle of a transaction."""
    with (
        pooler_of(postgres, pool_size=1, timeouts={"server_lifetime": "300ms"}) as pooler,
        RawClient.log_in(address(pooler)) as client,
    ):
        client.run("begin; select 0")
        first = client.value(PID)
        assert client.value("select pg_sleep(0.4)") == ""
        assert client.value(PID) == first
        client.run("commit")
        wait_for_reason(pooler, "server disconnected", "server lifetime")
        assert client.value(PID) != first


def test_min_pool_size_keeps_servers(postgres: LocalPostgres) -> None:
    """So many servers are opened before the first client comes, and `server_idle` does not close them."""
    timeouts = {"server_idle": "100ms"}
    with pooler_of(postgres, pool_size=3, timeouts=timeouts, database={"min_pool_size": 2}) as pooler:
        pooler.wait_for_event("server connected")
        first = pooler.log_events("server connected")[0]["server_pid"]
        since = pooler.mark()
        while len(pooler.log_events("server connected")) < 2:
            pooler.wait_for_event("server connected", since=since)
        pids = {event["server_pid"] for event in pooler.log_events("server connected")}
        assert first in pids
        with RawClient.log_in(address(pooler)) as client:
            for _ in range(5):
                assert client.value("select pg_sleep(0.1)") == ""
            assert int(client.value(PID)) in pids
        assert pooler.log_events("server disconnected") == []


def test_a_server_of_min_pool_size_is_replaced(postgres: LocalPostgres) -> None:
    """When PostgreSQL closes a kept server, another is opened without a client asking."""
    with pooler_of(postgres, database={"min_pool_size": 1}) as pooler:
        pid = pooler.wait_for_event("server connected")["server_pid"]
        since = pooler.mark()
        pooler.target().ask_origin("select pg_terminate_backend(:pid)", pid=pid)
        assert pooler.wait_for_event("server connected", since=since)["server_pid"] != pid
