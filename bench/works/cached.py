"""Reads that come again and again, with the query cache on.

PostgreSQL and PgBouncer answer the same reads; trio-pool those from memory that it has answered before and
whose tables nobody has written to since. How many of them that can be is the hit rate: 1,000 rows that come
back, and rows of the whole table that hardly ever do. In `cached-writes` one statement in a hundred writes to
the table, so that everything is read anew; in `cached-stampede` all clients want the same, which takes about
100 ms.

`cached-nothing` is what a cache costs where nothing can be kept.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING

import attrs

from .. import pgbench, poolers
from .ahead import long_rows
from .work import Plan, Work, by_pgbench, described

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..stage import Stage

CLIENTS = 32
HOT_ROWS = 1_000
WITHOUT = "trio-pool-off"
CACHE = """
[databases.postgres.cache]
enabled = true
"""
STAMPEDE_TIMES = 2
"""How many times as long as `long_rows` counts for the expensive statement takes."""

PROTOCOLS: tuple[pgbench.Protocol, ...] = ("simple", "prepared")


@contextlib.contextmanager
def repeated(share: int, protocol: pgbench.Protocol, stage: Stage) -> Iterator[Plan]:
    title = f"reads of which {share} % come again, cache on"
    with _beside(stage, title, protocol, reads(share)) as plan:
        yield plan


@contextlib.contextmanager
def written(stage: Stage) -> Iterator[Plan]:
    with _beside(stage, "reads that come again, one statement in 100 writes", "simple", writes()) as plan:
        yield plan


@contextlib.contextmanager
def stampede(stage: Stage) -> Iterator[Plan]:
    rows = STAMPEDE_TIMES * long_rows(stage.database.pgbench, stage.database.login)
    script = f"SELECT count(*) FROM generate_series(1, {rows});\n"
    with _beside(stage, "one statement of 100 ms, wanted by all", "simple", script) as plan:
        yield plan


@contextlib.contextmanager
def _beside(stage: Stage, title: str, protocol: pgbench.Protocol, script: str) -> Iterator[Plan]:
    clients, pool = stage.clients(CLIENTS), stage.pool()
    settings = poolers.Settings(pool, clients + 100)
    targets = (
        stage.direct(clients) | stage.trio_pool(attrs.evolve(settings, toml=CACHE)) | stage.bouncer(settings)
    )
    load = pgbench.Load(clients, protocol, ("-s", str(stage.database.scale)), script=script)
    yield by_pgbench(stage, described(title, protocol, clients, pool), targets, load)


@contextlib.contextmanager
def nothing(protocol: pgbench.Protocol, stage: Stage) -> Iterator[Plan]:
    clients, pool = stage.clients(CLIENTS), stage.pool()
    settings = poolers.Settings(pool, clients + 100)
    targets = stage.trio_pool(attrs.evolve(settings, toml=CACHE)) | stage.trio_pool(settings, WITHOUT)
    load = pgbench.Load(clients, protocol, ("-s", str(stage.database.scale)), script=UNCACHEABLE)
    title = described("reads that cannot be kept, cache on", protocol, clients, pool)
    yield by_pgbench(stage, title, targets, load)


UNCACHEABLE = """\
\\set aid random(1, 100000 * :scale)
SELECT abalance, random() FROM pgbench_accounts WHERE aid = :aid;
"""


def reads(share: int) -> str:
    """So many of a hundred are of rows that come again."""
    return f"""\
\\set aid random(1, {HOT_ROWS})
\\set cold random(1, 100)
\\if :cold > {share}
\\set aid random(1, 100000 * :scale)
\\endif
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
"""


def writes() -> str:
    return f"""\
\\set aid random(1, {HOT_ROWS})
\\set what random(1, 100)
\\if :what = 1
UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;
\\else
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
\\endif
"""


WORKS = (
    *(
        Work(
            f"cached-{protocol}-{share}",
            f"reads of which {share} % come again, cache on, {protocol} protocol, {CLIENTS} clients",
            functools.partial(repeated, share, protocol),
            against=("direct", "pgbouncer"),
        )
        for protocol in PROTOCOLS
        for share in (100, 90, 50)
    ),
    Work(
        "cached-writes",
        f"reads that come again, one statement in 100 writes, cache on, {CLIENTS} clients",
        written,
        against=("direct", "pgbouncer"),
    ),
    Work(
        "cached-stampede",
        f"one statement of 100 ms that {CLIENTS} clients want at the same time, cache on",
        stampede,
        against=("direct", "pgbouncer"),
    ),
    *(
        Work(
            f"cached-nothing-{protocol}",
            f"reads that cannot be kept: what the cache costs them, {protocol} protocol, {CLIENTS} clients",
            functools.partial(nothing, protocol),
            against=(WITHOUT,),
        )
        for protocol in PROTOCOLS
    ),
)
