"""What a dead worker may have written: it cannot tell the others, so its parent does.

Until its servers are gone at the origin, what they were told to do may still take effect. So long nothing is
kept of what is read there, by nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_pool.cache.freshness import EVERYTHING
from trio_pool.daemon.caches import Caches

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from trio_pool.config.model import Config
    from trio_pool.daemon.workers.memory import SharedMemory

AGAIN = 1.0
"""Seconds between looks, for each of which the doubt lasts at least so long."""


async def doubt(
    memory: SharedMemory,
    row: int,
    config: Config,
    names: Iterable[str],
    leaving: Collection[int],
    of: set[int],
) -> None:
    """End everything that was read in these databases, by the dead worker's row of the memory; until those
    `of` its permits are not among the `leaving` any more.
    """
    caches = Caches()
    caches.share(memory.descriptor, memory.rows, row)
    found = []
    for name in names:
        database = config.database(name)
        room = None if database is None else caches.room(config, database)
        if room is not None:
            found.append(room.freshness)
    while found:
        settled = of.isdisjoint(leaving)
        for freshness in found:
            freshness.doubt(frozenset({EVERYTHING}), trio.current_time(), 0.0 if settled else 2 * AGAIN)
        if settled:
            return
        await trio.sleep(AGAIN)
