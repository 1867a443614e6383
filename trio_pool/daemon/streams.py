"""The streams of changes of this process: one for each database whose cache wants to know of all writes.

A stream begins with the first pool of its database, and ends when it is not configured any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from trio_pool.config.model import Invalidation
from trio_pool.net.changes import Changes

if TYPE_CHECKING:
    from trio_pool.cache.freshness import Freshness
    from trio_pool.config.model import Config, Database


@attrs.define(eq=False)
class Streams:
    """`nursery` is where they run; without one there are none."""

    nursery: trio.Nursery | None = None
    changes: dict[str, Changes] = attrs.field(factory=dict)
    """By the name that clients connect to."""
    _scopes: dict[Changes, trio.CancelScope] = attrs.field(factory=dict)

    def of(self, database: Database, freshness: Freshness) -> Changes | None:
        """What tells of a database's changes, begun if need be; None if nobody wants to know.

        Raises OSError if a certificate cannot be loaded.
        """
        found = self.changes.get(database.name)
        if found is not None and found.is_for(database, freshness):
            return found
        if self.nursery is None or not _wanted(database):
            return None
        begun = Changes(database, freshness)
        self._end(database.name)
        self.changes[database.name] = begun
        scope = self._scopes[begun] = trio.CancelScope()
        self.nursery.start_soon(self._run, begun, scope)
        return begun

    def settle(self, config: Config) -> None:
        """End those that are not configured any more."""
        for name in list(self.changes):
            database = config.database(name)
            if database is None or not _wanted(database):
                self._end(name)

    def _end(self, name: str) -> None:
        changes = self.changes.pop(name, None)
        if changes is not None:
            self._scopes.pop(changes).cancel()

    async def _run(self, changes: Changes, scope: trio.CancelScope) -> None:
        with scope:
            await changes.run()


def _wanted(database: Database) -> bool:
    return database.cache.enabled and database.cache.invalidation is Invalidation.REPLICATION
