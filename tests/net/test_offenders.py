"""Clients that exceed time limits, many at a time, beside honest ones: nobody loses a connection, on either
side of the pooler.

TRIO_POOL_OFFENCES says how many offences, for each PostgreSQL.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import attrs
import pytest
import trio

from tests.net.harness import Canary, Running, canary
from tests.support.offenders import LOCK, OFFENCES, SET_UP, SINK, TABLE, Offence, Offender
from tests.support.serving import server_pids, serving, superuser
from tests.support.target import DATABASE, USER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.net.peer import Peer
    from trio_pool.cli.postgres import LocalPostgres

pytestmark = pytest.mark.e2e

COUNT = int(os.environ.get("TRIO_POOL_OFFENCES", "60"))
AT_ONCE = 6
"""Offenders at the same time."""
POOL_SIZE = 4
HONEST = ("honest", "decent")
"""Clients of each pool that do nothing wrong."""
LIMIT = 0.3
"""Of each pool, in seconds. A limit has a pool of its own, for another would mask it."""
ROOM = {"query": AT_ONCE, "idle_in_transaction": AT_ONCE, "transaction": POOL_SIZE - len(HONEST)}
"""How many may offend against each limit at once. The time of a transaction runs from its BEGIN, so nobody
may have to wait for a server there.
"""
SLACK = 60.0


@attrs.define(eq=False)
class Underworld:
    """Offenders, who meet their punishments in random order."""

    poolers: dict[str, Running]
    """By the limit that each has."""
    chance: random.Random
    offences: Iterator[Offence]
    punished: Counter[str] = attrs.field(factory=Counter)
    _room: dict[str, trio.CapacityLimiter] = attrs.field(
        factory=lambda: {limit: trio.CapacityLimiter(room) for limit, room in ROOM.items()}
    )

    async def offend(self, name: str) -> None:
        """One after the other until there are no more; as the same clients, one of each pooler."""
        async with AsyncExitStack() as stack:
            peers: dict[str, Peer] = {}
            for limit, running in self.poolers.items():
                peers[limit] = await stack.enter_async_context(await running.log_in())
            for number, offence in enumerate(self.offences):
                offender = Offender(
                    peers[offence.limit], f"{name}.{number}", LIMIT, offence.sqlstate, self.chance
                )
                try:
                    async with self._room[offence.limit]:
                        await offence.commit(offender)
                    await offender.prove()
                except BaseException:
                    print(f"in {offence} of {name}")
                    raise
                self.punished[str(offence)] += 1


def shuffled(chance: random.Random, count: int) -> Iterator[Offence]:
    """So many offences: every one in turn, in random order."""
    dealt: list[Offence] = []
    for _ in range(count):
        dealt = dealt or chance.sample(OFFENCES, len(OFFENCES))
        yield dealt.pop()


async def all_open(running: Running) -> None:
    """Return when every server that there may be has logged in and has nothing to do."""
    pool = running.origin.pool
    await running.until(lambda: len(pool.idle) == pool.size)


async def among_honest_clients(postgres: LocalPostgres, seed: int) -> Counter[str]:
    """Offend, and see to it that nothing is left of it."""
    chance = random.Random(seed)
    seconds = SLACK + COUNT * 3 * LIMIT
    async with AsyncExitStack() as stack:
        locker = await stack.enter_async_context(superuser(postgres))
        assert await locker.run(LOCK) == []
        poolers = {
            limit: await stack.enter_async_context(
                serving(
                    postgres,
                    databases={DATABASE: {"pool_size": POOL_SIZE, "min_pool_size": POOL_SIZE}},
                    timeouts={"idle_in_transaction": "0", limit: f"{LIMIT * 1000:.0f}ms"},
                    limit=seconds,
                )
            )
            for limit in ROOM
        }
        honest: dict[str, Canary] = {}
        async with AsyncExitStack() as singing:
            for limit, running in poolers.items():
                for name in (f"{one} with {limit}" for one in HONEST):
                    honest[name] = await singing.enter_async_context(canary(running, name))
                await all_open(running)
            before = {limit: server_pids(running) for limit, running in poolers.items()}
            underworld = Underworld(poolers, chance, shuffled(chance, COUNT))
            async with trio.open_nursery() as nursery:
                for number in range(AT_ONCE):
                    nursery.start_soon(underworld.offend, f"offender {number}")
        print(f"honest answers: {sum(one.answered for one in honest.values())}")
        for running in poolers.values():
            await running.at_rest()
        log = running.log  # the last one's is everybody's
        assert log.find("server disconnected") == []
        assert {limit: server_pids(running) for limit, running in poolers.items()} == before
    return underworld.punished


@pytest.fixture
def tables(postgres: LocalPostgres) -> Iterator[None]:
    postgres.run_sql(f"{SET_UP} grant all on {TABLE}, {SINK} to {USER}", DATABASE)
    yield
    postgres.run_sql(f"drop table {TABLE}, {SINK}", DATABASE)


@pytest.mark.usefixtures("tables")
@pytest.mark.timeout(120 + 3 * COUNT)
def test_offenders_among_honest_clients(postgres: LocalPostgres) -> None:
    """Whoever exceeds a limit gets its SQLSTATE in sequence, keeps its connection, and can use it at once;
    nothing of what it did in the transaction is left; no honest client ever meets an error or a reply that is
    not its own; every server connection is the one that it was.
    """
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    punished = trio.run(among_honest_clients, postgres, seed)
    print(f"punished {sum(punished.values())}: {dict(punished)}")
    assert sum(punished.values()) == COUNT
    if len(OFFENCES) <= COUNT:
        assert set(punished) == {str(offence) for offence in OFFENCES}
    assert postgres.run_sql(f"select count(*) from {SINK}", DATABASE) == "0\n"
    assert postgres.run_sql(f"select sum(n) from {TABLE}", DATABASE) == "0\n"
