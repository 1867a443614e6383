"""SIGHUP, and what the process's supervisor is told."""

from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.pooler import Pooler, to_toml
from tests.support.raw import RawClient
from tests.support.target import DATABASE, PASSWORD

if TYPE_CHECKING:
    from pathlib import Path

    from trio_pool.cli.postgres import LocalPostgres

pytestmark = pytest.mark.e2e


def pooler_of(pg: LocalPostgres, **more: Any) -> Pooler:
    return Pooler(pg, tls=False, auth="trust", **more)


def log_in(pooler: Pooler) -> RawClient:
    return RawClient.log_in((pooler.host, pooler.port))


def reload(pooler: Pooler, text: str, event: str = "reloaded") -> dict[str, Any]:
    """Replace the file, send SIGHUP, and return what the log says of it."""
    before = pooler.mark()
    pooler.config_path.write_text(text)
    pooler.signal(signal.SIGHUP)
    return pooler.wait_for_event(event, since=before)


def test_sighup_reads_the_file_again(postgres: LocalPostgres) -> None:
    """SIGHUP applies the file as it is now; clients that are there stay; the log says what has changed."""
    with pooler_of(postgres) as pooler, log_in(pooler) as client:
        table = pooler.configuration()
        table["databases"][DATABASE]["pool_size"] = 7
        table["timeouts"]["query"] = "1s"
        entry = reload(pooler, to_toml(table))
        assert entry["changes"] == ["databases.app.pool_size: 2 -> 7", "timeouts.query: 0 -> 1s"]
        assert client.value("select 1") == "1"
        assert client.value_or_error("select pg_sleep(60)") == "57014"


def test_a_broken_file_changes_nothing(postgres: LocalPostgres) -> None:
    """Every problem is in the log with its line; the pooler serves on as before, and takes a good file."""
    with pooler_of(postgres) as pooler, log_in(pooler) as client:
        good = to_toml(pooler.configuration())
        broken = good + '\n[session]\nunpoolable = "pun"\nnonsense = 1\n'
        entry = reload(pooler, broken, "reload failed, nothing has changed")
        assert entry["level"] == "error"
        assert [problem.partition(": ")[2].partition(":")[0] for problem in entry["problems"]] == [
            "session.unpoolable",
            "session.nonsense",
        ]
        assert str(pooler.config_path) in entry["problems"][0]
        reload(pooler, "not TOML", "reload failed, nothing has changed")
        assert client.value("select 1") == "1"
        with log_in(pooler) as other:
            assert other.value("select 2") == "2"
        assert reload(pooler, good)["changes"] == []
        assert "Traceback" not in pooler.log_text()
        assert PASSWORD not in pooler.log_text()


def test_a_file_that_is_gone_changes_nothing(postgres: LocalPostgres) -> None:
    """The same where the file cannot be read at all."""
    with pooler_of(postgres) as pooler, log_in(pooler) as client:
        text = pooler.config_path.read_text()
        pooler.config_path.unlink()
        pooler.signal(signal.SIGHUP)
        pooler.wait_for_event("reload failed, nothing has changed")
        assert client.value("select 1") == "1"
        pooler.config_path.write_text(text)


def test_a_supervisor_is_told(postgres: LocalPostgres, tmp_path: Path) -> None:
    """systemd's notifications: ready, reloading with the time, ready again, stopping."""
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(address)
        supervisor.settimeout(15)
        with pooler_of(postgres, environment={"NOTIFY_SOCKET": address}) as pooler:
            ready = supervisor.recv(4096).decode().splitlines()
            assert ready == ["READY=1", f"STATUS=accepting clients at 127.0.0.1:{pooler.port}"]
            pooler.signal(signal.SIGHUP)
            reloading, time = supervisor.recv(4096).decode().splitlines()
            assert (reloading, time.partition("=")[0]) == ("RELOADING=1", "MONOTONIC_USEC")
            assert supervisor.recv(4096) == b"READY=1"
            pooler.signal(signal.SIGTERM)
            assert supervisor.recv(4096).startswith(b"STOPPING=1")
            assert pooler.wait_for_end() == 0
