"""What is read from pgbench, and which programs and logins it gets."""

from __future__ import annotations

import pytest

from bench import pgbench, poolers
from bench.login import Login

PRINTED = """\
transaction type: <builtin: select only>
number of clients: 32
number of transactions actually processed: 61234
number of failed transactions: 0 (0.000%)
latency average = 1.2 ms
tps = 20411.250000 (without initial connection time)
"""


def test_pgbenchs_report() -> None:
    """Transactions and throughput are what pgbench printed."""
    assert pgbench.parse(PRINTED) == pgbench.Run(61234, 20411.25)


@pytest.mark.parametrize(
    "printed",
    [
        "",
        PRINTED.replace("61234", "0"),
        PRINTED.replace("failed transactions: 0", "failed transactions: 3"),
    ],
    ids=["nothing", "no transactions", "failures"],
)
def test_a_run_that_failed_is_no_measurement(printed: str) -> None:
    """A pooler that refuses transactions cannot look fast by it."""
    with pytest.raises(pgbench.PgbenchError):
        pgbench.parse(printed)


def test_the_first_second_of_a_log_is_left_out() -> None:
    """Counted from the end of the first transaction, whichever thread's log holds it."""
    log = ["1 0 9000 0 101 0", "0 0 8000 0 100 999999", "0 1 1500 0 102 0", "1 1 2500 0 101 999998"]
    assert pgbench.read_log(log, 1) == [pgbench.Logged(0, 102.0, 1.5)]


def test_fast_works_log_a_sample() -> None:
    """Writing the log does not become part of what is measured; slow works log everything."""
    assert pgbench.sampling_for(20_000) == 0.1
    assert pgbench.sampling_for(500) == 1.0


def test_complaints_are_counted() -> None:
    """Fifty clients that fail for one reason are one complaint."""
    printed = "".join(f"pgbench: error: client {one} aborted: no\n" for one in range(50)) + "pgbench: over\n"
    assert pgbench.complaints(printed) == {"pgbench: error: client aborted: no": 50, "pgbench: over": 1}


def test_a_dsn_is_taken_apart() -> None:
    """Whatever has to be escaped in it comes out as it was meant, and the password is not shown."""
    login = Login.parse("postgresql://me%40here:p%2Fw@db.example:5433/app?sslmode=require")
    assert login == Login("db.example", 5433, "me@here", "app", "p/w", "require")
    assert "p/w" not in repr(login)
    assert login.environment()["PGPASSWORD"] == "p/w"


@pytest.mark.parametrize("dsn", ["db.example", "mysql://db.example", "postgresql://db.example?options=x"])
def test_what_is_not_understood_in_a_dsn_is_refused(dsn: str) -> None:
    """Rather than measuring something else than was asked for."""
    with pytest.raises(ValueError, match=r"postgresql://|sslmode"):
        Login.parse(dsn)


def test_a_named_pgbouncer_is_not_replaced_by_another() -> None:
    """Whoever names a program measures that one or none."""
    assert poolers.find_pgbouncer("/nowhere/pgbouncer") is None


def test_an_old_pgbouncer_is_noticed() -> None:
    """Its figures flatter us."""
    versions = ["1.18.0", "1.9.0", "1.24.0", "1.25.2", "2.0", ""]
    assert [poolers.is_old_pgbouncer(one) for one in versions] == [True, True, False, False, False, False]
