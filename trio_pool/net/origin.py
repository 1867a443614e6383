"""The life of a pool: opens servers one at a time when they are wanted, backs off when the origin is down,
and knows what to greet clients with.

The pool itself (pooling/pool.py) decides that it wants a server and says so by calling `grow`; here is the
task that acts on it.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import structlog
import trio

from trio_pool.config.model import Database, PoolMode, Session
from trio_pool.errors import Reason, ServerFault, internal_fault
from trio_pool.net.backoff import Backoff
from trio_pool.net.dial import OriginAccess, dial
from trio_pool.net.errand import CatalogQuestion
from trio_pool.net.listening import Listening
from trio_pool.net.mailbox import Mailbox
from trio_pool.net.queue_ahead import QueueAhead
from trio_pool.net.server import Server, ServerSlot
from trio_pool.net.shortage import Shortage
from trio_pool.net.slow_queries import SlowQueries
from trio_pool.pooling.pool import Pool, PoolKey
from trio_pool.pooling.shares import Shares
from trio_pool.pooling.traffic import Traffic
from trio_pool.protocol.statements import StatementRegistry

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_pool.net.leaseholder import Leaseholder
    from trio_pool.net.poller import Poller
    from trio_pool.net.shortage import Refusal
    from trio_pool.pooling.capacity import Capacity
    from trio_pool.protocol.catalog import Inquiry
    from trio_pool.protocol.credentials import OriginSecret
    from trio_pool.protocol.settings import Settings

log = structlog.get_logger()

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
    ) -> None:
        self.database = database
        self.limits = limits
        self.poller = poller
        self.access = OriginAccess.to(database, user, password)
        self.pool: Pool[Server, Leaseholder] = Pool(
            key=PoolKey(database.name, user),
            size=database.pool_size,
            min_size=database.min_pool_size,
            max_waiting=database.max_waiting,
            grow=self._grow,
            shares=None if lease_bounds is None else Shares(lease_bounds),
            capacity=capacity,
            evict=_give_way,
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
        self.strict = limits.strict
        self.releases = database.pool_mode is PoolMode.TRANSACTION
        self.defaults: Settings | None = None
        """What servers of this pool report right after their login; None until the first has."""
        shared = lease_bounds is None and self.releases and not self.strict
        self.ahead = QueueAhead(self, database.queue_ahead) if shared and database.queue_ahead else None
        """What sends reads ahead of their turn; None if nothing does."""
        self.question: CatalogQuestion | None = None
        """What is to be asked by the first server whose lease ends."""
        self._failure: ServerFault | None = None
        self._opening_since = math.inf
        """When the attempt to open a server that is under way began."""
        self.retired = False
        """Whether the pool is not configured any more: servers close instead of becoming idle."""
        self.counts_sequences = False
        """Whether some client has asked for the last value of a sequence."""
        self.tried: dict[Settings, tuple[Settings, Settings]] = {}
        """Settings that clients asked for at start-up and a server has taken, what it made of them, and what
        it reports then.
        """
        self._mailbox = Mailbox()
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
                self._mailbox.wake()
                await attempted.wait()
                if self.defaults is None and self._failure is not None and self._failure.lasting:
                    raise self._failure
            return self.defaults
        finally:
            self.pool.greeting -= 1
            self.pool.reconsider()

    async def run(self) -> None:
        """Open servers when they are wanted; each lives in a task of this nursery."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.listening.run)
            if self.ahead is not None:
                nursery.start_soon(self.ahead.run)
            backoff = Backoff()
            while True:
                while self.pool.wants_server:
                    try:
                        server = await self._open_or_fault()
                    except ServerFault as fault:
                        self._failed(fault)
                        await backoff.wait_for(self._waited_for, self._mailbox)
                    else:
                        nursery.start_soon(server.live)
                        backoff.reset()
                await self._mailbox.wait()

    def _waited_for(self) -> bool:
        return self.pool.has_eligible or self.pool.greeting > 0

    @property
    def failure(self) -> ServerFault | None:
        """Why there is no server: the last attempt to open one failed, or the first one since then is taking
        long. None after a success.
        """
        taking = trio.current_time() - self._opening_since
        if self._failure is None and taking >= self.database.timeouts.lease_wait * TAKES_LONG:
            return ServerFault(
                f"no answer from {self.database.origin} for {taking:.3g} s",
                reason=Reason.SERVER_CONNECT_TIMEOUT,
            )
        return self._failure

    async def _open_or_fault(self) -> Server:
        """`_open`, and the boundary behind which our own bugs in it stay: one must not end every pool."""
        try:
            return await self._open()
        except ServerFault:
            raise
        except Exception as error:
            log.error("internal error in opening a server", pool=str(self.pool.key), exc_info=error)
            raise internal_fault() from error

    async def _open(self) -> Server:
        """One login. Its place in the pool is taken before and given back if it fails."""
        slot = ServerSlot()
        self.pool.connecting(slot)
        self._opening_since = started = trio.current_time()
        try:
            dialled = await dial(self.access, self.database.timeouts.server_connect)
            try:
                server = Server(self, dialled, slot)
            except ServerFault:
                dialled.transport.close()
                raise
        except BaseException:
            self.pool.left(slot)
            raise
        finally:
            self._opening_since = math.inf
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
        server.attach()
        self.poller.tick()
        self.pool.joined(slot, server)
        return server

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
        if fault.lasting and not self.pool.servers:
            for waiter in list(self.pool.waiting):
                waiter.refuse_lease(fault.sqlstate, f"cannot connect to the origin: {fault.message}")
        self._tell()

    def _sequences_read(self) -> None:
        """A client asks for currval or lastval, so from now on what moves a sequence pins."""
        if not self.counts_sequences:
            self.counts_sequences = True
            log.info("clients that move sequences are pinned from now on", pool=str(self.pool.key))
            for server in [*self.pool.idle, *self.pool.leased]:
                server.session.count_sequences()

    def plans_changed(self) -> None:
        """Somebody has changed the schema: what is prepared from now on may be something else, and what was
        known of names may not hold.
        """
        self.statements.renew()
        if self.ahead is not None:
            self.ahead.catalog.clear()

    async def asks(self, inquiry: Inquiry) -> bool:
        """Ask a server what names mean, as soon as a lease ends. False if that failed."""
        self.question = question = CatalogQuestion(self, inquiry)
        try:
            await question.wait()
        except ServerFault as fault:
            log.warning("cannot ask the catalog", pool=str(self.pool.key), error=fault.message)
            return False
        finally:
            self.question = None
        return True

    def reclaim(self) -> None:
        """A client waits: take back a server that is kept for nothing that anybody has asked for."""
        for server in self.pool.pinned:
            if server.reclaim():
                return

    def _tell(self) -> None:
        attempted, self._attempted = self._attempted, trio.Event()
        attempted.set()

    def _grow(self) -> None:
        self._mailbox.wake()

    def refusal(self, user: str) -> Refusal:
        """What a client of this user is told that got no lease in time."""
        return self.shortage.refusal(user, trio.current_time(), self.failure)


def _give_way(server: Server) -> None:
    server.lose(
        ServerFault("another pool of the database has clients that wait", reason=Reason.SERVER_GAVE_WAY)
    )
