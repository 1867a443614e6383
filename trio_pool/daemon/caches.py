"""Where kept answers and what ends them have their place: a store per database, a freshness per origin.

Two names of one database at one origin have two stores, but a write through either ends answers in both. So
writes are followed through every pool of an origin as soon as one of its databases has a cache.
"""

from __future__ import annotations

import time
from mmap import mmap
from typing import TYPE_CHECKING, TypeAlias

import attrs
import trio

from trio_pool.cache.freshness import Counters, Freshness
from trio_pool.cache.store import Store
from trio_pool.config.model import Invalidation
from trio_pool.daemon.streams import Streams
from trio_pool.net.room import Room

if TYPE_CHECKING:
    from trio_pool.config.model import Config, Database


Hosts: TypeAlias = tuple[tuple[str, int], ...]


@attrs.define(eq=False)
class Caches:
    """Of the whole process."""

    suspended: bool = False
    """Whether somebody else writes without telling, so that nothing may be answered from memory."""
    counters: Counters = attrs.field(factory=Counters.of_this_process)
    ahead: float = 0.0
    """Seconds by which a clock that all processes share is ahead of the pooler's."""
    stores: dict[str, Store] = attrs.field(factory=dict)
    """By the name that clients connect to. Each process has its part of `max_size`."""
    followed: set[Hosts] = attrs.field(factory=set)
    """Origins of which somebody else wants to know what is written there."""
    freshness: dict[str, Freshness] = attrs.field(factory=dict)
    """By origin and the name of the database there."""
    streams: Streams = attrs.field(factory=Streams)
    """Of changes made elsewhere."""

    def room(self, config: Config, database: Database) -> Room | None:
        """For a pool of this database; None if no cache wants to know what it does."""
        store = None if self.suspended else self._store(database)
        hosts = database.origin.hosts
        followed = hosts in self.followed or any(
            _is_followed(other, hosts) for other in config.databases.values()
        )
        if not followed and store is None:
            return None
        freshness = self.freshness_of(database)
        return Room(freshness, store, None if store is None else self.streams.of(database, freshness))

    def freshness_of(self, database: Database) -> Freshness:
        """What is known of writes in the database behind this one."""
        hosts = ",".join(f"{host}:{port}" for host, port in database.origin.hosts)
        where = f"{hosts}/{database.origin.dbname or database.name}"
        found = self.freshness.get(where)
        if found is None:
            found = self.freshness[where] = Freshness(self.counters, where, ahead=self.ahead)
        return found

    def _store(self, database: Database) -> Store | None:
        store = self.stores.get(database.name)
        if not database.cache.enabled:
            if store is not None:
                store.resize(0)
            return None
        max_size = database.cache.max_size // self.counters.rows
        if store is None:
            store = self.stores[database.name] = Store(max_size)
        elif store.max_size != max_size:
            store.resize(max_size)
        return store

    def settle(self, config: Config) -> None:
        """Nothing is kept for databases that are not configured any more; what was counted stays."""
        for name, store in self.stores.items():
            if config.database(name) is None:
                store.resize(0)
        self.streams.settle(config)

    def share(self, memory: int, rows: int, own: int) -> None:
        """Count together with other processes, of which this is number `own`, in memory behind this file
        descriptor. Before anything is kept.
        """
        self.counters = Counters(mmap(memory, Counters.size(rows)), rows, own)
        self.ahead = time.perf_counter() - trio.current_time()  # noqa: TID251 - it is what is compared


def _is_followed(database: Database, hosts: object) -> bool:
    cache = database.cache
    return cache.enabled and cache.invalidation is not Invalidation.TTL and database.origin.hosts == hosts
