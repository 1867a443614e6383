"""pgbench's own script, much like TPC-B: seven statements, of which three contend for a few rows."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING

from .. import pgbench, poolers
from .work import Plan, Work, by_pgbench, described, threads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..stage import Stage

PROTOCOLS: tuple[pgbench.Protocol, ...] = ("simple", "prepared")
CLIENTS = 32

# What pgbench itself does before a run, for which it must know the tables: -n turns it off.
TIDY_UP = "vacuum pgbench_branches; vacuum pgbench_tellers; truncate pgbench_history;"


@contextlib.contextmanager
def plan(protocol: pgbench.Protocol, stage: Stage) -> Iterator[Plan]:
    clients, pool = stage.clients(CLIENTS), stage.pool()
    targets = stage.direct(clients) | stage.both(poolers.Settings(pool, clients + 100))
    title = described("TPC-B", protocol, clients, pool) + f", scale {stage.database.scale}"
    load = pgbench.Load(clients, protocol, ("-b", "tpcb-like"), threads(protocol, clients))

    def prepare() -> object:
        return stage.database.run_sql(TIDY_UP)

    yield by_pgbench(stage, title, targets, load, prepare=prepare)


WORKS = tuple(
    Work(f"tpcb-{protocol}", f"pgbench's TPC-B, {protocol} protocol", functools.partial(plan, protocol))
    for protocol in PROTOCOLS
)
