"""Other people's test suites through the pool; see `catalog` for which, `suite` for how."""

from __future__ import annotations

import concurrent.futures
from typing import TYPE_CHECKING

import pytest

from tests.suites.again import run_again
from tests.suites.catalog import SUITES, WHOLE
from tests.suites.comparison import Outcome, compare, read_exceptions, summary
from tests.suites.suite import SUITE_SECONDS, Address, Suite, SuiteUnavailable
from tests.support.pooler import Pooler
from trio_pool.cli.postgres import Installation, LocalPostgres, available_installations

if TYPE_CHECKING:
    from pathlib import Path

# Which PostgreSQL a suite meets, by the start of its label.
MEETS = {
    "asyncpg": "embedded",
    "pg8000": "system",
    "sqlalchemy_asyncpg": "system",
    "sqlalchemy_psycopg": "embedded",
}

# A client that waits for a lease must not be what a test of time-outs sees.
POOL_SIZE = 30


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(SUITE_SECONDS + 60)
@pytest.mark.parametrize("suite", SUITES.values(), ids=list(SUITES))
def test_a_suite_cannot_tell_the_pool_from_postgresql(
    suite: Suite, installation: Installation, tmp_path: Path
) -> None:
    """What passes of a suite on PostgreSQL passes through the pool, or is a documented exception."""
    met = [found for found in available_installations() if found.label.startswith(MEETS[suite.name])]
    if met and installation not in met and not WHOLE:
        pytest.skip("runs on the other PostgreSQL; TRIO_POOL_SUITES=all runs it on both")
    try:
        directory = suite.fetch()
    except SuiteUnavailable as reason:
        pytest.skip(f"the tests of {suite.distribution} cannot be had: {reason}")
    with (
        local_postgres(installation) as plain,
        local_postgres(installation) as origin,
        Pooler(origin, tls=False, auth="trust", extra=every_database_of(origin)) as pooler,
        concurrent.futures.ThreadPoolExecutor() as threads,
    ):
        beside = Address(plain.host, plain.port)
        behind = Address(origin.host, origin.port)
        through = Address(pooler.host, pooler.port)
        suite.prepare(beside)
        suite.prepare(behind)
        direct = threads.submit(suite.run, directory, beside, beside, log=tmp_path / "direct.log")
        pooled = threads.submit(suite.run, directory, through, behind, log=tmp_path / "pool.log")
        counts = f"directly: {summary(direct.result())}; through the pool: {summary(pooled.result())}"
        print(counts)
        exceptions = read_exceptions(suite.exceptions)
        again = run_again(suite, directory, through, behind, direct.result(), pooled.result(), exceptions)
        problems = compare(direct.result(), again, exceptions, complete=True)
        passed = sum(result.outcome is Outcome.PASSED for result in direct.result().values())
        assert passed >= suite.least, counts
        assert not problems, "\n".join([counts, *problems])


def local_postgres(installation: Installation) -> LocalPostgres:
    settings: dict[str, str | int | bool] = {
        "max_connections": 150,
        "max_prepared_transactions": 10,
        "log_connections": True,
        "jit": False,
    }
    return LocalPostgres(bin_dir=installation.bin_dir, settings=settings)


def every_database_of(origin: LocalPostgres) -> dict[str, object]:
    """Configuration: any database, with the client's own user."""
    everything = {
        "origin": f"postgresql://{origin.host}:{origin.port}/?sslmode=disable",
        "pool_size": POOL_SIZE,
    }
    return {"databases": {"app": None, "*": everything}}


@pytest.mark.parametrize("suite", SUITES.values(), ids=list(SUITES))
def test_every_exception_has_a_reason(suite: Suite) -> None:
    """The file can be read, and no reason in it is empty."""
    exceptions = read_exceptions(suite.exceptions)
    reasons = {**exceptions.must, **exceptions.may, **exceptions.hasty}
    assert [name for name, reason in reasons.items() if not reason.strip()] == []
