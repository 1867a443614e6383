"""What the web looks at: one process, or several together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs
import trio

from trio_pool.daemon.census import Census
from trio_pool.daemon.web.ledger import Ledger, bounded_caches
from trio_pool.daemon.web.resources import Resources

if TYPE_CHECKING:
    from trio_pool.daemon.seen import (
        CacheSeen,
        ClientSeen,
        OriginSeen,
        PoolSeen,
        ProcessSeen,
        ResourceSeen,
        TunnelSeen,
    )
    from trio_pool.daemon.service import Service
    from trio_pool.daemon.web.ledger import Labels, Numbers


@attrs.frozen
class Reading:
    """What metrics are made of."""

    series: dict[Labels, Numbers]
    origins: list[OriginSeen]
    process: ProcessSeen
    resources: list[ResourceSeen]
    caches: list[CacheSeen]
    tunnels: list[TunnelSeen]


@attrs.frozen
class Picture:
    """What the status page is made of."""

    at: float
    """Unix time."""
    pools: list[PoolSeen]
    process: ProcessSeen
    origins: list[OriginSeen]
    leases: list[ClientSeen]
    waiting: list[ClientSeen]
    tunnels: list[TunnelSeen]


class Source(Protocol):
    """Each of these takes turns with everybody else."""

    async def reading(self) -> Reading: ...

    async def picture(self, most: int) -> Picture:
        """With so many leases and waiting clients."""

    async def readiness(self) -> tuple[ProcessSeen, list[OriginSeen]]: ...


class Here:
    """This process alone."""

    def __init__(self, service: Service) -> None:
        self._census = Census(service)
        self._ledger = Ledger(service)
        self._resources = Resources()
        self._cached: set[str] = set()

    async def reading(self) -> Reading:
        """Of now."""
        series = await self._ledger.read()
        origins = await self._census.origins()
        resources = await trio.to_thread.run_sync(self._resources.read)
        caches = bounded_caches(self._census.caches(), self._cached)
        tunnels = self._census.tunnels()
        return Reading(series, origins, self._census.process(), resources, caches, tunnels)

    async def picture(self, most: int) -> Picture:
        """Of now."""
        census = self._census
        pools: list[PoolSeen] = []
        await census.walk(lambda _, pool: pools.append(pool))
        origins = await census.origins()
        return Picture(
            *(census.now, pools, census.process(), origins),
            *(census.leases(most), census.waiting(most), census.tunnels()),
        )

    async def readiness(self) -> tuple[ProcessSeen, list[OriginSeen]]:
        """Of now."""
        return self._census.process(), await self._census.origins()
