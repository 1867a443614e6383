"""Transactions of several statements: BEGIN, a select by primary key, END; beside the database or far off.

Behind the link the pool is the bottleneck: more clients than the servers can serve, each server busy for as
many round trips as a lease lasts. PostgreSQL directly is left out there, since so many connections through
the link would measure the link.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING

from .. import pgbench, poolers
from .work import Plan, Work, behind_link, by_pgbench, described, threads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..stage import Stage

SCRIPT = """\
\\set aid random(1, 100000 * :scale)
BEGIN;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
END;
"""

WHAT = "BEGIN, SELECT, END"
PROTOCOLS: tuple[pgbench.Protocol, ...] = ("simple", "prepared")
CLIENTS = 32
LINK_CLIENTS, LINK_POOL, LINK_MILLISECONDS = 64, 6, 1.0


def load(stage: Stage, protocol: pgbench.Protocol, clients: int) -> pgbench.Load:
    options = ("-s", str(stage.database.scale))
    return pgbench.Load(clients, protocol, options, threads(protocol, clients), SCRIPT)


@contextlib.contextmanager
def beside(protocol: pgbench.Protocol, stage: Stage) -> Iterator[Plan]:
    clients, pool = stage.clients(CLIENTS), stage.pool()
    targets = stage.direct(clients) | stage.both(poolers.Settings(pool, clients + 100))
    title = described(WHAT, protocol, clients, pool)
    yield by_pgbench(stage, title, targets, load(stage, protocol, clients))


@contextlib.contextmanager
def far_off(protocol: pgbench.Protocol, stage: Stage) -> Iterator[Plan]:
    clients, pool = stage.clients(LINK_CLIENTS), stage.pool(LINK_POOL)
    with behind_link(stage, LINK_MILLISECONDS) as between:
        targets = stage.both(poolers.Settings(pool, clients + 100, link=between))
        title = described(WHAT, protocol, clients, pool) + f", database {LINK_MILLISECONDS:g} ms away"
        yield by_pgbench(stage, title, targets, load(stage, protocol, clients))


WORKS = tuple(
    Work(f"{name}-{protocol}", f"{WHAT}{where}, {protocol} protocol", functools.partial(where_plan, protocol))
    for name, where, where_plan in (
        ("transaction", "", beside),
        ("transaction-link", f" with {LINK_MILLISECONDS:g} ms between pooler and database", far_off),
    )
    for protocol in PROTOCOLS
)
