"""The first measurement's arithmetic, and that what it needs from the outside is read right."""

from __future__ import annotations

import os

import pytest

from bench import figures, pgbench, poolers, processes
from bench.figures import Sample, Spread

PRINTED = """\
transaction type: <builtin: select only>
number of clients: 32
number of transactions actually processed: 61234
number of failed transactions: 0 (0.000%)
latency average = 1.2 ms
tps = 20411.250000 (without initial connection time)
"""


def test_a_spread_is_the_median_and_the_extremes() -> None:
    """One lucky or unlucky round moves the ends of what is printed, not the figure."""
    assert figures.spread([3.0, 100.0, 1.0]) == Spread(3.0, 1.0, 100.0)
    assert f"{Spread(3.0, 1.0, 100.0):.1f}" == "3.0 (1.0-100.0)"


def test_what_is_unknown_is_left_out() -> None:
    """A machine that cannot tell a figure gets none, rather than a zero."""
    assert figures.spread([None, 2.0]) == Spread(2.0, 2.0, 2.0)
    assert figures.spread([None]) is None


def test_ratios_are_taken_round_by_round() -> None:
    """A round in which the machine was half as fast says the same about the ratio."""
    samples = [Sample(900.0), Sample(450.0), Sample(880.0)]
    baseline = [Sample(1000.0), Sample(500.0), Sample(1100.0)]
    assert figures.ratios(samples, baseline) == Spread(0.9, 0.8, 0.9)


def test_ratios_need_the_same_rounds() -> None:
    """A target that missed a round is not compared with another round by mistake."""
    with pytest.raises(ValueError, match="longer"):
        figures.ratios([Sample(1.0)], [Sample(1.0), Sample(2.0)])


def test_units() -> None:
    """CPU is in microseconds per transaction, memory in bytes per client."""
    assert figures.per_transaction(0.5, 100_000) == 5.0
    assert figures.per_client(1_000_000, 10_000_000, 9000) == 1000.0


def test_every_target_gets_to_be_the_first_of_a_round() -> None:
    """No target always runs in the wake of the same other one."""
    rounds = [figures.turn(["a", "b", "c"], number) for number in range(4)]
    assert rounds == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]]


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


@pytest.mark.skipif(not processes.PROC.joinpath("self", "stat").exists(), reason="figures come from /proc")
def test_this_process_uses_time_and_memory() -> None:
    """The fields that are read are the ones that are meant: they agree with what Python knows of itself."""
    times = os.times()
    used = processes.cpu_time(os.getpid())
    resident = processes.resident_bytes(os.getpid())
    machine = processes.machine_cpu_time()
    assert used is not None
    assert machine is not None
    assert resident is not None
    assert used.user >= times.user - 0.05  # more, if it has children
    assert used.system >= times.system - 0.05
    assert machine.user >= used.user
    assert resident > 1 << 20


def test_a_named_pgbouncer_is_not_replaced_by_another() -> None:
    """Whoever names a program measures that one or none."""
    assert poolers.find_pgbouncer("/nowhere/pgbouncer") is None
