"""`python -m trio_pool ...` as a process of its own that need not import the program.

Importing takes most of a second, and the tests start the pooler hundreds of times. A process that has
imported it (multiprocessing's fork server, one per pytest worker) forks instead. What a new interpreter reads
before the program runs (PYTHON... variables, `-X` options) has no effect on such a process.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from multiprocessing.reduction import DupFd
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MODULE = "trio_pool"

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(
    [
        "runpy",
        "trio_pool.cli.serve",
        "trio_pool.daemon.console",
        "trio_pool.daemon.service",
        "trio_pool.daemon.web.server",
    ]
)


def _network() -> str | None:
    """Of the calling thread."""
    with contextlib.suppress(OSError):
        return os.readlink("/proc/thread-self/ns/net")
    return None


_NETWORK = _network()


def at_home() -> bool:
    """Whether the calling thread is in the network in which the processes are going to be."""
    return _network() == _NETWORK


class Preloaded:
    """What `subprocess.Popen` is, as far as the tests use it; the output is text, errors included."""

    def __init__(self, arguments: Sequence[str], env: Mapping[str, str]) -> None:
        reader, writer = os.pipe()
        with os.fdopen(writer, "wb"):
            handed = list(arguments), dict(env), _Passed(writer)
            self._process = _server.Process(target=_run, args=handed, daemon=True)
            self._process.start()
        self.stdout: TextIO = os.fdopen(reader, encoding="utf-8", errors="replace")

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """The exit status; a signal's number is negative; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, once it has ended."""
        self._process.join(timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(MODULE, timeout or 0.0)
        return status

    def send_signal(self, number: int) -> None:
        """Nothing happens if it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Passed:
    """A descriptor on its way to the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (DupFd(self._descriptor),)


def _received(passed: Any) -> int:
    descriptor = passed.detach()
    assert isinstance(descriptor, int)
    return descriptor


def _run(arguments: list[str], env: dict[str, str], output: int) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, place in (nothing, 0), (output, 1), (output, 2):
        os.dup2(source, place)
    os.closerange(nothing, nothing + 1)
    os.close(output)
    os.environ.clear()
    os.environ.update(env)
    sys.orig_argv[:] = [sys.executable, "-m", MODULE, *arguments]
    sys.argv[:] = [MODULE, *arguments]
    runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
