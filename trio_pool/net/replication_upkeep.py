"""Keeping a publication what it should be while tables come and go, and knowing which tables it covers.

A table that has just been published is not covered at once. Transactions that were under way then may have
written to it before; and old servers may stream them, and what comes after, by what was published when they
began. So: publish, wait until all of them have ended, touch the publication, wait once more. By then every
commit to come is streamed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from trio_pool.errors import Reason, ServerFault
from trio_pool.net.replication_connection import Refusal
from trio_pool.protocol import publication
from trio_pool.protocol.publication import Schema, Table
from trio_pool.protocol.running import Snapshot
from trio_pool.protocol.watch import EVERYTHING_AND_SCHEMA, SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_pool.net.replication_connection import Asking


class Unusable(ServerFault):
    """The origin is not set up for this. The message says what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason=Reason.SERVER_UNSUITABLE)


@attrs.define(eq=False)
class _Pending:
    tables: frozenset[int]
    waits_for: frozenset[int]
    touched: bool


@attrs.define(eq=False)
class Upkeep:
    """One publication, over a connection that somebody else opens and closes.

    `on_change` is told of tables whose cached readings must go, `EVERYTHING` for all. `role` and `version`
    are the connection's.
    """

    name: str
    asking: Asking
    role: str
    version: int
    on_change: Callable[[frozenset[int]], None]
    managed: bool = True
    """Whether the publication is ours to alter."""
    covered: frozenset[int] = frozenset()
    schema: Schema = attrs.field(factory=lambda: Schema.of(()))
    identity: str | None = None
    """Of the publication."""
    _mark: str | None = None
    _pending: list[_Pending] = attrs.field(factory=list)

    async def prepare(self) -> None:
        """Before the stream: no transaction of before is in it, so all that is published is covered."""
        await self.asking.run(publication.PIN)
        await self.asking.rows(publication.attend(self.name))
        found = await self._find()
        if found is None:
            await self._create()
            found = await self._find()
        self._check(found)
        self.schema = await self._read()
        if self.managed and await self._adjust():
            self.schema = await self._read()
        self.covered = self._shown()
        ((self._mark,),) = await self.asking.rows(publication.SCHEMA)

    async def refresh(self) -> None:
        """Follow what has changed. Raises `ServerFault` if it takes a new stream."""
        self._check(await self._find())
        before = self.schema
        self.schema = await self._read()
        self._compare(before)
        ((mark,),) = await self.asking.rows(publication.SCHEMA)
        if mark != self._mark:
            self._mark = mark
            self.on_change(EVERYTHING_AND_SCHEMA)
        self._give_up(self.covered - self._shown())
        if self.managed and await self._adjust():
            self.schema = await self._read()
        shown = self._shown()
        self._give_up(self.covered - shown)
        known = self.covered.union(*(pending.tables for pending in self._pending))
        if new := shown - known:
            ((text,),) = await self.asking.rows(publication.SNAPSHOT)
            running = Snapshot.parse(text or "").running
            self._pending.append(_Pending(new, running, touched=not self.managed))

    async def settle(self, snapshot: Snapshot) -> bool:
        """Whether more is covered now that these transactions have ended."""
        if not self._pending:
            return False
        before = self.covered
        for pending in list(self._pending):
            if not snapshot.has_seen_all(pending.waits_for):
                continue
            if pending.touched:
                self._pending.remove(pending)
                self.covered |= pending.tables & self._shown()
            else:
                await self.asking.run(publication.touch(self.name))
                ((text,),) = await self.asking.rows(publication.SNAPSHOT)
                pending.waits_for = Snapshot.parse(text or "").running
                pending.touched = True
        return self.covered != before

    @property
    def settling(self) -> bool:
        return bool(self._pending)

    # -- the publication itself ------------------------------------------------------------------------------

    async def _find(self) -> Sequence[str | None] | None:
        rows = await self.asking.rows(publication.PUBLICATION, self.name, publication.COMMENT)
        return rows[0] if rows else None

    async def _create(self) -> None:
        try:
            await self.asking.run_all(publication.create(self.name))
        except Refusal as refusal:
            if refusal.sqlstate == "42710":  # another trio-pool was faster
                return
            if refusal.sqlstate != "42501":
                raise
            raise Unusable(
                f'role "{self.role}" may not create the publication "{self.name}": GRANT CREATE ON DATABASE '
                f"to it, or create the publication (cache.publication)"
            ) from refusal

    def _check(self, found: Sequence[str | None] | None) -> None:
        if found is None:
            raise ServerFault(f'the publication "{self.name}" is gone', reason=Reason.SERVER_UNSUITABLE)
        self.identity, ours, complete, by_root, _, _ = found
        self.managed = ours == "t"
        if complete != "t":
            raise Unusable(
                f'the publication "{self.name}" does not publish every change: ALTER PUBLICATION ... SET '
                "(publish = 'insert, update, delete, truncate')"
            )
        if by_root == "t":
            raise Unusable(
                f'the publication "{self.name}" names the roots of partitions instead of these: ALTER '
                "PUBLICATION ... SET (publish_via_partition_root = false)"
            )

    async def _read(self) -> Schema:
        rows = await self.asking.rows(publication.tables_question(self.version), self.name)
        return Schema.of(map(Table.read, rows))

    def _shown(self) -> frozenset[int]:
        return self.schema.shown()

    async def _adjust(self) -> bool:
        """Publish what should be and is not, and the reverse; whether that has changed anything."""
        wanted, listed = self.schema.wanted(), self.schema.listed()
        surplus = [self.schema.tables[oid] for oid in listed - wanted]
        missing = [self.schema.tables[oid] for oid in wanted - listed]
        if surplus:
            self._give_up(
                frozenset(
                    oid
                    for table in surplus
                    for one in (table, *self.schema.partitions(table.oid))
                    for oid in self.schema.above(one.oid)
                )
            )
        await self._alter(publication.remove, surplus)
        await self._alter(publication.add, missing)
        return bool(surplus or missing)

    async def _alter(self, how: Callable[[str, Sequence[Table]], str], tables: Sequence[Table]) -> None:
        """All at once, or those that can be: a table may have gone, or be locked by who alters it."""
        if not tables:
            return
        try:
            await self.asking.run(how(self.name, tables))
        except Refusal:
            if len(tables) > 1:
                for table in tables:
                    await self._alter(how, [table])

    # -- what that means for readings ------------------------------------------------------------------------

    def _give_up(self, tables: frozenset[int]) -> None:
        lost = self.covered & tables
        self.covered -= tables
        if lost:
            self.on_change(lost)

    def _compare(self, before: Schema) -> None:
        """Tables that were altered, and those that have other partitions or heirs."""
        changed: set[int] = set()
        for oid in before.tables.keys() | self.schema.tables.keys():
            old, new = before.tables.get(oid), self.schema.tables.get(oid)
            if old is None or new is None or old.version != new.version or old.parents != new.parents:
                changed |= before.above(oid) | self.schema.above(oid)
        if changed:
            self.on_change(frozenset(changed) | {SCHEMA})
