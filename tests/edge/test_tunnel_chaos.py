"""Clients at two edges on one origin behind a firewall, while tunnels are cut, stalled and restored.

    TRIO_POOL_CHAOS=120 pytest tests/edge/test_tunnel_chaos.py        two minutes and 200 clients

The clients and their promises are those of test_link_chaos.py.
"""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.edge.test_link_chaos import (
    LONG,
    SEED,
    SERVERS,
    Edge,
    Tally,
    check,
    make_table,
    vandalized,
)
from tests.edge.tunnelled import NAME, Papers
from tests.net.harness import watcher
from tests.support.faulty import network
from tests.support.firewalled import NEAR, firewalled, origin_database, why_not
from tests.support.linked import EDGE, EDGE_PASSWORD
from tests.support.pooler import Pooler
from tests.support.target import DATABASE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.firewalled import Firewalled
    from trio_pool.cli.postgres import LocalPostgres

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

SECONDS = LONG or 1.5


@pytest.fixture
def networks(any_postgres: LocalPostgres, tmp_path: Path) -> Iterator[Firewalled]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with firewalled(tmp_path) as both:
        yield both


def edge(pg: LocalPostgres, papers: Papers) -> Pooler:
    listen = papers.listen(certificate=papers.issue("near.pem", NEAR), ping="1s")
    database = {
        "origin": f"trio-pool://{EDGE}@{NAME}/{DATABASE}?via=tunnel",
        "password": EDGE_PASSWORD,
        "password_env": None,
        "pool_size": 12,
    }
    extra: dict[str, Any] = {
        "databases": {DATABASE: database},
        "timeouts": {"lease_wait": "5s", "server_connect": "3s"},
        "tunnel": {"listen": listen},
    }
    return Pooler(pg, tls=False, auth="trust", extra=extra)


def tunnels(edge: Pooler) -> int:
    """The port where its tunnels come."""
    return int(edge.wait_for_event("listening for tunnels")["address"].rpartition(":")[2])


def origin(pg: LocalPostgres, papers: Papers, networks: Firewalled, *ports: int) -> Pooler:
    extra: dict[str, Any] = {
        "listen": {"addresses": []},
        "users": {EDGE: {"password": EDGE_PASSWORD, "max_leases": SERVERS - 2}},
        "databases": {DATABASE: origin_database(pg)},
        "timeouts": {"lease_wait": "5s"},
        "tunnel": {"dial": {"edges": papers.dial(*(f"{NEAR}:{port}" for port in ports))}},
        "http": None,
    }
    return Pooler(pg, pool_size=SERVERS, tls=False, extra=extra, executable=networks.python)


@pytest.mark.timeout(SECONDS + 90)
async def test_tunnels_may_fail_in_every_way(
    any_postgres: LocalPostgres, networks: Firewalled, tmp_path: Path
) -> None:
    """Every request has one answer or one clear error, nothing of what was cut off goes on, and the origin
    comes back to its edges without help.
    """
    make_table(any_postgres)
    tally, chance, papers = Tally(), random.Random(SEED), Papers(tmp_path)
    with trio.fail_after(SECONDS + 60), contextlib.ExitStack() as stack:
        ann, ben = (stack.enter_context(edge(any_postgres, papers)) for _ in range(2))
        async with (
            network(tunnels(ann), NEAR) as first,
            network(tunnels(ben), NEAR) as second,
            watcher(any_postgres) as eye,
        ):
            with origin(any_postgres, papers, networks, first.port, second.port):
                assert networks.listening() == []
                edges = [Edge("ann", ann, first), Edge("ben", ben, second)]
                await vandalized(edges, eye, tally, chance, SECONDS)
    await check(any_postgres, tally)
