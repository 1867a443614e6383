"""One run of pgbench: its command line, what it printed, and its log. Knows no pooler.

Latencies come from pgbench's own log of transactions, which is read when the run is over. Of fast works only
a sample is logged (`--sampling-rate`, drawn by pgbench for each transaction), about `LOGGED_PER_SECOND`, so
that writing does not become part of what is measured.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import attrs

from .figures import latencies
from .problems import TargetError
from .processes import seconds_of_children
from .sample import Done

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .login import Login

Protocol = Literal["simple", "extended", "prepared"]

# Beyond its own time a run may take this long to connect and to finish.
GRACE_SECONDS = 30.0

# How many different complaints of a run are kept.
KEPT_COMPLAINTS = 5

# 2,000 lines of 40 bytes are nothing to the disk; p99.9 of a run of 5 s then rests on ten transactions.
LOGGED_PER_SECOND = 2000.0


class PgbenchError(TargetError):
    """pgbench failed, or did nothing; the message holds what it printed."""


@attrs.frozen
class Load:
    """What pgbench does. `options` are those that make the difference, such as `("-S",)`.

    `script` is the text of a custom one, which takes the place of those built in.

    `threads`: pgbench prepares a statement with a call that blocks its thread, for which it needs a server.
    If other clients of the thread are inside transactions, and so have all servers, none of them goes on
    again. So transactions of more than one prepared statement, by more clients than servers, need a thread
    for every client.

    `leave_out`: seconds at the beginning whose latencies do not count; the run takes so much longer.
    """

    clients: int
    protocol: Protocol = "simple"
    options: tuple[str, ...] = ("-S",)
    threads: int = 1
    script: str = ""
    leave_out: int = 0


@attrs.frozen
class Run:
    """What one run did: transactions, and transactions per second without the time to connect.

    `load`: the processor time that pgbench took, of what its threads could have had; near 1 it is the limit.
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


@attrs.frozen
class Logged:
    """One line of the log: whose transaction, when it ended, and the milliseconds it took."""

    client: int
    end: float
    milliseconds: float


def parse(printed: str) -> Run:
    """Read pgbench's report; raises `PgbenchError` if it is none, or if transactions failed."""
    transactions = re.search(r"actually processed: (\d+)", printed)
    tps = re.search(r"^tps = ([\d.]+)", printed, re.MULTILINE)
    failed = re.search(r"number of failed transactions: (\d+)", printed)
    if transactions is None or tps is None or int(transactions[1]) == 0 or (failed and int(failed[1]) > 0):
        raise PgbenchError(printed)
    return Run(int(transactions[1]), float(tps[1]))


def initialize(program: Path, login: Login, scale: int = 1) -> None:
    """Create pgbench's tables; raises `PgbenchError`."""
    options = ["-i", "-q", "-s", str(scale), *_where(login)]
    _succeed(program, login, options, "", 2 * GRACE_SECONDS + 2 * scale)


def run(program: Path, login: Login, load: Load, seconds: int) -> Run:
    """Run it for so many seconds; raises `PgbenchError`."""
    before = seconds_of_children()
    options = _options(login, load, seconds)
    printed = _succeed(program, login, options, load.script, seconds + GRACE_SECONDS).stdout
    cores = min(load.threads, os.cpu_count() or 1)
    return attrs.evolve(parse(printed), load=(seconds_of_children() - before) / seconds / cores)


def run_logged(
    program: Path, login: Login, load: Load, seconds: int, sampling: float = 1.0
) -> tuple[Run, list[Logged]]:
    """As `run`, for `leave_out` seconds more; and the log without those. Raises `PgbenchError`."""
    with tempfile.TemporaryDirectory(prefix="trio-pool-bench-") as directory:
        logging = ["-l", "--log-prefix", f"{directory}/log"]
        rate = [f"--sampling-rate={sampling:.4f}"] if sampling < 1 else []
        logged = attrs.evolve(load, options=(*load.options, *logging, *rate))
        done = run(program, login, logged, seconds + load.leave_out)
        lines = (line for file in Path(directory).iterdir() for line in file.read_text().splitlines())
        return done, read_log(lines, load.leave_out)


def measure(
    program: Path,
    login: Login,
    load: Load,
    seconds: int,
    sampling: float = 1.0,
    counted: Callable[[Logged], bool] = lambda line: True,
) -> Done:
    """One run with its latencies; of the transactions that are `counted` only. Raises `PgbenchError`."""
    done, lines = run_logged(program, login, load, seconds, sampling)
    kept = [line.milliseconds for line in lines if counted(line)]
    share = len(kept) / len(lines) if lines else 1.0
    return Done(done.transactions, {"tps": done.tps * share}, latencies(kept), done.load)


def sampling_for(tps: float) -> float:
    """The share of transactions to log."""
    return min(1.0, LOGGED_PER_SECOND / tps) if tps else 1.0


def read_log(lines: Iterable[str], leave_out: float) -> list[Logged]:
    """The transactions of a log that ended at least so many seconds after the first did.

    A line is `client transaction microseconds script seconds microseconds` and maybe more (pgbench, "Per-
    Transaction Logging"); the last two are the time of its end.
    """
    read = []
    for line in lines:
        client, _number, microseconds, _script, second, fraction, *_ = line.split()
        read.append(Logged(int(client), int(second) + int(fraction) / 1e6, int(microseconds) / 1e3))
    begin = min((one.end for one in read), default=0.0) + leave_out
    return [one for one in read if one.end >= begin]


def endure(program: Path, login: Login, load: Load, seconds: int) -> Endured:
    """As `run`, but clients that fail, even all of them, do not make it fail."""
    options = _options(login, load, seconds)
    try:
        done = _pgbench(program, login, options, load.script, seconds + GRACE_SECONDS)
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


def version(program: Path) -> str:
    """Such as `pgbench (PostgreSQL) 18.6`."""
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout.strip()


def _options(login: Login, load: Load, seconds: int) -> list[str]:
    given = ["-n", "-T", seconds, "-c", load.clients, "-j", load.threads, "-M", load.protocol, *load.options]
    script = ["-f", "-"] if load.script else []
    return [*map(str, given), *script, *_where(login)]


def _where(login: Login) -> list[str]:
    return [*login.options(), login.database]


def _succeed(
    program: Path, login: Login, options: list[str], script: str, seconds: float
) -> subprocess.CompletedProcess[str]:
    try:
        done = _pgbench(program, login, options, script, seconds)
    except subprocess.TimeoutExpired:
        raise PgbenchError(f"pgbench did not end within {seconds:.0f} s") from None
    if done.returncode != 0:
        counted = [f"{number} x {line}" for line, number in complaints(done.stderr).items()]
        raise PgbenchError("; ".join(counted) or done.stdout)
    return done


def _pgbench(
    program: Path, login: Login, options: list[str], script: str, seconds: float
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *options],
        input=script,
        capture_output=True,
        text=True,
        timeout=seconds,
        env=login.environment(),
        start_new_session=True,
        check=False,
    )
