"""Averages are of the last one to two periods."""

from __future__ import annotations

import trio
import trio.testing

import trio_pool
from trio_pool.daemon.console.samples import PERIOD, Totals
from trio_pool.daemon.console.show import CONSOLE


def test_an_average_forgets_what_is_long_ago() -> None:
    """Since the start at first, then since the sample before the last."""
    databases = {"app": {"origin": "postgresql://app@127.0.0.1/app"}}
    service = trio_pool.Service(trio_pool.Config.from_dict({"databases": databases}))
    samples = service.samples

    def rate() -> int:
        return samples.averages()[CONSOLE].queries

    async def program() -> None:
        service.started_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(samples.run)
            await trio.sleep(PERIOD / 2)
            samples.commands += 600
            assert rate() == 600 / (PERIOD / 2)
            await trio.sleep(PERIOD)
            assert rate() == 600 / (PERIOD * 1.5) // 1
            await trio.sleep(PERIOD)
            assert rate() == 0
            samples.commands += 600
            await trio.sleep(PERIOD)
            assert rate() == 600 / (PERIOD * 1.5) // 1
            nursery.cancel_scope.cancel()

    trio.run(program, clock=trio.testing.MockClock(autojump_threshold=0))


def test_times_are_averages_of_what_they_are_times_of() -> None:
    """Per transaction, query and assignment; all else per second."""
    before = Totals(assignments=1, transactions=1, queries=1)
    after = Totals(
        assignments=11,
        transactions=21,
        queries=41,
        received=1000,
        transaction_time=20_000,
        query_time=20_000,
        wait_time=20_000,
        binds=20,
    )
    assert after.average(before, 2.0) == Totals(
        assignments=5,
        transactions=10,
        queries=20,
        received=500,
        transaction_time=1000,
        query_time=500,
        wait_time=2000,
        binds=10,
    )
    assert after.average(before, 0.0) == Totals()
    assert Totals().average(after, 1.0) == Totals()  # a pool is gone, and its counts with it
