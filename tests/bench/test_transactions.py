"""The works run, and what they read from pgbench and from a pooler is read right. No timing is asserted."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

import pytest

from bench import abusers, companion, figures, pgbench, transactions
from trio_pool.cli.postgres import LocalPostgres

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trio_pool.cli.postgres import Installation

SMALL = ["--rounds", "1", "--seconds", "1", "--scale", "1", "--protocol", "simple", "--without", "pgbouncer"]


def test_latencies_are_ranks() -> None:
    """Every percentile is a latency that occurred, and the tail is p99 in units of p50."""
    seen = figures.latencies(float(one) for one in range(1000, 0, -1))
    assert seen == figures.Latencies(500.0, 950.0, 990.0, 999.0, 1.98)


def test_one_latency_is_all_percentiles() -> None:
    """The shortest log gives figures too."""
    assert figures.latencies([3.0]) == figures.Latencies(3.0, 3.0, 3.0, 3.0, 1.0)


def test_the_first_second_of_a_log_is_left_out() -> None:
    """Counted from the end of the first transaction, whichever thread's log holds it."""
    log = ["1 0 9000 0 101 0", "0 0 8000 0 100 999999", "0 1 1500 0 102 0", "1 1 2500 0 101 999998"]
    assert pgbench.read_log(log, 1) == [1.5]


def test_complaints_are_counted() -> None:
    """Fifty clients that fail for one reason are one complaint."""
    printed = "".join(f"pgbench: error: client {one} aborted: no\n" for one in range(50)) + "pgbench: over\n"
    assert pgbench.complaints(printed) == {"pgbench: error: client aborted: no": 50, "pgbench: over": 1}


def test_a_pooler_that_did_nothing_has_no_ratio() -> None:
    """Rather than an infinite one."""
    assert figures.ratio(5.0, 0.0) is None
    assert figures.ratio(0.0, 5.0) == 0.0


def test_sqlstate() -> None:
    """Abusers report what they were told by its code."""
    assert abusers.sqlstate(b"E\0\0\0\x1aSERROR\0C25P03\0Midle\0\0") == "25P03"


def test_unknown_works_are_named() -> None:
    """A misspelt work does not leave the others unmeasured silently."""
    assert transactions.chosen_works("crowd,tpcb") == ["crowd", "tpcb"]
    with pytest.raises(argparse.ArgumentTypeError, match="crowds"):
        transactions.chosen_works("crowds,tpcb")


@pytest.fixture(scope="module")
def impatient(installation: Installation) -> Iterator[LocalPostgres]:
    """A PostgreSQL that ends transactions that are idle for 100 ms, and lets everybody in."""
    limit = {"idle_in_transaction_session_timeout": "100ms"}
    with LocalPostgres(bin_dir=installation.bin_dir, settings=limit) as postgres:
        yield postgres


@pytest.mark.e2e
def test_abusers_that_are_awake_start_again(impatient: LocalPostgres) -> None:
    """They find out that they were disconnected while they sleep, are told why, and come back."""
    arguments = ("hold", str(impatient.port), "--clients", "2", "--hold", "1", "--awake")
    with companion.running(abusers.__name__, *arguments, ready_seconds=30) as process:
        met = json.loads(process.finish())
    assert met["disconnected"] >= 2
    assert met["errors"] == {"25P03": met["disconnected"]}
    assert met["began"] > 2
    assert met["held"] >= 0.1


@pytest.mark.e2e
def test_abusers_vanish(impatient: LocalPostgres) -> None:
    """At their rate, leaving queries behind, and none was refused."""
    arguments = ("vanish", str(impatient.port), "--rate", "10", "--query-seconds", "60")
    with companion.running(abusers.__name__, *arguments, ready_seconds=30) as process:
        orphans = int(
            impatient.run_sql("select count(*) from pg_stat_activity where query ~ 'pg_sleep\\(60'")
        )
        met = json.loads(process.finish())
    impatient.run_sql("select pg_terminate_backend(pid) from pg_stat_activity where query ~ 'pg_sleep\\(60'")
    assert met["vanished"] >= 1
    assert orphans >= 1
    assert met["refused"] == 0


@pytest.mark.e2e
@pytest.mark.slow
def test_works_run_through_trio_pool(tmp_path: Path, installation: Installation) -> None:
    """One command starts everything, measures, stops everything and writes the figures down."""
    file = tmp_path / "figures.json"
    few = ["--link-clients", "4", "--crowd", "8", "--honest", "4", "--abusers", "2", "--hold", "0.5"]
    works = ["begin-select-end-link", "crowd", "abuse-idle"]
    where = ["--bin-dir", str(installation.bin_dir), "--json", str(file)]
    transactions.main([*SMALL, *few, *where, "--only", ",".join(works)])
    written = json.loads(file.read_text())["works"]
    assert list(written) == works
    (linked,), (crowd,), (abused,) = (written[work].values() for work in works)
    assert linked["trio-pool"]["tps"]["median"] > 0
    assert crowd["trio-pool"]["p99 to p50"]["median"] >= 1
    (abuse,) = abused["trio-pool"]["rounds"]
    assert abuse["beside"]["transactions"] > 0
    assert abuse["abusers"]["began"] >= 2
