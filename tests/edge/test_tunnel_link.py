"""What is promised of links holds for those that ride on tunnels: cancel requests, time limits, lost clients
and servers. The tests are those of test_link_cancel.py and test_link_loss.py; the origin listens nowhere.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.edge import test_link_cancel, test_link_loss
from tests.edge.test_link_cancel import (
    test_a_cancel_reaches_no_other_query,
    test_a_cancel_reaches_the_database_over_the_link,
    test_a_client_that_vanishes_at_the_edge_leaves_nothing,
    test_a_query_timeout_is_one_error,
    test_a_transaction_that_takes_too_long_is_one_error,
    test_an_origin_that_kills_a_session_ends_its_link,
)
from tests.edge.test_link_loss import (
    test_an_edge_that_is_killed_leaves_nothing_running,
    test_links_are_ready_before_anybody_comes,
    test_links_do_not_wait_for_each_other,
    test_no_lease_at_the_origin_is_that_error,
)
from tests.edge.tunnelled import NAME, Papers
from tests.net.harness import LIMIT
from tests.support.linked import EDGE, Linked, collecting, edge_table, origin_table, serving
from tests.support.target import DATABASE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from trio_pool.cli.postgres import LocalPostgres

__all__ = [
    "test_a_cancel_reaches_no_other_query",
    "test_a_cancel_reaches_the_database_over_the_link",
    "test_a_client_that_vanishes_at_the_edge_leaves_nothing",
    "test_a_query_timeout_is_one_error",
    "test_a_transaction_that_takes_too_long_is_one_error",
    "test_an_edge_that_is_killed_leaves_nothing_running",
    "test_an_origin_that_kills_a_session_ends_its_link",
    "test_links_are_ready_before_anybody_comes",
    "test_links_do_not_wait_for_each_other",
    "test_no_lease_at_the_origin_is_that_error",
]

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

ORIGIN = f"trio-pool://{EDGE}@{NAME}/{DATABASE}?via=tunnel"


@pytest.fixture
def postgres(any_postgres: LocalPostgres) -> LocalPostgres:
    return any_postgres


@pytest.fixture(autouse=True)
def by_tunnel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where those tests link an edge and an origin, it is by tunnels."""
    papers = Papers(tmp_path)

    @asynccontextmanager
    async def linked(
        pg: LocalPostgres,
        _: object = None,
        *,
        origin: Mapping[str, Any] | None = None,
        edge: Mapping[str, Any] | None = None,
        origin_timeouts: Mapping[str, str] | None = None,
        edge_timeouts: Mapping[str, str] | None = None,
        limit: float = LIMIT,
    ) -> AsyncIterator[Linked]:
        near_table = edge_table(ORIGIN, edge_timeouts, **(edge or {}))
        near_table["tunnel"] = {"listen": papers.listen()}
        async with collecting(limit) as log, serving(near_table, log, EDGE) as near:
            assert near.service.tunnels is not None
            far_table = origin_table(pg, **(origin or {}))
            far_table["listen"] = {"addresses": []}
            far_table["timeouts"] |= origin_timeouts or {}
            far_table["tunnel"] = {"dial": {"edges": papers.dial(near.service.tunnels.address)}}
            async with serving(far_table, log) as far:
                yield Linked(near, far)

    for module in (test_link_cancel, test_link_loss):
        monkeypatch.setattr(module, "linked", linked)
