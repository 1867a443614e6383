"""What an origin tells its edges reaches those that it dials as well. The tests are those of test_feed.py."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.edge import test_feed
from tests.edge.test_feed import (
    Edges,
    test_a_purge_at_the_origin_is_one_at_the_edge,
    test_a_write_elsewhere_ends_what_is_kept,
    test_strictly_a_transaction_and_a_pipeline_are_held_back,
    test_strictly_nobody_learns_of_a_write_before_all_edges,
)
from tests.edge.tunnelled import NAME, Papers
from tests.net.peer import Peer
from tests.support.caching import SETUP
from tests.support.linked import EDGE, collecting, edge_table, origin_table, serving
from tests.support.target import DATABASE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trio_pool.cli.postgres import LocalPostgres

__all__ = [
    "test_a_purge_at_the_origin_is_one_at_the_edge",
    "test_a_write_elsewhere_ends_what_is_kept",
    "test_strictly_a_transaction_and_a_pipeline_are_held_back",
    "test_strictly_nobody_learns_of_a_write_before_all_edges",
]

pytestmark = [pytest.mark.e2e, pytest.mark.trio]


@pytest.fixture(autouse=True)
def by_tunnel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where those tests have two edges, the origin dials both. It listens for a client of its own alone."""
    papers = Papers(tmp_path)

    @asynccontextmanager
    async def edges(pg: LocalPostgres, **cache: Any) -> AsyncIterator[Edges]:
        pg.run_sql(f"SET ROLE app; {SETUP}", DATABASE)
        where = f"trio-pool://{EDGE}@{NAME}/{DATABASE}?via=tunnel"
        table = edge_table(where, cache={"enabled": True, **cache})
        table["tunnel"] = {"listen": papers.listen()}
        async with (
            collecting() as log,
            serving(table, log, EDGE) as near,
            serving(table, log, EDGE) as far,
        ):
            tunnels = [one.service.tunnels for one in (near, far)]
            addresses = [one.address for one in tunnels if one is not None]
            at_origin = origin_table(pg)
            at_origin["tunnel"] = {"dial": {"edges": papers.dial(*addresses)}}
            async with (
                serving(at_origin, log) as origin,
                await near.log_in() as reader,
                await far.log_in() as writer,
                await Peer.log_in_by_password(origin.address) as direct,
            ):
                yield Edges(origin, near, far, reader, writer, direct)

    monkeypatch.setattr(test_feed, "edges", edges)
