"""What a stream of changes means for the answers that are kept from one database.

What was changed, by whomever, is ended as if it had been written through this daemon. And answers are given
from memory only as long as the stream proves that nothing is missing (`CachedReads.valid_until`), and of
tables whose changes it tells (`CachedReads.covers`).

A change comes before it can be seen (net/replication.py). What is read in between would be kept as new and
is old, so until then its tables are in doubt: nothing that reads them is kept.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import trio

from trio_pool.config.model import WhenStale
from trio_pool.net.replication import ChangeStream, Phase, replication_access

if TYPE_CHECKING:
    from trio_pool.cache.freshness import Freshness
    from trio_pool.config.model import Database
    from trio_pool.net.cached import CachedReads
    from trio_pool.net.replication import StreamState

LOOK_EVERY: Final = 0.25
"""Seconds between looks whether the schema has been changed through this daemon."""


class Changes:
    """Of one database, for all its pools. Its task is `run`."""

    def __init__(self, database: Database, freshness: Freshness) -> None:
        """Raises OSError if a certificate cannot be loaded."""
        self.database = database
        self.freshness = freshness
        self.stream = ChangeStream(
            replication_access(database),
            name=database.name,
            cache=database.cache,
            on_change=self._changed,
            on_state=self._announced,
            on_doubt=self._doubted,
            on_proof=self._proven,
        )
        self.bypassed = True
        self._serves = database.cache.when_stale is WhenStale.SERVE
        self._covered: frozenset[int] | None = None
        self._readers: dict[CachedReads, None] = {}

    def is_for(self, database: Database, freshness: Freshness) -> bool:
        """Whether this is what a database with these settings needs."""
        own = self.database
        return freshness is self.freshness and (own.origin, own.cache) == (database.origin, database.cache)

    def join(self, reader: CachedReads) -> None:
        """From now on `reader` answers only what is vouched for."""
        self._readers[reader] = None
        reader.covers = self.covers
        reader.forget_plans()
        self._apply(reader)

    def leave(self, reader: CachedReads) -> None:
        self._readers.pop(reader, None)

    def covers(self, tables: frozenset[int]) -> bool:
        """Whether answers of these tables may be kept. Without a stream any: none is, or `serve` says so."""
        return self._covered is None or self.stream.covers(tables)

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look)
            try:
                await self.stream.run()
            finally:
                self._announced(self.stream.state)

    # -- what the stream tells -------------------------------------------------------------------------------

    def _changed(self, tables: frozenset[int]) -> None:
        # Before what was kept goes: what is asked for from now on may not be covered any more.
        self._cover()
        self.freshness.invalidate(tables)

    def _doubted(self, tables: frozenset[int], seconds: float) -> None:
        self.freshness.unsettle(tables, trio.current_time(), seconds)

    def _announced(self, state: StreamState) -> None:
        self.bypassed = not self._serves and state.phase is not Phase.STREAMING
        self._cover()
        self._proven()

    def _proven(self) -> None:
        for reader in self._readers:
            self._apply(reader)

    def _apply(self, reader: CachedReads) -> None:
        reader.bypassed = self.bypassed
        reader.valid_until = math.inf if self._serves else self.stream.valid_until

    def _cover(self) -> None:
        """What may be kept depends on it."""
        covered = self.stream.covered
        if covered is not self._covered:
            self._covered = covered
            for reader in self._readers:
                reader.forget_plans()

    async def _look(self) -> None:
        """DDL that has passed, here or in another process, may ask for another publication."""
        seen = self.freshness.schema
        while True:
            await trio.sleep(LOOK_EVERY)
            if self.freshness.schema != seen:
                seen = self.freshness.schema
                self.stream.schema_changed()
