"""The time of a client: when what happened to it, and what is due.

The data plane only stores timestamps. The client's task sleeps until the earliest moment at which a time
limit can be over, then looks at them, and acts or sleeps on: one wake-up per limit and busy client, none per
query.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import trio

from trio_pool.errors import ClientFault, Reason, SqlState
from trio_pool.net.connection import Connection
from trio_pool.net.limits import CALM, Limit, Limits, Situation
from trio_pool.protocol.client import ClientState
from trio_pool.wire import messages
from trio_pool.wire.tags import Status

if TYPE_CHECKING:
    from trio_pool.config.timeouts import Timeouts
    from trio_pool.net.origin import OriginPool
    from trio_pool.net.poller import Poller
    from trio_pool.net.server import Server
    from trio_pool.net.transport import Transport
    from trio_pool.pooling.traffic import Traffic
    from trio_pool.protocol.client import ClientSession
    from trio_pool.protocol.server import ServerSession


LEAST_SLOW: Final = 0.001
"""Seconds. Nobody means less by slow, and nearly everything is done by then."""


class Timed(Connection):
    """The part of a client that knows about time. All timestamps are seconds on Trio's clock."""

    __slots__ = (
        "_excused",
        "_noticed",
        "_sleeping_until",
        "active_at",
        "answered",
        "asked_at",
        "began_at",
        "born",
        "heard_at",
        "leased_at",
        "limits",
        "link",
        "origin",
        "process_id",
        "requested_at",
        "rested_at",
        "server",
        "session",
        "timeouts",
        "traffic",
        "user",
        "verdict",
    )

    def __init__(
        self,
        poller: Poller,
        transport: Transport,
        origin: OriginPool,
        session: ClientSession,
        timeouts: Timeouts,
        *,
        process_id: int,
        user: str,
    ) -> None:
        super().__init__(poller, transport)
        self.process_id = process_id
        """Of its cancel key."""
        self.user = user
        self.origin = origin
        self.traffic: Traffic = origin.traffic
        self.session: ClientSession = session
        self.server: Server | None = None
        self.timeouts = timeouts
        self.link = False
        """Whether it is another trio-pool, for clients of its own."""
        self.limits = Limits.of(timeouts, session.settings)
        self.born = now = trio.current_time()
        self.active_at = self.requested_at = self.leased_at = now
        """When its last lease ended, it last wanted one, and it got one."""
        self.heard_at = self.rested_at = now
        """When bytes came from it, and when PostgreSQL last waited for it in a transaction."""
        self.began_at: float = now
        self.asked_at: float = now
        """When its transaction began, and what PostgreSQL is running."""
        self.answered = 0
        """How many groups the server had answered at `asked_at`."""
        self._excused: tuple[ServerSession, int] | None = None
        """A group that may take as long as it likes: it is a COMMIT."""
        self._noticed = -math.inf
        """`requested_at` of the wait of which it was told last."""
        self._sleeping_until = math.inf
        self.verdict = b""
        """The error that it gets for what is being cancelled."""

    # -- for subclasses --------------------------------------------------------------------------------------

    def input_moved(self) -> None:
        """The session machine has moved: do what it wants."""
        raise NotImplementedError

    def finish(self, reason: Reason) -> None:
        """The client ends."""
        raise NotImplementedError

    def fail(self, fault: ClientFault) -> None:
        """Tell the client why, then end it."""
        raise NotImplementedError

    def gets_no_lease(self) -> None:
        """`lease_wait` is over."""
        raise NotImplementedError

    @property
    def waits(self) -> bool:
        """Whether it is in its pool's queue."""
        raise NotImplementedError

    async def overruns(self, limit: Limit) -> None:
        """It has no more time."""
        raise NotImplementedError

    # -- data plane ------------------------------------------------------------------------------------------

    def rested(self, server: Server) -> None:
        """The server waits for the client, in a transaction. Hot path."""
        self.rested_at = self.poller.now
        self.count_answers(server.session)
        if self.session.state is ClientState.ENDING:
            self.finish(Reason.CLIENT_TERMINATED)
        elif self.session.held:
            self.mailbox.wake()

    def progressed(self, server: Server) -> None:
        """The server has answered something, but not everything. Hot path of long answers."""
        machine = server.session
        before = self.answered
        if machine.answered != before:
            theirs = self.count_answers(machine)
            self.asked_at = self.poller.now
            if machine.rested > before:
                if theirs:
                    self.count_transaction()
                self.began_at = self.asked_at
            if self.session.held:
                self.mailbox.wake()

    def count_answers(self, machine: ServerSession) -> bool:
        """For the statistics: what has been answered since it was asked, if anything has. Hot path."""
        answers = machine.answered - self.answered
        if not answers:
            return False
        self.answered = machine.answered
        answers -= machine.own_answers
        machine.own_answers = 0
        if answers <= 0:
            return False
        seconds = self.poller.now - self.asked_at
        self.traffic.answered(answers, seconds)
        if seconds >= LEAST_SLOW and seconds >= self.timeouts.slow_query:
            self.origin.slow_queries.note(self, answers, seconds, self.poller.now)
        return True

    def count_transaction(self) -> None:
        """For the statistics: a transaction has ended. Hot path."""
        self.traffic.transaction_time.observe(self.poller.now - self.began_at)

    # -- deadlines -------------------------------------------------------------------------------------------

    def limit_by(self, timeouts: Timeouts) -> None:
        """Other time limits than before, also for what goes on."""
        self.timeouts = timeouts
        self.limits = Limits.of(timeouts, self.session.settings)
        self.mailbox.wake()

    def awake_by(self, when: float) -> None:
        """Wake the task unless it looks at the timestamps by then anyway.

        So a busy client costs one wake-up per time limit, not one per request.
        """
        if when < self._sleeping_until:
            self._sleeping_until = when
            self.mailbox.wake()

    def deadline(self, now: float) -> float:
        """The earliest moment at which a time limit can be over, judged from the timestamps."""
        timeouts = self.timeouts
        if self.waits:
            notice = self.requested_at + timeouts.wait_notice
            told = self._noticed == self.requested_at
            return min(self._waits_until, math.inf if told else notice)
        # Those that do not apply yet can be over this early.
        lease = self.requested_at + timeouts.lease_wait
        due = [lease] if lease > now else []
        if self.server is not None or self.session.state is ClientState.BEGUN:
            due.append(now + self.limits.soonest)
        elif self.heard_at + self.limits.soonest > now:
            due.append(self.heard_at + self.limits.soonest)
        if not self.link:  # which is kept ready for whoever needs it
            idle = self.active_at + timeouts.client_idle
            due.append(idle if idle > now else now + timeouts.client_idle)
        due.append(self.limits.earliest(self._situation())[0])
        return min(due)

    async def attend(self, now: float) -> None:
        """Do what is due."""
        if self.waits:
            self._waits(now)
            return
        when, limit = self.limits.earliest(self._situation())
        if limit is not None and now >= when:
            await self.overruns(limit)
        elif not self.link and self._rests and now >= self.active_at + self.timeouts.client_idle:
            self.traffic.timeouts["client_idle"] += 1
            self.fail(
                ClientFault(
                    "terminating connection due to client_idle timeout",
                    SqlState.IDLE_SESSION_TIMEOUT,
                    reason=Reason.CLIENT_IDLE_TIMEOUT,
                )
            )

    @property
    def _waits_until(self) -> float:
        """When `lease_wait` is over, of which a pause of the pool is no part."""
        return max(self.requested_at, self.origin.resumed_at) + self.timeouts.lease_wait

    def _waits(self, now: float) -> None:
        if now >= self._waits_until:
            self.traffic.timeouts["lease_wait"] += 1
            self.gets_no_lease()
        elif now >= self.requested_at + self.timeouts.wait_notice and self._noticed != self.requested_at:
            self._noticed = self.requested_at
            waiting = len(self.origin.pool.waiting)
            self.write(messages.notice("00000", f"waiting for a connection from the pool ({waiting} wait)"))

    @property
    def _rests(self) -> bool:
        """Whether it has no transaction and no request."""
        if self.server is None:
            return self.session.state is ClientState.IDLE
        return self.session.server is not None and self.server.session.free and not self.session.unsent

    def _situation(self) -> Situation:
        """What goes on since when, as far as there is a limit to it."""
        session, server, machine = self.session, self.server, self.session.server
        if session.state is ClientState.BEGUN:
            return Situation(transaction=self.began_at, turn=self.heard_at)
        if server is None or machine is None or self._excused == (machine, machine.answered):
            return CALM
        if machine.owes:
            if server.paused_at is not None:
                return Situation(transaction=self.began_at, turn=server.paused_at)
            if machine.copy_in:
                return Situation(self.asked_at, self.began_at, self.heard_at)
            if session.unsent:
                return Situation(transaction=self.began_at, turn=self.heard_at)
            return Situation(self.asked_at, self.began_at)
        if machine.status != Status.IDLE or machine.sends_group or session.unsent:
            return Situation(transaction=self.began_at, turn=max(self.rested_at, self.heard_at))
        return CALM

    def excuse(self) -> None:
        """What runs now may take as long as it likes."""
        assert self.session.server is not None
        self._excused = self.session.server, self.session.server.answered

    def expire(self, error: bytes) -> None:
        """Its transaction is rolled back, and it learns that with its next statement."""
        server = self.server
        if server is None or self.session.server is None:
            self.session.expire(error)
        else:
            unsent = self.session.unsent
            self.session.lose(error, later=True)
            server.roll_back(unsent)
        self.resume()
        self.input_moved()

    def go_on(self) -> None:
        """Requests that were held back are sent."""
        out = self.session.go_on()
        if out and self.server is not None:
            self.asked_at = self.poller.now
            self.server.write(out, self)
        self.input_moved()
