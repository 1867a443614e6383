"""Every metric: its name, what it means, and where in the census it is read.

`docs/metrics.md` is made of this table. Base units, no prefixes of them: seconds and bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, Literal, TypeAlias, TypeVar

import attrs

from trio_pool.daemon.seen import CacheSeen, OriginSeen, PoolSeen, ProcessSeen, Spans, TunnelSeen

Seen = TypeVar("Seen", PoolSeen, OriginSeen, CacheSeen, TunnelSeen, ProcessSeen)
Kind = Literal["counter", "gauge", "histogram"]
Value: TypeAlias = float | Mapping[str, float] | Spans
"""One number; one per value of a label; a histogram."""


@attrs.frozen
class Family(Generic[Seen]):
    """One metric. `help` is a sentence or two for whoever meets it in Prometheus."""

    name: str
    """Without `trio_pool_`, and without the `_total` of a counter."""
    kind: Kind
    help: str
    read: Callable[[Seen], Value]
    label: str | None = None
    """What tells its series apart, beside the labels that all of its kind have."""
    most: bool = False
    """Whether several pools with the same labels have the largest value of theirs instead of the sum."""
    shared: bool = False
    """Whether it is of a pool and not of what one of several processes has of it: they do not add up."""

    @property
    def base(self) -> str:
        """The name of the family, as the client library has it."""
        return f"trio_pool_{self.name}"

    @property
    def full_name(self) -> str:
        """The name as people look for it."""
        return f"{self.base}_total" if self.kind == "counter" else self.base


def _servers(pool: PoolSeen) -> Mapping[str, float]:
    return {
        "connecting": pool.connecting,
        "idle": pool.idle,
        "leased": pool.leased,
        "cleaning": pool.cleaning,
        "cancelling": pool.cancelling,
    }


POOL: tuple[Family[PoolSeen], ...] = (
    Family("clients", "gauge", "Clients that are logged in.", lambda pool: pool.clients),
    Family(
        "clients_active", "gauge", "Clients that have a server on lease.", lambda pool: pool.clients_active
    ),
    Family("clients_waiting", "gauge", "Clients that wait for a server.", lambda pool: pool.waiting),
    Family(
        "longest_wait_seconds",
        "gauge",
        "How long the client that waits longest has been waiting for a server; 0 if nobody waits.",
        lambda pool: pool.longest_wait,
        most=True,
    ),
    Family(
        "servers",
        "gauge",
        "Connections to the origin by state: connecting, idle, leased to a client, cleaning (a client left "
        "something behind that is being removed), cancelling (a cancel request for its last query is on its "
        "way).",
        _servers,
        label="state",
    ),
    Family(
        "servers_pinned",
        "gauge",
        "Leased servers that their client keeps beyond its transaction, because of what the session holds.",
        lambda pool: pool.pinned,
    ),
    Family("pool_size", "gauge", "The most servers that there may be.", lambda pool: pool.size, shared=True),
    Family("pool_min_size", "gauge", "Servers that are kept open.", lambda pool: pool.min_size),
    Family(
        "pools",
        "gauge",
        'Pools that these labels stand for: 1, or more under user="other".',
        lambda _: 1,
        shared=True,
    ),
    Family(
        "pools_failing",
        "gauge",
        "Pools whose last attempt to open a server failed, or is taking long.",
        lambda pool: pool.failure is not None,
    ),
    Family(
        "queries",
        "counter",
        "Answers of servers to clients, counted by ReadyForQuery. What is answered without a server is not "
        "among them.",
        lambda pool: pool.queries,
    ),
    Family(
        "transactions",
        "counter",
        "Transactions that have ended; a statement outside a transaction block is one.",
        lambda pool: pool.transactions,
    ),
    Family(
        "query_seconds",
        "histogram",
        "From what a client asked to the last answer, without the wait for a server. Statements that came at "
        "once are one.",
        lambda pool: pool.query_time,
    ),
    Family(
        "transaction_seconds",
        "histogram",
        "How long transactions lasted, from their first statement on, without the wait for a server.",
        lambda pool: pool.transaction_time,
    ),
    Family("leases", "counter", "Times that a client got a server.", lambda pool: pool.leases),
    Family(
        "lease_waits",
        "counter",
        "Leases that were not to be had at once: the client waited.",
        lambda pool: pool.waits,
    ),
    Family(
        "lease_refusals",
        "counter",
        "Statements that failed because there was no server in time, or the queue for one was full.",
        lambda pool: pool.refusals,
    ),
    Family(
        "lease_wait_seconds",
        "histogram",
        "From the wish for a server to the lease; most get one at once, in no time.",
        lambda pool: pool.wait_time,
    ),
    Family(
        "server_connect_seconds",
        "histogram",
        "How long it took to connect to the origin and log in there.",
        lambda pool: pool.connect_time,
    ),
    Family(
        "client_login_seconds",
        "histogram",
        "How long clients took to log in, from the accepted connection on: TLS, authentication, and a first "
        "server if there was none.",
        lambda pool: pool.login_time,
    ),
    Family("client_received_bytes", "counter", "Bytes from clients.", lambda pool: pool.client_received),
    Family("client_sent_bytes", "counter", "Bytes to clients.", lambda pool: pool.client_sent),
    Family("server_received_bytes", "counter", "Bytes from servers.", lambda pool: pool.server_received),
    Family("server_sent_bytes", "counter", "Bytes to servers.", lambda pool: pool.server_sent),
    Family("cancels", "counter", "Cancel requests of clients.", lambda pool: pool.cancels),
    Family(
        "timeouts",
        "counter",
        "Time limits that were over, by the name of their setting.",
        lambda pool: pool.timeouts,
        label="limit",
    ),
    Family(
        "pins",
        "counter",
        "Times that a client came to keep its server beyond its transaction, by what the session holds.",
        lambda pool: pool.pins,
        label="reason",
    ),
    Family(
        "client_disconnects",
        "counter",
        "Clients that have ended, by reason. The reasons are those of the log.",
        lambda pool: pool.disconnects,
        label="reason",
    ),
    Family(
        "server_disconnects",
        "counter",
        "Servers that have ended, by reason. The reasons are those of the log.",
        lambda pool: pool.losses,
        label="reason",
    ),
    Family(
        "ahead_queued",
        "counter",
        "Statements that were sent to a server while it still ran another client's (queue-ahead).",
        lambda pool: pool.queued_ahead,
    ),
    Family(
        "ahead_hedged",
        "counter",
        "Of them, those that were sent to a second server because what was ahead of them took too long.",
        lambda pool: pool.hedged,
    ),
    Family(
        "ahead_repeated",
        "counter",
        "Of them, those that were repeated because a neighbour was cancelled or the server was lost.",
        lambda pool: pool.repeated,
    ),
    Family(
        "ahead_not_eligible",
        "counter",
        "Statements that waited for a server of their own although queue-ahead is on, by reason.",
        lambda pool: pool.not_eligible,
        label="reason",
    ),
    Family(
        "cache_requests",
        "counter",
        "Requests where there is a cache, by what became of them: hit, stale and shared were answered from "
        "memory.",
        lambda pool: pool.cached,
        label="status",
    ),
    Family(
        "cache_refusals",
        "counter",
        "Of them, those that are not answered from memory, by status and reason.",
        lambda pool: pool.not_cached,
        label="reason",
    ),
    Family(
        "cache_answers",
        "counter",
        "Answers: stored; overtaken (not kept because something was written meanwhile); revalidated (asked "
        "for anew past max_age); verified (a hit that was asked for again to compare); differed (one that "
        "was another).",
        lambda pool: pool.kept,
        label="what",
    ),
)
"""With the labels `database` and `user`."""

DATABASE: tuple[Family[OriginSeen], ...] = (
    Family(
        "database_reachable",
        "gauge",
        "0 if no pool of the database can open a server, else 1; also 1 as long as nobody has tried.",
        lambda origin: origin.reachable,
    ),
    Family(
        "database_state",
        "gauge",
        "1 for the state that the database is in, 0 for the others: active, paused, disabled.",
        lambda origin: {state: origin.state == state for state in ("active", "paused", "disabled")},
        label="state",
    ),
)
"""With the label `database`, of those that are configured; "*" is one of them."""

CACHE: tuple[Family[CacheSeen], ...] = (
    Family("cache_entries", "gauge", "Answers that are kept.", lambda cache: cache.entries),
    Family("cache_bytes", "gauge", "Bytes that they take.", lambda cache: cache.bytes),
    Family("cache_max_bytes", "gauge", "The most that they may take.", lambda cache: cache.max_bytes),
    Family(
        "cache_evicted",
        "counter",
        "Answers that had to leave before their time, for others.",
        lambda cache: cache.evicted,
    ),
    Family("cache_purged", "counter", "Answers that an operator has ended.", lambda cache: cache.purged),
    Family(
        "cache_bypassed",
        "gauge",
        "1 while nothing is answered from memory because the stream of changes lags or is broken, else 0.",
        lambda cache: cache.bypassed,
        most=True,
    ),
    Family(
        "cache_stream_behind_seconds",
        "gauge",
        "Seconds since it was proven last that the stream of changes lacks nothing; 0 without a stream.",
        lambda cache: cache.behind,
        most=True,
    ),
    Family(
        "cache_stream_tables",
        "gauge",
        "Tables whose changes are in the stream of changes.",
        lambda cache: cache.told,
        most=True,
    ),
    Family(
        "cache_stream_tables_missing",
        "gauge",
        "Tables whose changes are not, so that nothing that reads them is kept.",
        lambda cache: cache.untold,
        most=True,
    ),
)
"""With the label `database`, by the name that clients use, of those that have a cache."""

TUNNEL: tuple[Family[TunnelSeen], ...] = (
    Family(
        "tunnels",
        "gauge",
        "Connections between an edge and an origin that the origin has made, by state: ready, used.",
        lambda tunnel: {"ready": tunnel.ready, "used": tunnel.used},
        label="state",
    ),
    Family("tunnels_taken", "counter", "Tunnels that the edge has put to use.", lambda tunnel: tunnel.taken),
    Family(
        "tunnels_lost",
        "counter",
        "Tunnels that have ended without having been used: too old, broken, or silent.",
        lambda tunnel: tunnel.lost,
    ),
    Family(
        "tunnels_failing",
        "gauge",
        "Whether the last attempt of an origin to make one has failed; at an edge 0.",
        lambda tunnel: tunnel.failure is not None,
    ),
    Family(
        "tunnel_certificate_expires_seconds",
        "gauge",
        "When the certificate expires that the other side has shown last, in seconds since 1970; 0 if it has "
        "shown none.",
        lambda tunnel: tunnel.good_until or 0.0,
    ),
)
"""With the labels `side`, what this process is to them, and `peer`: at an edge the origin's name, at an
origin the edge's address.
"""

PROCESS: tuple[Family[ProcessSeen], ...] = (
    Family(
        "workers",
        "gauge",
        "Processes that serve clients.",
        lambda process: process.processes,
    ),
    Family(
        "worker_restarts",
        "counter",
        "Workers that have died and were replaced.",
        lambda process: process.restarts,
    ),
    Family(
        "start_time_seconds",
        "gauge",
        "When it began to serve, in Unix time.",
        lambda process: process.started_at,
    ),
    Family(
        "connections",
        "gauge",
        "Connections of clients, those that are still logging in and those to the console included.",
        lambda process: process.connections,
    ),
    Family(
        "max_clients", "gauge", "The most clients that there may be.", lambda process: process.max_clients
    ),
    Family("stopping", "gauge", "1 while it drains, else 0.", lambda process: process.stopping),
    Family(
        "turned_away",
        "counter",
        "Connections that ended before there was a client: not authenticated, not allowed, gone. By reason, "
        "and the reasons are those of the log.",
        lambda process: process.turned_away,
        label="reason",
    ),
    Family(
        "event_loop_lag_seconds",
        "histogram",
        "How late a timer came that is set twice a second: what the event loop makes others wait for.",
        lambda process: process.lag,
    ),
    Family(
        "event_loop_lag_max_seconds",
        "gauge",
        "The longest of these delays in the last minute.",
        lambda process: process.longest_lag,
    ),
)
"""Without labels."""

BUILD = "trio_pool_build"
BUILD_HELP = "Version of trio-pool and of Python, and whether the hot path is compiled; always 1."
BUILD_LABELS = ("version", "python", "compiled")
