"""Which waiting clients' statements are sent ahead, to servers that still run others' (DESIGN: queue-ahead).

A pooler's servers idle between one client's answer and the next client's statement. While all servers of a
pool are taken, a statement that is proven to read only, and to leave the session as it is, is sent at once to
a server that runs another such statement; PostgreSQL finds it in its socket when it is done.

Who waits is served in order. Clients go from the front of the pool's queue to a server's queue
(`server_queue`) as long as the first one may; where it may not, nobody overtakes it.

A server's queue is bounded in number and in the time that it usually takes. How long a statement takes is
remembered per text (`History`); nobody queues behind, and nothing is queued, that is not known to be fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from trio_pool.net.ahead_statistics import AheadStatistics
from trio_pool.net.client import Client
from trio_pool.net.mailbox import Mailbox
from trio_pool.net.server_queue import ServerQueue
from trio_pool.protocol.backend import NOTHING
from trio_pool.protocol.plain import DIGITS
from trio_pool.protocol.reading import Reading
from trio_pool.protocol.replies import PLAIN
from trio_pool.wire.tags import Status

if TYPE_CHECKING:
    from trio_pool.net.origin import OriginPool
    from trio_pool.net.server import Server

SLOW: Final = 0.005
"""Seconds. What usually takes longer is not queued, and not queued behind."""
LONGEST: Final = 0.02
"""Seconds that a server's queue may usually take."""
PATIENCE = 0.01
"""Seconds after which those behind a statement look for another server, if turns take no time at all."""
MORE_THAN_USUAL: Final = 8
"""How many times as long as turns take on average one may take besides."""
LOOK_EVERY: Final = 0.005
MOST_HISTORIES: Final = 4096
UNKNOWN: Final = -1.0
FORGETTING: Final = 1.001
"""By how much the shortest way to the server is believed to have grown with each statement."""


class History:
    """How long a statement usually takes, and what its text reads."""

    __slots__ = ("reading", "seconds")

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.seconds = UNKNOWN

    @property
    def fast(self) -> bool:
        return 0.0 <= self.seconds <= SLOW

    def took(self, seconds: float) -> None:
        """Settles where one run in sixteen is faster: what a busy machine adds to the others says nothing of
        the statement.
        """
        change = seconds - self.seconds
        self.seconds = seconds if self.seconds < 0 else self.seconds + change / (64 if change > 0 else 4)


class QueueAhead:
    """The servers' queues of one pool."""

    def __init__(self, origin: OriginPool, depth: int) -> None:
        self.origin = origin
        self.depth = depth
        self.statistics = AheadStatistics()
        self.knowledge = origin.knowledge
        self.queues: dict[ServerQueue, None] = {}
        self._fresh: dict[Server, None] = {}
        """Leased since somebody looked whether they can be shared."""
        self._histories: dict[bytes, History] = {}
        self.trip = 1.0
        """Seconds that the fastest statement takes: what of it is the way to the server and back."""
        self.longest_trip = 1.0
        """Seconds that it cannot take longer: where every statement is slow, all would pass for fast else."""
        self.usual = 0.0
        """Seconds that a turn takes on average, as busy as everything is."""
        self._shares = Mailbox()
        """What wakes the task that looks after queues."""
        self._boarding = False
        """Whether somebody is being sent ahead, or nobody may be."""

    def close(self) -> None:
        """Nobody is sent ahead any more until `open`: servers come to rest."""
        self._boarding = True

    def open(self) -> None:
        self._boarding = False

    # -- decisions, in the data plane ------------------------------------------------------------------------

    def leased(self, server: Server) -> None:
        """A lease begins. Hot path."""
        self._fresh[server] = None

    def history_of(self, client: Client, request: bytes) -> History | None:
        """Of the one statement that is the request; None if it must not share a server. Hot path."""
        text = client.session.lone(request) if client.shares_servers else None
        if text is None:
            self.statistics.not_eligible["not one plain statement"] += 1
            return None
        reading = self.knowledge.reading_of(text)
        if not isinstance(reading, Reading):
            why = "read for the first time" if reading is None else reading.why.value
            self.statistics.not_eligible[why] += 1
            return None
        verdict = self.knowledge.verdict(reading)
        if verdict is None:
            failed = self.knowledge.is_unanswered(reading)
            why = "the catalog could not be asked" if failed else "the catalog is being asked"
            self.statistics.not_eligible[why] += 1
            return None
        if not verdict.proven:
            self.statistics.not_eligible["" if verdict.doubt is None else verdict.doubt.value] += 1
            return None
        shape = text.translate(None, DIGITS)
        history = self._histories.get(shape)
        if history is None or history.reading is not reading:
            if len(self._histories) >= MOST_HISTORIES:
                self._histories.clear()
            history = self._histories[shape] = History(reading)
        return history

    def board(self, first: ServerQueue | None = None) -> None:
        """Send ahead what waits, in order, and to the queue that is given first; but where the pool may
        grow, let it. Hot path.
        """
        pool = self.origin.pool
        if self._boarding or (len(pool.leased) < pool.size and pool.wants_server):
            return
        self._boarding = True
        waiting = pool.waiting
        while waiting:
            client = next(iter(waiting))
            if not isinstance(client, Client) or not self._place(client, first):
                break
        self._boarding = False

    def _place(self, client: Client, first: ServerQueue | None) -> bool:
        """Queue this client's statement at a server, if it may be, and one has room."""
        if client.queued is not None or not client.session.input:
            return False
        history = self.history_of(client, client.session.input)
        if history is None:
            return False
        if not history.fast:
            self.statistics.not_eligible["slow, or not known to be fast"] += 1
            if self._fresh:
                self._shared(self._fresh.popitem()[0])  # measures it, if it is the same statement
            return False
        queue: ServerQueue | None = first
        if queue is None or queue.stuck or not self._fits(queue, client, history):
            queue = self._queue_for(client, history)
        if queue is None:
            return False
        self.origin.pool.forget(client)
        self.statistics.queued += 1
        queue.join(client, history)
        return True

    def _queue_for(self, client: Client, history: History) -> ServerQueue | None:
        best: ServerQueue | None = None
        for queue in self.queues:
            shorter = best is None or len(queue.waiting) < len(best.waiting)
            if shorter and not queue.stuck and self._fits(queue, client, history):
                best = queue
        if best is not None and not best.waiting:
            return best
        while self._fresh:
            queue_of_fresh = self._shared(self._fresh.popitem()[0])
            if queue_of_fresh is not None and self._fits(queue_of_fresh, client, history):
                return queue_of_fresh
        return best

    def _fits(self, queue: ServerQueue, client: Client, history: History) -> bool:
        if len(queue.waiting) >= self.depth or queue.seconds + history.seconds > LONGEST:
            return False
        server = queue.server
        machine = server.session
        session = client.session
        return (
            session.settings is machine.settings
            and session.reported is machine.reported
            and not session.channels
            and not server.cancels
            and not server.outdated
            and machine.asks is NOTHING
            and not machine.sends_group
        )

    def _shared(self, server: Server) -> ServerQueue | None:
        """Whether others may queue behind what a server runs."""
        client = server.client
        machine = server.session
        if server.queue is not None or not isinstance(client, Client):
            return None
        session = client.session
        alone = (
            len(machine.groups) == 1
            and (id(machine.groups[0]) in PLAIN or machine.groups[0].harmless)
            and not machine.sends_group
            and machine.status == Status.IDLE
            and not machine.opening
            and not machine.pins
            and not machine.listening
            and not machine.dirty
            and machine.asks is NOTHING
            and session.server is machine
            and not session.held
            and not session.input
            and not session.body_left
            and not server.cancels
            and not client.transport.pending
        )
        history = self.history_of(client, session.sent) if alone else None
        if history is None:
            return None
        if not history.fast:
            server.measured = history
            return None
        queue = server.queue = ServerQueue(self, server, client, history)
        if not self.queues:
            self._shares.wake()
        self.queues[queue] = None
        return queue

    def measured(self, server: Server, seconds: float) -> None:
        """The statement of a lease that was not shared has taken so long."""
        history, server.measured = server.measured, None
        if history is not None:
            history.took(self.without_trip(seconds))

    def without_trip(self, seconds: float) -> float:
        """What of it the statement has taken, if the server had nothing else to do."""
        self.trip = max(0.0, min(seconds, self.trip * FORGETTING, self.longest_trip))
        return max(0.0, seconds - self.trip)

    def connected(self, seconds: float) -> None:
        """A login has taken so long: two trips at least."""
        self.longest_trip = seconds / 2
        self.trip = min(self.trip, self.longest_trip)

    def lost(self, server: Server) -> None:
        """It is gone."""
        self._fresh.pop(server, None)

    # -- what queues tell ------------------------------------------------------------------------------------

    def has_room(self, queue: ServerQueue) -> None:
        """A turn is over. Hot path."""
        if self.origin.pool.waiting:
            self.board(queue if queue in self.queues else None)

    def ended(self, queue: ServerQueue) -> None:
        self.queues.pop(queue, None)

    def left(self, queue: ServerQueue) -> None:
        """Somebody does not wait for its turn any more."""
        if queue.client is None:
            queue.give_up_turn()

    def hedge(self, clients: list[Client]) -> None:
        """They wait for a free server as well, ahead of all others."""
        pool = self.origin.pool
        for client in reversed(clients):
            if client not in pool.waiting:
                self.statistics.hedged += 1
                pool.waiting[client] = None
                pool.waiting.move_to_end(client, last=False)
                timeouts = client.timeouts
                client.awake_by(client.requested_at + min(timeouts.lease_wait, timeouts.wait_notice))
        pool.reconsider()

    # -- control plane ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look after queues that are stuck."""
        while True:
            await self._shares.wait()
            while self.queues:
                await trio.sleep(LOOK_EVERY)
                self._look(self.origin.poller.tick())

    def _look(self, now: float) -> None:
        for queue in list(self.queues):
            late = now - queue.since > PATIENCE + self.trip + MORE_THAN_USUAL * self.usual
            if late and not queue.stuck and queue.waiting:
                queue.get_stuck()
