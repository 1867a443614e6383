"""`trio-pool serve` as a subprocess, configured for a test and stopped in order."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import attrs

from tests.support.preloaded import MODULE, Preloaded, at_home
from tests.support.target import DATABASE, PASSWORD, USER, Target

if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping

    from tests.support.certificates import Certificates
    from trio_pool.cli.postgres import LocalPostgres

ADMIN = "admin"
ADMIN_PASSWORD = "the admin's"
ORIGIN_PASSWORD_VARIABLE = "TRIO_POOL_TEST_ORIGIN_PASSWORD"

POOL_SIZE = 2

READY_SECONDS = 30.0
STOP_SECONDS = 30.0

Auth = Literal["trust", "password", "md5", "scram-sha-256", "cert"]
Table = dict[str, Any]


@attrs.define(eq=False)
class Pooler:
    """A running pooler with one database, "app", in front of `pg`, on a free port of 127.0.0.1.

    `tls`: whether clients may use TLS (they may always go without); needs `certificates`. `auth`: how clients
    log in. `extra`: more configuration, TOML text or nested dicts, laid over the rest key by key; None takes
    a key away. `executable`: the Python that runs it. `module`: what it runs.

    Entering the `with` block returns once the ready line was logged, else raises `AssertionError` with all
    that the process printed. Leaving it sends SIGTERM and asserts exit status 0, unless the block failed.
    """

    pg: LocalPostgres
    pool_size: int = attrs.field(default=POOL_SIZE, kw_only=True)
    tls: bool = attrs.field(default=True, kw_only=True)
    auth: Auth = attrs.field(default="scram-sha-256", kw_only=True)
    extra: Mapping[str, Any] | str | None = attrs.field(default=None, kw_only=True)
    certificates: Certificates | None = attrs.field(default=None, kw_only=True)
    environment: Mapping[str, str] = attrs.field(factory=dict, kw_only=True)
    executable: str = attrs.field(default=sys.executable, kw_only=True)
    module: str = attrs.field(default=MODULE, kw_only=True)

    host: str = attrs.field(default="127.0.0.1", init=False)
    port: int = attrs.field(default=0, init=False)
    ready: Table = attrs.field(factory=dict, init=False)
    _directory: tempfile.TemporaryDirectory[str] = attrs.field(
        factory=lambda: tempfile.TemporaryDirectory(prefix="trio-pool-test-"), init=False
    )
    _process: subprocess.Popen[str] | Preloaded | None = attrs.field(default=None, init=False)
    _reader: threading.Thread | None = attrs.field(default=None, init=False)
    _lines: list[str] = attrs.field(factory=list, init=False)
    _changed: threading.Condition = attrs.field(factory=threading.Condition, init=False)
    _at_end: bool = attrs.field(default=False, init=False)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.stop()
        finally:
            self._discard()

    @property
    def pid(self) -> int:
        assert self._process is not None, "not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def config_path(self) -> Path:
        return Path(self._directory.name) / "trio-pool.toml"

    def target(self) -> Target:
        """How to connect to it as the tests' user."""
        return Target("pooled", self.host, self.port, self.pg, self.certificates if self.tls else None)

    def configuration(self) -> Table:
        """What the configuration file holds, as nested dicts."""
        table = self._defaults()
        extra = tomllib.loads(self.extra) if isinstance(self.extra, str) else self.extra
        _lay_over(table, extra or {})
        return table

    def start(self) -> None:
        """Start the process and wait until it accepts clients."""
        assert self._process is None, "already running"
        self.config_path.write_text(to_toml(self.configuration()))
        self._at_end = False
        before = self.mark()
        self._process = self._begin(["serve", "--config", str(self.config_path)])
        self._reader = threading.Thread(target=self._collect, name="pooler's log", daemon=True)
        self._reader.start()
        self.ready = self.wait_for_event("ready", READY_SECONDS, since=before)
        for address in self.ready["addresses"][:1]:  # the origin of tunnels has none
            self.host, _, port = str(address).rpartition(":")
            self.port = int(port)

    def _begin(self, arguments: list[str]) -> subprocess.Popen[str] | Preloaded:
        environment = {**os.environ, ORIGIN_PASSWORD_VARIABLE: PASSWORD, **self.environment}
        if (self.executable, self.module) == (sys.executable, MODULE) and at_home():
            return Preloaded(arguments, environment)
        return subprocess.Popen(
            [self.executable, "-m", self.module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )

    def stop(self) -> None:
        """Send SIGTERM, wait, and assert that it ended with exit status 0. Stopping twice is fine."""
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            status = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running {STOP_SECONDS} s after SIGTERM\n{self.log_text()}") from None
        self._join_reader()
        self._process = None
        assert status == 0, f"exit status {status}\n{self.log_text()}"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, and wait for nothing."""
        assert self._process is not None, "not running"
        self._process.send_signal(number)

    def wait_for_end(self, seconds: float = STOP_SECONDS) -> int:
        """The exit status, once it has ended."""
        assert self._process is not None, "not running"
        status = self._process.wait(seconds)
        self._join_reader()
        self._process = None
        return status

    def revive(self) -> None:
        """Start it again if it has ended by itself, so that one crash fails one test."""
        if self._process is not None and self._process.poll() is not None:
            self._join_reader()
            self._process = None
        if self._process is None:
            self.start()

    def mark(self) -> int:
        """A place in the log: what `since` takes, to see only what comes after it."""
        with self._changed:
            return len(self._lines)

    def log_text(self, since: int = 0) -> str:
        """All that it has printed so far, standard error included."""
        with self._changed:
            return "".join(self._lines[since:])

    def log_events(self, event: str | None = None, since: int = 0) -> list[Table]:
        """The log's JSON lines, in order; only those of one event if it is named."""
        found = []
        for line in self.log_text(since).splitlines():
            parsed = _json_object(line)
            if parsed is not None and event in (None, parsed.get("event")):
                found.append(parsed)
        return found

    def wait_for_event(self, event: str, seconds: float = 10.0, since: int = 0) -> Table:
        """The first log line of an event, as soon as it is there; fails with the log if it does not come."""

        def logged_or_ended() -> bool:
            return bool(self.log_events(event, since)) or self._at_end

        with self._changed:
            self._changed.wait_for(logged_or_ended, seconds)
        found = self.log_events(event, since)
        ending = "the pooler ended" if self._at_end else f"not within {seconds} s"
        assert found, f"no {event!r} in the pooler's log: {ending}\n{self.log_text(since)}"
        return found[0]

    def _collect(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        with self._process.stdout as printed:
            for line in printed:
                with self._changed:
                    self._lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._at_end = True
            self._changed.notify_all()

    def _join_reader(self) -> None:
        if self._reader is not None:
            self._reader.join()
            self._reader = None

    def _discard(self) -> None:
        """End it, whatever state it is in."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            self._join_reader()
        with contextlib.suppress(FileNotFoundError):
            self._directory.cleanup()

    def _defaults(self) -> Table:
        pg = self.pg
        table: Table = {
            "listen": {"addresses": ["127.0.0.1:0"]},
            "auth": {"method": self.auth},
            "users": {USER: {"password": PASSWORD}, ADMIN: {"password": ADMIN_PASSWORD}},
            "databases": {
                DATABASE: {
                    "origin": f"postgresql://{USER}@{pg.host}:{pg.port}/{DATABASE}?sslmode=disable",
                    "password_env": ORIGIN_PASSWORD_VARIABLE,
                    "pool_size": self.pool_size,
                }
            },
            "timeouts": {"drain": "5s"},
            "admin": {"users": [ADMIN]},
            "http": {"address": "127.0.0.1:0"},
        }
        if self.tls:
            assert self.certificates is not None, "TLS needs certificates"
            table["listen"]["tls"] = {
                "mode": "allow",
                "certificate": str(self.certificates.server_certificate),
                "key": str(self.certificates.server_key),
            }
        return table


def _json_object(line: str) -> Table | None:
    with contextlib.suppress(ValueError):
        parsed = json.loads(line)
        if isinstance(parsed, dict):
            return parsed
    return None


def _lay_over(table: Table, extra: Mapping[str, Any]) -> None:
    for key, value in extra.items():
        below = table.get(key)
        if value is None:
            table.pop(key, None)
        elif isinstance(value, dict) and isinstance(below, dict):
            _lay_over(below, value)
        else:
            table[key] = value


def to_toml(table: Mapping[str, Any]) -> str:
    """Nested dicts as TOML. JSON's strings, numbers and booleans are TOML's too, DEL aside."""
    return "".join(f"{json.dumps(key)} = {_inline(value)}\n" for key, value in table.items())


def _inline(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
