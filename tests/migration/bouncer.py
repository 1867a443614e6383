"""A real PgBouncer for as long as a block lasts, and the sample of Debian's package fitted to a machine."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from trio_pool.cli.processes import unprivileged_user

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SAMPLES = Path(__file__).parent / "samples"
HOST = "127.0.0.1"
READY_SECONDS = 20.0


def find_pgbouncer() -> str | None:
    """The program on PATH, or Debian's."""
    return shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def adapted(replacements: Mapping[str, str]) -> str:
    """The sample with lines of it replaced, named by what stands before their "=": the one that counts, or
    else an example that is commented out.
    """
    text = (SAMPLES / "pgbouncer.ini").read_text()
    for key, value in replacements.items():
        line = f"{key} = {value}"
        for start in ("", ";"):
            old = re.search(rf"^{start}{re.escape(key)} =.*$", text, re.MULTILINE)
            if old is not None:
                text = text[: old.start()] + line + text[old.end() :]
                break
        else:
            raise AssertionError(f"the sample has no {key}")
    return text


@contextlib.contextmanager
def shared_directory() -> Iterator[Path]:
    """A directory in which PgBouncer may write, who refuses to be root."""
    with tempfile.TemporaryDirectory(prefix="trio-pool-migration-") as name:
        directory = Path(name)
        yield directory


@contextlib.contextmanager
def pgbouncer(program: str, ini: Path, port: int) -> Iterator[None]:
    """PgBouncer with this file, listening on this port of 127.0.0.1."""
    command = [program, "-q", str(ini)]
    if os.geteuid() == 0:
        user = unprivileged_user()
        for path in (ini.parent, *ini.parent.iterdir()):
            os.chown(path, user.uid, user.gid)
        command[1:1] = ["-u", user.name]
    process = subprocess.Popen(
        command, cwd=ini.parent, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        _wait(process, port)
        yield
    finally:
        process.send_signal(signal.SIGQUIT)  # SIGTERM waits for clients since 1.23
        process.communicate(timeout=READY_SECONDS)


def _wait(process: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"PgBouncer has ended: {process.communicate()[1]}")
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1):
            return
        time.sleep(0.02)
    raise AssertionError("PgBouncer does not listen")
