"""One run of pgbench: its command line, and what it printed. Knows no pooler."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable

Protocol = Literal["simple", "extended", "prepared"]

# Beyond its own time a run may take this long to connect and to finish.
GRACE_SECONDS = 30.0

# How many different complaints of a run are kept.
KEPT_COMPLAINTS = 5


class PgbenchError(Exception):
    """pgbench failed, or did nothing; the message holds what it printed."""


@attrs.frozen
class Work:
    """What pgbench does. `options` are those that make the difference, such as `("-S",)`.

    `script` is the text of a custom one, which takes the place of those built in.

    `threads`: pgbench prepares a statement with a call that blocks its thread, for which it needs a server.
    If other clients of the thread are inside transactions, and so have all servers, none of them goes on
    again. So transactions of more than one prepared statement, by more clients than servers, need a thread
    for every client.
    """

    name: str
    clients: int
    protocol: Protocol = "simple"
    options: tuple[str, ...] = ("-S",)
    threads: int = 1
    script: str = ""


@attrs.frozen
class Run:
    """What one run did: transactions, and transactions per second without the time to connect.

    `load`: how many cores pgbench itself kept busy; near the number of its threads it is the limit.
    """

    transactions: int
    tps: float
    load: float | None = None


@attrs.frozen
class Endured:
    """What one run did whose clients may have failed: nothing at all is a result too.

    `complaints`: what pgbench printed on standard error, and how often, the clients' numbers aside.
    `ended` is False if it had to be killed.
    """

    transactions: int
    tps: float
    complaints: dict[str, int]
    ended: bool = True


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
    where = _where(host, port)
    _succeed(bin_dir, ["-i", "-q", "-s", str(scale), *where], "", GRACE_SECONDS + scale)


def run(bin_dir: Path, host: str, port: int, work: Work, seconds: int) -> Run:
    """Run the work for so many seconds as the user `postgres`; raises `PgbenchError`."""
    before = _seconds_of_children()
    printed = _succeed(
        bin_dir, _options(host, port, work, seconds), work.script, seconds + GRACE_SECONDS
    ).stdout
    load = (_seconds_of_children() - before) / seconds
    return attrs.evolve(parse(printed), load=load)


def run_logged(
    bin_dir: Path, host: str, port: int, work: Work, seconds: int, leave_out: int
) -> tuple[Run, list[float]]:
    """As `run`, for `leave_out` seconds more; and the milliseconds of each transaction that ended after them.

    Raises `PgbenchError`.
    """
    with tempfile.TemporaryDirectory(prefix="trio-pool-bench-") as directory:
        options = (*work.options, "-l", "--log-prefix", f"{directory}/log")
        logged = attrs.evolve(work, options=options)
        done = run(bin_dir, host, port, logged, seconds + leave_out)
        lines = (line for file in Path(directory).iterdir() for line in file.read_text().splitlines())
        milliseconds = read_log(lines, leave_out)
    if not milliseconds:
        raise PgbenchError(f"no transaction ended after the first {leave_out} s")
    return done, milliseconds


def read_log(lines: Iterable[str], leave_out: float) -> list[float]:
    """Milliseconds of the transactions of a log that ended at least so many seconds after the first did.

    A line is `client transaction microseconds script seconds microseconds` and maybe more (pgbench, "Per-
    Transaction Logging"); the last two are the time of its end.
    """
    ends, taken = [], []
    for line in lines:
        _client, _number, microseconds, _script, second, fraction, *_ = line.split()
        ends.append(int(second) + int(fraction) / 1e6)
        taken.append(int(microseconds) / 1e3)
    begin = min(ends, default=0.0) + leave_out
    return [one for end, one in zip(ends, taken, strict=True) if end >= begin]


def endure(bin_dir: Path, host: str, port: int, work: Work, seconds: int) -> Endured:
    """As `run`, but clients that fail, even all of them, do not make it fail."""
    options = _options(host, port, work, seconds)
    try:
        done = _pgbench(bin_dir, options, work.script, seconds + GRACE_SECONDS)
    except subprocess.TimeoutExpired as error:
        return Endured(0, 0.0, complaints((error.stderr or b"").decode(errors="replace")), ended=False)
    try:
        finished = parse(done.stdout)
    except PgbenchError:
        finished = Run(0, 0.0)
    return Endured(finished.transactions, finished.tps, complaints(done.stderr))


def complaints(printed: str) -> dict[str, int]:
    """The lines of standard error by how often they came, the most frequent ones."""
    without_numbers = (re.sub(r"client \d+", "client", line) for line in printed.splitlines() if line.strip())
    return dict(Counter(without_numbers).most_common(KEPT_COMPLAINTS))


def _options(host: str, port: int, work: Work, seconds: int) -> list[str]:
    given = ["-n", "-T", seconds, "-c", work.clients, "-j", work.threads, "-M", work.protocol, *work.options]
    script = ["-f", "-"] if work.script else []
    return [*map(str, given), *script, *_where(host, port)]


def _where(host: str, port: int) -> list[str]:
    return ["-h", host, "-p", str(port), "-U", "postgres", "postgres"]


def _succeed(
    bin_dir: Path, options: list[str], script: str, seconds: float
) -> subprocess.CompletedProcess[str]:
    try:
        done = _pgbench(bin_dir, options, script, seconds)
    except subprocess.TimeoutExpired:
        raise PgbenchError(f"pgbench did not end within {seconds:.0f} s") from None
    if done.returncode != 0:
        raise PgbenchError(done.stderr + done.stdout)
    return done


def _pgbench(
    bin_dir: Path, options: list[str], script: str, seconds: float
) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return subprocess.run(
        [bin_dir / "pgbench", *options],
        input=script,
        capture_output=True,
        text=True,
        timeout=seconds,
        env=kept,
        check=False,
    )


def _seconds_of_children() -> float:
    """CPU time of the processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
