"""What a worker answers its parent: what is to be seen of it, and what has come of a command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from trio_pool.daemon.census import Census
from trio_pool.daemon.console.actions import perform
from trio_pool.daemon.gathered.parts import ACT, GATHER, Part, packed
from trio_pool.daemon.web.ledger import Ledger
from trio_pool.daemon.web.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trio_pool.daemon.console.outcome import Outcome
    from trio_pool.daemon.seen import PoolSeen
    from trio_pool.daemon.service import Service
    from trio_pool.daemon.workers.channel import Channel


@attrs.define(eq=False)
class Answers:
    """Of one worker, which is the one with this index."""

    service: Service
    index: int
    _ledger: Ledger = attrs.field(init=False)
    _resources: Resources = attrs.field(factory=Resources)

    def __attrs_post_init__(self) -> None:
        self._ledger = Ledger(self.service)

    async def gather(self, parts: Iterable[Part], most: int | None) -> dict[Part, list[bytes]]:
        """The parts of the census, packed. Takes turns with everybody else."""
        return {part: await packed(await self._items(part, most)) for part in parts}

    async def _items(self, part: Part, most: int | None) -> Iterable[Any]:
        census = Census(self.service, self.index)
        match part:
            case Part.PROCESS:
                return [census.process()]
            case Part.ORIGINS:
                return await census.origins()
            case Part.POOLS:
                pools: list[PoolSeen] = []
                await census.walk(lambda _, pool: pools.append(pool))
                return pools
            case Part.LEASES:
                return census.leases(most)
            case Part.WAITING:
                return census.waiting(most)
            case Part.SERIES:
                return (await self._ledger.read()).items()
            case Part.RESOURCES:
                return await trio.to_thread.run_sync(self._resources.read)
        return _PLAIN[part](census)

    async def act(self, name: str, argument: str, more: str) -> Outcome:
        """Do what the console was told, in this process."""
        return await perform(self.service, name, argument, more)


_PLAIN: Final[dict[Part, Callable[[Census], Iterable[Any]]]] = {
    Part.CLIENTS: Census.each_client,
    Part.SERVERS: Census.servers,
    Part.CONSOLES: Census.consoles,
    Part.PREPARED: Census.prepared,
    Part.MEMORY: Census.memory,
    Part.CACHES: Census.caches,
    Part.TUNNELS: Census.tunnels,
    Part.DATABASES: Census.databases,
    Part.USERS: lambda census: census.users().items(),
    Part.STATS: lambda census: census.stats().items(),
}


def answer_parent(service: Service, channel: Channel) -> None:
    """Have a worker answer what its parent asks."""
    answers = Answers(service, service.worker_index)
    channel.handlers[GATHER] = answers.gather
    channel.handlers[ACT] = answers.act
