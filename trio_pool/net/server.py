"""The life of a server connection: connect, log in, serve leases, be cleaned, close.

One task owns it from the first SYN to the last close. While it is logged in the data plane reads and writes
for it, and the task only sleeps until there is something that must wait: a cancel request to send, a deadline
(idle time, lifetime, clean-up), the end.

Whoever has the connection is in the pool's collections; `client` is the other half of that link. A server
goes back only through `_recycle`, and only when its machine says that it is free and spotless.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import structlog
import trio

from trio_pool.errors import Reason, ServerFault, SqlState, internal_fault
from trio_pool.net.connection import Connection
from trio_pool.net.dial import Dialled, send_cancel
from trio_pool.net.handover import NOT_HANDED_OVER, Handover, Stage
from trio_pool.net.overrun import CANCEL_AGAIN
from trio_pool.net.poller import READABLE
from trio_pool.pooling.pool import ServerState
from trio_pool.protocol import link
from trio_pool.protocol.facts import Ask
from trio_pool.protocol.server import ServerSession
from trio_pool.protocol.settings import intern
from trio_pool.protocol.watch import EVERYTHING, NOTHING_TOUCHED
from trio_pool.wire import messages
from trio_pool.wire.tags import Status

if TYPE_CHECKING:
    from trio_pool.net.client import Client
    from trio_pool.net.leaseholder import Leaseholder
    from trio_pool.net.origin import OriginPool
    from trio_pool.net.queue_ahead import History
    from trio_pool.net.server_queue import ServerQueue

log: Final = structlog.get_logger()
IDLE: Final = Status.IDLE
NOTHING: Final = Ask.NOTHING


class Server(Connection):
    """One connection to an origin.

    Made only when it has logged in; until then `ServerSlot` holds its place in the pool.
    """

    __slots__ = (
        "_abandoned",
        "_cancel_again",
        "_cancelled_at",
        "_ended",
        "_handover",
        "_schema",
        "_settling",
        "_sleeping_until",
        "_wants_cancel",
        "access",
        "born",
        "cancel_requests",
        "cancelled",
        "cancels",
        "clean_by",
        "client",
        "dialled",
        "expires",
        "idle_since",
        "interrupted",
        "measured",
        "origin",
        "outdated",
        "paused_at",
        "permit",
        "queue",
        "session",
        "state",
    )

    def __init__(self, origin: OriginPool, dialled: Dialled, slot: ServerSlot) -> None:
        super().__init__(origin.poller, dialled.transport)
        self.origin = origin
        self.access = origin.access
        """What it has logged in with; the pool may have another one by now."""
        self.outdated = ""
        """Why it is closed as soon as it is given back, if that is so."""
        self.dialled = dialled
        self.session = ServerSession(
            intern(dialled.login.parameters),
            max_statements=origin.limits.server_prepared_statements,
            process_id=dialled.login.process_id,
            on_plans_changed=origin.plans_changed,
            suspects_code=lambda: origin.freshness is None,  # otherwise it is read, see `Knowledge.touched`
        )
        if origin.access.origin.link:
            self.session.on_link_note = self._noted
        self.client: Leaseholder | None = None
        self.state = slot.state
        self.cancels = 0
        """Cancel requests on their way to this server; while there are any, nobody else may have it."""
        self.cancelled: trio.Event | None = None
        """Set when the client's cancel request that is on its way has had its effect; None if none is."""
        now = trio.current_time()
        self.born = self.idle_since = now
        self._schema = 0 if origin.freshness is None else origin.freshness.schema
        """`Freshness.schema` when it was known last what its statements touch."""
        self.permit = 0
        """What counts it among several processes; 0 if there is one process."""
        self.expires = now + origin.jittered(origin.database.timeouts.server_lifetime)
        self.clean_by = math.inf
        self._sleeping_until = math.inf
        self._wants_cancel = False
        self._cancel_again = math.inf
        self._cancelled_at = -1
        """How many groups had been answered when what a client left running was cancelled last."""
        self._abandoned = False
        """Whether it was closed while it may have been running what a client left."""
        self._handover: Handover | None = None
        self._settling = False
        """Whether a transaction is being rolled back for the client, which stays."""
        self.interrupted = False
        """Whether what it runs has no more time: it is read even if the client does not read."""
        self.paused_at: float | None = None
        """Since when it is not read because its client does not read."""
        self.queue: ServerQueue | None = None
        """Whose reads it has been sent, if several clients share it."""
        self.measured: History | None = None
        """What the time of the lease is a measure of, if it is."""
        self.cancel_requests = 0
        """How many it has been sent."""
        self._ended: ServerFault | None = None
        if dialled.unread:
            self._receive_early(dialled.unread)

    def _receive_early(self, data: bytes) -> None:
        """What came behind the login in the same read.

        Raises `ServerFault` if the server has ended already, is about to, or makes no sense.
        """
        self.session.receive(data)
        if self.outdated:
            raise ServerFault(self.outdated, SqlState.ADMIN_SHUTDOWN, reason=Reason.SERVER_CLOSED)
        failure = self.session.failure
        if failure is not None:
            raise ServerFault(failure.summary, failure.sqlstate, reason=Reason.SERVER_CLOSED)

    def __repr__(self) -> str:
        return f"<Server {self.origin.pool.key} pid {self.dialled.login.process_id} {self.state.value}>"

    # -- data plane ------------------------------------------------------------------------------------------

    def on_readable(self) -> None:
        """Replies. Hot path."""
        data = self.transport.receive()
        if data is None:
            return
        if not data:
            self._lose_at_end()
            return
        out = self.receive(data)
        if out is None:
            return
        if self.queue is None:
            self.replied(out)
        else:
            self.queue.answered(out)

    def receive(self, data: bytes = b"") -> bytes | None:
        """The client's part of what has arrived, together with what the machine had kept back.

        None if no server sends such a thing: this one is lost then, and with it what stood in front of that.
        Hot path.
        """
        try:
            return self.session.receive(data)
        except ServerFault as fault:
            self.lose(fault, in_step=False)
            return None

    def replied(self, out: bytes) -> None:
        """The client's part of what has arrived, after which the machine stands where it stands. Hot path."""
        session = self.session
        client = self.client
        if session.touched:
            self._tell_of_writes()
        if client is None:
            self._without_client()
            return
        if out:
            client.write(out, self)
        if session.failure is not None:
            self._lose_at_end()
        elif session.refused is not None:
            self._settings_refused(client)
        elif (
            not session.groups
            and session.status == IDLE
            and not session.open_count
            and session.open_group is None
            and not session.rest
            and not session.body_left
        ):
            self.offer()
        elif session.groups:
            client.progressed(self)
        elif self._settling:
            self._settle()
        else:
            client.rested(self)

    def _tell_of_writes(self) -> None:
        """What has been kept of the tables that may have been written to is over, before the client can know
        that they have been: it may see a COMMIT in what has arrived.
        """
        session, freshness = self.session, self.origin.freshness
        if freshness is not None:
            if freshness.schema != self._schema:  # it may touch more than was known when it was sent
                session.touched |= EVERYTHING
            freshness.invalidate(session.touched)
            if freshness.followers and self.client is not None:
                self.client.wrote(freshness)
        at_rest = session.status == IDLE and not session.groups
        if at_rest and not session.open_count and session.open_group is None:
            session.touched = NOTHING_TOUCHED
            if freshness is not None:
                self._schema = freshness.schema

    def on_gone(self) -> None:
        """Closed while paused: what the server sent before must still be read, so look again when it is."""
        if self.client is None:
            self._lose_at_end()
        else:
            self.hush()

    def pause(self) -> None:
        if not self.interrupted:
            if self.paused_at is None:
                self.paused_at = self.poller.now
            super().pause()

    def resume(self) -> None:
        self.paused_at = None
        super().resume()

    def on_drained(self) -> None:
        if self.client is not None:
            self.client.resume()

    def on_crash(self, error: Exception) -> None:
        log.error("internal error in a server connection", server=repr(self), exc_info=error)
        self.lose(internal_fault())

    def offer(self) -> None:
        """The protocol is at rest: the lease ends, unless the session has to be looked at, the client keeps
        the server, or is in the middle of a message. Hot path.
        """
        client = self.client
        session = self.session
        assert client is not None
        if self._settling:
            self._settling = False
            self.clean_by = math.inf
        if client.ending:
            client.finish(Reason.CLIENT_TERMINATED)
        elif not self.origin.releases:
            client.kept()
        elif self.cancels and (session.must_ask or session.listening):
            return  # the request would hit our question
        elif session.listening and self._hands_over():
            return
        elif session.asks is not NOTHING or session.reported is not session.expected:
            self.write(session.inspect(client.names_asked(), lambda found: client.found(found, self)))
        elif session.pins:
            self._keep(client)
        elif client.returns(self):
            self.client = None
            if self.origin.pool.pinned:
                self._note_pins(client)
            if not self.mask & READABLE:
                self.resume()  # it was paused for the client that it leaves
            self._recycle()
            client.after_lease()

    def _keep(self, client: Leaseholder) -> None:
        session = self.session
        session.suspect_again()
        if session.asks is not NOTHING:
            self.offer()
            return
        self._note_pins(client)
        client.kept()
        if self.origin.pool.waiting:
            self.reclaim()

    def reclaim(self) -> bool:
        """Give the server up if its client keeps it for no more than the last values of sequences."""
        if not self.session.can_be_reclaimed or self.client is None or self.client.ending:
            return False
        self.session.reclaim()
        self.offer()
        return True

    def _hands_over(self) -> bool:
        """Whether the lease goes on because what the client listens to is being handed over.

        A question to PostgreSQL goes first, since its answer may be that the client listens to other channels
        by now; but not while the point is being marked.
        """
        handover = self._handover
        if handover is None:
            return False
        if handover.stage is Stage.MARKING:  # and at rest, so it is marked
            self._handover = None
            handover.client.handed_over(handover.channels)
            return False
        if self.session.asks is not NOTHING:
            return False
        if handover.stage is Stage.COVERED:
            self.write(handover.mark(self))
        return True

    def hand_over(self, client: Client, channels: frozenset[bytes]) -> None:
        """The client listens to these channels from here, and does not yet from elsewhere."""
        self.drop_handover()
        self._handover = Handover(client, channels, self.origin.listening)
        self.session.pins.pop(NOT_HANDED_OVER, None)
        self.mailbox.wake()

    def drop_handover(self) -> None:
        """The client is gone, or listens to nothing that is not handed over."""
        if self._handover is not None:
            self._handover.cancel()
            self._handover = None

    async def _cover(self, handover: Handover) -> None:
        """The part of a handover that waits."""
        problem = await handover.cover(self.origin.database.timeouts.server_connect)
        if self.over or self._handover is not handover:
            return
        if problem is not None:
            log.warning("cannot listen for a client", server=repr(self), error=problem)
            self._handover = None
            self.session.pins[NOT_HANDED_OVER] = None
        if self.client is not None and self.session.free:
            self.offer()

    def _note_pins(self, client: Leaseholder) -> None:
        """Say once per reason that a client keeps its server, and that it does not any more."""
        new, gone = self.origin.pool.pin(self, self.session.pins, self.poller.now)
        for event, reasons in (("client pinned", new), ("client unpinned", gone)):
            for reason in sorted(reasons):
                log.info(
                    event,
                    pool=str(self.origin.pool.key),
                    client=client.process_id,
                    server=repr(self),
                    reason=reason,
                )

    def _settings_refused(self, client: Leaseholder) -> None:
        """What the client sent behind its settings has run into a failed transaction, so nothing of it has
        happened: the client gets the reason instead, and the server is cleaned.
        """
        refused, self.session.refused = self.session.refused, None
        assert refused is not None
        self.client = None
        unsent = client.unsent
        client.refused(self, refused)
        self.session.desert()
        if self.receive() is not None:
            self.orphaned(unsent)

    def orphaned(self, unsent: int, *, cancel: bool = True) -> None:
        """The client is gone: cancel what runs, end what is open, forget what is left, then back into the
        pool.

        So many bytes are `unsent` of a message of which the server has the beginning. Without `cancel` (the
        client said Terminate) what was asked for is done, as PostgreSQL does.
        """
        if self.queue is not None and self.queue.leave_turn():
            return
        self.client = None
        self.measured = None
        self._settling = False
        self.drop_handover()
        self.origin.pool.pin(self, (), self.poller.now)
        self.session.desert()
        if unsent > messages.MAX_SPOILED or self.session.failure is not None:
            self._abandoned = self.cancellable
            self.lose(_not_clean("the client left in the middle of a message"))
            return
        self.origin.pool.cleaning(self)
        if unsent:
            self.write(messages.spoiled(unsent))
        if not self.origin.releases:
            self.session.dirty = True
        self.resume()
        self._wants_cancel = cancel and self.cancellable
        self._start_cleaning()

    def roll_back(self, unsent: int) -> None:
        """The client's transaction has no more time, and nothing runs: end what is open. Then the lease ends,
        unless the client is pinned.
        """
        if unsent > messages.MAX_SPOILED:
            self.lose(_not_clean("the client stopped in the middle of a message"))
            return
        if unsent:
            self.write(messages.spoiled(unsent))
        self._settling = True
        self.clean_by = trio.current_time() + self.origin.database.timeouts.cancel
        self.mailbox.wake()
        self._settle()

    def _settle(self) -> None:
        """One step of it."""
        if self.cancels:
            return
        step = self.session.settle()
        if step is None:
            self.offer()
        elif step:
            self.write(step)

    def give_up(self) -> None:
        """What was to be done within `cancel` has not been."""
        self._abandoned = self.cancellable
        self.lose(
            ServerFault("the server did not become clean in time", reason=Reason.SERVER_CLEANUP_TIMEOUT)
        )

    def lose(self, fault: ServerFault, *, in_step: bool = True) -> None:
        """The connection is over: out of the pool, and whoever leased it is told, `in_step` if it has got
        every reply that the machine has seen.
        """
        if self.over:
            return
        self._ended = fault
        traffic = self.origin.traffic
        traffic.losses[fault.reason.value] += 1
        traffic.server_received += self.transport.received
        traffic.server_sent += self.transport.sent
        self.detach()
        if self.session.touched and self.origin.freshness is not None:
            self.origin.freshness.doubt(self.session.touched, self.poller.tick())
        client, self.client = self.client, None
        queue = self.queue
        if queue is not None:
            queue.end()
            self.session.forget_behind_head()
        if self._handover is not None:
            self._handover.abandon()
            self._handover = None
        self.origin.pool.pin(self, (), self.poller.now)
        self.origin.pool.left(self)
        if self.origin.ahead is not None:
            self.origin.ahead.lost(self)
        self.mailbox.wake()
        if client is not None:
            client.server_lost(self, fault, in_step=in_step)
        if queue is not None:
            queue.lost()

    def _lose_at_end(self) -> None:
        failure = self.session.failure
        if failure is not None:
            self.lose(ServerFault(failure.summary, failure.sqlstate, reason=Reason.SERVER_CLOSED))
        else:
            why = f": {self.transport.error}" if self.transport.error else ""
            self.lose(
                ServerFault(
                    f"the server closed the connection{why}",
                    SqlState.CONNECTION_FAILURE,
                    reason=Reason.SERVER_CLOSED,
                )
            )

    def _without_client(self) -> None:
        if self.session.failure is not None:
            self._lose_at_end()
        elif self.state is ServerState.CLEANING:
            if self.session.answered != self._cancelled_at and not self.cancels and self.cancellable:
                self._wants_cancel = True  # the next of a pipeline is running now
                self.mailbox.wake()
            self._clean()

    def _start_cleaning(self) -> None:
        self.clean_by = trio.current_time() + self.origin.database.timeouts.cancel
        self._cancel_again = math.inf
        self.mailbox.wake()
        self._clean()

    def _clean(self) -> None:
        """One step of the clean-up. Not while a cancel request is on its way: it would hit the step."""
        if self._wants_cancel or self.cancels:
            return
        step = self.session.clean()
        if step is None:
            self.clean_by = math.inf
            self._recycle()
        elif step:
            self.write(step)

    def _recycle(self) -> None:
        """Nobody has the server and its protocol is at rest: clean it, hold it, close it, or give it to the
        next.
        """
        if self.session.keeps:
            self.lose(_not_clean("the client left behind what only the end of the connection removes"))
        elif self.session.dirty or self.session.listening or self.session.forgets_sequences:
            if self.state is not ServerState.CLEANING:
                self.origin.pool.cleaning(self)
            self._start_cleaning()
        elif self.cancels:
            self.origin.pool.cancelling(self)
        elif self.poller.now >= self.expires:
            self.lose(self._too_old())
        else:
            self.idle_since = self.poller.now
            if self.origin.question is None:
                self.origin.pool.release(self)
            else:
                question, self.origin.question = self.origin.question, None
                self.origin.pool.lend(self, question)
                question.granted(self)

    # -- what an operator does -------------------------------------------------------------------------------

    def retire(self, why: str) -> None:
        """Close it as soon as it is nobody's; `why` is for the log."""
        if not self.outdated:
            self.outdated = why
        self.expires = -math.inf
        if self.state is ServerState.IDLE:
            self.lose(self._too_old())

    def _noted(self, note: bytes) -> None:
        """The trio-pool at the other end tells something."""
        if note == link.LEAVING:
            self.retire("the origin is stopping")

    def stalled(self, seconds: float) -> None:
        """The network swallows what is sent. If it is only this connection, then what runs can be cancelled
        on another one.
        """
        self._abandoned = self.cancellable
        self.lose(
            ServerFault(
                f"{self.dialled.host} has not acknowledged anything for {seconds:.3g} s",
                SqlState.CONNECTION_FAILURE,
                reason=Reason.SERVER_VANISHED,
            )
        )

    def kill(self) -> None:
        """Close it now; what runs there is cancelled."""
        self._abandoned = self.cancellable
        self.lose(ServerFault("killed by an operator", SqlState.ADMIN_SHUTDOWN, reason=Reason.SERVER_KILLED))

    def timeouts_changed(self) -> None:
        """The pool has other time limits than before."""
        if not self.outdated:
            self.expires = self.born + self.origin.jittered(self.origin.database.timeouts.server_lifetime)
        self.mailbox.wake()

    def _too_old(self) -> ServerFault:
        if self.outdated:
            return ServerFault(self.outdated, reason=Reason.SERVER_RETIRED)
        return ServerFault("server_lifetime is over", reason=Reason.SERVER_LIFETIME)

    # -- cancel requests -------------------------------------------------------------------------------------

    @property
    def cancellable(self) -> bool:
        """Whether a query of the client's is running, rather than something of ours or nothing."""
        session = self.session
        theirs = any(not group.swallowed for group in session.groups)
        return theirs or session.open_count > 0 or session.open_group is not None

    async def cancel_for(self, client: Leaseholder) -> None:
        """A cancel request of the client.

        However many there are, one is on its way at a time; who asked meanwhile is served by the next.
        """
        earlier = self.cancelled
        if earlier is not None:
            await earlier.wait()
            earlier = self.cancelled
            if earlier is not None:
                await earlier.wait()
                return
        if self.client is client and self.cancellable:
            done = self.cancelled = trio.Event()
            self.session.repeatable = False  # from now on it is meant for what runs
            try:
                await self.cancel()
            finally:
                self.cancelled = None
                done.set()

    async def cancel(self) -> None:
        """Cancel what runs, and return when the request has had its effect: the origin has closed its
        connection.

        Until then the server is held back from other clients (hazards B1 and B3: a late cancel must not hit
        somebody else's query, nor ours).
        """
        self.cancels += 1
        self.cancel_requests += 1
        try:
            with trio.move_on_after(self.origin.database.timeouts.cancel):
                await send_cancel(self.dialled, self.access)
        except (OSError, ServerFault) as error:
            log.warning("a cancel request failed", server=repr(self), error=str(error))
        finally:
            self.cancels -= 1
            self._cancel_ended()

    def _cancel_ended(self) -> None:
        if not self.over and not self.cancels:
            self.poller.tick()
            if self._settling:
                self._settle()
            elif self.client is not None and self.session.free:
                self.offer()
            elif self.state is ServerState.CANCELLING:
                self._recycle()
            elif self.state is ServerState.CLEANING:
                self._clean()

    # -- control plane ---------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._ended is not None

    async def live(self) -> None:
        """Sleep through the leases; act on deadlines and notes; close at the end."""
        try:
            while not self.over:
                self._sleeping_until = self._deadline()
                if self._sleeping_until == math.inf:
                    await self.mailbox.wait()
                else:
                    with trio.move_on_at(self._sleeping_until):
                        await self.mailbox.wait()
                await self._attend()
        except trio.Cancelled:
            self.lose(ServerFault("trio-pool is stopping", reason=Reason.STOPPING))
            raise
        finally:
            if not self.over:
                self.lose(ServerFault("internal error of trio-pool", reason=Reason.INTERNAL_ERROR))
            self.detach()
            if not self.transport.pending:
                self.transport.send(messages.TERMINATE)
            self.transport.close()
            if self.permit and self.origin.warden is not None:
                self.origin.warden.closed(self.permit)
            assert self._ended is not None
            log.info(
                "server disconnected",
                pool=str(self.origin.pool.key),
                server_pid=self.dialled.login.process_id,
                reason=self._ended.reason.value,
                error=self._ended.message,
            )
        if self._abandoned:
            # Only now: PostgreSQL ends when it cannot send the reply, and not with the next statement that it
            # finds in its socket.
            await self.cancel()

    def _deadline(self) -> float:
        """When to look at the timestamps again.

        Busy connections move them without telling, so it may be too early: then nothing is due yet.
        """
        if self._is_brought_to_rest:
            return min(self.clean_by, self._cancel_again)
        timeouts = self.origin.database.timeouts
        due = min(self.expires, self.idle_since + timeouts.server_idle)
        now = trio.current_time()
        return due if due > now else now + min(timeouts.server_idle, timeouts.server_lifetime)

    @property
    def _is_brought_to_rest(self) -> bool:
        """Whether it has until `clean_by` to be clean, or to have rolled back."""
        return self.state is ServerState.CLEANING or self._settling

    async def _attend(self) -> None:
        """Do what is due, or has been asked for by a note."""
        self.poller.tick()
        if self._wants_cancel and not self.over:
            await self._cancel_left_over()
        handover = self._handover
        if handover is not None and handover.stage is Stage.COVERING and not self.over:
            await self._cover(handover)
        if self.over:
            return
        now = trio.current_time()
        if self.state is ServerState.CLEANING and now >= self._cancel_again:
            await self._cancel_left_over()
            now = trio.current_time()
        if self._is_brought_to_rest and now >= self.clean_by:
            self.give_up()
        elif self.state is ServerState.IDLE:
            self._retire_if_due(now)

    async def _cancel_left_over(self) -> None:
        """Cancel what a client left running; again until it has ended, because a request that arrives before
        the statement does has no effect, and one in a pipeline ends one of many.
        """
        self._cancelled_at = self.session.answered
        if self.cancellable:
            await self.cancel()
        self._cancel_again = trio.current_time() + CANCEL_AGAIN if self.cancellable else math.inf
        self._wants_cancel = False
        self._cancel_ended()

    def _retire_if_due(self, now: float) -> None:
        if now >= self.expires:
            self.lose(self._too_old())
        elif now >= self.idle_since + self.origin.database.timeouts.server_idle:
            if self.origin.pool.has_surplus:
                self.lose(ServerFault("server_idle is over", reason=Reason.SERVER_IDLE_TIMEOUT))
            else:
                self.idle_since = now


class ServerSlot:
    """The place in the pool of a server that is still being opened."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state = ServerState.CLOSED


def _not_clean(why: str) -> ServerFault:
    return ServerFault(why, reason=Reason.SERVER_NOT_CLEAN)
