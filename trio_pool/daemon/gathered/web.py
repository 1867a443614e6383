"""What the parent's web server looks at: all workers together."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import attrs
import trio

from trio_pool import __version__
from trio_pool.daemon.gathered.merging import merged
from trio_pool.daemon.gathered.parts import Answered, Part
from trio_pool.daemon.seen import ProcessSeen, Spans
from trio_pool.daemon.web.ledger import add_numbers, bounded, bounded_caches
from trio_pool.daemon.web.resources import Resources
from trio_pool.daemon.web.source import Picture, Reading
from trio_pool.pooling.traffic import Histogram

if TYPE_CHECKING:
    from trio_pool.daemon.gathered.parent import Gatherer
    from trio_pool.daemon.gathered.parts import Items
    from trio_pool.daemon.seen import OriginSeen
    from trio_pool.daemon.web.ledger import Labels, Numbers

_PARENT = -2
"""Its index among those that have answered; it comes last."""


@attrs.define(eq=False)
class Everywhere:
    """All workers of one parent."""

    gatherer: Gatherer
    _pairs: set[Labels] = attrs.field(factory=set)
    """Databases and users that are told apart. Every worker bounds its own; together they may be more."""
    _cached: set[str] = attrs.field(factory=set)
    """Databases whose caches are told apart."""
    _resources: Resources = attrs.field(factory=Resources)
    _lock: trio.Lock = attrs.field(factory=trio.Lock)

    async def reading(self) -> Reading:
        """Of now. One after the other, so that a later one never has less."""
        async with self._lock:
            own = Answered(_PARENT, 0, {Part.RESOURCES: await trio.to_thread.run_sync(self._resources.read)})
            found = await self._look(
                *(Part.SERIES, Part.ORIGINS, Part.PROCESS, Part.RESOURCES, Part.CACHES, Part.TUNNELS), own=own
            )
            return Reading(
                self._bounded(found[Part.SERIES]),
                found[Part.ORIGINS],
                self._process(found),
                found[Part.RESOURCES],
                bounded_caches(found[Part.CACHES], self._cached),
                found[Part.TUNNELS],
            )

    def _bounded(self, series: Items) -> dict[Labels, Numbers]:
        databases = self.gatherer.fleet.config.databases
        found: dict[Labels, Numbers] = {}
        for labels, numbers in series:
            few = bounded(labels, self._pairs, databases)
            add_numbers(found.setdefault(few, [None] * len(numbers)), numbers)
        return found

    async def picture(self, most: int) -> Picture:
        """Of now."""
        found = await self._look(
            *(Part.POOLS, Part.ORIGINS, Part.PROCESS, Part.LEASES, Part.WAITING, Part.TUNNELS), most=most
        )
        now = time.time()  # noqa: TID251 - people read it
        return Picture(
            now,
            found[Part.POOLS],
            self._process(found),
            found[Part.ORIGINS],
            found[Part.LEASES],
            found[Part.WAITING],
            found[Part.TUNNELS],
        )

    async def readiness(self) -> tuple[ProcessSeen, list[OriginSeen]]:
        """Of now."""
        found = await self._look(Part.ORIGINS, Part.PROCESS)
        return self._process(found), found[Part.ORIGINS]

    async def _look(
        self, *parts: Part, most: int | None = None, own: Answered | None = None
    ) -> dict[Part, Items]:
        answers = [await sealed.open() for sealed in await self.gatherer.gather(parts, most)]
        if own is not None:
            answers.append(own)
        nothing: dict[Part, Items] = {part: [] for part in parts}
        return {**nothing, **merged(answers, most)}

    def _process(self, found: dict[Part, Any]) -> ProcessSeen:
        fleet = self.gatherer.fleet
        seen = found[Part.PROCESS][0] if found[Part.PROCESS] else _nobody()
        now = time.time()  # noqa: TID251 - people read it
        return attrs.evolve(
            seen,
            process_id=os.getpid(),
            started_at=now - (trio.current_time() - fleet.started_at),
            stopping=seen.stopping or fleet.stopping,
        )


def _nobody() -> ProcessSeen:
    """While there is no worker."""
    return ProcessSeen(
        process_id=0,
        version=__version__,
        started_at=0.0,
        connections=0,
        clients=0,
        max_clients=0,
        addresses=(),
        stopping=False,
        suspended=False,
        lag=Spans.of(Histogram()),
        longest_lag=0.0,
        turned_away={},
        processes=0,
    )
