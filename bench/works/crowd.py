"""Many clients on few servers: how long the unlucky ones wait, from pgbench's log of every transaction."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import attrs

from .. import pgbench, poolers
from ..results import Figure
from .work import TPS, Plan, Work, by_pgbench, described

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ..login import Login
    from ..sample import Done
    from ..stage import Stage

CLIENTS = 1000
# At the beginning all connect and all ask at once.
LEFT_OUT_SECONDS = 1

TAIL = Figure("tail", "p99 / p50", "lower", ".2f")
P99 = Figure("p99", "p99, milliseconds", "lower", ",.1f")


@contextlib.contextmanager
def plan(stage: Stage) -> Iterator[Plan]:
    clients, pool = stage.clients(CLIENTS), stage.pool()
    targets = stage.both(poolers.Settings(pool, clients + 100))
    title = described("select-only, every transaction logged", "simple", clients, pool)
    load = pgbench.Load(clients, leave_out=LEFT_OUT_SECONDS)
    yield by_pgbench(stage, title, targets, load, run=measure)


def measure(program: Path, login: Login, load: pgbench.Load, seconds: int, _sampling: float) -> Done:
    done = pgbench.measure(program, login, load, seconds)
    if done.latencies is None:
        raise pgbench.PgbenchError(f"no transaction ended after the first {load.leave_out} s")
    found = {"tail": done.latencies.tail, "p99": done.latencies.p99}
    return attrs.evolve(done, figures={**done.figures, **found})


WORKS = (
    Work(
        "crowd",
        f"{CLIENTS:,} clients on 20 servers: how long the unlucky ones wait",
        plan,
        figures=(TAIL, P99, TPS),
    ),
)
