"""What the status page and `top` show: the pooler of the last second, as one JSON object.

Rates and quantiles are those between two looks. A sampler looks once per second, whether
somebody watches or not, so that whoever opens the page sees the last minutes at once.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import attrs
import trio

from trio_pool.cache.statuses import FROM_MEMORY
from trio_pool.pooling.traffic import BOUNDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from trio_pool.daemon.seen import ClientSeen, PoolSeen, Spans
    from trio_pool.daemon.web.source import Source

EVERY = 1.0
REMEMBERED = 300
"""Seconds between two looks, and how many of them the history holds."""
MOST_POOLS = 100
MOST_CLIENTS = 10
"""Rows of a table. Who has thousands of pools looks at the metrics."""

Json = dict[str, Any]


@attrs.define(eq=False)
class Sampler:
    """Looks again and again. `latest` is the last snapshot, `history` the course of its totals."""

    source: Source
    latest: Json = attrs.field(factory=dict)
    history: deque[Json] = attrs.field(factory=lambda: deque(maxlen=REMEMBERED))
    _before: dict[tuple[str, str], PoolSeen] = attrs.field(factory=dict)
    _looked_at: float = 0.0
    _changed: trio.Event = attrs.field(factory=trio.Event)

    async def run(self) -> None:
        """Look until cancelled."""
        due = trio.current_time()
        while True:
            await self.look()
            due = max(due + EVERY, trio.current_time())
            await trio.sleep_until(due)

    async def next(self) -> Json:
        """The next snapshot."""
        await self._changed.wait()
        return self.latest

    async def look(self) -> None:
        """Take a snapshot."""
        now = trio.current_time()
        seconds = now - self._looked_at if self._before else 0.0
        picture = await self.source.picture(MOST_CLIENTS)
        pools, process = picture.pools, picture.process
        changes = [_Change.between(self._before.get((pool.database, pool.user)), pool) for pool in pools]
        self._before = {(pool.database, pool.user): pool for pool in pools}
        self._looked_at = now
        totals = _totals(changes, seconds)
        self.latest = {
            "at": picture.at,
            "process": {
                "id": process.process_id,
                "version": process.version,
                "started_at": process.started_at,
                "clients": process.clients,
                "max_clients": process.max_clients,
                "addresses": process.addresses,
                "stopping": process.stopping,
                "suspended": process.suspended,
                "longest_lag": process.longest_lag,
            },
            "totals": totals,
            "pools": [change.spell(seconds) for change in sorted(changes, key=_weight)[:MOST_POOLS]],
            "pools_not_shown": max(0, len(changes) - MOST_POOLS),
            "origins": [
                {**attrs.asdict(origin), "reachable": origin.reachable} for origin in picture.origins
            ],
            "leases": [_lease(client) for client in picture.leases],
            "waiting": [_waiter(client) for client in picture.waiting],
            "tunnels": [attrs.asdict(tunnel) for tunnel in picture.tunnels],
            "workers": [attrs.asdict(worker) for worker in process.workers],
        }
        self.history.append({"at": self.latest["at"], **totals})
        changed, self._changed = self._changed, trio.Event()
        changed.set()


@attrs.frozen
class _Change:
    """What has happened in a pool since the last look, beside what it is now."""

    pool: PoolSeen
    transactions: int
    queries: int
    query_counts: Sequence[int]
    wait_counts: Sequence[int]
    received: int
    sent: int
    hits: int
    """Requests that were answered from memory."""
    looked_up: int
    """Requests of which that could be expected."""

    @classmethod
    def between(cls, before: PoolSeen | None, now: PoolSeen) -> _Change:
        if before is None or before.queries > now.queries:  # new, or made anew
            before = now
        return cls(
            now,
            now.transactions - before.transactions,
            now.queries - before.queries,
            _difference(before.query_time, now.query_time),
            _difference(before.wait_time, now.wait_time),
            now.client_received - before.client_received,
            now.client_sent - before.client_sent,
            _hits(now) - _hits(before),
            sum(now.cached.values()) - sum(before.cached.values()),
        )

    def spell(self, seconds: float) -> Json:
        pool = self.pool
        return {
            "database": pool.database,
            "user": pool.user,
            "mode": pool.mode,
            "origin": pool.origin,
            "size": pool.size,
            "leased": pool.leased,
            "idle": pool.idle,
            "connecting": pool.connecting,
            "cleaning": pool.cleaning + pool.cancelling,
            "pinned": pool.pinned,
            "clients": pool.clients,
            "waiting": pool.waiting,
            "longest_wait": pool.longest_wait,
            "failure": pool.failure,
            "transactions_per_second": _rate(self.transactions, seconds),
            "queries_per_second": _rate(self.queries, seconds),
            "received_per_second": _rate(self.received, seconds),
            "sent_per_second": _rate(self.sent, seconds),
            "query": _quantiles(self.query_counts),
            "wait": _quantiles(self.wait_counts),
            "timeouts": sum(pool.timeouts.values()),
            "refusals": pool.refusals,
            "cancels": pool.cancels,
            "queued_ahead": pool.queued_ahead,
            **_of_cache([self], seconds),
        }


def _totals(changes: Iterable[_Change], seconds: float) -> Json:
    changes = list(changes)
    pools = [change.pool for change in changes]
    return {
        "transactions_per_second": _rate(sum(change.transactions for change in changes), seconds),
        "queries_per_second": _rate(sum(change.queries for change in changes), seconds),
        "query": _quantiles(_sum(change.query_counts for change in changes)),
        "wait": _quantiles(_sum(change.wait_counts for change in changes)),
        "clients": sum(pool.clients for pool in pools),
        "waiting": sum(pool.waiting for pool in pools),
        "leased": sum(pool.leased for pool in pools),
        "servers": sum(pool.leased + pool.idle + pool.cleaning + pool.cancelling for pool in pools),
        "pinned": sum(pool.pinned for pool in pools),
        "timeouts": sum(sum(pool.timeouts.values()) for pool in pools),
        "refusals": sum(pool.refusals for pool in pools),
        **_of_cache(changes, seconds),
    }


def _of_cache(changes: Sequence[_Change], seconds: float) -> Json:
    """How much was answered from memory, as a part of 1; None where nothing was looked for there."""
    hits = sum(change.hits for change in changes)
    looked_up = sum(change.looked_up for change in changes)
    return {
        "cached": any(change.pool.kept for change in changes),
        "hits_per_second": _rate(hits, seconds),
        "hit_rate": round(hits / looked_up, 4) if looked_up else None,
    }


def _hits(pool: PoolSeen) -> int:
    return sum(pool.cached.get(status.value, 0) for status in FROM_MEMORY)


def _weight(change: _Change) -> tuple[int, int, int]:
    """What sorts the pools: where people wait first, then where most happens."""
    return -change.pool.waiting, -change.transactions, -change.pool.leased


def _difference(before: Spans, now: Spans) -> list[int]:
    return [after - earlier for earlier, after in zip(before.counts, now.counts, strict=True)]


def _sum(counts: Iterable[Sequence[int]]) -> list[int]:
    return [sum(column) for column in zip(*counts, strict=True)]


def _rate(count: int, seconds: float) -> float:
    return round(count / seconds, 1) if seconds else 0.0


def _quantiles(counts: Sequence[int]) -> Mapping[str, float | None]:
    """In seconds; None where nothing has happened."""
    return {f"p{percent}": quantile(counts, percent / 100) for percent in (50, 95, 99)}


def quantile(counts: Sequence[int], part: float) -> float | None:
    """Of a histogram with the bounds of `traffic`, as if times were spread evenly between two of them. What
    is beyond the last bound counts as that.
    """
    left = part * sum(counts)
    if not left:
        return None
    lower = 0.0
    for count, upper in zip(counts, (*BOUNDS, BOUNDS[-1]), strict=True):
        if count >= left:
            return lower + (upper - lower) * left / count
        left -= count
        lower = upper
    return lower


def _lease(client: ClientSeen) -> Json:
    return {
        **_who(client),
        "server": client.server,
        "leased_for": client.leased_for,
        "transaction_for": client.transaction_for,
        "pins": sorted(client.pins),
        "doing": client.doing,
    }


def _waiter(client: ClientSeen) -> Json:
    return {**_who(client), "waiting_for": client.waiting_for}


def _who(client: ClientSeen) -> Json:
    return {
        "client": client.id,
        "database": client.database,
        "user": client.user,
        "address": f"{client.address}:{client.port}" if client.port else client.address,
        "application_name": client.application_name,
    }
