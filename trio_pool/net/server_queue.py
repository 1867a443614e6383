"""The queue of reads that one server has been sent, and whose turn it is.

PostgreSQL answers them in order, each with its own ReadyForQuery. The first is a client's that leases the
server like any other; behind it stand clients that do not, but whose statement is in the server's socket
already (`Queued`). When the first has its answer its lease ends, and the next one's begins.

A client that cannot wait for its turn any more (it is gone, or got a server elsewhere) leaves its place to
`ABSENT`: what was sent cannot be taken back.

Which statements may be sent ahead, and to which server, is decided in `queue_ahead`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from trio_pool.net.absent import ABSENT

if TYPE_CHECKING:
    from trio_pool.net.client import Client
    from trio_pool.net.queue_ahead import History, QueueAhead
    from trio_pool.net.server import Server

MOST_BUFFERED = 1 << 18
"""Bytes of its answer that are kept for a client that reads slowly, while others wait behind it."""


class Queued:
    """One statement in the queue, whose turn has not come."""

    __slots__ = ("cancels", "client", "history", "queue", "seconds", "sent_at")

    def __init__(self, queue: ServerQueue, client: Client, history: History) -> None:
        self.queue = queue
        self.client: Client | None = client
        """None once nobody waits for the answer."""
        self.history = history
        self.seconds = history.seconds
        self.cancels = queue.server.cancel_requests
        """How many cancel requests the server had been sent before."""
        self.sent_at = queue.server.poller.now

    def leave(self) -> None:
        """The client does not wait for this answer any more."""
        self.client = None
        self.queue.ahead.left(self.queue)


class ServerQueue:
    """The turns of one server, from the moment at which a second client shares it to the end of the last."""

    __slots__ = (
        "ahead",
        "asked_idle",
        "buffered",
        "client",
        "history",
        "number",
        "seconds",
        "server",
        "since",
        "stuck",
        "waiting",
    )

    def __init__(self, ahead: QueueAhead, server: Server, client: Client, history: History) -> None:
        self.ahead = ahead
        self.server = server
        self.client: Client | None = client
        """Whose turn it is; None if nobody waits for the answer."""
        self.history = history
        """Of its statement."""
        self.waiting: deque[Queued] = deque()
        self.seconds = 0.0
        """What these usually take."""
        self.number = server.session.answered
        """How many groups had been answered when the turn began."""
        self.since = client.asked_at
        """When PostgreSQL may have begun with it, at the latest."""
        self.asked_idle = True
        """Whether PostgreSQL did nothing else when it was sent, so that the way there is part of the time."""
        self.buffered = 0
        self.stuck = False
        """Whether the turn takes so long that those behind it look for another server."""
        server.session.takes_turns = True
        client.session.hold()

    # -- who comes and goes ----------------------------------------------------------------------------------

    def join(self, client: Client, history: History) -> None:
        """Send the client's request behind the others. Hot path."""
        queued = Queued(self, client, history)
        self.waiting.append(queued)
        self.seconds += queued.seconds
        self.server.post(client.sends_ahead(queued))

    @property
    def _awaited(self) -> bool:
        """Whether somebody still waits for a turn."""
        return any(queued.client is not None for queued in self.waiting)

    def leave_turn(self) -> bool:
        """The client whose turn it is is gone. False if nobody waits behind it, so that what runs can be
        cancelled.
        """
        self.client = None
        if not self._awaited:
            self.end()
            return False
        self.server.client = ABSENT
        self.server.origin.pool.leased[self.server] = ABSENT
        self.server.session.holder = None
        self.server.resume()
        return True

    def end(self) -> None:
        """The server is one client's again, or lost."""
        self.server.queue = None
        self.server.session.takes_turns = False
        self.server.session.repeatable = False
        self.ahead.ended(self)

    def lost(self) -> None:
        """The server is gone: those whose turn had not come are asked elsewhere."""
        waiting, self.waiting = self.waiting, deque()
        for queued in waiting:
            client = queued.client
            queued.client = None
            if client is not None and client.queued is queued:
                self.ahead.statistics.repeated += 1
                client.asks_again()

    # -- what is answered ------------------------------------------------------------------------------------

    def answered(self, out: bytes) -> None:
        """The server has sent something: to whose turn it is, and so on through the queue. Hot path."""
        server = self.server
        session = server.session
        while True:
            over = session.answered != self.number
            client = self.client
            if out and client is not None:
                client.write(out)
                session.repeatable = False
                if client.transport.pending:
                    self._reads_slowly(client, len(out))
            if session.failure is not None:
                server.replied(b"")
                return
            if not over:
                return
            self._measure()
            if session.repeats:
                session.repeats = session.repeatable = False
                if client is not None:
                    self.ahead.statistics.repeated += 1
                    client.asks_again()
                    self.client = client = None
                    server.client = ABSENT
            if not self.waiting:
                self._last_is_answered()
                return
            if client is not None:
                client.turn_over()
            self._next()
            if client is not None:
                client.after_lease()
            if server.queue is not self:
                return
            if not session.rest:
                break
            further = server.receive()
            if further is None:
                return
            out = further
        self.ahead.has_room(self)

    def _last_is_answered(self) -> None:
        """The lease ends as any other."""
        server = self.server
        self.end()
        out = server.receive() if server.session.rest else b""
        if out is not None:
            server.replied(out)

    def _next(self) -> None:
        """The next turn begins."""
        server = self.server
        session = server.session
        queued = self.waiting.popleft()
        self.seconds = self.seconds - queued.seconds if self.waiting else 0.0
        self.client = client = queued.client
        self.history = queued.history
        self.number = session.answered
        self.since = max(server.poller.now, queued.sent_at + self.ahead.trip)
        self.asked_idle = False
        self.buffered = 0
        self.stuck = False
        if server.paused_at is not None:
            server.resume()  # it was paused for the client whose turn is over
        session.repeatable = server.cancel_requests != queued.cancels
        pool = server.origin.pool
        pool.leases += 1
        if client is not None:
            server.client = client
            pool.leased[server] = client
            client.has_turn(server)
        elif not self.leave_turn() and server.receive() is not None:
            server.orphaned(0)

    def _measure(self) -> None:
        seconds = self.server.poller.now - self.since
        self.ahead.usual += (seconds - self.ahead.usual) / 64
        self.history.took(self.ahead.without_trip(seconds) if self.asked_idle else max(0.0, seconds))

    def _reads_slowly(self, client: Client, size: int) -> None:
        """Its answer is kept for it up to a bound; past it, nobody queues behind this client again, and those
        behind it now look for another server.
        """
        self.buffered += size
        if self.buffered > MOST_BUFFERED:
            client.shares_servers = False
            self.server.pause()
            self.get_stuck()

    def get_stuck(self) -> None:
        """The turn takes too long: those behind it are asked again on the first server that is free."""
        self.stuck = True
        self.ahead.hedge([queued.client for queued in self.waiting if queued.client is not None])

    def give_up_turn(self) -> None:
        """Nobody waits for what runs too long, nor for anything behind it any more: cancel it all."""
        server = self.server
        if self.client is None and not self._awaited:
            self.end()
            server.orphaned(0)
