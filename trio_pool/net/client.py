"""The life of a client: after its login (net/welcome.py), until it goes.

One task owns the socket. While the client is in the data plane the task sleeps, and wakes for deadlines,
which are lazy (the data plane only stores timestamps), and for the end. The data plane's part is short: bytes
into the session machine, what comes out to the leased server; a lease taken when the machine wants one, given
back when the server says that it is free.

`server` is the server that is leased, `session.server` its machine while requests are sent there. They part
when the client's transaction is rolled back for it (net/overrun.py): the server is being brought to rest, and
the machine answers the client without it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import structlog
import trio

from trio_pool.errors import ClientFault, Reason, ServerFault, SqlState
from trio_pool.net import overrun
from trio_pool.net.handover import NOT_HANDED_OVER
from trio_pool.net.inbox import Inbox
from trio_pool.net.limits import Limit, Limits
from trio_pool.net.poller import READABLE
from trio_pool.net.timed import Timed
from trio_pool.pooling.pool import PoolFull
from trio_pool.protocol import link
from trio_pool.protocol.client import MAX_WAITING_INPUT, ClientSession, ClientState
from trio_pool.protocol.facts import Ask
from trio_pool.protocol.sql import without_constants
from trio_pool.wire import messages
from trio_pool.wire.tags import Status

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_pool.cache.flight import Flight
    from trio_pool.cache.freshness import Freshness
    from trio_pool.cache.shelf import Shelf
    from trio_pool.config.timeouts import Timeouts
    from trio_pool.net.cached import CachedReads
    from trio_pool.net.connection import Connection
    from trio_pool.net.origin import OriginPool
    from trio_pool.net.poller import Poller
    from trio_pool.net.server import Server
    from trio_pool.net.server_queue import Queued
    from trio_pool.net.transport import Transport
    from trio_pool.protocol.inspection import Inspection
    from trio_pool.protocol.settings import Settings
    from trio_pool.wire.messages import ErrorFields

log: Final = structlog.get_logger()
IDLE: Final = ClientState.IDLE
_DOING: Final = {
    ClientState.BEGUN: "idle in transaction",
    ClientState.FAILED: "idle in transaction (aborted)",
}

MOST_SHOWN: Final = 500
"""Characters of a statement that are shown to say what a client does."""
LINK_GRACE: Final = 2.0
"""Seconds that a free link has to leave by itself: some round trips to the other side of the world."""
MOST_CORKED: Final = 1 << 20
"""Bytes that are kept, about, until the server is not read any more."""
_UNCERTAIN: Final = ClientFault(
    "the server connection was lost with what had been set there",
    SqlState.CONNECTION_FAILURE,
    reason=Reason.SERVER_LOST_WITH_SETTINGS,
)
"""What a client sets is read from the server when the transaction is over in which it does. If there is no
server then, nobody knows the session; and the next client of a link would get the settings, and the role, of
one before.
"""
LINGER: Final = 1.0
"""Seconds that a client has to read why it is being disconnected."""


class Client(Timed):
    """One logged-in client."""

    __slots__ = (
        "_ended",
        "_inbox",
        "_parting",
        "cached",
        "corked",
        "corked_by",
        "flight",
        "joined",
        "peer",
        "queued",
        "secret",
        "shares_servers",
        "shelf",
        "shelf_for",
        "shelf_told",
        "told_to_leave",
    )

    def __init__(
        self,
        poller: Poller,
        transport: Transport,
        origin: OriginPool,
        session: ClientSession,
        timeouts: Timeouts,
        *,
        key: tuple[int, bytes],
        user: str,
        peer: str,
        cached: CachedReads | None = None,
    ) -> None:
        super().__init__(poller, transport, origin, session, timeouts, process_id=key[0], user=user)
        self.secret = key[1]
        self.peer = peer
        """Where it comes from, for logs."""
        self._ended: Reason | None = None
        self._inbox: Inbox | None = None
        """What waits for it; None until something does, since most clients do not listen."""
        self._parting = b""
        """A FATAL error that is sent before the end."""
        self.queued: Queued | None = None
        """Its place in the queue of a server that is still another client's."""
        self.shares_servers = True
        """Whether others may queue behind it: not if it reads so slowly that they had to wait for it."""
        self.cached = cached
        """What answers it from memory; None if nothing does."""
        self.shelf: Shelf | None = None
        self.shelf_for: Settings | None = None
        self.shelf_told: Settings | None = None
        """What answers for it are found on, and the settings that it is for."""
        self.flight: Flight | None = None
        """Its request whose answer may be kept, while it is under way."""
        self.joined: Flight | None = None
        """Somebody else's request, whose answer it waits for."""
        self.told_to_leave = math.inf
        """When a link was asked to leave."""
        self.corked: list[bytes] | None = None
        """What it is to be told when others know what it has written (`net.feeds`)."""
        self.corked_by = 0

    def __repr__(self) -> str:
        return f"<Client {self.process_id} of {self.origin.pool.key} {self.session.state.value}>"

    # -- data plane ------------------------------------------------------------------------------------------

    def on_readable(self) -> None:
        """Requests. Hot path."""
        data = self.transport.receive()
        if data is None:
            return
        if not data:
            self._vanish()
            return
        session = self.session
        server = self.server
        machine = session.server
        self.heard_at = self.poller.now
        if machine is None:
            if session.state is IDLE:
                self.began_at = self.heard_at
                if self.cached is not None and self.cached.serves(self, data):
                    return
        elif not machine.groups:
            self.asked_at = self.heard_at
            self.answered = machine.answered
            machine.own_answers = 0
            if machine.status == Status.IDLE:
                self.began_at = self.heard_at
        out = session.receive(data)
        if server is not None:
            if out:
                server.write(out, self)
                if server.session.groups and not session.replies and session.state is ClientState.LINKED:
                    return
        elif session.state is ClientState.WAITING and not session.replies:
            self._want_server()
            return
        self.input_moved()

    def input_moved(self) -> None:
        """The session machine has moved: do what it wants."""
        session = self.session
        if session.replies:
            self.write(session.replies)
            session.replies = b""
        server = self.server
        if session.fault is not None:
            self.fail(session.fault)
        elif session.state is ClientState.WAITING:
            self._want_server()
        elif session.state is ClientState.ENDING:
            self.pause()
            if server is None or not server.session.groups:
                self.finish(Reason.CLIENT_TERMINATED)
        elif session.state is ClientState.BEGUN:
            self.awake_by(self.heard_at + self.limits.soonest)
        elif session.server is not None and server is not None and server.session.free:
            server.offer()
        elif len(session.input) > MAX_WAITING_INPUT:
            self.pause()  # held back behind a Sync of ours; read again when the lease ends

    def _want_server(self) -> None:
        """Lease a server now, or wait in the queue.

        Not before it has read what it got: a client that only asks would fill our memory with answers.
        """
        if self.transport.pending:
            self.pause()
            return
        if self.server is not None:
            if self.server.session.free:
                self.granted(self.server)
            return  # it is being brought to rest, and then kept or given back
        pool = self.origin.pool
        if self.is_queued or self.joined is not None or self in pool.waiting:
            if len(self.session.input) > MAX_WAITING_INPUT:
                self.pause()
            return
        self.requested_at = self.poller.now
        try:
            server = pool.acquire(self)
        except PoolFull:
            self.gets_no_lease()
            return
        if server is not None:
            self.granted(server)
            return
        if pool.pinned:
            self.origin.reclaim()
        if self.origin.ahead is not None:
            self.origin.ahead.board()
            if self.is_queued:
                return
        self.awake_by(self.requested_at + min(self.timeouts.lease_wait, self.timeouts.wait_notice))

    def granted(self, server: Server) -> None:
        """A lease begins. Hot path."""
        if self.queued is not None:
            self._leave_queue()
        session = self.session
        now = self.poller.now
        if self.server is None:
            self.leased_at = now
            self.traffic.waits.observe(now - self.requested_at)
            if self.origin.ahead is not None:
                self.origin.ahead.leased(server)
        self.asked_at = now
        self.answered = server.session.answered
        server.session.own_answers = 0
        self.began_at = now if session.begun is None else self.began_at + now - self.requested_at
        if now + self.limits.soonest < self._sleeping_until:
            self.awake_by(now + self.limits.soonest)
        self.server = server
        server.client = self
        if self.origin.strict:
            server.session.distrust()
        out = session.link(server.session)
        if out:
            server.write(out, self)
        if not self.mask & READABLE:
            self.resume()
        if session.replies or session.fault is not None or session.state is ClientState.ENDING:
            self.input_moved()

    def returns(self, server: Server) -> bool:
        """The server is at rest. Hot path."""
        session = self.session
        if session.body_left and session.unsent:
            return False
        if session.state is ClientState.ENDING:
            self.finish(Reason.CLIENT_TERMINATED)
            return False
        self.server = None
        if self.count_answers(server.session):
            self.count_transaction()
        if self.verdict:
            self.mailbox.wake()  # what cancels it need not wait any more
        if session.server is not None:
            session.unlink()
        else:
            session.reported = server.session.told
        self._has_returned()
        if server.measured is not None and self.origin.ahead is not None:
            self.origin.ahead.measured(server, self.active_at - self.asked_at)
        return True

    def _has_returned(self) -> None:
        """Hot path."""
        self.active_at = self.poller.now
        if self._inbox is not None and self._between_transactions:
            self._tell()
        if not self.mask & READABLE:
            self.resume()  # it was paused for the server that it leaves

    def after_lease(self) -> None:
        """Hot path."""
        session = self.session
        if self.flight is not None:
            self._land()
        if session.state is not ClientState.IDLE or session.replies or session.fault is not None:
            self.input_moved()

    def refuse_lease(
        self, sqlstate: str, message: str, detail: str | None = None, hint: str | None = None
    ) -> None:
        """The wait is over, without a server."""
        self.origin.pool.forget(self)
        if self.queued is not None:
            self._leave_queue()
        self._leave_flights()
        self.session.refuse(messages.error(sqlstate, message, detail=detail, hint=hint))
        self.resume()
        self.input_moved()

    def gets_no_lease(self) -> None:
        refusal = self.origin.refusal(self.user)
        self.refuse_lease(refusal.sqlstate, refusal.message, refusal.detail, refusal.hint)

    # -- answers that are kept, or shared --------------------------------------------------------------------

    def write(self, data: bytes, source: Connection | None = None) -> None:
        """Hot path."""
        flight = self.flight
        if flight is not None:
            flight.took(data)
            if flight.spoiled and flight.joiners and self.cached is not None:
                self.cached.abandoned(flight)
        if self.corked is None:
            super().write(data, source)
        else:
            self.corked.append(data)
            if source is not None and len(data) * len(self.corked) > MOST_CORKED:
                source.pause()

    def wrote(self, freshness: Freshness) -> None:
        for follower in freshness.followers:
            follower.hold(self)

    def cork(self, number: int) -> None:
        """Keep what is written, until `uncork` with this number."""
        self.corked_by = number
        if self.corked is None:
            self.corked = []

    def uncork(self, number: int) -> None:
        if number != self.corked_by or self.corked is None:
            return
        kept, self.corked = self.corked, None
        if kept and self.fd >= 0:
            super().write(b"".join(kept), self.server)
            if not self.transport.pending:
                self.on_drained()

    def _land(self) -> None:
        flight, self.flight = self.flight, None
        if flight is not None and self.cached is not None:
            self.cached.landed(flight, self.poller.now)

    def joins(self, flight: Flight, data: bytes) -> None:
        """What has come is asked for already: wait for the answer to that."""
        session = self.session
        session.receive(data)
        if session.state is not ClientState.WAITING or session.replies:
            self.input_moved()
            return
        self.requested_at = self.poller.now
        session.set_aside()
        self.joined = flight
        flight.joiners[self] = None

    def landed(self, reply: bytes) -> None:
        """The answer is here."""
        self.joined = None
        self.session.answered_aside()
        self.active_at = self.poller.now
        self.write(reply)
        self.after_lease()

    def forsaken(self) -> None:
        """There will be no answer to share."""
        self.joined = None
        self.session.take_back()
        self.input_moved()

    def _leave_flights(self) -> None:
        """It does not wait for another's answer any more, nor another for its own."""
        joined, self.joined = self.joined, None
        if joined is not None:
            joined.joiners.pop(self, None)
            self.session.take_back()
        flight, self.flight = self.flight, None
        if flight is not None and self.cached is not None:
            self.cached.abandoned(flight)

    # -- reads that are sent ahead of their turn -------------------------------------------------------------

    @property
    def is_queued(self) -> bool:
        """Whether its request has been sent to a server that is still another client's."""
        return self.queued is not None

    def sends_ahead(self, queued: Queued) -> bytes:
        """What to send to a server that is still another client's. Hot path."""
        self.queued = queued
        return self.session.send_ahead(queued.queue.server.session)

    def has_turn(self, server: Server) -> None:
        """The lease begins: the server's next answer is for this client. Hot path."""
        self.queued = None
        self.origin.pool.forget(self)
        now = self.poller.now
        self.traffic.waits.observe(now - self.requested_at)
        self.leased_at = self.asked_at = self.began_at = now
        self.answered = server.session.answered
        server.session.own_answers = 0
        self.awake_by(now + self.limits.soonest)
        self.server = server
        self.session.has_turn(server.session)
        if self.session.replies:
            self.write(self.session.replies)
            self.session.replies = b""

    def turn_over(self) -> None:
        """The lease ends with the answer: others wait behind it. `after_lease` follows. Hot path."""
        if self.server is not None and self.count_answers(self.server.session):
            self.count_transaction()
        self.server = None
        self.session.unlink()
        self._has_returned()

    def asks_again(self) -> None:
        """Its answer was spoiled by what was done to a neighbour, or lost with the server."""
        self.queued = None
        self.server = None
        self.session.asks_again()
        self.input_moved()

    def _leave_queue(self) -> None:
        """It does not wait for its turn any more; its request is to be sent again."""
        queued, self.queued = self.queued, None
        self.session.take_back()
        if queued is not None:
            queued.leave()

    def server_lost(self, server: Server, fault: ServerFault, *, in_step: bool) -> None:
        """The leased server is gone. The client stays if its replies can be kept in step."""
        self.server = None
        self._leave_flights()
        if self.ending:
            self.finish(Reason.CLIENT_TERMINATED)
        elif self.session.server is None:
            self.input_moved()  # its transaction was rolled back before
        elif not in_step or (server.session.body_left and not server.session.drop_body):
            self.finish(Reason.SERVER_LOST_MID_MESSAGE)  # an error would be read as the rest of the message
        else:
            self.session.lose(self.verdict or self._loss(fault))
            self.resume()
            if self.link or server.session.unread:
                self.fail(_UNCERTAIN)
            else:
                self.input_moved()

    def _loss(self, fault: ServerFault) -> bytes:
        """The error for a lost server. PostgreSQL itself ends a connection whose client has set a time limit
        that is over.
        """
        match fault.sqlstate:
            case SqlState.IDLE_IN_TRANSACTION_TIMEOUT:
                return self.limits.error(Limit.IDLE_IN_TRANSACTION, running=False)
            case SqlState.TRANSACTION_TIMEOUT:
                return self.limits.error(Limit.TRANSACTION, running=False)
            case _:
                why = f"server connection lost: {fault.message}"
                return messages.error(SqlState.CONNECTION_FAILURE, why)

    def refused(self, server: Server, error: ErrorFields) -> None:
        """The server does not take the client's settings any more (a role was dropped): its requests get that
        error.
        """
        self.server = None
        self._leave_flights()
        settings = "The settings that this client has made could not be made on another server connection."
        detail = error.detail or (None if server.session.stranded else settings)
        self.session.lose(messages.error(error.sqlstate, error.summary, detail=detail))
        self.resume()
        self.input_moved()

    def names_asked(self) -> Iterable[str]:
        return self.session.names_asked()

    def found(self, inspection: Inspection, server: Server) -> None:
        self.session.found(inspection, server.session)
        if Ask.SETTINGS in inspection.asks:
            self.limits = Limits.of(self.timeouts, self.session.settings)
            self.awake_by(self.poller.now + self.limits.soonest)
        if Ask.CHANNELS in inspection.asks:
            self._listens_to(frozenset(inspection.channels), server)

    # -- notifications ---------------------------------------------------------------------------------------

    def _listens_to(self, channels: frozenset[bytes], server: Server) -> None:
        """What PostgreSQL says that the client listens to, on the server that it leases."""
        session = self.session
        listening = self.origin.listening
        channels -= {listening.marker}
        gone = session.channels - channels
        if gone:
            listening.withdraw(self, gone)
            session.channels &= channels
            server.session.silenced = session.channels
            # What came behind the UNLISTEN has been held back, since the server is still leased.
            if self._inbox is not None:
                self._inbox.withdraw(gone)
        if channels - session.channels:
            session.may_listen(server.session)
            if self.link:  # it listens for one of its clients, and compares this with its own listener
                server.session.pins[NOT_HANDED_OVER] = None
            else:
                server.hand_over(self, channels)
        else:
            server.drop_handover()
            server.session.pins.pop(NOT_HANDED_OVER, None)
            listening.settle(self, channels)

    def handed_over(self, channels: frozenset[bytes]) -> None:
        """From now on the pool's listening connection tells what happens on these channels."""
        self.session.channels = channels

    def notify(self, message: bytes) -> None:
        """The listening connection has a notification. A transaction has to end before the client gets it."""
        if self._inbox is None:
            self._inbox = Inbox()
        self._inbox.put(message)
        if self._between_transactions:
            self._tell()
        if self._inbox.overflows:
            self.fail(
                ClientFault(
                    "too many unread notifications", SqlState.LIMIT_EXCEEDED, reason=Reason.LISTENER_TOO_SLOW
                )
            )

    @property
    def _between_transactions(self) -> bool:
        session = self.session
        if self.server is not None or session.begun is not None:
            return False
        return session.state is ClientState.IDLE or session.state is ClientState.WAITING

    def _tell(self) -> None:
        """Between transactions: what was held back for the client can be told, if it reads."""
        if self._inbox and not self.transport.pending:
            encoding = self.session.reported.get("client_encoding", "UTF8")
            told = self._inbox.take(self.origin.listening.encoding, encoding)
            self.write(b"".join(message for message in told if not self._was_told(message)))

    def kept(self) -> None:
        """Between transactions, with the server: it is pinned."""
        self.active_at = self.poller.now
        if self.server is not None and self.count_answers(self.server.session):
            self.count_transaction()
        self._tell()
        if self.session.held:
            self.mailbox.wake()
        if self.session.state is ClientState.WAITING and self.server is not None:
            self.granted(self.server)

    @property
    def ending(self) -> bool:
        return self.session.state is ClientState.ENDING

    @property
    def unsent(self) -> int:
        return self.session.unsent

    def on_gone(self) -> None:
        """Reset, or closed while it was not read: nobody is there to answer."""
        if self.ending:
            self.hush()
        else:
            self._vanish()

    def _was_told(self, message: bytes) -> bool:
        """Whether the client has had this notification of its own from the server that it leased."""
        echoes = self.session.echoes
        if message not in echoes:
            return False
        while echoes.popleft() != message:
            pass  # lost with an earlier listening connection
        return True

    def on_drained(self) -> None:
        if self._between_transactions:
            self._tell()
        if self.server is not None:
            self.server.resume()
        elif not self.ending:
            self.resume()
            self.input_moved()

    def on_crash(self, error: Exception) -> None:
        log.error("internal error in a client connection", client=repr(self), exc_info=error)
        self.fail(
            ClientFault("internal error of trio-pool", SqlState.INTERNAL_ERROR, reason=Reason.INTERNAL_ERROR)
        )

    def _vanish(self) -> None:
        self.finish(Reason.CLIENT_VANISHED)

    def fail(self, fault: ClientFault) -> None:
        """Tell the client why, then end it; not in the middle of a reply, where it would become a row."""
        server = self.server
        if server is None or server.session.drop_body or not server.session.body_left:
            self._parting = messages.error(
                fault.sqlstate, fault.message, severity="FATAL", detail=fault.detail
            )
        self.finish(fault.reason)

    def finish(self, reason: Reason) -> None:
        """The client ends: out of the data plane, out of the queue, its server taken care of.

        The task does the rest.
        """
        if self.over:
            return
        self._ended = reason
        traffic = self.traffic
        traffic.disconnects[reason.value] += 1
        traffic.client_received += self.transport.received
        traffic.client_sent += self.transport.sent
        self.origin.statements.binds += self.session.binds
        self.detach()
        self.origin.pool.forget(self)
        if self.queued is not None:
            self._leave_queue()
        self._leave_flights()
        if self.session.echoes.maxlen is None:  # it has listened to something
            self.origin.listening.forget(self)
        server, self.server = self.server, None
        if server is not None:
            server.orphaned(self.session.unsent, cancel=reason is not Reason.CLIENT_TERMINATED)
        self.mailbox.wake()

    # -- control plane ---------------------------------------------------------------------------------------

    async def cancel(self) -> None:
        """A cancel request for this client: whatever it is doing now gets 57014, and nothing that it does
        later.
        """
        self.traffic.cancels += 1
        server = self.server
        if server is not None:
            await server.cancel_for(self)
        elif self.queued is not None or self.joined is not None or self in self.origin.pool.waiting:
            self.refuse_lease(SqlState.QUERY_CANCELED, "canceling statement due to user request")

    async def live(self) -> None:
        """Sleep until there is something to do; close at the end."""
        try:
            self.attach()
            self.input_moved()
            while not self.over:
                self._sleeping_until = self.deadline(trio.current_time())
                if self._sleeping_until == math.inf:
                    await self.mailbox.wait()
                else:
                    with trio.move_on_at(self._sleeping_until):
                        await self.mailbox.wait()
                if not self.over:
                    await self.attend(self.poller.tick())
            if self._parting:
                await self._part()
        finally:
            self.finish(Reason.STOPPING)
            self.transport.close()

    def stop(self, why: ClientFault | None = None) -> None:
        """Leave now if no transaction is open and no request is running. The daemon is stopping unless there
        is another reason.
        """
        server = self.server
        open_without_server = self.session.state in (ClientState.BEGUN, ClientState.FAILED)
        asks = self.queued is not None or self.joined is not None
        if self.link and self._leaves_by_itself():
            return
        if not open_without_server and not asks and (server is None or server.session.free):
            if why is None:
                why = ClientFault(
                    "terminating connection due to administrator command",
                    SqlState.ADMIN_SHUTDOWN,
                    reason=Reason.STOPPING,
                )
            self.fail(why)

    def _leaves_by_itself(self) -> bool:
        """Whether a link may still do so. Its edge may have sent something already when it is told, which
        would be lost if it were just closed; so the edge begins nothing more, and closes it.
        """
        now = trio.current_time()
        server = self.server
        if self.told_to_leave == math.inf and (server is None or not server.session.body_left):
            self.told_to_leave = now
            self.write(link.note(link.LEAVING))
        return now < self.told_to_leave + LINK_GRACE

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._ended is not None

    @property
    def reason(self) -> Reason:
        """Why it ended."""
        return self._ended or Reason.INTERNAL_ERROR

    @property
    def waits(self) -> bool:
        return self in self.origin.pool.waiting

    async def overruns(self, limit: Limit) -> None:
        await overrun.end(self, limit)

    @property
    def doing(self) -> str:
        """What it does, in a few words or as its statement: for the eyes of its own user."""
        machine = self.session.server
        if machine is None or not machine.owes:
            return self.shown
        text = self.session.doing()[:MOST_SHOWN].decode(errors="replace")
        return " ".join(text.split()) or "running"

    @property
    def shown(self) -> str:
        """What it does, in a few words or as its statement without constants: for everybody's."""
        if self.waits:
            return "waiting"
        if self.queued is not None:
            return "queued behind another read"
        if self.joined is not None:
            return "waiting for an answer that another client has asked for"
        machine = self.session.server
        if machine is None:
            return _DOING.get(self.session.state, "idle")
        if machine.owes:
            return without_constants(self.session.doing())[:MOST_SHOWN] or "running"
        return "idle" if machine.status == Status.IDLE else "idle in transaction"

    async def _part(self) -> None:
        await part(self.transport, self._parting)


async def part(transport: Transport, error: bytes) -> None:
    """Send a FATAL error and wait, for a bounded time, until the peer has read it: a close with unread input
    would reset the connection and lose the error.
    """
    with trio.move_on_after(LINGER):
        transport.send(error)
        while transport.pending:
            await trio.lowlevel.wait_writable(transport.fileno())
            transport.flush()
        try:
            transport.shutdown()
        except OSError:
            return
        while transport.receive() != b"":
            await trio.lowlevel.wait_readable(transport.fileno())
