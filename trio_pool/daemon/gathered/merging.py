"""What several processes have said, as if one had said it. Pure.

Counts add up, histograms too; of what is the longest or the latest, the most counts; what is a
list follows upon the other. `remains` is what is left of a process that has died: what it had counted, of
what only grows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import reduce
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from trio_pool.daemon.console.samples import Stats
from trio_pool.daemon.gathered.parts import Answered, Items, Part
from trio_pool.daemon.seen import (
    CacheSeen,
    MemorySeen,
    OriginSeen,
    PoolSeen,
    PreparedSeen,
    ProcessSeen,
    ResourceSeen,
    Spans,
    TunnelSeen,
    WorkerSeen,
)
from trio_pool.daemon.web.ledger import add_numbers, only_counted

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from trio_pool.daemon.seen import ClientSeen
    from trio_pool.daemon.web.ledger import Labels, Numbers

_Each = TypeVar("_Each")

REMAINS = -1
"""The index of those that have died."""

# -- pools ---------------------------------------------------------------------------------------------------

_SAME = {"database", "user", "mode", "origin", "failure", "balancing"}
"""Of a pool: what is not added up. The first that has one has said it."""
_MOST = {"size", "longest_wait"}
"""A pool's size is that of all processes together: none of them has a part of it for itself."""
_OF_NOW: dict[str, Any] = {
    "size": 0,
    "min_size": 0,
    "connecting": 0,
    "idle": 0,
    "leased": 0,
    "cleaning": 0,
    "cancelling": 0,
    "pinned": 0,
    "clients": 0,
    "clients_active": 0,
    "waiting": 0,
    "longest_wait": 0.0,
    "statements": 0,
    "failure": None,
}


def added_pools(one: PoolSeen, other: PoolSeen) -> PoolSeen:
    """Two parts of one pool."""
    names = attrs.fields_dict(PoolSeen)
    return PoolSeen(**{name: _added(name, getattr(one, name), getattr(other, name)) for name in names})


def _added(name: str, one: Any, other: Any) -> Any:
    if name in _SAME:
        return other if one is None else one
    if name in _MOST:
        return max(one, other)
    if isinstance(one, Spans):
        return added_spans(one, other)
    if isinstance(one, Mapping):
        return added_counts(one, other)
    return one + other


def added_spans(one: Spans, other: Spans) -> Spans:
    """Two histograms with the same bounds."""
    counts = tuple(count + more for count, more in zip(one.counts, other.counts, strict=True))
    return Spans(counts, one.seconds + other.seconds)


def added_counts(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    """Two countings by name."""
    return {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}


def _remains_of_pool(pool: PoolSeen) -> PoolSeen:
    return attrs.evolve(pool, **_OF_NOW)


def merged_pools(pools: Iterable[PoolSeen]) -> list[PoolSeen]:
    """By database and user, in the order in which they come first. What remains of pools that there are no
    more is left out.
    """
    return [pool for pool in _merged(pools, _pool_key, added_pools) if pool.size]


def _pool_key(pool: PoolSeen) -> Hashable:
    return pool.database, pool.user


# -- the others ----------------------------------------------------------------------------------------------


def merged_processes(processes: Sequence[ProcessSeen]) -> ProcessSeen:
    """All as one; there is at least one."""
    return reduce(_added_processes, processes)


def _added_processes(one: ProcessSeen, other: ProcessSeen) -> ProcessSeen:
    return ProcessSeen(
        process_id=one.process_id,
        version=one.version,
        started_at=min(one.started_at, other.started_at),
        connections=one.connections + other.connections,
        clients=one.clients + other.clients,
        max_clients=max(one.max_clients, other.max_clients),
        addresses=one.addresses or other.addresses,
        stopping=one.stopping or other.stopping,
        suspended=one.suspended or other.suspended,
        lag=added_spans(one.lag, other.lag),
        longest_lag=max(one.longest_lag, other.longest_lag),
        turned_away=added_counts(one.turned_away, other.turned_away),
        leased=one.leased + other.leased,
        workers=(*one.workers, *other.workers),
        restarts=one.restarts + other.restarts,
        processes=one.processes + other.processes,
    )


def _remains_of_process(process: ProcessSeen) -> ProcessSeen:
    return attrs.evolve(
        process,
        connections=0,
        clients=0,
        max_clients=0,
        addresses=(),
        stopping=False,
        suspended=False,
        longest_lag=0.0,
        leased=0,
        workers=(),
        restarts=0,
        processes=0,
    )


def as_worker(answered: Answered) -> Items:
    """Its process, with what is told of it as one of several."""
    if answered.index == REMAINS:
        return answered.items.get(Part.PROCESS, [])
    return [
        attrs.evolve(
            process,
            restarts=answered.restarts,
            workers=(
                WorkerSeen(
                    answered.index,
                    process.process_id,
                    process.started_at,
                    process.clients,
                    process.leased,
                    answered.restarts,
                ),
            ),
        )
        for process in answered.items.get(Part.PROCESS, ())
    ]


_STATES = ("active", "paused", "disabled")
"""Of a database, the later ones first told: while a command is on its way, there are several."""


def _added_origins(one: OriginSeen, other: OriginSeen) -> OriginSeen:
    return attrs.evolve(
        one,
        state=max(one.state, other.state, key=_STATES.index),
        pools=one.pools + other.pools,
        failing=one.failing + other.failing,
        failure=other.failure if one.failure is None else one.failure,
    )


def _added_prepared(one: PreparedSeen, other: PreparedSeen) -> PreparedSeen:
    return attrs.evolve(one, clients=one.clients + other.clients, servers=one.servers + other.servers)


def _added_memory(one: MemorySeen, other: MemorySeen) -> MemorySeen:
    return MemorySeen(one.name, max(one.size, other.size), one.count + other.count)


def _added_tunnels(one: TunnelSeen, other: TunnelSeen) -> TunnelSeen:
    return attrs.evolve(
        one,
        ready=one.ready + other.ready,
        used=one.used + other.used,
        taken=one.taken + other.taken,
        lost=one.lost + other.lost,
        failure=other.failure if one.failure is None else one.failure,
        good_until=max(one.good_until or 0.0, other.good_until or 0.0) or None,
    )


def _added_resources(one: ResourceSeen, other: ResourceSeen) -> ResourceSeen:
    least = one.name.endswith("start_time_seconds")
    return attrs.evolve(one, value=min(one.value, other.value) if least else one.value + other.value)


def _merged(
    all_: Iterable[_Each], key: Callable[[_Each], Hashable], added: Callable[[_Each, _Each], _Each]
) -> list[_Each]:
    found: dict[Hashable, _Each] = {}
    for each in all_:
        name = key(each)
        found[name] = added(found[name], each) if name in found else each
    return list(found.values())


def _merged_series(series: Iterable[tuple[Labels, Numbers]]) -> list[tuple[Labels, Numbers]]:
    """What the ledgers have, by labels."""
    found: dict[Labels, Numbers] = {}
    for labels, numbers in series:
        add_numbers(found.setdefault(labels, [None] * len(numbers)), numbers, of_one_pool=True)
    return list(found.items())


def _merged_stats(stats: Iterable[tuple[str, Stats]]) -> list[tuple[str, Stats]]:
    return _merged(stats, lambda pair: pair[0], lambda one, other: (one[0], one[1] + other[1]))


def _merged_users(users: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    counts: Counter[str] = Counter()
    for user, count in users:
        counts[user] += count
    return list(counts.items())


def _longest(key: Callable[[ClientSeen], float]) -> Callable[[Items], Items]:
    return lambda clients: sorted(clients, key=key, reverse=True)


_MERGING: dict[Part, Callable[[Items], Items]] = {
    Part.PROCESS: lambda processes: [merged_processes(processes)] if processes else [],
    Part.ORIGINS: lambda origins: _merged(origins, lambda origin: origin.database, _added_origins),
    Part.POOLS: merged_pools,
    Part.PREPARED: lambda all_: _merged(
        all_, lambda one: (one.database, one.user, one.name, one.text), _added_prepared
    ),
    Part.LEASES: _longest(lambda client: client.leased_for),
    Part.WAITING: _longest(lambda client: client.waiting_for),
    Part.MEMORY: lambda all_: _merged(all_, lambda one: one.name, _added_memory),
    Part.DATABASES: lambda names: list(dict.fromkeys(names)),
    Part.USERS: _merged_users,
    Part.STATS: _merged_stats,
    Part.SERIES: _merged_series,
    Part.RESOURCES: lambda all_: _merged(all_, lambda one: one.name, _added_resources),
    Part.CACHES: lambda all_: _merged(all_, lambda one: one.database, CacheSeen.plus),
    Part.TUNNELS: lambda all_: _merged(all_, lambda one: (one.side, one.peer), _added_tunnels),
}
"""What is not here is a list, and the lists follow each other."""


def merged(answers: Sequence[Answered], most: int | None = None) -> dict[Part, Items]:
    """All of them as one. `most` is how many clients the longest leases and waits may be."""
    found: dict[Part, Items] = {}
    for part in dict.fromkeys(part for answered in answers for part in answered.items):
        items: Items = []
        for answered in answers:
            items += as_worker(answered) if part is Part.PROCESS else answered.items.get(part, ())
        items = _MERGING.get(part, list)(items)
        found[part] = items[:most] if part in (Part.LEASES, Part.WAITING) else items
    return found


# -- who has died --------------------------------------------------------------------------------------------

_REMAINING: dict[Part, Callable[[Items], Items]] = {
    Part.PROCESS: lambda processes: list(map(_remains_of_process, processes)),
    Part.POOLS: lambda pools: list(map(_remains_of_pool, pools)),
    Part.STATS: lambda stats: [(name, Stats(each.totals)) for name, each in stats],
    Part.SERIES: lambda series: [(labels, only_counted(numbers)) for labels, numbers in series],
    Part.RESOURCES: lambda all_: [one for one in all_ if one.counts],
    Part.CACHES: lambda all_: [attrs.evolve(one, entries=0, bytes=0, max_bytes=0) for one in all_],
    Part.TUNNELS: lambda all_: [attrs.evolve(one, ready=0, used=0, failure=None) for one in all_],
}
LASTING = tuple(_REMAINING)
"""Parts of which something is left when the process dies."""


def remains(before: Mapping[Part, Items], last: Mapping[Part, Items]) -> dict[Part, Items]:
    """What is left of those that had died `before`, and of one that has said this in the end."""
    left = {part: _REMAINING[part](items) for part, items in last.items() if part in _REMAINING}
    found = {**before}
    for part, items in left.items():
        all_ = [*before.get(part, ()), *items]
        found[part] = _merged(all_, _pool_key, added_pools) if part is Part.POOLS else _MERGING[part](all_)
    return found
