"""Abusers do what they are said to do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from bench import abusers, companion
from trio_pool.cli.postgres import LocalPostgres

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_pool.cli.postgres import Installation


def test_sqlstate() -> None:
    """Abusers report what they were told by its code."""
    assert abusers.sqlstate(b"E\0\0\0\x1aSERROR\0C25P03\0Midle\0\0") == "25P03"


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
