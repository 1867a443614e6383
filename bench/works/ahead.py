"""More readers than servers, with statements of several clients queued ahead on one server.

PgBouncer takes part with the same pool and, on the same machine, with a larger one as well, which is what its
users would do instead; PostgreSQL with 64 connections, however many clients the poolers have.

In `ahead-mixed` one client in ten runs statements of about 50 ms, which must not make the others wait: proven
reads as well, so that they may be queued ahead, of a length that is found out at the beginning.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING

import attrs

from .. import figures, pgbench, poolers
from ..results import Figure
from .work import TPS, Plan, Work, behind_link, by_pgbench, described

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ..login import Login
    from ..sample import Done
    from ..stage import Stage

PROTOCOLS: tuple[pgbench.Protocol, ...] = ("simple", "prepared")
CLIENTS = (64, 1000)
DIRECT_CLIENTS = 64
POOL, LARGER_POOL, AHEAD = 8, 20, 8
LINK_MILLISECONDS = 1.0
LARGER, WITHOUT = f"pgbouncer-{LARGER_POOL}", "trio-pool-off"

LONG_MILLISECONDS = 50.0
LONG_EVERY = 10
CALIBRATION_ROWS = 200_000

P99 = Figure("p99", "p99 of the short statements, milliseconds", "lower", ",.2f")
SHORT = attrs.evolve(TPS, title="short statements per second")


@contextlib.contextmanager
def beside(protocol: pgbench.Protocol, own: int, stage: Stage) -> Iterator[Plan]:
    clients, pool = stage.clients(own), stage.pool(POOL)
    settings = poolers.Settings(pool, clients + 100)
    targets = (
        stage.direct(DIRECT_CLIENTS)
        | stage.trio_pool(attrs.evolve(settings, queue_ahead=AHEAD))
        | stage.bouncer(settings)
        | stage.bouncer(attrs.evolve(settings, pool=LARGER_POOL), LARGER)
    )
    title = described(f"queue ahead {AHEAD}, select-only", protocol, clients, pool)
    load = pgbench.Load(clients, protocol)
    yield by_pgbench(stage, title, targets, load, clients_of={"direct": DIRECT_CLIENTS})


@contextlib.contextmanager
def far_off(protocol: pgbench.Protocol, own: int, stage: Stage) -> Iterator[Plan]:
    clients, pool = stage.clients(own), stage.pool(POOL)
    with behind_link(stage, LINK_MILLISECONDS) as between:
        settings = poolers.Settings(pool, clients + 100, link=between)
        targets = stage.trio_pool(attrs.evolve(settings, queue_ahead=AHEAD)) | stage.bouncer(settings)
        title = described(f"queue ahead {AHEAD}, select-only", protocol, clients, pool)
        away = f", database {LINK_MILLISECONDS:g} ms away"
        yield by_pgbench(stage, title + away, targets, pgbench.Load(clients, protocol))


@contextlib.contextmanager
def mixed(stage: Stage) -> Iterator[Plan]:
    clients, pool = stage.clients(DIRECT_CLIENTS), stage.pool(POOL)
    rows = long_rows(stage.database.pgbench, stage.database.login)
    settings = poolers.Settings(pool, clients + 100)
    targets = (
        stage.trio_pool(attrs.evolve(settings, queue_ahead=AHEAD))
        | stage.trio_pool(settings, WITHOUT)
        | stage.bouncer(settings)
    )
    title = described(
        f"queue ahead {AHEAD}, one client in ten with statements of 50 ms", "simple", clients, pool
    )
    options = ("-s", str(stage.database.scale))
    load = pgbench.Load(clients, "simple", options, script=script(rows))
    yield by_pgbench(stage, title, targets, load, run=measure_short)


def script(rows: int) -> str:
    """Long statements for every tenth client, short ones for the others."""
    return f"""\
\\if :client_id % {LONG_EVERY} = 0
{long_statement(rows)};
\\else
\\set aid random(1, 100000 * :scale)
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
\\endif
"""


def long_statement(rows: int) -> str:
    """Reads no table and calls nothing that is volatile."""
    return f"SELECT count(*) FROM generate_series(1, {rows})"


def long_rows(program: Path, login: Login) -> int:
    """How many rows `long_statement` must count to take about 50 ms on this machine, when it is quiet."""
    load = pgbench.Load(1, "simple", (), script=long_statement(CALIBRATION_ROWS) + ";\n")
    _, lines = pgbench.run_logged(program, login, load, 1)
    taken = figures.latencies(line.milliseconds for line in lines)
    if taken is None:
        raise pgbench.PgbenchError("no statement ended while the long one was calibrated")
    return max(1, round(CALIBRATION_ROWS * LONG_MILLISECONDS / taken.p50))


def is_short(line: pgbench.Logged) -> bool:
    return line.client % LONG_EVERY != 0


def measure_short(program: Path, login: Login, load: pgbench.Load, seconds: int, _sampling: float) -> Done:
    """Every transaction is logged: there are few long ones, and the share of the short ones is exact."""
    done = pgbench.measure(program, login, load, seconds, counted=is_short)
    if done.latencies is None:
        raise pgbench.PgbenchError("no short statement ended")
    return attrs.evolve(done, figures={**done.figures, "p99": done.latencies.p99})


WORKS = (
    *(
        Work(
            f"ahead-{protocol}-{clients}",
            f"select-only queued ahead on {POOL} servers, {protocol} protocol, {clients:,} clients",
            functools.partial(beside, protocol, clients),
            against=("pgbouncer", LARGER, "direct"),
        )
        for protocol in PROTOCOLS
        for clients in CLIENTS
    ),
    *(
        Work(
            f"ahead-link-{protocol}-{clients}",
            f"the same, database {LINK_MILLISECONDS:g} ms away, {protocol} protocol, {clients:,} clients",
            functools.partial(far_off, protocol, clients),
        )
        for protocol in PROTOCOLS
        for clients in CLIENTS
    ),
    Work(
        "ahead-mixed",
        "select-only queued ahead beside statements of 50 ms: what the short ones suffer",
        mixed,
        figures=(P99, SHORT),
        against=(WITHOUT, "pgbouncer"),
    ),
)
