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
class ProcessSeen:
    """The process as a whole."""

    process_id: int
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
