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
from collections import Counter
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import attrs
import structlog
import trio

from trio_pool.config.access import TlsMode
from trio_pool.config.durations import OFF
from trio_pool.daemon.applying import configure_client, sized_for
from trio_pool.daemon.caches import Caches
from trio_pool.daemon.lag import Lag
from trio_pool.daemon.operations import Operations
from trio_pool.daemon.stopping import AT_ONCE, Stopping, stopped
from trio_pool.errors import ClientFault, Reason, SqlState
from trio_pool.net import liveness, tls
from trio_pool.net.client import LINGER, Client, part
from trio_pool.net.clients import Clients, Console
from trio_pool.net.conversation import Conversation, EndOfStream
from trio_pool.net.feeds import Feeds
from trio_pool.net.listeners import BURST, accept_for_ever, listening_all, spell
from trio_pool.net.lookup import Lookup
from trio_pool.net.origin import OriginPool
from trio_pool.net.poller import Poller
from trio_pool.net.transport import PlainTransport
from trio_pool.net.tunnel import unusable
from trio_pool.net.tunnel_dial import Dialling, EdgeDialler
from trio_pool.net.tunnel_listen import Tunnels
from trio_pool.net.welcome import ForConsole, Reception
from trio_pool.pooling.capacity import Capacity
from trio_pool.pooling.pool import PoolKey
from trio_pool.protocol.auth import Credentials
from trio_pool.protocol.channel_binding import end_point
from trio_pool.wire import messages

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
    from pathlib import Path

    from trio_pool.cache.freshness import Freshness
    from trio_pool.config.access import User
    from trio_pool.config.address import Address
    from trio_pool.config.model import Config, Database
    from trio_pool.daemon.console.samples import Samples
    from trio_pool.daemon.workers.channel import Channel
    from trio_pool.daemon.workers.office import Office
    from trio_pool.net.listeners import Socket
    from trio_pool.net.tunnel_dial import Arrival
    from trio_pool.protocol.credentials import OriginSecret
    from trio_pool.wire.startup import CancelRequest

log = structlog.get_logger()

LOOK_AGAIN = 0.05
"""Seconds between looks at what tells nobody that it has changed."""


@attrs.define(eq=False)
class Service:
    """A running pooler. `addresses` are where clients connect, with the ports that the system chose.

    `stop` asks it to end as SIGTERM does; `serve` returns when it has, and `ending` tells what it has cost.
    """

    config: Config
    config_path: Path | None = None
    """Where it was read from; None if it was not read from a file."""
    reread: Callable[[], Config] | None = None
    """Reads it again. Raises `ConfigurationError`."""
    poller: Poller = attrs.field(factory=Poller)
    clients: Clients = attrs.field(init=False)
    pools: dict[PoolKey, OriginPool] = attrs.field(factory=dict)
    ending: Stopping = attrs.field(init=False)
    lookups: dict[str, Lookup] = attrs.field(factory=dict)
    """By the name of a database's table."""
    addresses: tuple[str, ...] = ()
    http_address: str | None = None
    """Where the status page is, such as "http://127.0.0.1:6480"; None if it is nowhere."""
    operations: Operations = attrs.field(init=False)
    """What an operator can do to it."""
    samples: Samples = attrs.field(init=False)
    """What the averages of the console are made of."""
    caches: Caches = attrs.field(factory=Caches)
    _feeds: dict[Freshness, Feeds] = attrs.field(factory=dict)
    """Answers that are kept, and what ends them."""
    lag: Lag = attrs.field(factory=Lag)
    """How late its event loop is."""
    parent: Channel | None = None
    """To the process that looks after several like this one; None if this one is alone."""
    office: Office | None = None
    """What this one shares with them; None if it is alone."""
    worker_index: int = 0
    """Which of them this one is."""
    worker_count: int = 1
    shared_memory: int | None = None
    """A descriptor of what all of them write to; None if there is none."""
    worker_rows: int = 1
    """How many processes may write to it."""
    worker_row: int = 0
    """Where this one does."""
    elsewhere: Callable[[int, bytes], Awaitable[object]] | None = None
    """What is asked for clients of cancel requests that are not here."""
    listeners: Sequence[Socket] | None = None
    """What it listens on that others have opened; None if it opens the addresses of its configuration."""
    turned_away: Counter[str] = attrs.field(factory=Counter)
    """Connections that ended before there was a client, by reason."""
    reception: Reception = attrs.field(init=False)
    """What lets clients in."""
    tunnels: Tunnels | None = None
    """Those that origins have dialled; None if nothing listens for them."""
    dialling: Dialling = attrs.field(init=False)
    """What keeps tunnels ready at edges."""
    started_with: Config = attrs.field(init=False)
    """The configuration of the start: of some keys, what is in force."""
    _stopping: trio.Event = attrs.field(factory=trio.Event)
    _draining: trio.Event = attrs.field(factory=trio.Event)
    keepalive: liveness.Keepalive = attrs.field(init=False)
    _client_nursery: trio.Nursery | None = None
    _accepting: trio.Nursery | None = None
    _leaving: bool = False
    """Whether another process accepts in its place."""
    _http: trio.CancelScope | None = None
    """Around metrics and status page."""
    _covered: dict[int, list[tuple[trio.CancelScope, Socket]]] = attrs.field(factory=dict)
    """By the worker in whose place it accepts as well."""
    _watching: trio.CancelScope | None = None
    """Around what looks for lost clients."""
    _arriving: set[trio.CancelScope] = attrs.field(factory=set)
    """Around everybody who has not logged in yet."""
    pool_nursery: trio.Nursery | None = None
    capacities: dict[str, Capacity] = attrs.field(factory=dict)
    """By the name that clients connect to."""
    _statement_prefix: bytes = attrs.field(factory=lambda: b"trio_pool_%b_" % secrets.token_hex(4).encode())

    started_at: float = 0.0
    """On Trio's clock."""

    def __attrs_post_init__(self) -> None:
        from trio_pool.daemon.census import Census  # they import this module's package
        from trio_pool.daemon.console.samples import Samples

        config = self.started_with = self.config
        self.clients = Clients(config.listen.max_clients)
        if self.parent is not None:
            self.clients.slot = self.worker_index + 1
            self.clients.membership = self.office
        self.ending = Stopping(self.clients, self.pools, config.timeouts)
        self.operations = Operations(self)
        self.samples = Samples(Census(self))
        self.reception = self.reception_by(config)
        instance = secrets.token_hex(8)
        if config.tunnel.listen is not None:
            self.tunnels = Tunnels(config.tunnel.listen, self._wait_for_more)
        self.dialling = Dialling(
            partial(EdgeDialler, instance=instance, serve=self._serve_arrival, rest=self._wait_for_more)
        )
        self.dialling.configure(config.tunnel.dial)
        for path, error in unusable(config.tunnel):
            raise OSError(f"{'.'.join(path)} cannot be loaded: {error.strerror or error}") from error

    def reception_by(self, config: Config, before: Reception | None = None) -> Reception:
        """What lets clients in as this configuration says. Takes time, because keys are derived from
        passwords: what is known from `before` is taken from there.

        Raises OSError (`ssl.SSLError` is one) if a certificate cannot be loaded.
        """
        listen_tls = config.listen.tls
        encrypted = listen_tls.mode is not TlsMode.DISABLE
        mock_key = secrets.token_bytes(32) if before is None else before.mock_key
        credentials = {
            name: _known_from(before, user)
            or Credentials.parse(name, user.password.reveal() if user.password is not None else None)
            for name, user in config.users.items()
            if user.password is not None or config.auth.query is None
        }
        for known in credentials.values():
            known.secret(mock_key)  # derived now rather than in front of the first client
        return Reception(
            config,
            self.poller,
            self.clients,
            self._pool_for_client,
            self.lookup_for,
            self.feeds_of,
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

    async def wait_stopping(self) -> None:
        """Return when it has been asked to end."""
        await self._stopping.wait()

    def stop(self) -> None:
        """Drain: no new clients, the others leave between their transactions, within `drain`."""
        self._stopping.set()
        self._draining.set()

    def leave(self) -> None:
        """Another process accepts: the clients stay until they leave by themselves, or `stop` is called; so
        do those that are logging in.
        """
        self._leaving = True
        if self._http is not None:
            self._http.cancel()
        self._stopping.set()

    def stop_when_clients_have_left(self) -> None:
        """No new clients; the others stay until they leave by themselves, or `stop` is called."""
        self._stopping.set()

    def stop_at_once(self) -> None:
        """Wait for nobody: clients are told, what they run is cancelled at PostgreSQL, within a second."""
        self._stopping.set()
        self._draining.set()
        self.ending.hurry()

    def suspend_caches(self, suspended: bool) -> None:
        """Answer nothing from memory, or do so again: while another pooler has clients of the same databases,
        nobody tells this one of their writes.
        """
        self.caches.suspended = suspended
        for store in self.caches.stores.values():
            store.purge(lambda _: True)
        self._move()

    def _move(self) -> None:
        """Give every pool what `caches` has for it now."""
        for key, origin in self.pools.items():
            database = self.config.database(key.database)
            if database is not None:
                origin.take_room(self.caches.room(self.config, database))
        for client in self.clients.by_id.values():
            configure_client(self, client)

    def feeds_of(self, origin: OriginPool) -> Feeds:
        """What tells edges of writes to a pool's database. From now on they are looked for."""
        if origin.freshness is None:
            self.caches.followed.add(origin.database.origin.hosts)
            self._move()
        freshness = origin.freshness
        assert freshness is not None
        feeds = self._feeds.get(freshness)
        if feeds is None:
            feeds = self._feeds[freshness] = Feeds(freshness, self.poller)
            assert self.pool_nursery is not None
            self.pool_nursery.start_soon(feeds.run)
        return feeds

    async def reload(self) -> list[str]:
        """Read the configuration again and apply it (`Operations.reload`)."""
        return await self.operations.reload()

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
            found = sized_for(found, self.config.users.get(user))
        found = self.share_of(found)
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
                capacity=self.capacity_of(found, key),
                room=self.caches.room(self.config, found),
                schema=self.caches.freshness_of(found),
                tunnels=self.tunnels,
            )
            pool.warden = self.office
            pool.let_in = self.office is not None and key in self.office.let_in
            if self.operations.is_paused(database):
                pool.pause()
            assert self.pool_nursery is not None
            self.pool_nursery.start_soon(pool.run)
        elif secret is not None and secret != pool.access.password:
            pool.access = attrs.evolve(pool.access, password=secret)
        return pool

    def _pool_for_client(self, database: str, user: str, secret: OriginSecret | None) -> OriginPool | None:
        """Raises `ClientFault` if the database takes no new clients."""
        if self.operations.is_disabled(database):
            raise ClientFault(
                f'database "{database}" is disabled', SqlState.NOT_ACCEPTING, reason=Reason.CLIENT_REFUSED
            )
        return self.pool_for(database, user, secret)

    def watch_for_lost(self) -> None:
        """Look for lost clients, with the present patience."""
        if self._watching is not None:
            self._watching.cancel()
        if self._client_nursery is not None:
            self._watching = trio.CancelScope()
            self._client_nursery.start_soon(self._watch_in, self._watching)

    async def _watch_in(self, scope: trio.CancelScope) -> None:
        with scope:
            await liveness.watch(self.clients.by_id.values, self.config.listen.tcp_user_timeout)

    def share_of(self, database: Database) -> Database:
        """The database as this process has it: what all of them keep ready together is divided."""
        if self.worker_count == 1 or not database.min_pool_size:
            return database
        own, rest = divmod(database.min_pool_size, self.worker_count)
        return attrs.evolve(database, min_pool_size=own + (self.worker_index < rest))

    def capacity_of(self, database: Database, key: PoolKey) -> Capacity | None:
        """What bounds a pool of the database from outside: what all its pools share, or what other processes
        have. None if nothing does.
        """
        if self.office is not None:
            return self.office.capacity_of(key)
        if not database.max_servers:
            return None
        return self.capacities.setdefault(database.name, Capacity(database.max_servers))

    def lookup_for(self, database: str) -> Lookup | None:
        """The look-up of users for a database, made on first use; None where they are not looked up."""
        if self.config.auth.query is None or self.config.database(database) is None:
            return None
        name = database if database in self.config.databases else "*"
        lookup = self.lookups.get(name)
        if lookup is None:
            lookup = self.lookups[name] = Lookup(self.config.databases[name], self.config.auth, self.tunnels)
            if self.operations.is_paused(name):
                lookup.pause()
            assert self.pool_nursery is not None
            self.pool_nursery.start_soon(lookup.run)
        return lookup

    async def run(self, *, task_status: trio.TaskStatus[Service] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop` or cancellation. `started` gets this object once clients can connect.

        Raises OSError if an address cannot be listened on, `ConfigurationError` if it wants of this system
        what it cannot do.
        """
        self.started_at = trio.current_time()
        self.keepalive = liveness.Keepalive.of(self.config.listen)
        if self.shared_memory is not None:
            self.caches.share(self.shared_memory, self.worker_rows, self.worker_row)
        with ExitStack() as lasting, ExitStack() as stack:
            listeners = self._listeners(stack)
            tunnel_listener: Socket | None = None
            if self.tunnels is not None:
                tunnel_listener = _listen(lasting, self.tunnels.listen.address)[0]
                self.tunnels.address = spell(tunnel_listener)
                log.info("listening for tunnels", address=self.tunnels.address)
            self.addresses = self.addresses or tuple(dict.fromkeys(map(spell, listeners)))
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
                    if self.tunnels is not None and tunnel_listener is not None:
                        assert self.pool_nursery is not None
                        self.pool_nursery.start_soon(self.tunnels.run, tunnel_listener)
                    self.open_configured_pools()
                    await self._serve_clients(stack, listeners, task_status)
                except BaseException:
                    with trio.CancelScope(shield=True):
                        await self.ending.settle(AT_ONCE)
                    raise
                finally:
                    pooling.cancel()

    def _listeners(self, stack: ExitStack) -> Sequence[Socket]:
        """What it listens on, until the stack is closed."""
        if self.listeners is None:
            return [sock for address in self.config.listen.addresses for sock in _listen(stack, address)]
        for listener in self.listeners:
            stack.enter_context(listener)
        return self.listeners

    def cover(self, index: int, listeners: Iterable[Socket]) -> bool:
        """Accept in the place of another process as well, until `uncover`. False if nobody is accepted."""
        accepting, clients = self._accepting, self._client_nursery
        if accepting is None or clients is None or self.stopping:
            return False
        covered = self._covered.setdefault(index, [])
        for listener in listeners:
            scope = trio.CancelScope()
            covered.append((scope, listener))
            accepting.start_soon(self._accept_within, scope, listener, clients)
        return True

    def uncover(self, index: int) -> None:
        """It is there again."""
        for scope, _ in self._covered.pop(index, ()):
            scope.cancel()

    async def _accept_within(self, scope: trio.CancelScope, listener: Socket, clients: trio.Nursery) -> None:
        self._wait_for_more(1)
        try:
            with scope, listener:
                await accept_for_ever(listener, self._serve_client, clients, lambda: self.keepalive, 1)
        finally:
            self._wait_for_more(-1)

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
                    self.pool_nursery = self.caches.streams.nursery = pools
                    opened.set()
                    await trio.sleep_forever()
        finally:
            polling.cancel()

    def open_configured_pools(self) -> None:
        """Pools that are to hold servers before the first client comes."""
        for database in self.config.databases.values():
            wanted = database.min_pool_size or database.spares
            if wanted and database.origin.user is not None and database.name != "*":
                self.pool_for(database.name, database.origin.user)

    async def _serve_clients(
        self,
        stack: ExitStack,
        listeners: Iterable[Socket],
        task_status: trio.TaskStatus[Service],
    ) -> None:
        """Accept until `stop`, then drain. `stack` closes the listeners, so that new clients are refused."""
        async with trio.open_nursery() as clients:
            self._client_nursery = clients
            clients.start_soon(self.samples.run)
            self.watch_for_lost()
            async with trio.open_nursery() as accepting:
                self._accepting = accepting
                for listener in listeners:
                    accepting.start_soon(
                        accept_for_ever,
                        listener,
                        self._serve_client,
                        clients,
                        lambda: self.keepalive,
                        BURST if self.parent is None else 1,
                    )
                self.dialling.start(accepting, clients)
                await self._serve_http(clients)
                if self.parent is None:
                    log.info("ready", addresses=list(self.addresses), http=self.http_address)
                task_status.started(self)
                await self._stopping.wait()
                accepting.cancel_scope.cancel()
            stack.close()
            self.operations.hold_nobody()
            drain = self.config.timeouts.drain
            log.info("stopping", clients=self.clients.connections, drain=None if drain == OFF else drain)
            if not self._leaving:
                for arriving in self._arriving:
                    arriving.cancel()
            while self.clients.pooled and not self._draining.is_set():
                with trio.move_on_after(LOOK_AGAIN):
                    await self._draining.wait()
            await self.ending.run()
            await self._end_consoles()
            clients.cancel_scope.cancel()
        log.info("stopped", at_once=self.ending.hurried, **attrs.asdict(self.ending.losses))

    async def _serve_http(self, nursery: trio.Nursery) -> None:
        """Metrics, health and the status page, where they are wanted: until the last client has left."""
        address = self.config.http.address
        if address is None:
            return
        nursery.start_soon(self.lag.run)
        if self.parent is not None:
            return  # it serves them, for all of its workers
        from trio_pool.daemon.web.app import make_app  # they import this module
        from trio_pool.daemon.web.server import run_apart, serve_http
        from trio_pool.daemon.web.snapshot import Sampler
        from trio_pool.daemon.web.source import Here

        source = Here(self)
        sampler = Sampler(source)
        nursery.start_soon(run_apart, sampler.run)
        serving = partial(serve_http, address, make_app(source, sampler), count=self._wait_for_more)
        self.http_address = await nursery.start(self._within, trio.CancelScope(), serving)

    async def _within(
        self,
        scope: trio.CancelScope,
        serving: Callable[..., Awaitable[None]],
        *,
        task_status: trio.TaskStatus[str],
    ) -> None:
        self._http = scope
        with scope:
            await serving(task_status=task_status)

    def _wait_for_more(self, sockets: int) -> None:
        """So many more tasks wait for something to read, and the poller may linger all the same."""
        self.poller.resting += sockets

    async def _serve_client(self, sock: Socket, host: str | None, peer: str) -> None:
        """One accepted socket, to its end."""
        await self._serve_conversation(Conversation.over(PlainTransport(sock)), host, peer)

    async def _serve_arrival(self, arrival: Arrival) -> None:
        """One tunnel that an edge has taken, to its end."""
        await self._serve_conversation(arrival.conversation, arrival.host, arrival.peer, arrival)

    async def _serve_conversation(
        self, conversation: Conversation, host: str | None, peer: str, arrival: Arrival | None = None
    ) -> None:
        """One client, from its first word to its end. The one boundary behind which its errors stay."""
        self.clients.connections += 1
        accepted_at = trio.current_time()
        client: Client | None = None
        try:
            reception = self.reception
            by = reception
            if arrival is not None:  # TLS is there, and no other inside it
                by = attrs.evolve(reception, tls_context=None, channel_binding=arrival.binding)
            welcomed = await self._welcome(by, conversation, host, peer)
            if isinstance(welcomed, ForConsole):
                await self._serve_console(conversation, welcomed, peer)
            elif welcomed is not None:
                client = welcomed
                self.clients.by_id[client.process_id] = client
                client.origin.traffic.logins.observe(trio.current_time() - accepted_at)
                if reception is not self.reception:  # a reload has come in between
                    configure_client(self, client)
                await client.live()
        except Exception as error:
            log.error("internal error in a client's task", client=peer, exc_info=error)
        finally:
            self.clients.connections -= 1
            self.clients.leave(conversation)
            self.clients.consoles.pop(conversation, None)
            conversation.transport.close()
            if client is not None:
                del self.clients.by_id[client.process_id]
                log.info(
                    "client disconnected",
                    client=peer,
                    pool=str(client.origin.pool.key),
                    reason=client.reason.value,
                )

    async def _serve_console(self, conversation: Conversation, guest: ForConsole, peer: str) -> None:
        """A connection to the console, to its end; it ends when it is over or `_end_consoles` says so."""
        from trio_pool.daemon.console import serve as serve_console  # it imports this module

        log.info("console connected", client=peer, user=guest.user)
        reason = Reason.CLIENT_TERMINATED
        with trio.CancelScope() as scope:
            self.clients.consoles[conversation] = Console(*guest.key, guest.user, peer, scope)
            try:
                await serve_console(conversation, self, guest.user, guest.startup)
            except EndOfStream:
                reason = Reason.CLIENT_VANISHED
        if scope.cancelled_caught:
            reason = Reason.STOPPING
            await part(conversation.transport, _farewell(stopped()))
        log.info("console disconnected", client=peer, user=guest.user, reason=reason.value)

    async def _end_consoles(self) -> None:
        """Last of all, so that they can watch the others leave."""
        for console in self.clients.consoles.values():
            console.scope.cancel()
        with trio.move_on_after(LINGER):
            while self.clients.consoles:  # noqa: ASYNC110
                await trio.sleep(0.01)

    async def _welcome(
        self, reception: Reception, conversation: Conversation, host: str | None, peer: str
    ) -> Client | ForConsole | None:
        """The client, logged in; or None, and it has been told why not."""
        fault: ClientFault
        try:
            if self._stopping.is_set() and not self._leaving:
                raise stopped()
            with trio.CancelScope() as arriving:
                self._arriving.add(arriving)
                try:
                    request = await reception.welcome(conversation, host, peer)
                finally:
                    self._arriving.discard(arriving)
            if arriving.cancelled_caught:
                raise stopped()
            if isinstance(request, Client | ForConsole):
                return request
            await self._cancel(request)
            return None
        except ClientFault as raised:
            fault = raised
        except EndOfStream as end:
            self.turned_away[Reason.CLIENT_VANISHED.value] += 1
            log.info("client disconnected", client=peer, reason=Reason.CLIENT_VANISHED.value, error=str(end))
            return None
        self.turned_away[fault.reason.value] += 1
        log.info(
            "client disconnected",
            client=peer,
            reason=fault.reason.value,
            sqlstate=fault.sqlstate,
            error=fault.message,
            detail=fault.detail,
        )
        await part(conversation.transport, _farewell(fault))
        return None

    async def _cancel(self, request: CancelRequest) -> None:
        """Returns when the cancel has had its effect: then its connection is closed, as PostgreSQL does."""
        client = self.clients.find(request)
        if client is not None:
            await client.cancel()
        elif self.elsewhere is not None:
            await self.elsewhere(request.process_id, request.secret)


def _farewell(fault: ClientFault) -> bytes:
    return messages.error(fault.sqlstate, fault.message, severity="FATAL")


def _known_from(reception: Reception | None, user: User) -> Credentials | None:
    """What was derived from the same password before."""
    if reception is None or user.name not in reception.config.users:
        return None
    same = reception.config.users[user.name].password == user.password
    return reception.credentials.get(user.name) if same else None


def _mostly_scram(credentials: Collection[Credentials]) -> bool:
    """Whether a user of whom nothing is known most likely has a SCRAM secret."""
    return 2 * sum(known.scram is not None for known in credentials) > len(credentials)


def _listen(stack: ExitStack, address: Address) -> list[Socket]:
    """Listen until the stack is closed. Its OSError names the address, as the system's does not."""
    try:
        return stack.enter_context(listening_all(address))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(address)) from error


async def serve(
    config: Config,
    *,
    config_path: Path | None = None,
    reread: Callable[[], Config] | None = None,
    task_status: trio.TaskStatus[Service] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a pooler inside any Trio program: `service = await nursery.start(trio_pool.serve, config)`.

    With `reread`, which gives the configuration anew or raises `ConfigurationError`, it can be told to
    reload; `config_path` is what it then names.
    """
    await Service(config, config_path, reread).run(task_status=task_status)
