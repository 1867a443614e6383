"""A process of ours that runs beside a measurement: started, waited for until it is ready, and ended.

The protocol is one line on its standard output when it is ready, maybe a last line at the end, and the end of
its standard input as the request to end. So it ends even if this process dies without a word. It does not get
the terminal's Ctrl-C, since this process ends it.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import threading
from typing import IO, TYPE_CHECKING

import attrs

from .problems import TargetError

if TYPE_CHECKING:
    from collections.abc import Iterator

END_SECONDS = 10.0


class CompanionError(TargetError):
    """It did not get ready, or did not end; the message ends with what it printed about it."""


@attrs.define(eq=False)
class Companion:
    """`ready` is the line that it printed when it was."""

    pid: int
    ready: str
    _process: subprocess.Popen[str]
    _complaint: IO[str]

    def finish(self) -> str:
        """End it and return its last words; raises `CompanionError` if it takes too long or fails."""
        stdin, stdout = _pipes(self._process)
        watchdog = threading.Timer(END_SECONDS, self._process.kill)
        watchdog.start()
        try:
            stdin.close()
            last = stdout.read()
            status = self._process.wait()
        finally:
            watchdog.cancel()
        if status != 0:
            said = _last_line(self._complaint)
            raise CompanionError(f"{self._process.args!r} ended with status {status}: {said}")
        return last.strip()


@contextlib.contextmanager
def running(module: str, *arguments: str, ready_seconds: float) -> Iterator[Companion]:
    """`python -m module arguments`, once it is ready; killed at the end if it was not finished before.

    Raises `CompanionError` if it is not ready in time.
    """
    command = [sys.executable, "-m", module, *arguments]
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryFile("w+") as complaint,
        subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=complaint, text=True, start_new_session=True
        ) as process,
    ):
        _, stdout = _pipes(process)
        watchdog = threading.Timer(ready_seconds, process.kill)
        watchdog.start()
        try:
            ready = stdout.readline().strip()
            watchdog.cancel()
            if not ready:
                process.kill()
                process.wait()
                said = _last_line(complaint)
                raise CompanionError(f"{module} was not ready within {ready_seconds:.0f} s: {said}")
            yield Companion(process.pid, ready, process, complaint)
        finally:
            watchdog.cancel()
            process.kill()


def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


def _last_line(file: IO[str]) -> str:
    """Where Python says what the matter was."""
    file.seek(0)
    return file.read().strip().rpartition("\n")[2] or "it said nothing"
