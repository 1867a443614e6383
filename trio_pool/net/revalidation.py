"""Asking again for a kept answer, on a lease of our own.

A machine like a client's sends the very request that the answer was for, under the settings that it is kept
for; so it is answered by the same code, in the same bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from trio_pool.cache.flight import Flight
from trio_pool.errors import ServerFault
from trio_pool.net.errand import OwnLease
from trio_pool.protocol.client import ClientSession, ClientState
from trio_pool.protocol.lone import with_name
from trio_pool.protocol.sql import fingerprint
from trio_pool.wire.tags import Frontend

if TYPE_CHECKING:
    from trio_pool.cache.store import Entry
    from trio_pool.net.cached import CachedReads
    from trio_pool.net.connection import Connection
    from trio_pool.net.origin import OriginPool
    from trio_pool.net.server import Server

log = structlog.get_logger()


class Revalidation(OwnLease):
    """Fetches a new answer in place of one that has aged, or to compare it with one that has not."""

    doing = "a new answer for the cache"

    def __init__(self, origin: OriginPool, cached: CachedReads, entry: Entry) -> None:
        super().__init__(origin)
        self.cached = cached
        self.entry = entry
        now = self.requested_at
        self._verifies = now < entry.fresh_until
        stamp = cached.freshness.stamp(entry.plan.slots)
        self._flight = Flight(
            entry.shelf, entry.key, entry.plan, stamp, now, limit=cached.largest, statement=entry.statement
        )
        self._session = ClientSession(
            origin.statements, entry.shelf.settings, entry.shelf.reported, max_statements=1
        )

    async def run(self) -> None:
        """Until the new answer is kept, or there is none: then the old one serves as long as it may."""
        try:
            self.acquire()
            await self.wait()
        except ServerFault as fault:
            log.info("cannot fetch a new answer", pool=str(self.origin.pool.key), error=fault.message)
        else:
            self._compare_and_keep(self._flight.reply)
        finally:
            self.entry.refreshing = False

    def _compare_and_keep(self, reply: bytes) -> None:
        cached, entry = self.cached, self.entry
        statistics = cached.statistics
        if self._verifies:
            if cached.freshness.stamp(entry.plan.slots) != entry.stamp:
                return
            statistics.verified += 1
            if reply == entry.reply:
                return
            statistics.differed += 1
            log.warning(
                "a kept answer differs from the database's",
                pool=str(self.origin.pool.key),
                statement=fingerprint(self._text),
            )
        else:
            statistics.revalidated += 1
        if not reply or not cached.keep(self._flight, reply, self.origin.poller.tick()):
            cached.store.drop(entry)

    @property
    def _text(self) -> bytes:
        if self.entry.statement is not None:
            return self.entry.statement.text
        request = self.entry.key
        return request[5 if request[0] == Frontend.QUERY else 6 :].partition(b"\0")[0]

    def _request(self) -> bytes:
        statement, key = self.entry.statement, self.entry.key
        if statement is None:
            return key
        self._session.statements = {statement.name: statement}
        return with_name(statement.name, key[len(statement.name) :])

    def requests(self, server: Server) -> bytes:
        session = self._session
        session.input = self._request()
        session.state = ClientState.WAITING
        return session.link(server.session)

    def write(self, data: bytes, source: Connection | None = None) -> None:
        self._flight.took(data)
        super().write(data, source)

    def returns(self, server: Server) -> bool:
        self._session.unlink()
        return super().returns(server)
