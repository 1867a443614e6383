"""What can be seen of a running pooler, as plain values: for the console, the metrics, the status page, and
`top`.

Everything that it gives (`seen`) is taken at one moment, copied, and holds nothing of the data plane.
Counting is done where things happen (`Traffic`, `PoolStatistics`, `AheadStatistics`); here it is only read.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import trio

from trio_pool import __version__
from trio_pool.daemon.looking import (
    Clock,
    Tally,
    seen_client,
    seen_console,
    seen_pool,
    seen_prepared,
    seen_server,
    servers_of,
)
from trio_pool.daemon.seen import CacheSeen, MemorySeen, OriginSeen, ProcessSeen, Spans, TunnelSeen
from trio_pool.errors import Reason
from trio_pool.net.client import Client
from trio_pool.net.conversation import Conversation
from trio_pool.protocol.statements import Statement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from trio_pool.daemon.console.samples import Stats
    from trio_pool.daemon.seen import ClientSeen, ConsoleSeen, PoolSeen, PreparedSeen, ServerSeen
    from trio_pool.daemon.service import Service
    from trio_pool.errors import ServerFault
    from trio_pool.net.changes import Changes
    from trio_pool.net.origin import OriginPool


CLIENTS_AT_ONCE = 500
POOLS_AT_ONCE = 10
"""How many are looked at in one go where the data plane must not be held up: half a millisecond of each."""


@attrs.frozen
class Census:
    """Looks at a service whenever it is asked. Nothing is kept."""

    service: Service
    worker: int = 0
    """Which of several processes this one is."""

    @property
    def now(self) -> float:
        """Unix time."""
        return Clock().system(trio.current_time())

    def process(self) -> ProcessSeen:
        service = self.service
        return ProcessSeen(
            process_id=os.getpid(),
            version=__version__,
            started_at=Clock().system(service.started_at),
            connections=service.clients.connections,
            clients=len(service.clients),
            max_clients=service.clients.limit,
            addresses=service.addresses,
            stopping=service.stopping,
            suspended=service.operations.suspended,
            lag=Spans.of(service.lag.delays),
            longest_lag=service.lag.longest,
            turned_away=dict(service.turned_away),
            leased=sum(len(origin.pool.leased) for origin in service.pools.values()),
        )

    async def origins(self) -> list[OriginSeen]:
        """One per database of the configuration, in its order. Gives others a turn, like `walk`."""
        service = self.service
        databases = service.config.databases
        counts: Counter[str] = Counter()
        failures: dict[str, list[str]] = {}
        for some in _slices(list(service.pools.values()), CLIENTS_AT_ONCE):
            for origin in some:
                name = origin.pool.key.database
                name = name if name in databases else "*"
                counts[name] += 1
                failure = origin.failure
                if failure is not None and not _personal(origin, failure, name):
                    failures.setdefault(name, []).append(failure.message)
            await trio.lowlevel.checkpoint()
        return [
            OriginSeen(
                name,
                str(database.origin),
                service.operations.state(name),
                counts[name],
                len(failures.get(name, ())),
                failures[name][0] if name in failures else None,
            )
            for name, database in databases.items()
        ]

    def pools(self) -> list[PoolSeen]:
        """All pools, in the order in which they were made."""
        now = trio.current_time()
        tallies = _tallies(self.service.pools.values())
        for client in self._present():
            _count(client, tallies)
        return [seen_pool(origin, tallies[origin], now) for origin in self.service.pools.values()]

    def _present(self) -> list[Client]:
        """Those that are not counted yet among those that have left."""
        return [client for client in self.service.clients.by_id.values() if not client.over]

    async def walk(
        self, visit: Callable[[OriginPool, PoolSeen], None], others: Iterable[OriginPool] = ()
    ) -> None:
        """Visit all pools, and these others. There may be thousands of them, and of clients, so everybody
        else gets a turn now and then.

        Each pool is what it is in one moment, but not in the same one as the next.
        """
        origins = list({**dict.fromkeys(self.service.pools.values()), **dict.fromkeys(others)})
        clients = self._present()
        tallies = _tallies({client.origin for client in clients})  # at once, before any of them can leave
        for some in _slices(clients, CLIENTS_AT_ONCE):
            for client in some:
                _count(client, tallies)
            await trio.lowlevel.checkpoint()
        for few in _slices(origins, POOLS_AT_ONCE):
            now = trio.current_time()
            for origin in few:
                visit(origin, seen_pool(origin, tallies.get(origin) or Tally.of(origin), now))
            await trio.lowlevel.checkpoint()

    def caches(self) -> list[CacheSeen]:
        """The kept answers of each database: of the configured ones, and of names that "*" stands for."""
        service = self.service
        names = dict.fromkeys([*service.config.databases, *service.caches.stores])
        return [self._cache(name) for name in names if name != "*"]

    def _cache(self, name: str) -> CacheSeen:
        service = self.service
        database, store = service.config.database(name), service.caches.stores.get(name)
        if store is None:
            return CacheSeen(name, "off")
        readers = [
            origin.cached for key, origin in service.pools.items() if key.database == name and origin.cached
        ]
        is_on = database is not None and database.cache.enabled
        return CacheSeen(
            name,
            database.cache.invalidation.value if database is not None and is_on else "off",
            known=True,
            entries=len(store),
            bytes=store.size,
            max_bytes=store.max_size,
            evicted=store.evicted,
            purged=store.purged,
            bypassed=any(cached.bypassed for cached in readers),
            **_stream(service.caches.streams.changes.get(name)),
        )

    def tunnels(self) -> list[TunnelSeen]:
        """By origin where they come from outside, by edge where we make them."""
        found = []
        if self.service.tunnels is not None:
            found = [
                TunnelSeen(
                    "edge", name, **attrs.asdict(numbers), good_until=self.service.tunnels.good_until(name)
                )
                for name, numbers in self.service.tunnels.numbers.items()
            ]
        for one in self.service.dialling.diallers:
            numbers = attrs.asdict(one.numbers)
            found.append(
                TunnelSeen("origin", str(one.edge), **numbers, failure=one.failure, good_until=one.good_until)
            )
        return found

    def databases(self) -> list[str]:
        """Databases that there are pools for, by the names that clients connect to."""
        return list(dict.fromkeys(key.database for key in self.service.pools))

    def users(self) -> Counter[str]:
        """Clients and connections to the console by their user."""
        found = Counter(client.user for client in self.service.clients.by_id.values() if not client.over)
        found.update(console.user for console in self.service.clients.consoles.values())
        return found

    def stats(self) -> dict[str, Stats]:
        """What SHOW STATS is made of, by database."""
        return self.service.samples.stats()

    def memory(self) -> list[MemorySeen]:
        """How many objects there are of what there may be many of, and the pages of the process."""
        service = self.service
        pools = list(service.pools.values())
        kinds: dict[str, Sequence[object]] = {
            "user_cache": list(service.config.users.values()),
            "db_cache": list(service.config.databases.values()),
            "pool_cache": pools,
            "server_cache": [server for origin in pools for server in origin.servers()],
            "client_cache": list(service.clients.by_id.values()),
            "prepared_statement_cache": [each for origin in pools for each in origin.statements.all()],
        }
        found = [
            MemorySeen(name, sys.getsizeof(some[0]) if some else 0, len(some)) for name, some in kinds.items()
        ]
        pages = _resident_pages()
        if pages is not None:
            found.append(MemorySeen("process_pages", os.sysconf("SC_PAGE_SIZE"), pages))
        return found

    def clients(self) -> list[ClientSeen]:
        """All clients that have logged in."""
        return list(self.each_client())

    def each_client(self) -> Iterator[ClientSeen]:
        """The same one by one, for who lets others have a turn in between. Those that have left since are
        left out.
        """
        clock = Clock()
        for client in list(self.service.clients.by_id.values()):
            if not client.over:
                yield seen_client(client, clock, self.worker)

    def servers(self) -> list[ServerSeen]:
        """All servers that have logged in."""
        clock = Clock()
        return [
            seen_server(server, clock, self.worker)
            for origin in self.service.pools.values()
            for server in servers_of(origin)
        ]

    def consoles(self) -> list[ConsoleSeen]:
        """Connections to the console."""
        clock = Clock()
        return [
            seen_console(conversation.transport, console, clock, self.worker)
            for conversation, console in self.service.clients.consoles.items()
            if isinstance(conversation, Conversation)
        ]

    def prepared(self) -> list[PreparedSeen]:
        """What clients and servers have prepared by name, pool by pool, in the order in which they came."""
        clients: dict[OriginPool, Counter[Statement]] = {}
        for client in self.service.clients.by_id.values():
            named = (client.session.statements or {}).values()
            clients.setdefault(client.origin, Counter()).update(s for s in named if isinstance(s, Statement))
        return [
            seen
            for origin in self.service.pools.values()
            for seen in seen_prepared(origin, clients.get(origin, Counter()))
        ]

    def leases(self, most: int | None = None) -> list[ClientSeen]:
        """Clients with a server, those that have had it longest first; only so many of them."""
        clock = Clock()
        holders = [
            client
            for origin in self.service.pools.values()
            for client in origin.pool.leased.values()
            if isinstance(client, Client)
        ]
        holders.sort(key=lambda client: client.leased_at)
        return [seen_client(client, clock, self.worker) for client in holders[:most]]

    def waiting(self, most: int | None = None) -> list[ClientSeen]:
        """Clients that wait for a server, those that have waited longest first; only so many of them."""
        clock = Clock()
        waiters = [
            client
            for origin in self.service.pools.values()
            for client in origin.pool.waiting
            if isinstance(client, Client)
        ]
        waiters.sort(key=lambda client: client.requested_at)
        return [seen_client(client, clock, self.worker) for client in waiters[:most]]


def _tallies(origins: Iterable[OriginPool]) -> dict[OriginPool, Tally]:
    return {origin: Tally.of(origin) for origin in origins}


def _count(client: Client, tallies: Mapping[OriginPool, Tally]) -> None:
    tally = tallies.get(client.origin)
    if tally is not None:
        tally.clients += 1
        tally.active += client.server is not None
        tally.received += client.transport.received
        tally.sent += client.transport.sent
        tally.binds += client.session.binds


_Each = TypeVar("_Each")


def _slices(all_: Sequence[_Each], most: int) -> Iterator[Sequence[_Each]]:
    return (all_[start : start + most] for start in range(0, len(all_), most))


def _personal(origin: OriginPool, failure: ServerFault, name: str) -> bool:
    """Whether it is no wonder that others are let in."""
    return failure.reason is Reason.SERVER_LOGIN_FAILED and (
        origin.database.origin.user is None or name == "*"
    )


def _resident_pages() -> int | None:
    """None where the system does not tell like Linux."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None


def _stream(changes: Changes | None) -> dict[str, Any]:
    """How well one learns of changes made elsewhere."""
    if changes is None:
        return {}
    state = changes.stream.state
    behind = trio.current_time() - changes.stream.good_at
    return {"behind": behind, "told": state.covered, "untold": sum(state.uncovered.values())}
