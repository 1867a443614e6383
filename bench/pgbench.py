"""One run of pgbench: its command line, and what it printed. Knows no pooler."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING, Literal

import attrs

if TYPE_CHECKING:
    from pathlib import Path

Protocol = Literal["simple", "extended", "prepared"]

# Beyond its own time a run may take this long to connect and to finish.
GRACE_SECONDS = 30.0


class PgbenchError(Exception):
    """pgbench failed, or did nothing; the message holds what it printed."""


@attrs.frozen
class Work:
    """What pgbench does. `options` are those that make the difference, such as `("-S",)`."""

    name: str
    clients: int
    protocol: Protocol = "simple"
    options: tuple[str, ...] = ("-S",)
    threads: int = 1


@attrs.frozen
class Run:
    """What one run did: transactions, and transactions per second without the time to connect."""

    transactions: int
    tps: float


def parse(printed: str) -> Run:
    """Read pgbench's report; raises `PgbenchError` if it is none, or if transactions failed."""
    transactions = re.search(r"actually processed: (\d+)", printed)
    tps = re.search(r"^tps = ([\d.]+)", printed, re.MULTILINE)
    failed = re.search(r"number of failed transactions: (\d+)", printed)
    if transactions is None or tps is None or int(transactions[1]) == 0 or (failed and int(failed[1]) > 0):
        raise PgbenchError(printed)
    return Run(int(transactions[1]), float(tps[1]))


def initialize(bin_dir: Path, host: str, port: int, scale: int = 1) -> None:
    """Create pgbench's tables."""
    _pgbench(bin_dir, host, port, ["-i", "-q", "-s", str(scale)], GRACE_SECONDS + scale)


def run(bin_dir: Path, host: str, port: int, work: Work, seconds: int) -> Run:
    """Run the work for so many seconds as the user `postgres`; raises `PgbenchError`."""
    options = [
        "-n",
        "-T",
        str(seconds),
        "-c",
        str(work.clients),
        "-j",
        str(work.threads),
        "-M",
        work.protocol,
    ]
    return parse(_pgbench(bin_dir, host, port, [*options, *work.options], seconds + GRACE_SECONDS))


def _pgbench(bin_dir: Path, host: str, port: int, options: list[str], seconds: float) -> str:
    where = ["-h", host, "-p", str(port), "-U", "postgres", "postgres"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    try:
        done = subprocess.run(
            [bin_dir / "pgbench", *options, *where],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            env=kept,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PgbenchError(f"pgbench did not end within {seconds:.0f} s") from None
    if done.returncode != 0:
        raise PgbenchError(done.stderr + done.stdout)
    return done.stdout
