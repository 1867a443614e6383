"""Readers and writers at random: no answer from memory is older than a commit that its reader could know of,
and none is another's.

TRIO_POOL_CHECKER_SECONDS=N is the long form, for so long per PostgreSQL; TRIO_POOL_CHECKER_SEED chooses what
happens. The schema changes in some seconds of each four only (`writer.QUIET`).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from tests.cache.checker.program import ENOUGH, Mix, Report, run, run_edges
from tests.support.target import DATABASE, USER
from trio_pool.cache.freshness import Freshness

if TYPE_CHECKING:
    from trio_pool.cli.postgres import LocalPostgres

SECONDS = float(os.environ.get("TRIO_POOL_CHECKER_SECONDS", "2"))
SEED = os.environ.get("TRIO_POOL_CHECKER_SEED", "1")
LAG = 2.0
"""Seconds after which a write made past the pooler must be known: far more than is measured."""
NEWS = 2.0
"""The same between two edges that are not strict."""
SABOTAGED = 30.0
"""Seconds within which a fault must be found; most are within three."""

pytestmark = [pytest.mark.e2e, pytest.mark.trio, pytest.mark.timeout(SECONDS + 120)]


def _finds_nothing(report: Report) -> None:
    print(report)
    assert not report.ledger.violations, str(report)
    assert report.ledger.commits > 0
    assert report.hits >= ENOUGH


async def test_nobody_reads_what_is_older_than_a_known_commit(postgres: LocalPostgres) -> None:
    """Whatever is written in whatever way, and whoever asks for it."""
    report = await run(postgres, Mix(SEED, SECONDS, keep_going=SECONDS > 10))
    _finds_nothing(report)


async def test_a_cache_without_invalidation_is_found(any_postgres: LocalPostgres) -> None:
    """The checker can fail: answers that only age are older than commits."""
    mix = Mix(SEED, SABOTAGED, share_of_schema=0, share_of_kills=0)
    with mock.patch.object(Freshness, "invalidate"):
        report = await run(any_postgres, mix)
    assert any(found.startswith("STALE") for found in report.ledger.violations), str(report)


async def test_answers_for_anybody_are_found(any_postgres: LocalPostgres) -> None:
    """The checker can fail: without who asks in the key, somebody gets another's answer."""
    mix = Mix(SEED, SABOTAGED, share_of_schema=0, share_of_kills=0)
    with mock.patch("trio_pool.net.cached.identity", return_value=()):
        report = await run(any_postgres, mix)
    assert any(found.startswith("FOREIGN") for found in report.ledger.violations), str(report)


async def test_writes_made_elsewhere_are_read_within_the_lag(any_postgres: LocalPostgres) -> None:
    """Half of the writes go past the pooler, which learns of them from the stream of changes."""
    any_postgres.run_sql(f"ALTER ROLE {USER} REPLICATION")
    mix = Mix(SEED, SECONDS, keep_going=SECONDS > 10, share_of_schema=0, share_past=0.5, lag=lambda: LAG)
    report = await run(any_postgres, mix, cache={"invalidation": "replication"})
    _finds_nothing(report)


@pytest.mark.parametrize("strict", [True, False])
async def test_edges_of_one_origin_read_what_each_other_write(
    any_postgres: LocalPostgres, strict: bool
) -> None:
    """Readers and writers at two edges: strictly at once, and otherwise soon."""
    bound = 0.0 if strict else NEWS
    mix = Mix(
        SEED,
        SECONDS,
        keep_going=SECONDS > 10,
        bound=bound,
        writers=(DATABASE,) * 4,
        readers=((DATABASE, USER),) * 8,
    )
    report = await run_edges(any_postgres, mix, cache={"strict": strict})
    _finds_nothing(report)
