"""asyncpg's own tests through the pool; see `asyncpg_suite`."""

from __future__ import annotations

import concurrent.futures
import json
from typing import TYPE_CHECKING

import pytest

from tests.suites.asyncpg_suite import (
    SUITE_SECONDS,
    Address,
    Exceptions,
    Outcome,
    Result,
    SuiteUnavailable,
    compare,
    fetch_suite,
    read_exceptions,
    read_reports,
    run_suite,
    summary,
)
from tests.support.pooler import Pooler
from trio_pool.cli.postgres import Installation, LocalPostgres

if TYPE_CHECKING:
    from pathlib import Path

PASSED, FAILED = Result(Outcome.PASSED), Result(Outcome.FAILED, "AssertionError: 1 != 2")

# A client that waits for a lease must not be what a test of asyncpg's own time-outs sees.
POOL_SIZE = 30


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(SUITE_SECONDS + 60)
def test_asyncpg_cannot_tell_the_pool_from_postgresql(installation: Installation, tmp_path: Path) -> None:
    """What passes of asyncpg's suite on PostgreSQL passes through the pool, or is a documented exception."""
    try:
        suite = fetch_suite()
    except SuiteUnavailable as reason:
        pytest.skip(f"asyncpg's tests cannot be had: {reason}")
    with (
        local_postgres(installation) as plain,
        local_postgres(installation) as origin,
        Pooler(origin, tls=False, auth="trust", extra=every_database_of(origin)) as pooler,
        concurrent.futures.ThreadPoolExecutor() as threads,
    ):
        beside = Address(plain.host, plain.port)
        behind = Address(origin.host, origin.port)
        through = Address(pooler.host, pooler.port)
        direct = threads.submit(run_suite, suite, beside, beside, log=tmp_path / "direct.log")
        pooled = threads.submit(run_suite, suite, through, behind, log=tmp_path / "pool.log")
        problems = compare(direct.result(), pooled.result(), read_exceptions(), complete=True)
        counts = f"directly: {summary(direct.result())}; through the pool: {summary(pooled.result())}"
        assert sum(result == PASSED for result in direct.result().values()) > 300, counts
        assert not problems, "\n".join([counts, *problems])


def local_postgres(installation: Installation) -> LocalPostgres:
    return LocalPostgres(
        bin_dir=installation.bin_dir, settings={"max_connections": 150, "log_connections": True, "jit": False}
    )


def every_database_of(origin: LocalPostgres) -> dict[str, object]:
    """Configuration: any database, with the client's own user."""
    everything = {
        "origin": f"postgresql://{origin.host}:{origin.port}/?sslmode=disable",
        "pool_size": POOL_SIZE,
    }
    return {"databases": {"app": None, "*": everything}}


def report(name: str, when: str, outcome: str, message: str = "") -> str:
    return json.dumps({"id": name, "when": when, "outcome": outcome, "message": message}) + "\n"


def test_a_tests_worst_report_counts() -> None:
    """A failing subtest or teardown makes the test a failure, whatever is reported later."""
    text = (
        report("a", "setup", "passed")
        + report("a", "call", "failed", "AssertionError: 1 != 2")
        + report("a", "call", "passed")
        + report("a", "teardown", "passed")
        + report("b", "setup", "skipped", "no")
        + report("b", "teardown", "passed")
    )
    assert read_reports(text) == {"a": FAILED, "b": Result(Outcome.SKIPPED, "no")}


def test_a_test_that_never_ended_has_not_passed() -> None:
    """When the suite dies inside a test, the reports so far do not count as its success."""
    text = report("a", "setup", "passed") + report("a", "call", "passed")
    assert read_reports(text) == {"a": Result(Outcome.UNFINISHED)}


@pytest.mark.parametrize("through", [{"a": FAILED}, {"a": Result(Outcome.SKIPPED)}, {}])
def test_a_test_that_passes_only_directly_is_a_problem(through: dict[str, Result]) -> None:
    """Failing, being skipped and not being reached are all told, unless the test is an exception."""
    assert len(compare({"a": PASSED}, through, Exceptions(), complete=True)) == 1
    assert compare({"a": PASSED}, through, Exceptions({"a": "reason"}), complete=True) == []


def test_a_test_that_fails_directly_is_nobodys_fault() -> None:
    """Only what works without the pool is asked of it."""
    assert compare({"a": FAILED}, {"a": FAILED}, Exceptions(), complete=True) == []


def test_the_list_of_exceptions_only_shrinks() -> None:
    """An exception that passes, or that no test bears the name of, is a problem."""
    same = {"a": PASSED}
    assert compare(same, same, Exceptions({"a": "reason"}), complete=True) == [
        "a passes through the pool: take it out of the exceptions"
    ]
    assert compare(same, same, Exceptions({"b": "reason"}), complete=True) == [
        "b is an exception and no test of the suite"
    ]
    assert compare(same, same, Exceptions({"b": "reason"}), complete=False) == []


def test_every_exception_has_a_reason() -> None:
    """The file can be read, and no reason in it is empty."""
    exceptions = read_exceptions()
    reasons = {**exceptions.must, **exceptions.may}
    assert [name for name, reason in reasons.items() if not reason.strip()] == []
