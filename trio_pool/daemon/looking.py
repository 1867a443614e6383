"""One pool, client, server or other thing of the data plane as a plain value (`seen`): what the census is
made of.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import attrs
import trio

from trio_pool.daemon.seen import ClientSeen, ConsoleSeen, PoolSeen, PreparedSeen, ServerSeen, Spans
from trio_pool.net.client import Client
from trio_pool.net.server import Server
from trio_pool.net.sockets import local_end, remote_end
from trio_pool.net.transport import TLSTransport
from trio_pool.pooling.pool import ServerState
from trio_pool.protocol.client import ClientState
from trio_pool.protocol.sql import without_constants
from trio_pool.wire.tags import Status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_pool.config.origin import Origin
    from trio_pool.net.clients import Console
    from trio_pool.net.leaseholder import Leaseholder
    from trio_pool.net.origin import OriginPool
    from trio_pool.net.transport import Transport
    from trio_pool.protocol.statements import Statement


class Clock:
    """Trio's clock and the system's at the same moment."""

    def __init__(self) -> None:
        self.now = trio.current_time()
        self._offset = time.time() - self.now  # noqa: TID251 - people read it

    def system(self, when: float) -> float:
        return when + self._offset

    def since(self, when: float) -> float:
        return max(0.0, self.now - when)


@attrs.define
class Tally:
    """Of a pool: its clients, and what is counted of those that have left and of those that are there."""

    received: int
    sent: int
    binds: int
    clients: int = 0
    active: int = 0

    @classmethod
    def of(cls, origin: OriginPool) -> Tally:
        return cls(origin.traffic.client_received, origin.traffic.client_sent, origin.statements.binds)


def seen_pool(origin: OriginPool, tally: Tally, now: float) -> PoolSeen:
    """One pool, with what is counted of its clients."""
    pool, traffic, ahead = origin.pool, origin.traffic, origin.ahead
    counts = pool.statistics()
    servers = servers_of(origin)
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
        balancing=balancing(origin.database.origin),
        **_of_cache(origin),
    )


def _of_cache(origin: OriginPool) -> dict[str, Mapping[str, int]]:
    if origin.cached is None:
        return {}
    statistics = origin.cached.statistics
    reasons = statistics.reasons().items()
    return {
        "cached": {status.value: count for status, count in statistics.statuses().items()},
        "not_cached": {f"{status.value}: {why}": count for (status, why), count in reasons if count},
        "kept": statistics.kept(),
    }


def balancing(origin: Origin) -> str | None:
    """How servers are spread over its hosts; None where there is nothing to choose from."""
    return str(origin.load_balance_hosts) if len(origin.hosts) > 1 else None


def seen_client(client: Client, clock: Clock, worker: int = 0) -> ClientSeen:
    """One client that has logged in."""
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
        worker=worker,
        fd=client.fd,
        link=-1 if server is None else server.fd,
        reported=dict(session.reported.items()),
    )


def seen_server(server: Server, clock: Clock, worker: int = 0) -> ServerSeen:
    """One connection to an origin."""
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
        worker=worker,
        fd=server.fd,
        link=holder.fd if isinstance(holder, Client) else -1,
        reported=dict(server.session.reported.items()),
    )


def seen_console(transport: Transport, console: Console, clock: Clock, worker: int = 0) -> ConsoleSeen:
    """One connection to the console."""
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
        worker=worker,
    )


def seen_prepared(origin: OriginPool, clients: Counter[Statement]) -> list[PreparedSeen]:
    """What clients and servers of a pool have prepared by name; `clients` is how many have each."""
    servers = Counter(found for server in servers_of(origin) for found in server.session.statements.present)
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


def servers_of(origin: OriginPool) -> list[Server]:
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
