"""Select-only: one row by its primary key, which is the least that a pooler can be in the way of."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING

from .. import pgbench, poolers
from .work import PROTOCOLS, Plan, Work, by_pgbench, described

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..stage import Stage

CLIENTS = (1, 32, 150, 1000)


@contextlib.contextmanager
def plan(protocol: pgbench.Protocol, own: int, stage: Stage) -> Iterator[Plan]:
    clients, pool = stage.clients(own), stage.pool()
    targets = stage.direct(clients) | stage.both(poolers.Settings(pool, clients + 100))
    title = described("select-only", protocol, clients, pool)
    yield by_pgbench(stage, title, targets, pgbench.Load(clients, protocol))


WORKS = tuple(
    Work(
        f"select-{protocol}-{clients}",
        f"one row by its primary key, {protocol} protocol, {clients:,} clients",
        functools.partial(plan, protocol, clients),
    )
    for protocol in PROTOCOLS
    for clients in CLIENTS
)
