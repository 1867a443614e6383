"""The arithmetic, against distributions and rounds whose figures are known."""

from __future__ import annotations

import os

import pytest

from bench import figures, processes
from bench.figures import Latencies, Spread
from bench.processes import CpuTime, Switches
from bench.sample import Done, Reading


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
    assert figures.ratios([900.0, 450.0, 880.0], [1000.0, 500.0, 1100.0]) == Spread(0.9, 0.8, 0.9)


def test_ratios_need_the_same_rounds() -> None:
    """A target that missed a round is not compared with another round by mistake."""
    with pytest.raises(ValueError, match="longer"):
        figures.ratios([1.0], [1.0, 2.0])


def test_a_pooler_that_did_nothing_has_no_ratio() -> None:
    """Rather than an infinite one."""
    assert figures.ratio(5.0, 0.0) is None
    assert figures.ratio(0.0, 5.0) == 0.0


def test_ranges_that_touch_tell_nothing_apart() -> None:
    """Only rounds that are all on one side say that something changed."""
    assert Spread(1.0, 0.9, 1.1).overlaps(Spread(1.2, 1.1, 1.3))
    assert not Spread(1.0, 0.9, 1.1).overlaps(Spread(1.3, 1.2, 1.4))


def test_latencies_are_ranks() -> None:
    """Every quantile is a latency that occurred, and the tail is p99 in units of p50."""
    seen = figures.latencies(float(one) for one in range(1000, 0, -1))
    assert seen == Latencies(500.0, 950.0, 990.0, 999.0, 1.98)


def test_quantiles_of_a_long_tail() -> None:
    """One transaction in a hundred that is slow is in p99.9, and not in p99."""
    seen = figures.latencies([1.0] * 990 + [50.0] * 10)
    assert seen == Latencies(1.0, 1.0, 1.0, 50.0, 1.0)


def test_one_latency_is_all_quantiles() -> None:
    """The shortest log gives figures too; an empty one gives none."""
    assert figures.latencies([3.0]) == Latencies(3.0, 3.0, 3.0, 3.0, 1.0)
    assert figures.latencies([]) is None


def test_cpu_and_switches_are_for_one_transaction() -> None:
    """CPU is in microseconds of the pooler's own time, user and system apart, the link in cores."""
    before = Reading(10.0, CpuTime(1.0, 2.0), Switches(100, 10), CpuTime(50.0, 50.0), CpuTime(0.0, 0.0))
    after = Reading(12.0, CpuTime(1.5, 3.5), Switches(600, 110), CpuTime(51.0, 51.0), CpuTime(0.5, 0.5))
    sample = before.sample(after, Done(1000, {"tps": 500.0}))
    assert (sample.user, sample.system, sample.machine) == (500.0, 1500.0, 2000.0)
    assert (sample.voluntary, sample.involuntary) == (0.5, 0.1)
    assert sample.link == 0.5


def test_nothing_done_costs_nothing_each() -> None:
    """Honest clients may get nothing at all done; that is no division by zero."""
    reading = Reading(0.0, CpuTime(0.0, 0.0), Switches(0, 0), CpuTime(0.0, 0.0), None)
    assert reading.sample(reading, Done(0, {})).user is None


def test_memory_is_for_each_client() -> None:
    """In bytes by which the pooler grew."""
    assert figures.per_client(1_000_000, 10_000_000, 9000) == 1000.0


def test_every_target_gets_to_be_the_first_of_a_round() -> None:
    """No target always runs in the wake of the same other one."""
    rounds = [figures.turn(["a", "b", "c"], number) for number in range(4)]
    assert rounds == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]]


@pytest.mark.skipif(not processes.PROC.joinpath("self", "stat").exists(), reason="figures come from /proc")
def test_this_process_uses_time_and_memory() -> None:
    """The fields that are read are the ones that are meant: they agree with what Python knows of itself."""
    times = os.times()
    used = processes.cpu_time(os.getpid())
    resident = processes.resident_bytes(os.getpid())
    machine = processes.machine_cpu_time()
    switches = processes.switches(os.getpid())
    assert used is not None
    assert machine is not None
    assert resident is not None
    assert switches is not None
    assert used.user >= times.user - 0.05  # more, if it has children
    assert used.system >= times.system - 0.05
    assert machine.user >= used.user
    assert resident > 1 << 20
    assert switches.voluntary > 0
