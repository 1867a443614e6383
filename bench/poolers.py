"""What is measured: PostgreSQL itself and poolers in front of it, each started, waited for and stopped.

All trust their clients, listen on a free port of 127.0.0.1 and have pools of the same size. They differ in
nothing that their own documentation recommends. What a work needs beyond that is in its `Settings`, for each
pooler in its own words.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from trio_pool.cli.processes import unprivileged_user

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_pool.cli.postgres import LocalPostgres

HOST = "127.0.0.1"
START_SECONDS = 30.0
STOP_SECONDS = 10.0
LOGIN_SECONDS = 10.0

TRIO_POOL_TOML = """\
[listen]
addresses = ["{host}:{port}"]
max_clients = {max_clients}

[auth]
method = "trust"

[databases.postgres]
origin = "postgresql://postgres@{host}:{origin_port}/postgres?sslmode=disable"
pool_size = {pool_size}
queue_ahead = {queue_ahead}

{more}
"""

# As recommended for a pooler that is to be fast: no log line per connection, a listen backlog for bursts,
# prepared statements (on by default since 1.24).
PGBOUNCER_INI = """\
[databases]
postgres = host={host} port={origin_port} user=postgres dbname=postgres

[pgbouncer]
listen_addr = {host}
listen_port = {port}
listen_backlog = 4096
unix_socket_dir =
auth_type = trust
auth_file = {directory}/users
pool_mode = transaction
default_pool_size = {pool_size}
max_client_conn = {max_clients}
max_prepared_statements = 200
log_connections = 0
log_disconnections = 0
logfile = {directory}/log
{more}
"""


class PoolerStartError(Exception):
    """A pooler did not start; the message holds what it printed."""


@attrs.frozen
class Target:
    """Where pgbench connects to, and the process whose figures count; 0 for PostgreSQL itself.

    `link` is the process that delays what passes between the two, 0 if there is none.
    """

    name: str
    port: int
    pid: int = 0
    link: int = 0


@attrs.frozen
class Link:
    """Another way to PostgreSQL: the port and the process of what is in between. See `bench.link`."""

    port: int
    pid: int


@attrs.frozen
class Settings:
    """`queue_ahead` is trio-pool's only. `toml` and `ini` are more lines for trio-pool and for PgBouncer.

    `toml` begins with the header of a table; `ini` belongs to the section `[pgbouncer]`.
    """

    pool: int = 20
    max_clients: int = 10_000
    queue_ahead: int = 0
    toml: str = ""
    ini: str = ""
    link: Link | None = None

    def origin_port(self, postgres: LocalPostgres) -> int:
        return self.link.port if self.link else postgres.port

    @property
    def link_pid(self) -> int:
        return self.link.pid if self.link else 0


def direct(postgres: LocalPostgres) -> Target:
    return Target("direct", postgres.port)


@contextlib.contextmanager
def trio_pool(postgres: LocalPostgres, settings: Settings) -> Iterator[Target]:
    """`trio-pool serve` from the package that is running this."""
    with _directory() as directory:
        port = free_port()
        file = directory / "trio-pool.toml"
        configuration = TRIO_POOL_TOML.format(
            host=HOST,
            port=port,
            origin_port=settings.origin_port(postgres),
            pool_size=settings.pool,
            max_clients=settings.max_clients,
            queue_ahead=settings.queue_ahead,
            more=settings.toml,
        )
        file.write_text(configuration)
        command = [sys.executable, "-m", "trio_pool", "serve", "--config", str(file)]
        with _running("trio-pool", command, directory, port, signal.SIGTERM) as pid:
            yield Target("trio-pool", port, pid, settings.link_pid)


@contextlib.contextmanager
def pgbouncer(program: Path, postgres: LocalPostgres, settings: Settings) -> Iterator[Target]:
    """PgBouncer in transaction mode. It refuses to be root, so for root it runs as an unprivileged user."""
    with _directory() as directory:
        port = free_port()
        file = directory / "pgbouncer.ini"
        configuration = PGBOUNCER_INI.format(
            host=HOST,
            port=port,
            origin_port=settings.origin_port(postgres),
            pool_size=settings.pool,
            max_clients=settings.max_clients,
            directory=directory,
            more=settings.ini,
        )
        file.write_text(configuration)
        (directory / "users").write_text('"postgres" ""\n')
        command = [str(program), "-q", str(file)]
        if os.geteuid() == 0:
            user = unprivileged_user()
            for path in (directory, *directory.iterdir()):
                os.chown(path, user.uid, user.gid)
            command[1:1] = ["-u", user.name]
        # Since 1.23 SIGTERM waits for clients to leave.
        with _running("pgbouncer", command, directory, port, signal.SIGQUIT) as pid:
            yield Target("pgbouncer", port, pid, settings.link_pid)


def find_pgbouncer(named: str | None = None) -> Path | None:
    """The program that was named, or the one on PATH or in Debian's /usr/sbin; None if there is none."""
    found = shutil.which(named or "pgbouncer") or (None if named else shutil.which("/usr/sbin/pgbouncer"))
    return Path(found) if found else None


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


STARTUP_PARAMETERS = b"user\0postgres\0database\0postgres\0\0"
STARTUP = struct.pack("!II", 8 + len(STARTUP_PARAMETERS), 3 << 16) + STARTUP_PARAMETERS
"""Protocol 3.0, user and database `postgres`."""

READY_FOR_QUERY = b"Z\0\0\0\5I"


def can_log_in(port: int) -> bool:
    """Whether a client gets to ReadyForQuery."""
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), LOGIN_SECONDS) as client:
        client.sendall(STARTUP)
        greeting = b""
        while received := client.recv(4096):
            greeting += received
            if greeting.endswith(READY_FOR_QUERY):
                client.sendall(b"X\0\0\0\4")
                return True
    return False


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="trio-pool-bench-") as name:
        yield Path(name)


@contextlib.contextmanager
def _running(
    name: str, command: list[str], directory: Path, port: int, stop_signal: signal.Signals
) -> Iterator[int]:
    """The process's id, once it lets a client in; it is ended with the signal, or killed if that fails."""
    printed = directory / "printed"
    with printed.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        if not _wait(lambda: can_log_in(port), process):
            raise PoolerStartError(f"{name} did not start\n{printed.read_text(errors='replace')}")
        yield process.pid
    finally:
        process.send_signal(stop_signal)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if condition():
            return True
        time.sleep(0.05)
    return False
