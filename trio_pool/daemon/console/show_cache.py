"""SHOW CACHE and CACHE_REASONS: what is kept, and what became of requests."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from trio_pool.cache.statuses import Status
from trio_pool.daemon.console.show import Show, View
from trio_pool.daemon.console.table import Type, columns, of
from trio_pool.daemon.gathered.parts import Part

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_pool.daemon.console.table import Row

_COUNTED = (Status.HIT, Status.STALE, Status.SHARED, Status.MISS)


def _cache(view: View) -> Iterator[Row]:
    requests: dict[str, Counter[str]] = {}
    kept: dict[str, Counter[str]] = {}
    for pool in view.census.pools():
        requests.setdefault(pool.database, Counter()).update(pool.cached)
        kept.setdefault(pool.database, Counter()).update(pool.kept)
    for cache in view.census.caches():
        counts, answers = requests.get(cache.database, Counter()), kept.get(cache.database, Counter())
        counted = [counts[status.value] for status in _COUNTED]
        yield (
            *(cache.database, cache.max_bytes > 0, cache.invalidation, cache.bypassed),
            *(cache.entries, cache.bytes, cache.max_bytes),
            *counted,
            counts.total() - sum(counted),
            *(answers["overtaken"], cache.evicted, cache.purged),
        )


CACHE = Show(
    columns("database", enabled=Type.BOOL)
    + columns("invalidation", bypassed=Type.BOOL)
    + of(Type.INT8, "entries bytes max_bytes hits stale shared misses others overtaken evicted purged"),
    _cache,
    "the query cache of each database",
    (Part.POOLS, Part.CACHES),
)


def _reasons(view: View) -> Iterator[Row]:
    for pool in view.census.pools():
        for reason, count in sorted(pool.not_cached.items(), key=lambda item: -item[1]):
            status, _, why = reason.partition(": ")
            yield pool.database, pool.user, status, why, count


CACHE_REASONS = Show(
    columns("database user status") + columns("reason", requests=Type.INT8),
    _reasons,
    "why requests were not answered from memory",
    (Part.POOLS,),
)
