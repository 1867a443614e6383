"""What can be seen of a running pooler, as plain values: for the console, the metrics, the status page, and
`top`.

Everything that it gives (`seen`) is taken at one moment, copied, and holds nothing of the data plane.
Counting is done where things happen (`Traffic`, `PoolStatistics`, `AheadStatistics`); here it is only read.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import TYPE_CHECKING, TypeVar

import attrs
import trio

from trio_pool import __version__
from trio_pool.daemon.seen import (
    ClientSeen,
    ConsoleSeen,
    OriginSeen,
    PoolSeen,
    PreparedSeen,
    ProcessSeen,
    ServerSeen,
    Spans,
)
from trio_pool.errors import Reason
from trio_pool.net.client import Client
from trio_pool.net.conversation import Conversation
from trio_pool.net.server import Server
from trio_pool.net.sockets import local_end, remote_end
from trio_pool.net.transport import TLSTransport
from trio_pool.pooling.pool import ServerState
from trio_pool.protocol.client import ClientState
from trio_pool.protocol.sql import without_constants
from trio_pool.protocol.statements import Statement
from trio_pool.wire.tags import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from trio_pool.daemon.service import Service
    from trio_pool.errors import ServerFault
    from trio_pool.net.clients import Console
    from trio_pool.net.leaseholder import Leaseholder
    from trio_pool.net.origin import OriginPool
    from trio_pool.net.transport import Transport


CLIENTS_AT_ONCE = 500
POOLS_AT_ONCE = 10
"""How many are looked at in one go where the data plane must not be held up: half a millisecond of each."""


@attrs.frozen
class Census:
    """Looks at a service whenever it is asked. Nothing is kept."""

    service: Service

    @property
    def now(self) -> float:
        """Unix time."""
        return _Clock().system(trio.current_time())

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
            suspended=service.operations.suspended,
            lag=Spans.of(service.lag.delays),
            longest_lag=service.lag.longest,
            turned_away=dict(service.turned_away),
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
        for client in self.service.clients.by_id.values():
            _count(client, tallies)
        return [_pool(origin, tallies[origin], now) for origin in self.service.pools.values()]

    async def walk(
        self, visit: Callable[[OriginPool, PoolSeen], None], others: Iterable[OriginPool] = ()
    ) -> None:
        """Visit all pools, and these others. There may be thousands of them, and of clients, so everybody
        else gets a turn now and then.

        Each pool is what it is in one moment, but not in the same one as the next.
        """
        origins = list({**dict.fromkeys(self.service.pools.values()), **dict.fromkeys(others)})
        clients = list(self.service.clients.by_id.values())
        tallies = _tallies({client.origin for client in clients})  # at once, before any of them can leave
        for some in _slices(clients, CLIENTS_AT_ONCE):
            for client in some:
                _count(client, tallies)
            await trio.lowlevel.checkpoint()
        for few in _slices(origins, POOLS_AT_ONCE):
            now = trio.current_time()
            for origin in few:
                visit(origin, _pool(origin, tallies.get(origin) or _Tally.of(origin), now))
            await trio.lowlevel.checkpoint()

    def clients(self) -> list[ClientSeen]:
        """All clients that have logged in."""
        return list(self.each_client())

    def each_client(self) -> Iterator[ClientSeen]:
        """The same one by one, for who lets others have a turn in between. Those that have left since are
        left out.
        """
        clock = _Clock()
        for client in list(self.service.clients.by_id.values()):
            if not client.over:
                yield _client(client, clock)

    def servers(self) -> list[ServerSeen]:
        """All servers that have logged in."""
        clock = _Clock()
        return [
            _server(server, clock) for origin in self.service.pools.values() for server in _servers(origin)
        ]

    def consoles(self) -> list[ConsoleSeen]:
        """Connections to the console."""
        clock = _Clock()
        return [
            _console(conversation.transport, console, clock)
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
            for seen in _prepared(origin, clients.get(origin, Counter()))
        ]

    def leases(self, most: int | None = None) -> list[ClientSeen]:
        """Clients with a server, those that have had it longest first; only so many of them."""
        clock = _Clock()
        holders = [
            client
            for origin in self.service.pools.values()
            for client in origin.pool.leased.values()
            if isinstance(client, Client)
        ]
        holders.sort(key=lambda client: client.leased_at)
        return [_client(client, clock) for client in holders[:most]]

    def waiting(self, most: int | None = None) -> list[ClientSeen]:
        """Clients that wait for a server, those that have waited longest first; only so many of them."""
        clock = _Clock()
        waiters = [
            client
            for origin in self.service.pools.values()
            for client in origin.pool.waiting
            if isinstance(client, Client)
        ]
        waiters.sort(key=lambda client: client.requested_at)
        return [_client(client, clock) for client in waiters[:most]]


class _Clock:
    """Trio's clock and the system's at the same moment."""

    def __init__(self) -> None:
        self.now = trio.current_time()
        self._offset = time.time() - self.now  # noqa: TID251 - people read it

    def system(self, when: float) -> float:
        return when + self._offset

    def since(self, when: float) -> float:
        return max(0.0, self.now - when)


@attrs.define
class _Tally:
    """Of a pool: its clients, and what is counted of those that have left and of those that are there."""

    received: int
    sent: int
    binds: int
    clients: int = 0
    active: int = 0

    @classmethod
    def of(cls, origin: OriginPool) -> _Tally:
        return cls(origin.traffic.client_received, origin.traffic.client_sent, origin.statements.binds)


def _tallies(origins: Iterable[OriginPool]) -> dict[OriginPool, _Tally]:
    return {origin: _Tally.of(origin) for origin in origins}


def _count(client: Client, tallies: Mapping[OriginPool, _Tally]) -> None:
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


def _pool(origin: OriginPool, tally: _Tally, now: float) -> PoolSeen:
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
        clients=tally.clients,
        clients_active=tally.active,
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
        login_time=Spans.of(traffic.logins),
        client_received=tally.received,
        client_sent=tally.sent,
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
        statements=len(origin.statements),
        client_parses=origin.statements.client_parses,
        server_parses=origin.statements.server_parses,
        binds=tally.binds,
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
        pool_user=client.origin.pool.key.user,
        fd=client.fd,
        link=-1 if server is None else server.fd,
        reported=dict(session.reported.items()),
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
        requested_at=clock.system(server.idle_since if idle else getattr(holder, "asked_at", server.born)),
        close_needed=bool(server.outdated),
        fd=server.fd,
        link=holder.fd if isinstance(holder, Client) else -1,
        reported=dict(server.session.reported.items()),
    )


def _console(transport: Transport, console: Console, clock: _Clock) -> ConsoleSeen:
    address, port = _place(console.peer)
    fd = transport.fileno()
    local = local_end(fd)
    return ConsoleSeen(
        id=console.process_id,
        user=console.user,
        address=address,
        port=port,
        local_address=local[0],
        local_port=local[1],
        connected_at=clock.system(console.connected_at),
        tls=_tls(transport),
        fd=fd,
    )


def _prepared(origin: OriginPool, clients: Counter[Statement]) -> list[PreparedSeen]:
    servers = Counter(found for server in _servers(origin) for found in server.session.statements.present)
    return [
        PreparedSeen(
            database=origin.pool.key.database,
            user=origin.pool.key.user,
            name=statement.name.decode(),
            text=without_constants(statement.text),
            clients=clients[statement],
            servers=servers[statement],
        )
        for statement in {**clients, **servers}
    ]


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
