"""What can be seen of a running pooler, as plain values: for the console, the metrics, the status page, and
`top`.

Everything here is taken at one moment, copied, and holds nothing of the data plane. Times are seconds; points
in time are those of the system's clock (Unix time), spans are spans. Statements have `$1` in the place of
every constant, so that nobody's data is on display.

Counting is done where things happen (`Traffic`, `PoolStatistics`, `AheadStatistics`); here it is only read.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import attrs
import trio

from trio_pool import __version__
from trio_pool.net.client import Client
from trio_pool.net.server import Server
from trio_pool.net.sockets import local_end, remote_end
from trio_pool.net.transport import TLSTransport
from trio_pool.pooling.pool import ServerState
from trio_pool.protocol.client import ClientState
from trio_pool.wire.tags import Status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trio_pool.daemon.service import Service
    from trio_pool.net.leaseholder import Leaseholder
    from trio_pool.net.origin import OriginPool
    from trio_pool.net.transport import Transport
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


@attrs.frozen
class Census:
    """Looks at a service whenever it is asked. Nothing is kept."""

    service: Service

    def process(self) -> ProcessSeen:
        service = self.service
        return ProcessSeen(
            process_id=os.getpid(),
            version=__version__,
            started_at=_Clock().system(service.started_at),
            connections=service.clients.connections,
            clients=len(service.clients),
            max_clients=service.clients.limit,
            addresses=service.addresses,
            stopping=service.stopping,
        )

    def pools(self) -> list[PoolSeen]:
        """All pools, in the order in which they were made."""
        now = trio.current_time()
        clients: dict[OriginPool, list[Client]] = {}
        for client in self.service.clients.by_id.values():
            clients.setdefault(client.origin, []).append(client)
        return [_pool(origin, clients.get(origin, []), now) for origin in self.service.pools.values()]

    def clients(self) -> list[ClientSeen]:
        """All clients that have logged in."""
        clock = _Clock()
        return [_client(client, clock) for client in self.service.clients.by_id.values()]

    def servers(self) -> list[ServerSeen]:
        """All servers that have logged in."""
        clock = _Clock()
        return [
            _server(server, clock) for origin in self.service.pools.values() for server in _servers(origin)
        ]

    def leases(self) -> list[ClientSeen]:
        """Clients with a server, those that have had it longest first."""
        clock = _Clock()
        holders = [
            client
            for origin in self.service.pools.values()
            for client in origin.pool.leased.values()
            if isinstance(client, Client)
        ]
        holders.sort(key=lambda client: client.leased_at)
        return [_client(client, clock) for client in holders]

    def waiting(self) -> list[ClientSeen]:
        """Clients that wait for a server, those that have waited longest first."""
        clock = _Clock()
        waiters = [
            client
            for origin in self.service.pools.values()
            for client in origin.pool.waiting
            if isinstance(client, Client)
        ]
        waiters.sort(key=lambda client: client.requested_at)
        return [_client(client, clock) for client in waiters]


class _Clock:
    """Trio's clock and the system's at the same moment."""

    def __init__(self) -> None:
        self.now = trio.current_time()
        self._offset = time.time() - self.now  # noqa: TID251 - people read it

    def system(self, when: float) -> float:
        return when + self._offset

    def since(self, when: float) -> float:
        return max(0.0, self.now - when)


def _pool(origin: OriginPool, clients: Sequence[Client], now: float) -> PoolSeen:
    pool, traffic, ahead = origin.pool, origin.traffic, origin.ahead
    counts = pool.statistics()
    servers = _servers(origin)
    waiters = [waiter for waiter in pool.waiting if isinstance(waiter, Client)]
    return PoolSeen(
        database=pool.key.database,
        user=pool.key.user,
        mode=origin.database.pool_mode.value,
        origin=str(origin.database.origin),
        size=pool.size,
        min_size=pool.min_size,
        connecting=counts.connecting,
        idle=counts.idle,
        leased=counts.leased,
        cleaning=counts.cleaning,
        cancelling=counts.cancelling,
        pinned=counts.pinned,
        clients=len(clients),
        clients_active=sum(client.server is not None for client in clients),
        waiting=len(waiters),
        longest_wait=max((now - waiter.requested_at for waiter in waiters), default=0.0),
        leases=counts.leases,
        waits=counts.waits,
        refusals=origin.shortage.refused,
        failure=None if origin.failure is None else origin.failure.message,
        queries=traffic.queries,
        transactions=traffic.transaction_time.count,
        query_time=Spans.of(traffic.query_time),
        transaction_time=Spans.of(traffic.transaction_time),
        wait_time=Spans.of(traffic.waits),
        connect_time=Spans.of(traffic.connects),
        client_received=traffic.client_received + sum(client.transport.received for client in clients),
        client_sent=traffic.client_sent + sum(client.transport.sent for client in clients),
        server_received=traffic.server_received + sum(server.transport.received for server in servers),
        server_sent=traffic.server_sent + sum(server.transport.sent for server in servers),
        cancels=traffic.cancels,
        timeouts=dict(traffic.timeouts),
        pins=counts.pins,
        disconnects=dict(traffic.disconnects),
        losses=dict(traffic.losses),
        queued_ahead=0 if ahead is None else ahead.statistics.queued,
        hedged=0 if ahead is None else ahead.statistics.hedged,
        repeated=0 if ahead is None else ahead.statistics.repeated,
        not_eligible={} if ahead is None else dict(ahead.statistics.not_eligible),
    )


def _client(client: Client, clock: _Clock) -> ClientSeen:
    server, session = client.server, client.session
    address, port = _place(client.peer)
    pins = client.origin.pool.pinned.get(server, {}) if server is not None else {}
    local = local_end(client.fd)
    return ClientSeen(
        id=client.process_id,
        database=client.origin.pool.key.database,
        user=client.user,
        state=_state(client),
        address=address,
        port=port,
        local_address=local[0],
        local_port=local[1],
        application_name=session.reported.get("application_name", ""),
        connected_at=clock.system(client.born),
        requested_at=clock.system(client.heard_at),
        waiting_for=clock.since(client.requested_at) if client.waits or client.is_queued else 0.0,
        server=0 if server is None else server.dialled.login.process_id,
        leased_for=0.0 if server is None else clock.since(client.leased_at),
        transaction_for=clock.since(client.began_at) if _in_transaction(client) else 0.0,
        pins={reason: clock.since(since) for reason, since in pins.items()},
        doing=client.shown,
        tls=_tls(client.transport),
        prepared=len(session.statements or ()),
        received=client.transport.received,
        sent=client.transport.sent,
    )


def _server(server: Server, clock: _Clock) -> ServerSeen:
    pool = server.origin.pool
    idle = server.state is ServerState.IDLE
    holder: Leaseholder | None = server.client
    local = local_end(server.fd)
    remote = remote_end(server.fd)
    return ServerSeen(
        process_id=server.dialled.login.process_id,
        database=pool.key.database,
        user=pool.key.user,
        state=server.state.value,
        host=server.dialled.host,
        address=remote[0],
        port=remote[1],
        local_address=local[0],
        local_port=local[1],
        connected_at=clock.system(server.born),
        idle_for=clock.since(server.idle_since) if idle else 0.0,
        client=holder.process_id if isinstance(holder, Client) else 0,
        queued=0 if server.queue is None else len(server.queue.waiting),
        tls=_tls(server.transport),
        prepared=len(server.session.statements),
        received=server.transport.received,
        sent=server.transport.sent,
    )


def _servers(origin: OriginPool) -> list[Server]:
    """Those that have logged in: who is still on the way has nothing to show."""
    pool = origin.pool
    others = [one for some in pool.others.values() for one in some if isinstance(one, Server)]
    return [*pool.idle, *pool.leased, *others]


def _state(client: Client) -> str:
    if client.waits:
        return "waiting"
    if client.is_queued:
        return "queued"
    if _in_transaction(client) and not _asks(client):
        return "idle in transaction"
    return "active" if client.server is not None else "idle"


def _asks(client: Client) -> bool:
    machine = client.session.server
    return machine is not None and machine.owes


def _in_transaction(client: Client) -> bool:
    if client.session.state in (ClientState.BEGUN, ClientState.FAILED):
        return True
    return client.server is not None and client.server.session.status != Status.IDLE


def _tls(transport: Transport) -> str:
    """Version and cipher as PgBouncer names them, "" without TLS."""
    if not isinstance(transport, TLSTransport):
        return ""
    cipher = transport.tls.cipher()
    return f"{transport.tls.version()}/{cipher[0] if cipher is not None else '?'}"


def _place(peer: str) -> tuple[str, int]:
    """Address and port of `host:port`; a Unix socket has no port."""
    host, _, port = peer.rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdecimal() else (peer, 0)
