"""A service that is alone in its process, and shares the origin with another pooler for a while: with the one
that it takes over from, or the one that takes over.

Then its pools have permits like those of a worker, from a brokerage in the same process; at the end they are
as they were.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from trio_pool.daemon.workers.brokerage import Brokerage
from trio_pool.daemon.workers.channel import Channel
from trio_pool.daemon.workers.handover import cancel_among
from trio_pool.daemon.workers.office import Office
from trio_pool.net import descriptors
from trio_pool.pooling.broker import Broker
from trio_pool.wire.startup import CancelRequest

if TYPE_CHECKING:
    from trio_pool.daemon.service import Service
    from trio_pool.daemon.workers.brokerage import Held, Wants
    from trio_pool.daemon.workers.handover import Predecessor
    from trio_pool.pooling.pool import PoolKey

LEFTOVER = 3.0
"""Seconds that servers have to go at the origin, when the service has ended."""
LOOK_AGAIN = 0.01


@attrs.define(eq=False)
class Single:
    """`nursery` is around the service."""

    service: Service
    nursery: trio.Nursery
    others: list[Channel] = attrs.field(factory=list)
    handed_over: bool = False
    _books: trio.Nursery | None = None
    """Of what there is only while it shares."""
    _brokerage: Brokerage | None = None

    def __attrs_post_init__(self) -> None:
        self.service.elsewhere = self._cancel_elsewhere

    @property
    def stopping(self) -> bool:
        return self.service.stopping

    @property
    def obstacle(self) -> str | None:
        """What keeps it from being handed over."""
        if self.stopping:
            return "it is stopping"
        if self.others:
            return "the process before this one still has clients"
        if self.service.config.tunnel.listen is not None:
            return "origins have dialled this process"
        return None

    def stop(self) -> None:
        self.service.stop()

    def stop_at_once(self) -> None:
        self.service.stop_at_once()

    async def wait_stopping(self) -> None:
        await self.service.wait_stopping()

    async def reload(self) -> list[str]:
        return await self.service.reload()

    async def settle(self) -> None:
        """At the end: wait until what has been closed is gone at the origin, so that it can count on that."""
        if self._brokerage is not None:
            with trio.move_on_after(LEFTOVER):
                while self._brokerage.broker.held:  # noqa: ASYNC110
                    await trio.sleep(LOOK_AGAIN)

    # -- the newer one ---------------------------------------------------------------------------------------

    async def succeed(self, predecessor: Predecessor) -> None:
        """Share with the older one, until that is gone. Before the service runs."""
        await self.open_books()
        brokerage = self._open_brokerage()
        await predecessor.share(brokerage)
        self.service.office = self._open_office(brokerage)[1]
        self.service.suspend_caches(True)
        self.others.append(predecessor.channel)
        self.nursery.start_soon(self._until_gone, predecessor)

    async def _until_gone(self, predecessor: Predecessor) -> None:
        await predecessor.channel.gone.wait()
        self.others.remove(predecessor.channel)
        self._share_no_more()

    # -- the older one ---------------------------------------------------------------------------------------

    def yield_permits(self, channel: Channel) -> tuple[Held, Wants, int]:
        """Every server has a permit from now on; the other one gives out more."""
        brokerage = self._open_brokerage()
        party, office = self._open_office(brokerage)
        number = 0
        assert isinstance(brokerage.broker, Broker)
        for key, origin in self.service.pools.items():
            origin.forsake_attempts()
            for server in origin.servers():
                number += 1
                brokerage.broker.adopt(party, key, number)
                server.permit = number
                office.opened(number, server.transport.fileno())
                office.logged_in(number, origin.database.name, server.dialled.cancel_key)
        self.service.office = office
        self.service.suspend_caches(True)  # from now on the other one may have clients
        held, wants = brokerage.hand_over(channel)
        self._rebind()
        return held, wants, brokerage.parties

    @property
    def let_in(self) -> set[PoolKey]:
        """Pools for which the origin has let it in."""
        return {key for key, origin in self.service.pools.items() if origin.defaults is not None}

    def take_back(self) -> None:
        """The other one has failed."""
        self._share_no_more()

    def leave(self) -> None:
        """Accept nobody any more; end when the clients have left."""
        self.handed_over = True
        self.service.leave()
        self.nursery.start_soon(self._send_away_at_last)

    async def _send_away_at_last(self) -> None:
        await trio.sleep(self.service.config.timeouts.hand_over)
        self.service.stop()

    async def cancel_here(self, process_id: int, secret: bytes) -> bool:
        """Cancel what a client does; whether there is such a client."""
        client = self.service.clients.find(CancelRequest(process_id, secret))
        if client is None:
            return False
        await client.cancel()
        return True

    async def _cancel_elsewhere(self, process_id: int, secret: bytes) -> None:
        await cancel_among(self.others, process_id, secret)

    # -- sharing ---------------------------------------------------------------------------------------------

    async def open_books(self) -> None:
        """Make ready to share."""
        await self.nursery.start(self._keep_books)

    async def _keep_books(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as self._books:
            task_status.started()
            await trio.sleep_forever()

    def _open_brokerage(self) -> Brokerage:
        assert self._books is not None
        self._brokerage = Brokerage(lambda: self.service.config, self._books)
        return self._brokerage

    def _open_office(self, brokerage: Brokerage) -> tuple[int, Office]:
        """A desk for the one party that is here. Notes over a socket, so that nothing happens within what it
        is about.
        """
        assert self._books is not None
        here, there = (Channel(sock) for sock in descriptors.pair())
        party, office = brokerage.new_party(), Office(there)
        brokerage.serve(party, here)
        there.notes["let_in"] = office.let_in.update
        for task in (here.run, there.run, office.run):
            self._books.start_soon(task)
        return party, office

    def _rebind(self) -> None:
        """What bounds the pools now."""
        service = self.service
        for key, origin in service.pools.items():
            origin.warden = service.office
            database = service.config.database(key.database)
            origin.pool.join_capacity(None if database is None else service.capacity_of(database, key))

    def _share_no_more(self) -> None:
        books, brokerage, self._books, self._brokerage = self._books, self._brokerage, None, None
        self.service.office = None
        for origin in self.service.pools.values():
            for server in origin.servers():
                server.permit = 0
        self._rebind()
        self.service.suspend_caches(False)
        if brokerage is not None:
            brokerage.wards.let_go()
        if books is not None:
            books.cancel_scope.cancel()
