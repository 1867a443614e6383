"""A stream of changes inside the test's own Trio program, and what it has told."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import trio

from trio_pool.config.model import Cache, Database, Invalidation
from trio_pool.config.origin import parse_origin
from trio_pool.net.replication import EVERYTHING, ChangeStream, Phase, StreamState, replication_access

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio_pool.cli.postgres import LocalPostgres

SECONDS = 20.0


@attrs.define(eq=False)
class Told:
    """A stream, and everything that it has said."""

    pg: LocalPostgres
    database: str
    changes: list[frozenset[int]] = attrs.field(factory=list)
    states: list[StreamState] = attrs.field(factory=list)
    stream: ChangeStream = attrs.field(init=False)
    _more: trio.Event = attrs.field(factory=trio.Event)

    def changed(self, tables: frozenset[int]) -> None:
        self.changes.append(tables)
        self._wake()

    def announced(self, state: StreamState) -> None:
        self.states.append(state)
        self._wake()

    def _wake(self) -> None:
        more, self._more = self._more, trio.Event()
        more.set()

    async def until(self, condition: Callable[[], bool], seconds: float = SECONDS) -> None:
        """Wait for something that the stream tells of."""
        with trio.move_on_after(seconds) as scope:
            while not condition():
                await self._more.wait()
        assert not scope.cancelled_caught, (self.stream.state, self.changes)

    async def streaming(self) -> None:
        await self.until(lambda: self.stream.state.phase is Phase.STREAMING)

    async def sql(self, text: str) -> str:
        """Directly at PostgreSQL."""
        return await trio.to_thread.run_sync(self.pg.run_sql, text, self.database)

    async def oids(self, *tables: str) -> frozenset[int]:
        listed = ", ".join(f"('{table}'::regclass::oid)" for table in tables)
        return frozenset(map(int, (await self.sql(f"values {listed}")).split()))

    async def told_of(self, text: str) -> frozenset[int]:
        """What is told of these statements, up to the proof that there is nothing more to tell."""
        begin = len(self.changes)
        await self.sql(text)
        await self.proven()
        return frozenset[int]().union(*self.changes[begin:])

    async def proven(self) -> None:
        """Until everything that has been committed by now is told for the last time."""
        now = trio.current_time()
        with trio.fail_after(SECONDS):
            while (self.stream._proven_at or 0.0) < now or self.stream._unsettled:  # noqa: ASYNC110
                await trio.sleep(0.005)

    async def comes(self, text: str, expected: str) -> None:
        """Until a query finds this: PostgreSQL tells nobody that a slot or a publication has gone."""
        found = None
        with trio.move_on_after(SECONDS):
            while (found := (await self.sql(text)).strip()) != expected:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert found == expected


@asynccontextmanager
async def streamed(
    pg: LocalPostgres,
    database: str,
    *,
    user: str = "",
    wait: bool = True,
    max_lag: float = 1.0,
    publication: str = "trio_pool",
    max_slot_wal: int = 1 << 30,
) -> AsyncIterator[Told]:
    """The stream of a database, while the block lasts."""
    cache = Cache(
        enabled=True,
        invalidation=Invalidation.REPLICATION,
        max_lag=max_lag,
        publication=publication,
        max_slot_wal=max_slot_wal,
    )
    where = f"postgresql://{user or pg.superuser}@/{database}?host={pg.socket_dir}&port={pg.port}"
    told = Told(pg, database)
    access = replication_access(Database("app", parse_origin(where, Path()), cache=cache))
    told.stream = ChangeStream(
        access, name="app", cache=cache, on_change=told.changed, on_state=told.announced
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(told.stream.run)
        if wait:
            await told.streaming()
        yield told
        nursery.cancel_scope.cancel()


__all__ = ["EVERYTHING", "Told", "streamed"]
