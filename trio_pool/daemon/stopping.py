"""The orderly end of the daemon, from the moment in which nobody new comes in.

`run` sends clients away between their transactions, for `drain` at most. What is open then is given up:
running statements are cancelled at PostgreSQL, which answers them; then the client is told of the stop, in
sequence, and what it had begun is rolled back. Half of `cancel` is for the answers (a client that does not
read can hold them up), half for what is left to clean behind them.

`hurry` cuts this short, whatever it is doing: everybody is told at once, and running statements get `AT_ONCE`
to end at PostgreSQL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import structlog
import trio

from trio_pool.errors import ClientFault, Reason, SqlState
from trio_pool.net.client import LINGER
from trio_pool.net.overrun import CANCEL_AGAIN
from trio_pool.pooling.pool import ServerState
from trio_pool.protocol.client import ClientState
from trio_pool.wire import messages
from trio_pool.wire.tags import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trio_pool.config.timeouts import Timeouts
    from trio_pool.net.client import Client
    from trio_pool.net.clients import Clients
    from trio_pool.net.origin import OriginPool
    from trio_pool.net.server import Server
    from trio_pool.pooling.pool import PoolKey

log = structlog.get_logger()

AT_ONCE = 1.0
"""Seconds that a hard stop gives PostgreSQL to end what runs."""
CANCELLED = messages.error(SqlState.QUERY_CANCELED, "canceling statement because trio-pool is stopping")
"""What clients get in place of PostgreSQL's words, which would be that they have asked for it."""
MAX_DOING = 200
"""Characters of a statement that the log gets."""
LOOK_AGAIN = 0.01
"""Seconds between looks at what tells nobody that it has changed."""


@attrs.define
class Losses:
    """What a stop has cost: clients that were in the middle of something, statements that were cancelled,
    transactions that were rolled back.
    """

    given_up: int = 0
    cancelled: int = 0
    rolled_back: int = 0


@attrs.define(eq=False)
class Stopping:
    """Ends the clients of `clients`, and what they leave in `pools`.

    `hurried` tells afterwards whether it was cut short.
    """

    clients: Clients
    pools: Mapping[PoolKey, OriginPool]
    timeouts: Timeouts
    losses: Losses = attrs.field(factory=Losses)
    hurried: bool = False
    _hurry: trio.Event = attrs.field(factory=trio.Event)
    _left: list[Server] = attrs.field(factory=list)
    """Servers whose clients were given up; some leave their pool before their last cancel request is done."""

    def hurry(self) -> None:
        """Do not wait for anybody any more."""
        self._hurry.set()

    async def run(self) -> None:
        """Return when no client is left and no server has something of theirs to clean."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._until_hurried, nursery.cancel_scope)
            await self._send_away()
            await self._give_up_all()
            nursery.cancel_scope.cancel()
        if self.hurried:
            await self._end_at_once()

    async def settle(self, seconds: float) -> None:
        """Let what the last clients left be cancelled and rolled back, for so long at most."""
        with trio.move_on_after(seconds) as scope:
            await _until(lambda: not self._unsettled)
        if scope.cancelled_caught:
            log.warning("servers are closed as they are", servers=self._unsettled)

    async def _until_hurried(self, scope: trio.CancelScope) -> None:
        await self._hurry.wait()
        self.hurried = True
        scope.cancel()

    async def _send_away(self) -> None:
        """Tell every client that is between transactions to leave, until none is left or `drain` is over."""
        with trio.move_on_after(self.timeouts.drain):
            while self.clients.pooled:
                for client in list(self.clients.by_id.values()):
                    client.stop()
                await trio.sleep(0.05)

    async def _give_up_all(self) -> None:
        clients = self._open_clients()
        if clients:
            log.warning("drain is over", clients=len(clients))
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(self._give_up, client)
        with trio.move_on_after(2 * LINGER):
            await _until(lambda: not self.clients.pooled)
        await self.settle(self.timeouts.cancel / 2)

    def _open_clients(self) -> list[Client]:
        """Clients that have not been told to leave."""
        return [client for client in self.clients.by_id.values() if client.fd >= 0]

    async def _give_up(self, client: Client) -> None:
        """Cancel what it runs, wait for the answer, tell it of the stop."""
        began = _Doing.of(client)
        server = client.server
        cancelled = False
        with trio.move_on_after(client.timeouts.cancel / 2):
            while _is_owed(client) and client.session.unsent <= messages.MAX_SPOILED:
                cancelled = True
                await self._cancel(client)
        if server is not None:
            server.session.verdict = b""
        self._end(client, began, cancelled=cancelled)

    async def _cancel(self, client: Client) -> None:
        """One attempt; returns when PostgreSQL has answered, or another attempt is due."""
        server, session = client.server, client.session
        assert server is not None
        answered = server.session.answered
        server.session.verdict = CANCELLED
        if session.server is not None:
            session.hold()  # nothing more is sent that would have to be cancelled
            ending_upload = session.end_upload()  # or PostgreSQL waits for it, deaf to cancel requests
            if ending_upload:
                server.write(ending_upload)
        if server.cancellable:
            await server.cancel_for(client)
        with trio.move_on_after(CANCEL_AGAIN):
            await _until(lambda: server.session.answered != answered or not _is_owed(client))

    def _end(self, client: Client, began: _Doing, *, cancelled: bool) -> None:
        """Tell it of the stop, now, and count what that costs."""
        server = client.server
        rolled_back = server is not None and server.session.status != Status.IDLE
        departed = client.ending  # it said goodbye, and only its last statement was left
        if server is not None:
            self._left.append(server)
        client.fail(stopped())
        self.losses.cancelled += cancelled
        self.losses.rolled_back += rolled_back
        if departed:
            return
        log.warning(
            "client given up",
            client=client.peer,
            pool=str(client.origin.pool.key),
            doing=began.what,
            open_for=began.seconds,
            cancelled=cancelled,
            rolled_back=rolled_back,
        )
        self.losses.given_up += 1

    async def _end_at_once(self) -> None:
        """Tell everybody without waiting for an answer of PostgreSQL. What runs is cancelled meanwhile."""
        for client in self._open_clients():
            if client.server is None and client.session.state not in (ClientState.BEGUN, ClientState.FAILED):
                client.fail(stopped())
            else:
                self._end(client, _Doing.of(client), cancelled=_is_owed(client))
        with trio.move_on_after(AT_ONCE):
            await _until(lambda: not (self.clients.pooled or self._unsettled))

    @property
    def _unsettled(self) -> int:
        """How many servers still have something of their last client's."""
        count = sum(map(_is_unsettled, self._left))
        for origin in self.pools.values():
            statistics = origin.pool.statistics()
            count += statistics.cleaning + statistics.cancelling
        return count


@attrs.frozen
class _Doing:
    """What a client was doing, and for how long it has had its server (None: it has none)."""

    what: str
    seconds: float | None

    @classmethod
    def of(cls, client: Client) -> _Doing:
        if client.server is None:
            return cls(_describe(client), None)
        return cls(_describe(client), round(trio.current_time() - client.leased_at, 3))


def _describe(client: Client) -> str:
    doing = client.shown
    return doing if len(doing) <= MAX_DOING else f"{doing[:MAX_DOING]}..."


def _is_owed(client: Client) -> bool:
    """Whether a reply is still to come, or in the middle of coming, or a COPY FROM STDIN is open."""
    server = client.server
    if server is None:
        return False
    machine = server.session
    return machine.owes or machine.copy_in or not machine.between_messages


def _is_unsettled(server: Server) -> bool:
    """Whether a server that has left its pool is still being closed, or a cancel request is under way."""
    return server.state is ServerState.CLOSED and (server.cancels > 0 or server.transport.fileno() >= 0)


async def _until(happened: Callable[[], bool]) -> None:
    while not happened():  # noqa: ASYNC110
        await trio.sleep(LOOK_AGAIN)


def stopped() -> ClientFault:
    """What a client is told: PostgreSQL's own words for a stop."""
    return ClientFault(
        "terminating connection due to administrator command",
        SqlState.ADMIN_SHUTDOWN,
        reason=Reason.STOPPING,
    )
