"""`trio-pool top` in a pipe and on a terminal, beside a real daemon."""

from __future__ import annotations

import json
import os
import select
import socketserver
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.pooler import Pooler
from trio_pool.cli.top import span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_pool.cli.postgres import LocalPostgres

pty = pytest.importorskip("pty")
SECONDS = 20.0


@pytest.fixture(scope="module")
def pooler(postgres: LocalPostgres) -> Iterator[Pooler]:
    extra = {"http": {"address": "127.0.0.1:0"}, "databases": {"app": {"min_pool_size": 1}}}
    with Pooler(postgres, tls=False, auth="trust", extra=extra) as running:
        yield running


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "trio_pool", "top", *arguments]


def test_in_a_pipe(pooler: Pooler) -> None:
    """One JSON object per interval, and the end after so many."""
    arguments = command("--url", pooler.ready["http"], "--count", "2", "--interval", "0.2")
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=SECONDS, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["process"]["id"] for line in lines] == [pooler.pid] * 2
    assert lines[0]["pools"][0]["database"] == "app"


def test_in_a_pipe_without_a_pooler() -> None:
    """Says so, as an object, and tries again."""
    arguments = command("--url", "http://127.0.0.1:1", "--count", "2", "--interval", "0.1")
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=SECONDS, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 2
    assert all(line["error"].startswith("no answer from http://127.0.0.1:1") for line in lines)


class Other(socketserver.StreamRequestHandler):
    """Answers with what is not HTTP."""

    def handle(self) -> None:
        self.rfile.readline()
        self.wfile.write(b"220 ready\r\n")


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, arguments: list[str]) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvpe(
                arguments[0], arguments, {**os.environ, "TERM": "xterm", "COLUMNS": "160", "LINES": "40"}
            )
        self.shown = ""

    def until(self, *words: str) -> None:
        """Return when all of these have been shown since the last time."""
        deadline = time.monotonic() + SECONDS
        self.shown = ""
        while not all(word in self.shown for word in words):
            left = deadline - time.monotonic()
            assert left > 0, self.shown
            if select.select([self.fd], [], [], left)[0]:
                self.shown += os.read(self.fd, 65536).decode(errors="replace")

    def press(self, key: str) -> None:
        os.write(self.fd, key.encode())

    def end(self) -> int:
        """Its exit status."""
        while True:
            try:
                if not os.read(self.fd, 65536):
                    break
            except OSError:
                break
        _, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        return os.waitstatus_to_exitcode(status)


def test_what_is_no_status_page() -> None:
    """Another HTTP server, or none, is an error that is told, not a traceback."""
    with socketserver.TCPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{other.server_address[1]}"
        arguments = command("--url", url, "--count", "2", "--interval", "0.1")
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=SECONDS, check=True)
        other.shutdown()
    errors = [json.loads(line)["error"] for line in done.stdout.splitlines()]
    assert len(errors) == 2
    assert all(error.startswith(f"no answer from {url}: ") for error in errors)


def test_on_a_terminal(pooler: Pooler) -> None:
    """Shows the pools, sorts them by keys, ends with `q`."""
    terminal = Terminal(command("--url", pooler.ready["http"], "--interval", "0.2"))
    terminal.until("live", "app", "q quits")
    terminal.press("n")
    terminal.until("live", "app")
    terminal.press("tnq")  # all of them at once
    assert terminal.end() == 0


def test_on_a_terminal_across_a_restart(postgres: LocalPostgres) -> None:
    """A daemon that is gone is missed, not the end; when it is back, it is shown again."""
    extra = {"http": {"address": "127.0.0.1:0"}}
    with Pooler(postgres, tls=False, auth="trust", extra=extra) as running:
        where = running.ready["http"]
        terminal = Terminal(command("--url", where, "--interval", "0.2"))
        terminal.until("live", f"{running.pid}")
    terminal.until("no answer")
    extra = {"http": {"address": where.removeprefix("http://")}}
    with Pooler(postgres, tls=False, auth="trust", extra=extra) as running:
        terminal.until("live", f"{running.pid}")
    terminal.press("q")
    assert terminal.end() == 0


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "-"),
        (0.00025, "250 us"),
        (0.0015, "1.5 ms"),
        (0.25, "250 ms"),
        (3, "3.0 s"),
        (600, "10 min"),
        (9000, "2.5 h"),
    ],
)
def test_times_for_people(seconds: float | None, shown: str) -> None:
    assert span(seconds) == shown
