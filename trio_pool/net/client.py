"""The life of a client: after its login (net/welcome.py), until it goes.

One task owns the socket. While the client is in the data plane the task sleeps, and wakes for deadlines,
which are lazy (the data plane only stores timestamps), and for the end. The data plane's part is short: bytes
into the session machine, what comes out to the leased server; a lease taken when the machine wants one, given
back when the server says that it is free.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import structlog
import trio

from trio_pool.errors import ClientFault, Reason, ServerFault, SqlState
from trio_pool.net.connection import Connection
from trio_pool.net.handover import NOT_HANDED_OVER
from trio_pool.net.poller import READABLE
from trio_pool.pooling.pool import PoolFull
from trio_pool.protocol.client import MAX_WAITING_INPUT, ClientSession, ClientState
from trio_pool.protocol.facts import Ask
from trio_pool.wire import messages
from trio_pool.wire.encodings import convert
from trio_pool.wire.frames import HEADER_SIZE
from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_pool.net.origin import OriginPool
    from trio_pool.net.poller import Poller
    from trio_pool.net.server import Server
    from trio_pool.net.transport import Transport
    from trio_pool.protocol.inspection import Inspection
    from trio_pool.wire.messages import ErrorFields

log = structlog.get_logger()

MAX_NOTIFICATIONS = 1 << 20
"""Bytes of notifications that wait for a client to read them, after which it is disconnected: they can
neither be kept without a bound nor be lost in silence.
"""
LINGER = 1.0
"""Seconds that a client has to read why it is being disconnected."""


class Client(Connection):
    """One logged-in client."""

    __slots__ = (
        "_ended",
        "_notifications",
        "_notifications_size",
        "_parting",
        "_sleeping_until",
        "active_at",
        "leased_at",
        "origin",
        "peer",
        "process_id",
        "requested_at",
        "secret",
        "server",
        "session",
    )

    def __init__(
        self,
        poller: Poller,
        transport: Transport,
        origin: OriginPool,
        session: ClientSession,
        key: tuple[int, bytes],
        peer: str,
    ) -> None:
        super().__init__(poller, transport)
        self.origin = origin
        self.session = session
        self.process_id, self.secret = key
        self.peer = peer
        """Where it comes from, for logs."""
        self.server: Server | None = None
        self.active_at = self.requested_at = self.leased_at = trio.current_time()
        self._sleeping_until = math.inf
        self._ended: Reason | None = None
        self._notifications: list[bytes] = []
        """Held back until the client is between transactions."""
        self._notifications_size = 0
        self._parting = b""
        """A FATAL error that is sent before the end."""

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
        out = session.receive(data)
        server = self.server
        if server is not None:
            if out:
                server.write(out, self)
                if server.session.groups and not session.replies and session.state is ClientState.LINKED:
                    return
        elif session.state is ClientState.WAITING and not session.replies:
            self._want_server()
            return
        self._after_input()

    def _after_input(self) -> None:
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
        elif server is not None and not server.session.groups and server.session.free:
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
        pool = self.origin.pool
        if self in pool.waiting:
            if len(self.session.input) > MAX_WAITING_INPUT:
                self.pause()
            return
        try:
            server = pool.acquire(self)
        except PoolFull:
            self.refuse_lease(*self.origin.lease_error())
            return
        if server is not None:
            self.granted(server)
            return
        self.requested_at = self.poller.now
        if pool.pinned:
            self.origin.reclaim()
        if self.requested_at + self.origin.database.timeouts.lease_wait < self._sleeping_until:
            self.mailbox.wake()  # once per lease_wait, not once per request: see _deadline

    def granted(self, server: Server) -> None:
        """A lease begins. Hot path."""
        self.server = server
        server.client = self
        self.leased_at = self.poller.now
        if self.origin.strict:
            server.session.distrust()
        out = self.session.link(server.session)
        if out:
            server.write(out, self)
        if not self.mask & READABLE:
            self.resume()
        session = self.session
        if session.replies or session.fault is not None or session.state is ClientState.ENDING:
            self._after_input()

    def returns(self, server: Server) -> bool:
        """The server is at rest. Hot path."""
        session = self.session
        if session.body_left:
            return False
        if session.state is ClientState.ENDING:
            self.finish(Reason.CLIENT_TERMINATED)
            return False
        self.server = None
        session.unlink()
        self.active_at = self.poller.now
        if self._notifications:
            self.kept()
        if not self.mask & READABLE:
            self.resume()  # it was paused for the server that it leaves
        return True

    def after_lease(self) -> None:
        """Hot path."""
        session = self.session
        if session.state is not ClientState.IDLE or session.replies or session.fault is not None:
            self._after_input()

    def refuse_lease(self, sqlstate: str, message: str, detail: str | None = None) -> None:
        """The wait is over, without a server."""
        self.origin.pool.forget(self)
        self.session.refuse(messages.error(sqlstate, message, detail=detail))
        self.resume()
        self._after_input()

    def server_lost(self, server: Server, fault: ServerFault, *, in_step: bool) -> None:
        """The leased server is gone. The client stays if its replies can be kept in step."""
        self.server = None
        if self.ending:
            self.finish(Reason.CLIENT_TERMINATED)
        elif not in_step or (server.session.body_left and not server.session.drop_body):
            self.finish(Reason.SERVER_LOST_MID_MESSAGE)  # an error would be read as the rest of the message
        else:
            error = messages.error(SqlState.CONNECTION_FAILURE, f"server connection lost: {fault.message}")
            self.session.lose(error)
            self.resume()
            self._after_input()

    def refused(self, server: Server, error: ErrorFields) -> None:
        """The server does not take the client's settings any more (a role was dropped): its requests get that
        error.
        """
        self.server = None
        detail = "The settings that this client has made could not be made on another server connection."
        self.session.lose(messages.error(error.sqlstate, error.summary, detail=error.detail or detail))
        self.resume()
        self._after_input()

    def names_asked(self) -> Iterable[str]:
        return self.session.names_asked()

    def found(self, inspection: Inspection, server: Server) -> None:
        self.session.found(inspection, server.session)
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
            self._notifications = [m for m in self._notifications if _channel_of(m) not in gone]
            self._notifications_size = sum(map(len, self._notifications))
        if channels - session.channels:
            session.may_listen(server.session)
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
        self._notifications.append(message)
        self._notifications_size += len(message)
        if self._between_transactions:
            self.kept()
        if self._notifications_size > MAX_NOTIFICATIONS:
            self.fail(
                ClientFault(
                    "too many unread notifications", SqlState.LIMIT_EXCEEDED, reason=Reason.LISTENER_TOO_SLOW
                )
            )

    @property
    def _between_transactions(self) -> bool:
        return self.server is None and self.session.state in (ClientState.IDLE, ClientState.WAITING)

    def kept(self) -> None:
        """Between transactions: what was held back for the client can be told, if it reads."""
        if self._notifications and not self.transport.pending:
            told, self._notifications = self._notifications, []
            self._notifications_size = 0
            encoding = self.session.reported.get("client_encoding", "UTF8")
            source = self.origin.listening.encoding
            notifications = [_in_encoding(message, source, encoding) for message in told]
            self.write(b"".join(message for message in notifications if not self._was_told(message)))

    @property
    def ending(self) -> bool:
        return self.session.state is ClientState.ENDING

    @property
    def mid_message(self) -> bool:
        return self.session.body_left > 0

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
        if self._notifications and self._between_transactions:
            self.kept()
        if self.server is not None:
            self.server.resume()
        elif not self.ending:
            self.resume()
            self._after_input()

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
        if self._ended is not None:
            return
        self._ended = reason
        self.detach()
        self.origin.pool.forget(self)
        if self.session.echoes.maxlen is None:  # it has listened to something
            self.origin.listening.forget(self)
        server, self.server = self.server, None
        if server is not None:
            server.orphaned(
                mid_message=self.session.body_left > 0, cancel=reason is not Reason.CLIENT_TERMINATED
            )
        self.mailbox.wake()

    # -- control plane ---------------------------------------------------------------------------------------

    async def cancel(self) -> None:
        """A cancel request for this client: whatever it is doing now gets 57014, and nothing that it does
        later.
        """
        server = self.server
        if server is not None:
            await server.cancel_for(self)
        elif self in self.origin.pool.waiting:
            self.refuse_lease(SqlState.QUERY_CANCELED, "canceling statement due to user request")

    async def live(self) -> None:
        """Sleep until there is something to do; close at the end."""
        try:
            self.attach()
            self._after_input()
            while self._ended is None:
                self._sleeping_until = self._deadline()
                if self._sleeping_until == math.inf:
                    await self.mailbox.wait()
                else:
                    with trio.move_on_at(self._sleeping_until):
                        await self.mailbox.wait()
                if self._ended is None:
                    self._act_on_deadlines(trio.current_time())
            if self._parting:
                await self._part()
        finally:
            self.finish(Reason.STOPPING)
            self.transport.close()

    def stop(self) -> None:
        """The daemon is stopping: leave now if no transaction is open and no request is running."""
        server = self.server
        if self.session.state is not ClientState.FAILED and (server is None or server.session.free):
            self.fail(
                ClientFault(
                    "terminating connection due to administrator command",
                    SqlState.ADMIN_SHUTDOWN,
                    reason=Reason.STOPPING,
                )
            )

    @property
    def reason(self) -> Reason:
        """Why it ended."""
        return self._ended or Reason.INTERNAL_ERROR

    def _deadline(self) -> float:
        """The earliest moment at which a timeout can be due, judged from the timestamps.

        A request that waits sets `requested_at` and wakes the task only if it sleeps longer than that allows;
        so a busy client costs one wake-up per `lease_wait`, not one per request.
        """
        timeouts = self.origin.database.timeouts
        now = trio.current_time()
        waits_until = self.requested_at + timeouts.lease_wait
        idles_until = self.active_at + timeouts.client_idle
        if idles_until <= now:  # busy
            idles_until = now + timeouts.client_idle
        return min(waits_until if waits_until > now else math.inf, idles_until)

    def _act_on_deadlines(self, now: float) -> None:
        timeouts = self.origin.database.timeouts
        if self in self.origin.pool.waiting:
            if now >= self.requested_at + timeouts.lease_wait:
                self.refuse_lease(*self.origin.lease_error())
        elif self.session.state is ClientState.IDLE and now >= self.active_at + timeouts.client_idle:
            self.fail(
                ClientFault(
                    "terminating connection due to client_idle timeout",
                    SqlState.IDLE_SESSION_TIMEOUT,
                    reason=Reason.CLIENT_IDLE_TIMEOUT,
                )
            )

    async def _part(self) -> None:
        await part(self.transport, self._parting)


def _in_encoding(notification: bytes, source: str, target: str) -> bytes:
    if source == target or notification[HEADER_SIZE + 4 :].isascii():
        return notification
    body = notification[HEADER_SIZE + 4 :]
    sender = notification[HEADER_SIZE : HEADER_SIZE + 4]
    return messages.message(Backend.NOTIFICATION_RESPONSE, sender + convert(body, source, target))


def _channel_of(notification: bytes) -> bytes:
    return messages.read_notification(notification[HEADER_SIZE:])[0]


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
