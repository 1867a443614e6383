"""The life of a pool: opens servers when they are wanted, backs off when the origin is down, and knows what
to greet clients with.

Servers are opened one at a time, so that a burst of clients is no burst of logins; links to another
trio-pool several at a time, because each takes some round trips of a long way. While attempts fail there is
only one at a time.

The pool itself (pooling/pool.py) decides that it wants a server and says so by calling `grow`; here is the
task that acts on it.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import attrs
import structlog
import trio

from trio_pool.cache.freshness import SCHEMA
from trio_pool.config.model import Database, Invalidation, PoolMode, Session
from trio_pool.errors import Reason, ServerFault, internal_fault
from trio_pool.net.backoff import Backoff
from trio_pool.net.cached import CachedReads
from trio_pool.net.client import Client
from trio_pool.net.dial import OriginAccess, dial
from trio_pool.net.errand import CatalogQuestion
from trio_pool.net.feed_reader import FeedReaders
from trio_pool.net.knowledge import Knowledge
from trio_pool.net.listening import Listening
from trio_pool.net.liveness import watch_links
from trio_pool.net.mailbox import Mailbox
from trio_pool.net.queue_ahead import QueueAhead
from trio_pool.net.revalidation import Revalidation
from trio_pool.net.server import Server, ServerSlot
from trio_pool.net.shortage import Shortage
from trio_pool.net.slow_queries import SlowQueries
from trio_pool.net.warden import watched
from trio_pool.pooling.permits import Permits
from trio_pool.pooling.pool import Pool, PoolKey
from trio_pool.pooling.shares import Shares
from trio_pool.pooling.traffic import Traffic
from trio_pool.protocol.descriptions import Descriptions
from trio_pool.protocol.statements import StatementRegistry
from trio_pool.protocol.watch import EVERYTHING

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_pool.cache.freshness import Freshness
    from trio_pool.cache.store import Entry
    from trio_pool.errors import ClientFault
    from trio_pool.net.dial import Dialled
    from trio_pool.net.leaseholder import Leaseholder
    from trio_pool.net.poller import Poller
    from trio_pool.net.room import Room
    from trio_pool.net.shortage import Refusal
    from trio_pool.net.tunnel_listen import Tunnels
    from trio_pool.net.warden import Warden
    from trio_pool.pooling.capacity import Capacity
    from trio_pool.protocol.catalog import Inquiry
    from trio_pool.protocol.credentials import OriginSecret
    from trio_pool.protocol.settings import Settings
    from trio_pool.protocol.touch import TouchInquiry
    from trio_pool.protocol.watch import Watch

log = structlog.get_logger()

LOOK_AGAIN = 0.005
"""Seconds between looks at what tells nobody that it has changed."""
LINKS_AT_ONCE = 8
"""Links that a pool opens at the same time."""
TAKES_LONG = 0.5
"""The part of `lease_wait` after which an attempt to open a server is named as the reason for having none."""


class OriginPool:
    """One pool with everything its connections need."""

    def __init__(
        self,
        database: Database,
        user: str,
        password: OriginSecret | None,
        *,
        limits: Session,
        poller: Poller,
        statement_prefix: bytes,
        lease_bounds: Callable[[str], int] | None = None,
        capacity: Capacity | None = None,
        room: Room | None = None,
        schema: Freshness | None = None,
        tunnels: Tunnels | None = None,
    ) -> None:
        self.database = database
        self.limits = limits
        self.poller = poller
        self.arriving = 0
        """Clients that are being greeted, and will be the pool's."""
        self.resumed_at = -math.inf
        """When the last pause was over (Trio's clock); infinity during one."""
        self.warden: Warden | None = None
        """What watches over its connections from another process; None if nothing does."""
        self.let_in = False
        """Whether another process of ours has been let in by the origin for this pool."""
        self._former: OriginSecret | None = None
        """The password before the present one, until that has been accepted."""
        self._generation = 0
        """Changes when what has been begun to open is not wanted any more."""
        self._ended = False
        self._attempts: set[trio.CancelScope] = set()
        """Around attempts to open a server, and the wait for the next."""
        self.access = OriginAccess.to(database, user, password, tunnels=tunnels)
        self.pool: Pool[Server, Leaseholder] = Pool(
            key=PoolKey(database.name, user),
            size=database.pool_size,
            min_size=database.min_pool_size,
            max_waiting=database.max_waiting,
            grow=self._grow,
            shares=None if lease_bounds is None else Shares(lease_bounds),
            capacity=capacity,
            spare=database.spares,
            at_once=_at_once(database),
            evict=self._evict,
        )
        self.traffic = Traffic()
        self.slow_queries = SlowQueries(str(self.pool.key))
        self.shortage = Shortage(self.pool)
        self.listening = Listening(
            self.access,
            poller,
            label=str(self.pool.key),
            connect_timeout=database.timeouts.server_connect,
            idle=database.timeouts.server_idle,
        )
        """Where the pool's clients hear what they listen to."""
        self.statements: StatementRegistry = StatementRegistry(
            statement_prefix, on_sequences_read=self._sequences_read
        )
        self.statements.descriptions = Descriptions(lambda: poller.now, database.metadata_age)
        self._schema: Freshness | None = None
        """What all pools of the database have in common, whether or not anything is kept."""
        self._share_schema(schema)
        self.knowledge = Knowledge(self)
        """What is known of its statements and its schema."""
        self.strict = limits.strict
        self.releases = database.pool_mode is PoolMode.TRANSACTION
        self.retired = False
        """Whether the pool is not configured any more, and ends with its last client."""
        self.farewell: ClientFault | None = None
        """What sends its clients away then; None if they may stay."""
        self.own = database.origin.user is None
        """Whether it is one client's user's alone, and logs in as that."""
        self.defaults: Settings | None = None
        """What servers of this pool report right after their login; None until the first has."""
        self._queues: QueueAhead | None = None
        self.ahead: QueueAhead | None = None
        """What sends reads ahead of their turn; None if nothing does."""
        self._nursery: trio.Nursery | None = None
        self._lease_bounds = lease_bounds
        self._set_ahead()
        self.freshness: Freshness | None = None
        self._feeds: FeedReaders | None = None
        """What is told of writes; None if nobody wants to know."""
        self.cached: CachedReads | None = None
        """What answers from memory; None if nothing does."""
        self.take_room(room)
        self.question: CatalogQuestion | None = None
        """What is to be asked by the first server whose lease ends."""
        self._failure: ServerFault | None = None
        self._opening: dict[ServerSlot, float] = {}
        """Attempts to open a server that are under way, and when they began."""
        self._refreshing = 0
        """How many kept answers are being asked for again."""
        self.counts_sequences = False
        """Whether some client has asked for the last value of a sequence."""
        self.tried: dict[Settings, tuple[Settings, Settings]] = {}
        """Settings that clients asked for at start-up and a server has taken, what it made of them, and what
        it reports then.
        """
        self._mailboxes = [Mailbox()]
        """Of the tasks that open servers."""
        self._attempted = trio.Event()

    def jittered(self, span: float) -> float:
        """Up to a tenth less, so that servers opened together do not all end together."""
        return span if span == math.inf else span * random.uniform(0.9, 1.0)

    async def known_defaults(self) -> Settings:
        """What to greet a client with; opens a first server if there was none yet.

        Raises `ServerFault` if that lastingly fails. The caller bounds the time.
        """
        if self.defaults is not None:
            return self.defaults
        self.pool.greeting += 1
        self.pool.reconsider()
        try:
            while self.defaults is None:
                attempted = self._attempted
                self._grow()
                await attempted.wait()
                fault = self._failure
                if self.defaults is None and fault is not None and self._is_final(fault):
                    raise fault
            return self.defaults
        finally:
            self.pool.greeting -= 1
            self.pool.reconsider()

    async def run(self) -> None:
        """Open servers when they are wanted; each lives in a task of this nursery."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self.listening.run)
            nursery.start_soon(self.knowledge.run)
            if self._queues is not None:
                nursery.start_soon(self._queues.run)
            if self.cached is not None:
                nursery.start_soon(self._run_cache, self.cached)
            nursery.start_soon(watch_links, self._links, self._patience)
            self._open_apart(nursery)
            await self._open_servers(nursery, self._mailboxes[0], Backoff())
            nursery.cancel_scope.cancel()

    def _open_apart(self, nursery: trio.Nursery) -> None:
        """As many tasks as may open servers at the same time."""
        while len(self._mailboxes) < self.pool.at_once:
            mailbox = Mailbox()
            self._mailboxes.append(mailbox)
            nursery.start_soon(self._open_servers, nursery, mailbox, None)

    async def _open_servers(self, nursery: trio.Nursery, mailbox: Mailbox, backoff: Backoff | None) -> None:
        """Open servers when they are wanted, until the pool ends; while that fails only the task with the
        `backoff` tries.
        """
        while not self._ended:
            while self.pool.wants_server and (backoff is not None or not self.pool.failing):
                with trio.CancelScope() as attempt:
                    self._attempts.add(attempt)
                    try:
                        server = await self._open_or_fault()
                    except ServerFault as fault:
                        self._failed(fault)
                        if backoff is not None:
                            await backoff.wait_for(self._waited_for, mailbox)
                    else:
                        if backoff is not None:
                            backoff.reset()
                        if server is not None:
                            nursery.start_soon(server.live)
                    finally:
                        self._attempts.discard(attempt)
            await mailbox.wait()

    def _links(self) -> list[Server]:
        """Servers that are watched by us, because the system's own ways would be wrong for them."""
        return self.servers() if self.access.origin.link else []

    def _patience(self) -> float:
        return self.access.origin.tcp.tcp_user_timeout / 1000

    def _waited_for(self) -> bool:
        return self.pool.has_eligible or self.pool.greeting > 0

    @property
    def failure(self) -> ServerFault | None:
        """Why there is no server: the last attempt to open one failed, or the first one since then is taking
        long. None after a success.
        """
        taking = trio.current_time() - min(self._opening.values(), default=math.inf)
        if self._failure is None and taking >= self.database.timeouts.lease_wait * TAKES_LONG:
            return ServerFault(
                f"no answer from {self.database.origin} for {taking:.3g} s",
                reason=Reason.SERVER_CONNECT_TIMEOUT,
            )
        return self._failure

    async def _open_or_fault(self) -> Server | None:
        """`_open`, and the boundary behind which our own bugs in it stay: one must not end every pool."""
        try:
            return await self._open()
        except ServerFault:
            raise
        except Exception as error:
            log.error("internal error in opening a server", pool=str(self.pool.key), exc_info=error)
            raise internal_fault() from error

    async def _open(self) -> Server | None:
        """One login. Its place in the pool is taken before and given back if it fails. None if it is not
        wanted any more.
        """
        slot = ServerSlot()
        self.pool.connecting(slot)
        self._opening[slot] = started = trio.current_time()
        generation = self._generation
        permit, server = self._permit(), None
        try:
            dialled = await self._dial_watched(permit)
            if generation != self._generation:
                dialled.hang_up()
                self.pool.left(slot)
                return None
            try:
                server = Server(self, dialled, slot)
            except ServerFault:
                dialled.transport.close()
                raise
        except trio.Cancelled:
            self.pool.left(slot)
            self.pool.failing = False
            raise
        except BaseException:
            self.pool.left(slot)
            raise
        finally:
            del self._opening[slot]
            if permit and server is None and self.warden is not None:
                self.warden.closed(permit)
        self._failure = None
        self.traffic.connects.observe(trio.current_time() - started)
        self.defaults = server.session.defaults
        if self.ahead is not None:
            self.ahead.connected(trio.current_time() - started)
        self._tell()
        log.info(
            "server connected",
            pool=str(self.pool.key),
            server_pid=dialled.login.process_id,
            seconds=round(trio.current_time() - started, 6),
        )
        if self.counts_sequences:
            server.session.count_sequences()
        if permit and self.warden is not None:
            server.permit = permit
            self.warden.logged_in(permit, self.database.name, dialled.cancel_key)
        server.attach()
        self.poller.tick()
        self.pool.joined(slot, server)
        return server

    def _permit(self) -> int:
        """What the server is opened with that was just said to be connecting; 0 if that takes none."""
        capacity = self.pool.capacity
        return capacity.latest if isinstance(capacity, Permits) else 0

    async def _dial_watched(self, permit: int) -> Dialled:
        if not permit or self.warden is None:
            return await self._dial(self.access)
        with watched(self.warden, permit):
            return await self._dial(self.access)

    async def _dial(self, access: OriginAccess) -> Dialled:
        """With the present password; while that has not been accepted yet, also with the one before: nobody
        changes it here and there at the same moment.
        """
        limit = self.database.timeouts.server_connect
        try:
            dialled = await dial(access, limit)
        except ServerFault as fault:
            if self._former is None or fault.sqlstate[:2] != "28":
                raise
            try:
                dialled = await dial(attrs.evolve(access, password=self._former), limit)
            except ServerFault:
                raise fault from None
            log.warning(
                "the new password is not accepted yet, the one before is",
                pool=str(self.pool.key),
                error=fault.message,
            )
        else:
            self._former = None
        return dialled

    def _failed(self, fault: ServerFault) -> None:
        self._failure = fault
        log.warning(
            "server connect failed",
            pool=str(self.pool.key),
            reason=fault.reason.value,
            sqlstate=fault.sqlstate,
            error=fault.message,
            waiting=len(self.pool.waiting),
        )
        if not self.pool.servers and self._is_final(fault):
            for waiter in list(self.pool.waiting):
                waiter.refuse_lease(fault.sqlstate, f"cannot connect to the origin: {fault.message}")
        self._tell()

    def _is_final(self, fault: ServerFault) -> bool:
        """Whether nobody needs to wait for what comes of the next attempt."""
        return fault.lasting and not self._may_mend(fault)

    def _may_mend(self, fault: ServerFault) -> bool:
        """Whether the pool has been let in before, and is not now: then somebody is changing its password,
        and clients wait for that, for `lease_wait`.
        """
        return fault.sqlstate[:2] == "28" and (self.let_in or self.defaults is not None)

    # -- what an operator does -------------------------------------------------------------------------------

    def servers(self) -> list[Server]:
        """Those that have logged in."""
        others = [one for some in self.pool.others.values() for one in some if isinstance(one, Server)]
        return [*self.pool.idle, *self.pool.leased, *others]

    def pause(self) -> None:
        """Close every server when it is given back, and give none to anybody until `go_on`."""
        self.resumed_at = math.inf
        self.forsake_attempts()
        if self._queues is not None:
            self._queues.close()
        self.pool.pause()
        for server in list(self.pool.pinned):
            server.reclaim()

    def go_on(self) -> None:
        """The pause is over."""
        self.resumed_at = trio.current_time()
        self.listening.go_on()
        self.pool.go_on()
        self._set_ahead()
        for waiter in self.pool.waiting:
            if isinstance(waiter, Client):
                waiter.mailbox.wake()  # from now on its `lease_wait` counts

    def retire_servers(self, why: str) -> None:
        """Close every server when it is given back, and open others where they are wanted."""
        self.forsake_attempts()
        for server in self.servers():
            server.retire(why)

    def reconnect(self) -> None:
        """Replace every server when it is given back, and the listening connection now."""
        self.retire_servers("RECONNECT")
        self.listening.access_by(self.access, elsewhere=True)

    def kill_servers(self) -> None:
        """Close every server, whatever it does."""
        self.forsake_attempts()
        for server in self.servers():
            server.kill()

    def end(self) -> None:
        """The pool is configured no more, its last client is gone, and so are its servers."""
        self._ended = True
        self.pool.join_capacity(None)
        self._grow()

    @property
    def ended(self) -> bool:
        """Whether nothing happens in it any more."""
        return self._ended

    def forsake_attempts(self) -> None:
        """What is being opened is not wanted any more."""
        self._generation += 1
        for attempt in self._attempts:
            attempt.cancel()

    def _evict(self, server: Server) -> None:
        if self.pool.paused:
            fault = ServerFault("the pool is paused", reason=Reason.SERVER_RETIRED)
        elif self.pool.servers > self.pool.size:
            fault = ServerFault("pool_size was lowered", reason=Reason.SERVER_RETIRED)
        elif isinstance(self.pool.capacity, Permits):
            why = "another process has clients that wait"
            fault = ServerFault(why, reason=Reason.SERVER_GAVE_WAY)
        elif self.pool.capacity is not None and self.pool.capacity.servers > self.pool.capacity.most:
            fault = ServerFault("max_servers was lowered", reason=Reason.SERVER_RETIRED)
        else:
            why = "another pool of the database has clients that wait"
            fault = ServerFault(why, reason=Reason.SERVER_GAVE_WAY)
        server.lose(fault)

    # -- another configuration -------------------------------------------------------------------------------

    def configure(
        self,
        database: Database,
        access: OriginAccess,
        *,
        limits: Session,
        lease_bounds: Callable[[str], int] | None,
        capacity: Capacity | None,
        room: Room | None = None,
        schema: Freshness | None = None,
    ) -> None:
        """From now on this holds, without harm to anybody who is connected."""
        before, self.database = self.database, database
        self._log_in_by(access)
        if database.timeouts != before.timeouts:
            for server in self.servers():
                server.timeouts_changed()
        self.pool.key = PoolKey(database.name, access.startup_parameters["user"])
        timeouts = database.timeouts
        self.listening.limit_by(str(self.pool.key), timeouts.server_connect, timeouts.server_idle)
        if limits.deferred_begin != self.limits.deferred_begin:
            self.statements.openings.clear()
        self.statements.descriptions.age = database.metadata_age
        self._share_schema(schema)
        self.limits = limits
        self.strict = limits.strict
        releases = database.pool_mode is PoolMode.TRANSACTION
        if releases and not self.releases:
            for server in self.pool.leased:
                server.retire("pool_mode was session")  # what its client has done there is not known
        self.releases = releases
        self._lease_bounds = lease_bounds
        self._set_ahead()
        self.take_room(room)
        self.pool.join_capacity(capacity)
        self.pool.spare, self.pool.at_once = database.spares, _at_once(database)
        self.pool.resize(database.pool_size, database.min_pool_size, database.max_waiting)
        self._bind_leases()
        if self._nursery is not None:
            self._open_apart(self._nursery)
        self._grow()

    def _log_in_by(self, access: OriginAccess) -> None:
        before, self.access = self.access, access
        elsewhere = (
            attrs.evolve(before.origin, password=None) != attrs.evolve(access.origin, password=None)
            or before.startup_parameters != access.startup_parameters
        )
        if access.password != before.password:
            self._former = None if elsewhere else self._former or before.password
            self.forsake_attempts()  # it may be a pause behind an attempt with the old one
        if elsewhere:
            self.retire_servers("the origin was changed")
            self.tried.clear()
            self.plans_changed()
        self.listening.access_by(access, elsewhere=elsewhere)
        if self._feeds is not None:
            self._feeds.access_changed()

    def _set_ahead(self) -> None:
        """Let reads be sent ahead, or not."""
        depth = self.database.queue_ahead
        may = self._lease_bounds is None and self.releases and not self.strict and not self.pool.paused
        if not (depth and may):
            self.ahead = None
            if self._queues is not None:
                self._queues.close()
            return
        if self._queues is None:
            self._queues = QueueAhead(self, depth)
            if self._nursery is not None:
                self._nursery.start_soon(self._queues.run)
        self._queues.depth = depth
        self._queues.open()
        self.ahead = self._queues

    def take_room(self, room: Room | None) -> None:
        """Answer from memory, or not; and tell of writes, or not."""
        freshness = None if room is None else room.freshness
        if freshness is not self.freshness:
            self.freshness = freshness
            for server in self.servers():
                server.session.touched = EVERYTHING  # what was sent before was not looked at
        store = None if room is None or not self.releases else room.store
        before = self.cached
        if store is None or freshness is None:
            self.cached = None
        elif before is not None and before.goes_on(store, freshness, self.database.cache):
            before.follow(None if room is None else room.changes)
            return
        else:
            self.cached = CachedReads(self, store, freshness, self.database.cache)
            self.cached.follow(None if room is None else room.changes)
            if self._nursery is not None:
                self._nursery.start_soon(self._run_cache, self.cached)
        if before is not None:
            before.ended.set()

    async def _run_cache(self, cached: CachedReads) -> None:
        """As long as it is the pool's."""
        followed = self.access.origin.link and cached.settings.invalidation is not Invalidation.TTL
        self._feeds = FeedReaders(self, cached) if followed else None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cached.run)
                if self._feeds is not None:
                    nursery.start_soon(self._feeds.run)
                await cached.ended.wait()
                nursery.cancel_scope.cancel()
        finally:
            cached.follow(None)

    @property
    def watch(self) -> Watch | None:
        """What its clients' statements are shown to as they are sent."""
        return None if self.freshness is None else self.knowledge

    def refresh(self, entry: Entry) -> None:
        """Ask again for what is kept, unless the pool is busy with that already."""
        most = max(1, self.pool.size // 4)
        if self._nursery is None or self.cached is None or self._refreshing >= most:
            entry.refreshing = False
            return
        self._refreshing += 1
        self._nursery.start_soon(self._refresh, Revalidation(self, self.cached, entry))

    async def _refresh(self, revalidation: Revalidation) -> None:
        try:
            await revalidation.run()
        finally:
            self._refreshing -= 1

    def _bind_leases(self) -> None:
        """Not while servers are shared: leases are counted by client."""
        if self._lease_bounds is None:
            self.pool.bind(None)
        elif self._queues is None or not self._queues.queues:
            self.pool.bind(Shares(self._lease_bounds))
        elif self._nursery is not None:
            self._nursery.start_soon(self._bind_leases_later)

    async def _bind_leases_later(self) -> None:
        assert self._queues is not None
        while self._queues.queues:  # noqa: ASYNC110
            await trio.sleep(LOOK_AGAIN)
        self._bind_leases()

    def _sequences_read(self) -> None:
        """A client asks for currval or lastval, so from now on what moves a sequence pins."""
        if not self.counts_sequences:
            self.counts_sequences = True
            log.info("clients that move sequences are pinned from now on", pool=str(self.pool.key))
            for server in [*self.pool.idle, *self.pool.leased]:
                server.session.count_sequences()

    def plans_changed(self) -> None:
        """Somebody has changed the schema: what is prepared from now on may be something else, and what was
        known of names may not hold. All pools of the database learn it, in all processes.
        """
        self.knowledge.schema_changed()
        if self.freshness is None and self._schema is not None:
            self._schema.invalidate(frozenset({SCHEMA}))
        self.statements.renew()

    def _share_schema(self, schema: Freshness | None) -> None:
        if schema is not None and schema is not self._schema:
            self._schema = schema
            self.statements.schema = lambda: schema.schema
            self.statements.renew()

    async def asks(self, inquiry: Inquiry | TouchInquiry, *, at_once: bool = False) -> bool:
        """Ask a server what names mean: one that nobody uses, since answers from memory end no lease, else
        the first whose lease ends, unless it is to be `at_once`. False if that failed.
        """
        self.question = question = CatalogQuestion(self, inquiry)
        try:
            if at_once or self.pool.idle:
                self.ask_now()
            await question.wait()
        except ServerFault as fault:
            log.warning("cannot ask the catalog", pool=str(self.pool.key), error=fault.message)
            return False
        finally:
            self.question = None
        return True

    def ask_now(self) -> None:
        """Do not wait with what is to be asked until a lease ends: none may for a while."""
        question, self.question = self.question, None
        if question is None:
            return
        try:
            question.acquire()
        except ServerFault as fault:
            question.fail(fault)

    def reclaim(self) -> None:
        """A client waits: take back a server that is kept for nothing that anybody has asked for."""
        for server in self.pool.pinned:
            if server.reclaim():
                return

    def _tell(self) -> None:
        attempted, self._attempted = self._attempted, trio.Event()
        attempted.set()

    def _grow(self) -> None:
        for mailbox in self._mailboxes:
            mailbox.wake()

    def refusal(self, user: str) -> Refusal:
        """What a client of this user is told that got no lease in time."""
        return self.shortage.refusal(user, trio.current_time(), self.failure)


def _at_once(database: Database) -> int:
    return LINKS_AT_ONCE if database.origin.link else 1
