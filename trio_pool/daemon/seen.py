"""What the census gives: plain values, each of one moment.

Times are seconds; points in time are those of the system's clock (Unix time), spans are spans. Statements
have `$1` in the place of every constant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_pool.pooling.traffic import Histogram


@attrs.frozen
class Spans:
    """A histogram at one moment: `counts` of the spans between `traffic.BOUNDS`, and their sum."""

    counts: tuple[int, ...]
    seconds: float

    @classmethod
    def of(cls, histogram: Histogram) -> Spans:
        return cls(tuple(histogram.counts), histogram.seconds)

    @property
    def count(self) -> int:
        return sum(self.counts)


@attrs.frozen
class PoolSeen:
    """One pool. Counts of servers and clients are of now; those of what happened are since it was made."""

    database: str
    user: str
    mode: str
    origin: str
    """Where its servers are, for people: host, port, database."""
    size: int
    min_size: int
    connecting: int
    idle: int
    leased: int
    cleaning: int
    cancelling: int
    pinned: int
    clients: int
    """Logged in."""
    clients_active: int
    """Those that have a server."""
    waiting: int
    longest_wait: float
    leases: int
    waits: int
    """Leases that were waited for."""
    refusals: int
    """Statements for which there was no lease: not in time, or the queue was full."""
    failure: str | None
    """Why there is no server, if that is so."""
    queries: int
    transactions: int
    query_time: Spans
    transaction_time: Spans
    wait_time: Spans
    connect_time: Spans
    login_time: Spans
    client_received: int
    client_sent: int
    server_received: int
    server_sent: int
    cancels: int
    timeouts: Mapping[str, int]
    pins: Mapping[str, int]
    disconnects: Mapping[str, int]
    losses: Mapping[str, int]
    queued_ahead: int
    hedged: int
    repeated: int
    not_eligible: Mapping[str, int]
    statements: int = 0
    """Prepared statements that clients or servers have, each counted once."""
    client_parses: int = 0
    """Named statements that clients have prepared."""
    server_parses: int = 0
    """Those of them that were prepared on a server for that."""
    binds: int = 0
    """Uses of them."""
    balancing: str | None = None
    """How its servers are spread over several hosts; None if there is one."""
    cached: Mapping[str, int] = attrs.field(factory=dict)
    """What became of requests where there is a cache, by `cache.statuses.Status`."""
    not_cached: Mapping[str, int] = attrs.field(factory=dict)
    """Those that were not answered from memory, by status and reason: `volatile: now()`."""
    kept: Mapping[str, int] = attrs.field(factory=dict)
    """Answers by what became of them: stored, overtaken, revalidated, verified, differed."""


@attrs.frozen
class ClientSeen:
    """One logged-in client."""

    id: int
    """The process id of its cancel key."""
    database: str
    user: str
    state: str
    """active: has a server; waiting; queued: behind another read; idle; idle in transaction."""
    address: str
    port: int
    local_address: str
    local_port: int
    application_name: str
    connected_at: float
    requested_at: float
    """When it last asked for something."""
    waiting_for: float
    server: int
    """Process id of the server that it leases, 0 if none."""
    leased_for: float
    transaction_for: float
    pins: Mapping[str, float]
    """Why it keeps its server: reasons, and for how long they have been there."""
    doing: str
    tls: str
    prepared: int
    received: int
    sent: int
    pool_user: str = ""
    """Of the pool's key."""
    worker: int = 0
    """Index of the process that has it, 0 if there is but one."""
    fd: int = -1
    link: int = -1
    """The file descriptor of the server that it leases, -1 if none."""
    reported: Mapping[str, str] = attrs.field(factory=dict)
    """Settings that it was told."""


@attrs.frozen
class ServerSeen:
    """One connection to an origin."""

    process_id: int
    """PostgreSQL's."""
    database: str
    user: str
    state: str
    """Of `ServerState`."""
    host: str
    address: str
    port: int
    local_address: str
    local_port: int
    connected_at: float
    idle_for: float
    """0 while it is not."""
    client: int
    """The id of the client that leases it, 0 if none."""
    queued: int
    """Reads that were sent ahead."""
    tls: str
    prepared: int
    received: int
    sent: int
    requested_at: float = 0.0
    """When it was last asked for something, or given back."""
    close_needed: bool = False
    """Whether it is closed as soon as it is given back."""
    worker: int = 0
    """As of a client; the two that belong together have the same."""
    fd: int = -1
    link: int = -1
    """The file descriptor of the client that leases it, -1 if none."""
    reported: Mapping[str, str] = attrs.field(factory=dict)
    """Settings as it reports them."""


@attrs.frozen
class ConsoleSeen:
    """One connection to the console."""

    id: int
    """The process id of its cancel key."""
    user: str
    address: str
    port: int
    local_address: str
    local_port: int
    connected_at: float
    tls: str
    fd: int
    worker: int = 0


@attrs.frozen
class PreparedSeen:
    """One prepared statement of a pool."""

    database: str
    user: str
    name: str
    """On servers."""
    text: str
    """Without its constants."""
    clients: int
    """Names that clients have for it."""
    servers: int
    """That have it."""


@attrs.frozen
class OriginSeen:
    """What is behind one database of the configuration, as its pools have found it."""

    database: str
    """As it is configured: "*" is one."""
    origin: str
    state: str
    """active, paused or disabled."""
    pools: int
    failing: int
    """Pools that cannot open a server, unless it is their user or their database alone that is not let in."""
    failure: str | None
    """Of one of them."""

    @property
    def reachable(self) -> bool:
        """Not known to be otherwise."""
        return not self.pools or self.failing < self.pools


@attrs.frozen
class CacheSeen:
    """The answers that are kept for one database."""

    database: str
    """As clients call it."""
    invalidation: str
    """Of `config.model.Invalidation`; "off" if there is no cache."""
    known: bool = False
    """Whether there is one, or has been."""
    entries: int = 0
    bytes: int = 0
    max_bytes: int = 0
    evicted: int = 0
    """Answers that had to leave before their time."""
    purged: int = 0
    """Answers that an operator has ended."""
    bypassed: bool = False
    """Whether nothing is answered from memory now, because nobody tells of what others write."""
    behind: float = 0.0
    """Seconds since it was proven last that the stream of changes lacks nothing; 0 without one."""
    told: int = 0
    """Tables whose changes are in that stream."""
    untold: int = 0
    """Tables whose changes are not."""

    def plus(self, other: CacheSeen) -> CacheSeen:
        """What two processes have of one, or what is told together."""
        names = ("entries", "bytes", "max_bytes", "evicted", "purged")
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        known, bypassed = self.known or other.known, self.bypassed or other.bypassed
        most = {name: max(getattr(self, name), getattr(other, name)) for name in ("behind", "told", "untold")}
        return attrs.evolve(self, **sums, **most, known=known, bypassed=bypassed)


@attrs.frozen
class TunnelSeen:
    """Tunnels from one origin, or to one edge."""

    side: str
    """What this process is to them: edge, or origin."""
    peer: str
    """At an edge the origin's name, at an origin the edge's address."""
    ready: int
    used: int
    taken: int
    """So many have been used, those that still are among them."""
    lost: int
    """So many have ended unused."""
    failure: str | None = None
    """Why the last attempt to make one has failed; at an origin."""
    good_until: float | None = None
    """When the certificate expires that the other side has shown last."""


@attrs.frozen
class MemorySeen:
    """Objects of one kind, by themselves, without what they refer to; or pages of the process."""

    name: str
    size: int
    """Bytes of one."""
    count: int


@attrs.frozen
class ResourceSeen:
    """What the system says of a process (memory, descriptors, processor time), by Prometheus' names."""

    name: str
    kind: str
    help: str
    value: float

    @property
    def counts(self) -> bool:
        """Whether it only grows."""
        return self.kind == "counter"


@attrs.frozen
class WorkerSeen:
    """One of the processes that serve clients."""

    index: int
    process_id: int
    started_at: float
    clients: int
    leased: int
    restarts: int
    """Processes that were in its place before and have died."""


@attrs.frozen
class ProcessSeen:
    """The process as a whole, or all of them together."""

    process_id: int
    """Of all together, the parent's."""
    version: str
    started_at: float
    connections: int
    """Sockets of clients, those that are still logging in included."""
    clients: int
    max_clients: int
    addresses: tuple[str, ...]
    stopping: bool
    suspended: bool
    lag: Spans
    """How late a timer came, looked at twice a second."""
    longest_lag: float
    """Of the last minute."""
    turned_away: Mapping[str, int]
    """Connections that ended before there was a client of a pool, by reason."""
    leased: int = 0
    """Servers on lease."""
    workers: tuple[WorkerSeen, ...] = ()
    """Those that are alive; of one process alone, none but itself."""
    restarts: int = 0
    """Workers that have died and were replaced."""
    processes: int = 1
    """That serve clients."""
