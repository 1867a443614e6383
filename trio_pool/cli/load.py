"""pgbench as a child of a Trio program, second by second. For the demo; knows no pooler and draws nothing.

Source: PostgreSQL 18, "pgbench": `--progress=1` prints `progress: 1.0 s, 14321.0 tps, lat 2.1 ms ...` to
standard error, the report comes on standard output.
"""

from __future__ import annotations

import os
import re
import subprocess
from functools import partial
from typing import TYPE_CHECKING

import attrs
import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

PROGRESS = re.compile(r"^progress: ([\d.]+) s, ([\d.]+) tps")
REPORT = re.compile(r"^tps = ([\d.]+)", re.MULTILINE)


class LoadError(Exception):
    """pgbench failed; the message holds what it printed."""


@attrs.frozen
class Load:
    """What pgbench is to do, for how many seconds, with how many clients."""

    name: str
    seconds: int
    clients: int
    options: tuple[str, ...] = ()


@attrs.define(eq=False)
class Pgbench:
    """pgbench's program, and the server that it connects to: as user `postgres`, database `postgres`."""

    program: Path
    host: str
    port: int

    async def initialize(self, scale: int) -> None:
        """Create its tables, `scale` times 100,000 rows. Raises `LoadError`."""
        await self._run(["-i", "-q", "-s", str(scale)], lambda line: None)

    async def run(self, load: Load, progress: Callable[[float, float], None]) -> float:
        """Transactions per second of the whole run; `progress` gets seconds and tps of each second.

        Raises `LoadError`. When it is cancelled pgbench is ended.
        """
        options = ["-n", "-T", str(load.seconds), "-c", str(load.clients), "-P", "1", *load.options]

        def read(line: str) -> None:
            if found := PROGRESS.match(line):
                progress(float(found[1]), float(found[2]))

        report = REPORT.search(await self._run(options, read))
        if report is None:
            raise LoadError("pgbench printed no result")
        return float(report[1])

    async def _run(self, options: Sequence[str], read: Callable[[str], None]) -> str:
        """Standard output; each line of standard error goes to `read`."""
        where = ["-h", self.host, "-p", str(self.port), "-U", "postgres", "postgres"]
        # What would lead libpq elsewhere stays out, and the messages are to be English.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        command = partial(
            trio.run_process,
            [str(self.program), *options, *where],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            check=False,
            env=kept | {"LC_ALL": "C"},
            start_new_session=True,  # the terminal's Ctrl-C is for us
        )
        printed: list[str] = []
        errors: list[str] = []

        def note(line: str) -> None:
            errors.append(line)
            read(line)

        async with trio.open_nursery() as nursery:
            process: trio.Process = await nursery.start(command)
            assert process.stdout is not None
            assert process.stderr is not None
            nursery.start_soon(_read_lines, process.stdout, printed.append)
            nursery.start_soon(_read_lines, process.stderr, note)
        if process.returncode != 0:
            raise LoadError("\n".join(errors))
        return "\n".join(printed)


async def _read_lines(stream: trio.abc.ReceiveStream, take: Callable[[str], None]) -> None:
    """Hand over each line, without its end, as it comes."""
    rest = ""
    async for chunk in stream:
        *lines, rest = (rest + bytes(chunk).decode(errors="replace")).split("\n")
        for line in lines:
            take(line)
    if rest:
        take(rest)
