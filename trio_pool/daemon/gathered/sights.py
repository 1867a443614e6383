"""What a console looks at: the census of its own process, or that of all processes together."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol, cast

import attrs

from trio_pool.daemon.gathered.merging import merged
from trio_pool.daemon.gathered.parts import GATHER, Items, Part, Sealed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from trio_pool.daemon.console.samples import Stats
    from trio_pool.daemon.seen import (
        CacheSeen,
        ClientSeen,
        ConsoleSeen,
        MemorySeen,
        PoolSeen,
        PreparedSeen,
        ProcessSeen,
        ServerSeen,
        TunnelSeen,
    )
    from trio_pool.daemon.workers.channel import Channel


class Sight(Protocol):
    """What `Census` and `Gathered` have in common."""

    @property
    def now(self) -> float: ...
    def process(self) -> ProcessSeen: ...
    def pools(self) -> list[PoolSeen]: ...
    def each_client(self) -> Iterable[ClientSeen]: ...
    def servers(self) -> list[ServerSeen]: ...
    def consoles(self) -> list[ConsoleSeen]: ...
    def prepared(self) -> list[PreparedSeen]: ...
    def leases(self) -> list[ClientSeen]: ...
    def databases(self) -> list[str]: ...
    def users(self) -> Counter[str]: ...
    def stats(self) -> dict[str, Stats]: ...
    def memory(self) -> list[MemorySeen]: ...
    def caches(self) -> list[CacheSeen]: ...
    def tunnels(self) -> list[TunnelSeen]: ...


async def gathered(parent: Channel, parts: Sequence[Part]) -> Gathered:
    """What all processes say, by way of the parent. Raises `WorkerError` if it is gone."""
    sealed: list[Sealed] = await parent.call(GATHER, parts, None)
    answers = [await each.open() for each in sealed]
    nothing: dict[Part, Items] = {part: [] for part in parts}
    return Gathered(time.time(), {**nothing, **merged(answers)})  # noqa: TID251 - people read it


@attrs.frozen
class Gathered:
    """Of all processes, the parts that were asked for: to look at another one is a `KeyError`."""

    now: float
    """Unix time."""
    items: Mapping[Part, Items]

    def process(self) -> ProcessSeen:
        return cast("ProcessSeen", self.items[Part.PROCESS][0])

    def pools(self) -> list[PoolSeen]:
        return self._list(Part.POOLS)

    def each_client(self) -> list[ClientSeen]:
        return self._list(Part.CLIENTS)

    def servers(self) -> list[ServerSeen]:
        return self._list(Part.SERVERS)

    def consoles(self) -> list[ConsoleSeen]:
        return self._list(Part.CONSOLES)

    def prepared(self) -> list[PreparedSeen]:
        return self._list(Part.PREPARED)

    def leases(self) -> list[ClientSeen]:
        return self._list(Part.LEASES)

    def databases(self) -> list[str]:
        return self._list(Part.DATABASES)

    def users(self) -> Counter[str]:
        return Counter(dict(self.items[Part.USERS]))

    def stats(self) -> dict[str, Stats]:
        return dict(self.items[Part.STATS])

    def memory(self) -> list[MemorySeen]:
        return self._list(Part.MEMORY)

    def caches(self) -> list[CacheSeen]:
        return self._list(Part.CACHES)

    def tunnels(self) -> list[TunnelSeen]:
        return self._list(Part.TUNNELS)

    def _list(self, part: Part) -> list[Any]:
        return self.items[part]
