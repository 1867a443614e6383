"""The edge's end of a feed: what the origin tells ends what is kept here, and lets it be used.

An edge answers from memory only as long as it may suppose that it has been told everything: `LEASE` seconds
from the moment at which it has sent a ping that was answered. An origin with several addresses is several
daemons, any of which somebody may write through; so there is a feed from each, and all of them have to be
alive.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs
import structlog
import trio

from trio_pool.cache import feed
from trio_pool.config.model import WhenStale
from trio_pool.config.origin import TargetSessionAttrs
from trio_pool.errors import ServerFault, internal_fault
from trio_pool.net.backoff import Backoff
from trio_pool.net.dial import dial
from trio_pool.net.feed_line import FeedLine
from trio_pool.net.mailbox import Mailbox
from trio_pool.protocol import link

if TYPE_CHECKING:
    from trio_pool.cache.feed import Told
    from trio_pool.net.cached import CachedReads
    from trio_pool.net.dial import OriginAccess
    from trio_pool.net.origin import OriginPool

log = structlog.get_logger()


class FeedReader:
    """Reads what one address of the origin tells."""

    def __init__(self, readers: FeedReaders, access: OriginAccess) -> None:
        self.readers = readers
        self.access = access
        self.valid_until = -math.inf
        self._line: FeedLine | None = None
        self._pinged_at: dict[int, float] = {}
        self._pings = 0

    def took(self, told: Told) -> None:
        """What the origin says."""
        freshness, line = self.readers.cached.freshness, self._line
        assert line is not None
        match told.kind:
            case "feed":
                freshness.adopt(told.number)
            case "ended":
                freshness.end(told.slots)
                line.post(feed.seen(told.number))
            case "doubt":
                freshness.doubt_slots(told.slots, line.poller.tick(), told.milliseconds / 1000)
                line.post(feed.seen(told.number))
            case "alive":
                sent_at = self._pinged_at.pop(told.number, -math.inf)
                self.valid_until = sent_at + feed.LEASE
                self.readers.look()

    async def run(self) -> None:
        """Connect, and connect again."""
        backoff = Backoff()
        while True:
            try:
                await self._read(backoff)
            except ServerFault as fault:
                log.warning("no feed", pool=str(self.readers.origin.pool.key), error=fault.message)
            except Exception as error:
                log.error("internal error in a feed", exc_info=error)
                log.warning("no feed", error=internal_fault().message)
            await backoff.wait()

    async def _read(self, backoff: Backoff) -> None:
        origin = self.readers.origin
        dialled = await dial(self.access, origin.database.timeouts.server_connect)
        self._pinged_at.clear()
        self._line = line = FeedLine(origin.poller, dialled.transport, self.took)
        try:
            log.info("feed connected", pool=str(origin.pool.key), host=dialled.host)
            backoff.reset()
            line.open(dialled.unread)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._ping, line)
                while not line.over:
                    await line.mailbox.wait()
                nursery.cancel_scope.cancel()
            log.warning("feed lost", pool=str(origin.pool.key), reason=line.over)
        finally:
            line.end("stopping")
            dialled.hang_up()

    async def _ping(self, line: FeedLine) -> None:
        while len(self._pinged_at) < PATIENCE:
            self._pings += 1
            self._pinged_at[self._pings] = trio.current_time()
            line.write(feed.ping(self._pings))
            await trio.sleep(feed.PING_EVERY)
        line.end("the origin does not answer")


PATIENCE = 20
"""Pings without an answer until the connection is given up."""


class FeedReaders:
    """All feeds of one pool."""

    def __init__(self, origin: OriginPool, cached: CachedReads) -> None:
        self.origin = origin
        self.cached = cached
        self._readers: list[FeedReader] = []
        self._changes = Mailbox()

    def look(self) -> None:
        """One of them is alive."""
        if self.cached.settings.when_stale is WhenStale.BYPASS or self.cached.settings.strict:
            self.cached.valid_until = min(reader.valid_until for reader in self._readers)
        else:
            self.cached.valid_until = math.inf

    def access_changed(self) -> None:
        """The origin is elsewhere, or wants another password."""
        self._changes.wake()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._readers = [FeedReader(self, access) for access in self._accesses()]
            self.cached.valid_until = -math.inf
            async with trio.open_nursery() as nursery:
                for reader in self._readers:
                    nursery.start_soon(reader.run)
                await self._changes.wait()
                nursery.cancel_scope.cancel()

    def _accesses(self) -> list[OriginAccess]:
        access = self.origin.access
        option = link.STRICT_FEED if self.cached.settings.strict else link.FEED
        parameters = {**access.startup_parameters, link.OPTION: option}
        return [
            attrs.evolve(
                access,
                origin=attrs.evolve(
                    access.origin, hosts=(host,), target_session_attrs=TargetSessionAttrs.ANY
                ),
                startup_parameters=parameters,
            )
            for host in access.origin.hosts
        ]
