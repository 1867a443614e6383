"""What drivers' clients cost in crossings when the origin is behind a firewall: the same as over links that
the edge has opened. The tests are those of test_crossings.py, on another path.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import pg8000.native
import pytest

from bench.link_path import counting, observing
from tests.edge.path import LINKS, ROUND_TRIP, WARM_SECONDS, Path
from tests.edge.test_crossings import (
    test_asyncpg,
    test_pg8000,
    test_pgbench,
    test_pgbench_in_a_transaction,
    test_psql,
    test_psql_in_a_transaction,
    test_psql_with_settings,
    test_psycopg,
    test_psycopg2,
    test_psycopg_in_a_transaction,
)
from tests.edge.test_crossings_node import node_modules, test_node_postgres, test_postgres_js
from tests.edge.tunnelled import NAME, SECRET, Papers
from tests.support.firewalled import NEAR, firewalled, origin_database, why_not
from tests.support.pooler import Pooler
from tests.support.target import DATABASE, PASSWORD, USER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_pool.cli.postgres import LocalPostgres

__all__ = [
    "node_modules",
    "test_asyncpg",
    "test_node_postgres",
    "test_pg8000",
    "test_pgbench",
    "test_pgbench_in_a_transaction",
    "test_postgres_js",
    "test_psql",
    "test_psql_in_a_transaction",
    "test_psql_with_settings",
    "test_psycopg",
    "test_psycopg2",
    "test_psycopg_in_a_transaction",
]

READY = 2


@pytest.fixture(scope="module")
def link_path(
    request: pytest.FixtureRequest, any_postgres: LocalPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A client's whole way to PostgreSQL, warm, on tunnels that nobody asks whether they are there."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with contextlib.suppress(pytest.skip.Exception):  # where the networks are, there are no packages
        request.getfixturevalue("node_modules")
    directory = tmp_path_factory.mktemp("crossings")
    papers = Papers(directory)
    listen = papers.listen(certificate=papers.issue("near.pem", NEAR), ping="1h")
    at_edge = {
        "databases": {
            DATABASE: {
                "origin": f"trio-pool://{USER}@{NAME}/{DATABASE}?via=tunnel",
                "password": SECRET,
                "password_env": None,
                "min_pool_size": LINKS,
            }
        },
        "tunnel": {"listen": listen},
    }
    with (
        firewalled(directory) as networks,
        Pooler(any_postgres, pool_size=LINKS, tls=False, extra=at_edge) as edge,
    ):
        tunnels = edge.wait_for_event("listening for tunnels")["address"]
        with counting(int(tunnels.rpartition(":")[2]), ROUND_TRIP, host=NEAR, reverse=True) as (port, link):
            at_origin = {
                "listen": {"addresses": []},
                "users": {USER: {"password": SECRET}},
                "databases": {DATABASE: origin_database(any_postgres, min_pool_size=LINKS)},
                "tunnel": {"dial": {"edges": papers.dial(f"{NEAR}:{port}", ready=READY)}},
                "http": None,
            }
            origin = Pooler(
                any_postgres, pool_size=LINKS, tls=False, extra=at_origin, executable=networks.python
            )
            with origin, observing(edge.port, link) as (seen, observer):
                path = Path(any_postgres, edge, origin, seen, observer, link, None)
                with pg8000.native.Connection(
                    USER, host="127.0.0.1", port=seen, database=DATABASE, password=PASSWORD, ssl_context=False
                ) as connection:
                    connection.run("select 1")
                _warm_up(edge)
                path.rest()
                yield path


def _warm_up(edge: Pooler) -> None:
    deadline = time.monotonic() + WARM_SECONDS
    while len(edge.log_events("tunnel ready")) < LINKS + READY:
        assert time.monotonic() < deadline, "the origin has not dialled"
        time.sleep(0.01)
