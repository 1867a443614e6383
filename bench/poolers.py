"""What is measured: PostgreSQL itself and poolers in front of it, each started, waited for and stopped.

All listen on a free port of 127.0.0.1 and have pools of the same size; unless a work says otherwise they
trust their clients. They differ in nothing that their own documentation recommends. What a work needs beyond
that is in its `Settings`, for each pooler in its own words.
"""

from __future__ import annotations

import contextlib
import os
import re
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

from .login import HOST, Login
from .problems import TargetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

START_SECONDS = 30.0
STOP_SECONDS = 10.0
LOGIN_SECONDS = 10.0

# Prepared statements in transaction pooling are on by default since then, and it is faster.
RECENT_PGBOUNCER = (1, 24)

TRIO_POOL_TOML = """\
[listen]
addresses = ["{host}:{port}"]
max_clients = {max_clients}

[auth]
method = "{auth}"

[databases.postgres]
origin = {origin}
pool_size = {pool_size}
queue_ahead = {queue_ahead}
{password}
{more}
"""

# As recommended for a pooler that is to be fast: no log line per connection, a listen backlog for bursts,
# prepared statements (on by default since 1.24).
PGBOUNCER_INI = """\
[databases]
postgres = {origin}

[pgbouncer]
listen_addr = {host}
listen_port = {port}
listen_backlog = 4096
unix_socket_dir =
auth_type = {auth}
auth_file = {directory}/users
pool_mode = transaction
default_pool_size = {pool_size}
max_client_conn = {max_clients}
max_prepared_statements = 200
log_connections = 0
log_disconnections = 0
logfile = {directory}/log
server_tls_sslmode = {sslmode}
{more}
"""


class PoolerStartError(TargetError):
    """A pooler did not start; the message holds what it printed."""


@attrs.frozen
class Target:
    """Where clients connect to, and the process whose figures count; 0 for PostgreSQL itself.

    `link` is the process that delays what passes between the two, 0 if there is none.
    """

    name: str
    login: Login
    pid: int = 0
    link: int = 0

    @property
    def port(self) -> int:
        return self.login.port


@attrs.frozen
class Link:
    """Another way to PostgreSQL: the port and the process of what is in between. See `bench.link`."""

    port: int
    pid: int


@attrs.frozen
class Door:
    """How clients get in if not on trust: over TLS with these PEM files, with SCRAM and this secret.

    `password` is what the secret is of.
    """

    certificate: Path
    key: Path
    secret: str
    password: str = attrs.field(repr=False)


@attrs.frozen
class Settings:
    """`queue_ahead` is trio-pool's only, and so is the `scheme` of its origin. `toml` and `ini` are more
    lines for trio-pool and for PgBouncer.

    `toml` begins with the header of a table; `ini` belongs to the section `[pgbouncer]`.
    """

    pool: int = 20
    max_clients: int = 10_000
    queue_ahead: int = 0
    scheme: str = "postgresql"
    toml: str = ""
    ini: str = ""
    link: Link | None = None
    door: Door | None = None

    def origin(self, database: Login) -> Login:
        return attrs.evolve(database, host=HOST, port=self.link.port) if self.link else database

    def clients(self, port: int) -> Login:
        """Of the clients of a pooler on this port."""
        if self.door is None:
            return Login(HOST, port)
        return Login(HOST, port, password=self.door.password, sslmode="require")

    @property
    def link_pid(self) -> int:
        return self.link.pid if self.link else 0


@contextlib.contextmanager
def direct(database: Login) -> Iterator[Target]:
    yield Target("direct", database)


@contextlib.contextmanager
def trio_pool(name: str, database: Login, settings: Settings) -> Iterator[Target]:
    """`trio-pool serve` from the package that is running this."""
    with _directory() as directory:
        port = free_port()
        file = directory / "trio-pool.toml"
        origin = settings.origin(database)
        address = f"{origin.user}@{origin.host}:{origin.port}/{origin.database}?sslmode={origin.sslmode}"
        door = settings.door
        more = settings.toml
        if door is not None:
            more += (
                f'\n[listen.tls]\nmode = "require"\ncertificate = "{door.certificate}"\nkey = "{door.key}"\n'
            )
            more += f'\n[users.postgres]\npassword = "{door.secret}"\n'
        configuration = TRIO_POOL_TOML.format(
            host=HOST,
            port=port,
            origin=f'"{settings.scheme}://{address}"',
            auth="scram-sha-256" if door else "trust",
            pool_size=settings.pool,
            max_clients=settings.max_clients,
            queue_ahead=settings.queue_ahead,
            password="" if origin.password is None else f'password_env = "{PASSWORD_ENV}"',
            more=more,
        )
        file.write_text(configuration)
        environment = os.environ | ({} if origin.password is None else {PASSWORD_ENV: origin.password})
        command = [sys.executable, "-m", "trio_pool", "serve", "--config", str(file)]
        clients = settings.clients(port)
        with _running(name, command, directory, clients, signal.SIGTERM, environment) as pid:
            yield Target(name, clients, pid, settings.link_pid)


PASSWORD_ENV = "TRIO_POOL_BENCH_PASSWORD"


@contextlib.contextmanager
def pgbouncer(program: Path, name: str, database: Login, settings: Settings) -> Iterator[Target]:
    """PgBouncer in transaction mode. It refuses to be root, so for root it runs as an unprivileged user."""
    with _directory() as directory:
        port = free_port()
        file = directory / "pgbouncer.ini"
        origin = settings.origin(database)
        where = f"host={origin.host} port={origin.port} dbname={origin.database} user={origin.user}"
        secret = "" if origin.password is None else f" password='{_doubled(origin.password)}'"
        door = settings.door
        more = settings.ini
        users = '"postgres" ""\n'
        if door is not None:
            for source, copy in ((door.certificate, "server.crt"), (door.key, "server.key")):
                shutil.copyfile(source, directory / copy)
            more += f"\nclient_tls_sslmode = require\nclient_tls_cert_file = {directory}/server.crt\n"
            more += f"client_tls_key_file = {directory}/server.key\n"
            users = f'"postgres" "{door.secret}"\n'
        configuration = PGBOUNCER_INI.format(
            host=HOST,
            port=port,
            origin=where + secret,
            auth="scram-sha-256" if door else "trust",
            pool_size=settings.pool,
            max_clients=settings.max_clients,
            directory=directory,
            sslmode=origin.sslmode,
            more=more,
        )
        file.write_text(configuration)
        (directory / "users").write_text(users)
        command = [str(program), "-q", str(file)]
        if os.geteuid() == 0:
            user = unprivileged_user()
            for path in (directory, *directory.iterdir()):
                os.chown(path, user.uid, user.gid)
            command[1:1] = ["-u", user.name]
        clients = settings.clients(port)
        # Since 1.23 SIGTERM waits for clients to leave.
        with _running(name, command, directory, clients, signal.SIGQUIT, dict(os.environ)) as pid:
            yield Target(name, clients, pid, settings.link_pid)


def _doubled(text: str) -> str:
    """As PgBouncer's connection strings quote."""
    return text.replace("'", "''")


def find_pgbouncer(named: str | None = None) -> Path | None:
    """The program that was named, or the one on PATH or in Debian's /usr/sbin; None if there is none."""
    found = shutil.which(named or "pgbouncer") or (None if named else shutil.which("/usr/sbin/pgbouncer"))
    return Path(found) if found else None


def pgbouncer_version(program: Path) -> str:
    """Such as `1.24.1`; empty if it does not say."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"PgBouncer (\d+\.\d+\S*)", done.stdout)
    return found[1] if found else ""


def is_old_pgbouncer(version: str) -> bool:
    """Whether it is older than 1.24; a version that cannot be read is not."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) < RECENT_PGBOUNCER


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


def can_log_in(login: Login) -> bool:
    """Whether a client gets to ReadyForQuery; where TLS is wanted, whether it is offered."""
    with (
        contextlib.suppress(OSError),
        socket.create_connection((login.host, login.port), LOGIN_SECONDS) as client,
    ):
        if login.sslmode == "require":
            client.sendall(struct.pack("!II", 8, 80877103))  # SSLRequest
            return client.recv(1) == b"S"
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
    name: str,
    command: list[str],
    directory: Path,
    clients: Login,
    stop_signal: signal.Signals,
    environment: dict[str, str],
) -> Iterator[int]:
    """The process's id, once it lets a client in; it is ended with the signal, or killed if that fails.

    It does not get the terminal's Ctrl-C, since this process ends it.
    """
    printed = directory / "printed"
    with printed.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
    try:
        if not _wait(lambda: can_log_in(clients), process):
            raise PoolerStartError(f"{name} did not start: {printed.read_text(errors='replace').strip()}")
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
