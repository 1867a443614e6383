"""The composition root: from a configuration to a running pooler, and its orderly end.

    serve
    └─ data plane           the poller; ends last
       └─ pools             one task per pool, one per server connection
          └─ clients        one task per accepted socket
             └─ listeners   accept loops; end first

Pools are outside clients because a client's last act needs its server. Stopping goes inwards out: no new
clients, the clients end (stopping.py), pools close their servers. When all of this is cancelled from outside,
pools and data plane are shielded for as long as it takes to cancel what runs at PostgreSQL (`AT_ONCE`).
"""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from typing import TYPE_CHECKING

import attrs
import structlog
import trio

from trio_pool.config.access import TlsMode
from trio_pool.config.durations import OFF
from trio_pool.daemon.stopping import AT_ONCE, Stopping, stopped
from trio_pool.errors import ClientFault, Reason
from trio_pool.net import liveness, tls
from trio_pool.net.client import Client, part
from trio_pool.net.clients import Clients
from trio_pool.net.conversation import Conversation, EndOfStream
from trio_pool.net.listeners import accept_for_ever, listening, spell
from trio_pool.net.lookup import Lookup
from trio_pool.net.origin import OriginPool
from trio_pool.net.poller import Poller
from trio_pool.net.transport import PlainTransport
from trio_pool.net.welcome import Reception
from trio_pool.pooling.capacity import Capacity
from trio_pool.pooling.pool import PoolKey
from trio_pool.protocol.auth import Credentials
from trio_pool.protocol.channel_binding import end_point
from trio_pool.wire import messages

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from trio_pool.config.access import User
    from trio_pool.config.address import Address
    from trio_pool.config.model import Config, Database
    from trio_pool.net.listeners import Socket
    from trio_pool.protocol.credentials import OriginSecret
    from trio_pool.wire.startup import CancelRequest

log = structlog.get_logger()


@attrs.define(eq=False)
class Service:
    """A running pooler. `addresses` are where clients connect, with the ports that the system chose.

    `stop` asks it to end as SIGTERM does; `serve` returns when it has, and `ending` tells what it has cost.
    """

    config: Config
    poller: Poller = attrs.field(factory=Poller)
    clients: Clients = attrs.field(init=False)
    pools: dict[PoolKey, OriginPool] = attrs.field(factory=dict)
    ending: Stopping = attrs.field(init=False)
    lookups: dict[str, Lookup] = attrs.field(factory=dict)
    """By the name of a database's table."""
    addresses: tuple[str, ...] = ()
    _reception: Reception = attrs.field(init=False)
    _stopping: trio.Event = attrs.field(factory=trio.Event)
    _arriving: set[trio.CancelScope] = attrs.field(factory=set)
    """Around everybody who has not logged in yet."""
    _pool_nursery: trio.Nursery | None = None
    _capacities: dict[str, Capacity] = attrs.field(factory=dict)
    """By the name that clients connect to."""
    _statement_prefix: bytes = attrs.field(factory=lambda: b"trio_pool_%b_" % secrets.token_hex(4).encode())

    started_at: float = 0.0
    """On Trio's clock."""

    def __attrs_post_init__(self) -> None:
        config = self.config
        self.clients = Clients(config.listen.max_clients)
        self.ending = Stopping(self.clients, self.pools, config.timeouts)
        listen_tls = config.listen.tls
        encrypted = listen_tls.mode is not TlsMode.DISABLE
        mock_key = secrets.token_bytes(32)
        credentials = {
            name: Credentials.parse(name, user.password.reveal() if user.password is not None else None)
            for name, user in config.users.items()
            if user.password is not None or config.auth.query is None
        }
        for known in credentials.values():
            known.secret(mock_key)  # derived now rather than in front of the first client
        self._reception = Reception(
            config,
            self.poller,
            self.clients,
            self.pool_for,
            self.lookup_for,
            credentials,
            tls.listen_context(listen_tls) if encrypted else None,
            end_point(tls.own_certificate(listen_tls)) if encrypted else None,
            mock_key,
            mock_scram=_mostly_scram(credentials.values()),
        )

    @property
    def stopping(self) -> bool:
        """Whether it has been asked to end."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Drain: no new clients, the others leave between their transactions, within `drain`."""
        self._stopping.set()

    def stop_at_once(self) -> None:
        """Wait for nobody: clients are told, what they run is cancelled at PostgreSQL, within a second."""
        self._stopping.set()
        self.ending.hurry()

    def pool_for(self, database: str, user: str, secret: OriginSecret | None = None) -> OriginPool | None:
        """The pool of a database for a client's user, made on first use; None without such a database.

        `secret` is what the client can log in at the origin with. A pool of its own logs in with the one that
        was shown last; a pool that all users share has the origin's.
        """
        found = self.config.database(database)
        if found is None:
            return None
        origin = found.origin
        key = PoolKey(database, origin.user or user)
        if origin.user is not None:
            secret = origin.password.reveal() if origin.password is not None else None
        else:
            found = _sized_for(found, self.config.users.get(user))
        pool = self.pools.get(key)
        if pool is None:
            pool = self.pools[key] = OriginPool(
                found,
                key.user,
                secret,
                limits=self.config.session,
                poller=self.poller,
                statement_prefix=self._statement_prefix,
                lease_bounds=self.config.lease_bounds(found),
                capacity=self._capacity_of(found),
            )
            assert self._pool_nursery is not None
            self._pool_nursery.start_soon(pool.run)
        elif secret is not None and secret != pool.access.password:
            pool.access = attrs.evolve(pool.access, password=secret)
        return pool

    def _capacity_of(self, database: Database) -> Capacity | None:
        """What all pools of the database share; None if nothing bounds them together."""
        if not database.max_servers:
            return None
        return self._capacities.setdefault(database.name, Capacity(database.max_servers))

    def lookup_for(self, database: str) -> Lookup | None:
        """The look-up of users for a database, made on first use; None where they are not looked up."""
        if self.config.auth.query is None or self.config.database(database) is None:
            return None
        name = database if database in self.config.databases else "*"
        lookup = self.lookups.get(name)
        if lookup is None:
            lookup = self.lookups[name] = Lookup(self.config.databases[name], self.config.auth)
            assert self._pool_nursery is not None
            self._pool_nursery.start_soon(lookup.run)
        return lookup

    async def run(self, *, task_status: trio.TaskStatus[Service] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop` or cancellation. `started` gets this object once clients can connect.

        Raises OSError if an address cannot be listened on, `ConfigurationError` if it wants of this system
        what it cannot do.
        """
        self.started_at = trio.current_time()
        keepalive = liveness.Keepalive.of(self.config.listen)
        with ExitStack() as stack:
            listeners = [_listen(stack, address) for address in self.config.listen.addresses]
            self.addresses = tuple(map(spell, listeners))
            self.poller.resting = len(listeners) + 1  # and Trio's own
            async with trio.open_nursery() as data_plane:
                # Shielded: when all of this is cancelled at once, connections still leave an open poller,
                # and what they ran is cancelled.
                polling = trio.CancelScope(shield=True)
                pooling = trio.CancelScope(shield=True)
                data_plane.start_soon(self._poll, polling)
                opened = trio.Event()
                data_plane.start_soon(self._keep_pools, pooling, polling, opened)
                try:
                    # Not `nursery.start`: when cancelled it waits for its task, and that is shielded.
                    await opened.wait()
                    self._open_configured_pools()
                    await self._serve_clients(stack, listeners, keepalive, task_status)
                except BaseException:
                    with trio.CancelScope(shield=True):
                        await self.ending.settle(AT_ONCE)
                    raise
                finally:
                    pooling.cancel()

    async def _poll(self, scope: trio.CancelScope) -> None:
        with scope:
            await self.poller.run()

    async def _keep_pools(
        self, scope: trio.CancelScope, polling: trio.CancelScope, opened: trio.Event
    ) -> None:
        """The tasks of the pools, until `scope` is cancelled; then the data plane has nothing left to do."""
        try:
            with scope:
                async with trio.open_nursery() as pools:
                    self._pool_nursery = pools
                    opened.set()
                    await trio.sleep_forever()
        finally:
            polling.cancel()

    def _open_configured_pools(self) -> None:
        """Pools that are to hold servers before the first client comes."""
        for database in self.config.databases.values():
            if database.min_pool_size and database.origin.user is not None and database.name != "*":
                self.pool_for(database.name, database.origin.user)

    async def _serve_clients(
        self,
        stack: ExitStack,
        listeners: Iterable[Socket],
        keepalive: liveness.Keepalive,
        task_status: trio.TaskStatus[Service],
    ) -> None:
        """Accept until `stop`, then drain. `stack` closes the listeners, so that new clients are refused."""
        async with trio.open_nursery() as clients:
            patience = self.config.listen.tcp_user_timeout
            clients.start_soon(liveness.watch, self.clients.by_id.values, patience)
            async with trio.open_nursery() as accepting:
                for listener in listeners:
                    accepting.start_soon(accept_for_ever, listener, self._serve_client, clients, keepalive)
                log.info("ready", addresses=list(self.addresses))
                task_status.started(self)
                await self._stopping.wait()
                accepting.cancel_scope.cancel()
            stack.close()
            drain = self.config.timeouts.drain
            log.info("stopping", clients=self.clients.connections, drain=None if drain == OFF else drain)
            for arriving in self._arriving:
                arriving.cancel()
            await self.ending.run()
            clients.cancel_scope.cancel()
        log.info("stopped", at_once=self.ending.hurried, **attrs.asdict(self.ending.losses))

    async def _serve_client(self, sock: Socket, host: str | None, peer: str) -> None:
        """One accepted socket, to its end. The one boundary behind which a client's errors stay."""
        transport = PlainTransport(sock)
        conversation = Conversation.over(transport)
        self.clients.connections += 1
        client: Client | None = None
        try:
            client = await self._welcome(conversation, host, peer)
            if client is not None:
                self.clients.by_id[client.process_id] = client
                await client.live()
        except Exception as error:
            log.error("internal error in a client's task", client=peer, exc_info=error)
        finally:
            self.clients.connections -= 1
            self.clients.leave(conversation)
            conversation.transport.close()
            if client is not None:
                del self.clients.by_id[client.process_id]
                log.info(
                    "client disconnected",
                    client=peer,
                    pool=str(client.origin.pool.key),
                    reason=client.reason.value,
                )

    async def _welcome(self, conversation: Conversation, host: str | None, peer: str) -> Client | None:
        """The client, logged in; or None, and it has been told why not."""
        fault: ClientFault
        try:
            if self._stopping.is_set():
                raise stopped()
            with trio.CancelScope() as arriving:
                self._arriving.add(arriving)
                try:
                    request = await self._reception.welcome(conversation, host, peer)
                finally:
                    self._arriving.discard(arriving)
            if arriving.cancelled_caught:
                raise stopped()
            if isinstance(request, Client):
                return request
            await self._cancel(request)
            return None
        except ClientFault as raised:
            fault = raised
        except EndOfStream as end:
            log.info("client disconnected", client=peer, reason=Reason.CLIENT_VANISHED.value, error=str(end))
            return None
        log.info(
            "client disconnected",
            client=peer,
            reason=fault.reason.value,
            sqlstate=fault.sqlstate,
            error=fault.message,
            detail=fault.detail,
        )
        await part(conversation.transport, messages.error(fault.sqlstate, fault.message, severity="FATAL"))
        return None

    async def _cancel(self, request: CancelRequest) -> None:
        """Returns when the cancel has had its effect: then its connection is closed, as PostgreSQL does."""
        client = self.clients.find(request)
        if client is not None:
            await client.cancel()


def _mostly_scram(credentials: Collection[Credentials]) -> bool:
    """Whether a user of whom nothing is known most likely has a SCRAM secret."""
    return 2 * sum(known.scram is not None for known in credentials) > len(credentials)


def _sized_for(database: Database, user: User | None) -> Database:
    """The database as the pool of this user alone has it."""
    if user is None or user.pool_size is None:
        return database
    size = user.pool_size
    return attrs.evolve(database, pool_size=size, min_pool_size=min(database.min_pool_size, size))


def _listen(stack: ExitStack, address: Address) -> Socket:
    """Listen until the stack is closed. Its OSError names the address, as the system's does not."""
    try:
        return stack.enter_context(listening(address))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(address)) from error


async def serve(config: Config, *, task_status: trio.TaskStatus[Service] = trio.TASK_STATUS_IGNORED) -> None:
    """Run a pooler inside any Trio program: `service = await nursery.start(trio_pool.serve, config)`."""
    await Service(config).run(task_status=task_status)
