"""What an origin tells its edges: nobody reads at one edge what was before a write through another."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio

from tests.net.peer import Peer
from tests.support import requests
from tests.support.caching import SETUP
from tests.support.linked import EDGE, collecting, edge_table, origin_table, serving, url
from tests.support.talk import ask, done, selected, told
from tests.support.target import DATABASE
from trio_pool.cache import feed
from trio_pool.cache.statuses import Status
from trio_pool.net.feeds import DEAF_AFTER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.net.harness import Running
    from trio_pool.cli.postgres import LocalPostgres
    from trio_pool.net.cached import CachedReads

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

READ = "SELECT value FROM kept WHERE id = 1"
WRITE = "UPDATE kept SET value = '{}' WHERE id = 1"


@attrs.frozen
class Edges:
    """Two edges on one origin, a client of each, and one of the origin."""

    origin: Running
    near: Running
    far: Running
    reader: Peer
    writer: Peer
    direct: Peer

    @property
    def cached(self) -> CachedReads:
        found = self.near.origin.cached
        assert found is not None
        return found

    async def kept(self) -> None:
        """Ask at the near edge until that answers from memory."""
        while not await self.hits():
            await ask(self.reader, "select 1")

    async def hits(self) -> bool:
        """Whether the near edge answers from memory."""
        before = self.cached.statistics.statuses()[Status.HIT]
        await ask(self.reader, READ)
        return self.cached.statistics.statuses()[Status.HIT] > before


@asynccontextmanager
async def edges(pg: LocalPostgres, **cache: Any) -> AsyncIterator[Edges]:
    """With these settings of the caches of both."""
    pg.run_sql(f"SET ROLE app; {SETUP}", DATABASE)
    own = {"cache": {"enabled": True, **cache}}
    async with collecting() as log, serving(origin_table(pg), log) as origin:
        table = edge_table(url(origin.address[1]), **own)
        async with (
            serving(table, log, EDGE) as near,
            serving(table, log, EDGE) as far,
            await near.log_in() as reader,
            await far.log_in() as writer,
            await Peer.log_in_by_password(origin.address) as direct,
        ):
            yield Edges(origin, near, far, reader, writer, direct)


@pytest.mark.parametrize("through", ["writer", "direct"])
async def test_a_write_elsewhere_ends_what_is_kept(any_postgres: LocalPostgres, through: str) -> None:
    """Through another edge, or at the origin: within one crossing."""
    async with edges(any_postgres) as both:
        await both.kept()
        assert done("UPDATE 1") == await ask(getattr(both, through), WRITE.format("new"))
        while await ask(both.reader, READ) != selected("new"):
            pass
        await both.kept()
        assert selected("new") == await ask(both.reader, READ)


async def test_strictly_nobody_learns_of_a_write_before_all_edges(any_postgres: LocalPostgres) -> None:
    """Read at one edge at the moment at which a client of another one knows that it has written."""
    async with edges(any_postgres, strict=True) as both:
        for turn in range(100):
            await both.kept()
            assert done("UPDATE 1") == await ask(both.writer, WRITE.format(turn))
            assert selected(str(turn)) == await ask(both.reader, READ)


async def test_strictly_a_transaction_and_a_pipeline_are_held_back(any_postgres: LocalPostgres) -> None:
    """Every way to write; what comes behind it comes behind it."""
    async with edges(any_postgres, strict=True) as both:
        for turn in range(10):
            await both.kept()
            await ask(both.writer, "BEGIN")
            await ask(both.writer, WRITE.format(f"t{turn}"))
            assert done("COMMIT") == await ask(both.writer, "COMMIT")
            assert selected(f"t{turn}") == await ask(both.reader, READ)
            await both.kept()
            await both.writer.send(requests.query(WRITE.format(f"p{turn}")) + requests.query("select 1"))
            assert done("UPDATE 1") == await told(both.writer)
            assert selected(f"p{turn}") == await ask(both.reader, READ)
            assert selected("1") == await told(both.writer)


async def test_strictly_an_edge_that_does_not_answer_is_not_waited_for_long(
    any_postgres: LocalPostgres,
) -> None:
    """As long as it may answer from memory, which it does not do any longer."""
    async with edges(any_postgres, strict=True) as both:
        await both.kept()
        readers = both.near.origin._feeds
        assert readers is not None
        (reader,) = readers._readers
        line = reader._line
        assert line is not None
        line.pause()  # it hears nothing, and so does not know
        began = trio.current_time()
        assert done("UPDATE 1") == await ask(both.direct, WRITE.format("late"))
        assert trio.current_time() - began < DEAF_AFTER + feed.LEASE + feed.GRACE + 2
        assert selected("late") == await ask(both.reader, READ)


async def test_without_a_feed_nothing_is_answered_from_memory(any_postgres: LocalPostgres) -> None:
    """From the end of what it may suppose on, until the feed is back; then what was kept is gone."""
    async with edges(any_postgres) as both:
        await both.kept()
        readers = both.near.origin._feeds
        assert readers is not None
        (reader,) = readers._readers
        line = reader._line
        assert line is not None
        line.end("cut by the test")
        await both.near.until(lambda: reader._line is not line and both.cached.valid_until > 0)
        assert not await both.hits()
        await both.kept()


async def test_a_purge_at_the_origin_is_one_at_the_edge(any_postgres: LocalPostgres) -> None:
    """Of a table; what reads another one stays."""
    from trio_pool.daemon.purging import purge, read_purge

    async with edges(any_postgres) as both:
        await both.kept()
        await purge(both.origin.service, read_purge(DATABASE))
        while await both.hits():
            pass
