"""Load clients of our own, in processes apart: `python -m bench.storm` and `bench.stream`.

They are started before anything is measured, and say so when they are ready. From then on each line of JSON
on their standard input is one run, so that no password is on a command line, and the line of JSON that comes
back is what they did, or `error`. They end with their standard input.

Each tells the processor time it used while it measured: several processes share the work, and the largest
share of a core that one of them used is the `load` of the run. Near 1 the load was the limit, and its figure
is only a lower bound.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import attrs

from .login import Login
from .problems import TargetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import IO

# Beyond its own time: to finish what is under way.
GRACE_SECONDS = 60.0


@attrs.define(eq=False)
class Loads:
    """So many processes of a module that wait for something to do."""

    module: str
    copies: int
    _processes: list[subprocess.Popen[str]] = attrs.field(factory=list)

    def start(self) -> None:
        """Raises `TargetError` if they do not get ready."""
        pipe = subprocess.PIPE
        command = [sys.executable, "-m", self.module]
        for _ in range(self.copies):
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True)
            self._processes.append(process)
        with self._watched(GRACE_SECONDS):
            if not all(_pipes(process)[1].readline() for process in self._processes):
                self.stop()
                raise TargetError(f"the load {self.module} did not start")

    def stop(self) -> None:
        """At once."""
        while self._processes:
            process = self._processes.pop()
            process.kill()
            process.communicate()

    def run(self, login: Login, seconds: float, **options: object) -> list[dict[str, Any]]:
        """One run by all of them at once, and what each did; raises `TargetError`."""
        if not self._processes:
            self.start()  # the last run had to be ended
        asked = json.dumps({"login": attrs.asdict(login), "seconds": seconds, **options}) + "\n"
        with self._watched(seconds + GRACE_SECONDS):
            with contextlib.suppress(BrokenPipeError):
                for process in self._processes:
                    stdin, _ = _pipes(process)
                    stdin.write(asked)
                    stdin.flush()
            answers = [_pipes(process)[1].readline() for process in self._processes]
        if not all(answers):
            self.stop()
            raise TargetError(f"the load did not answer within {seconds + GRACE_SECONDS:.0f} s, or broke")
        done: list[dict[str, Any]] = [json.loads(answer) for answer in answers]
        for part in done:
            if "error" in part:
                raise TargetError(part["error"])
        return done

    @contextlib.contextmanager
    def _watched(self, seconds: float) -> Iterator[None]:
        """While the block lasts too long, end what it waits for."""
        watchdog = threading.Timer(seconds, self._kill)
        watchdog.start()
        try:
            yield
        finally:
            watchdog.cancel()

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()


@contextlib.contextmanager
def started(module: str, copies: int = 1) -> Iterator[Loads]:
    """Ready to run, and stopped at the end; raises `TargetError`."""
    loads = Loads(module, copies)
    try:
        loads.start()
        yield loads
    finally:
        loads.stop()


def main(work: Callable[[Login, float, Mapping[str, Any]], Mapping[str, Any]]) -> None:
    """The other side: what a module of load clients does when it is run."""
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            done = work(Login(**asked.pop("login")), asked.pop("seconds"), asked)
        except Exception as error:  # whatever it is, it is why there is no figure
            done = {"error": f"{error}" or type(error).__name__}
        print(json.dumps(done), flush=True)


def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout
