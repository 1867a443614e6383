"""What a client costs in crossings that comes over TLS and logs in with SCRAM, by an edge and directly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from bench.link_path import counting
from tests.support.target import DATABASE, PASSWORD, USER
from trio_pool.cli.postgres import available_installations

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.edge.path import Path
    from trio_pool.cli.postgres import Installation, LocalPostgres

TCP = 1
"""Round trips of a connection's own handshake, which a link does not see."""
ROUND_TRIP = 0.002


def connected(port: int, version: str) -> psycopg.Connection[tuple[object, ...]]:
    """A client with this version of TLS."""
    return psycopg.connect(
        host="127.0.0.1",
        port=port,
        user=USER,
        password=PASSWORD,
        dbname=DATABASE,
        sslmode="require",
        gssencmode="disable",
        require_auth="scram-sha-256",
        ssl_min_protocol_version=f"TLSv{version}",
        ssl_max_protocol_version=f"TLSv{version}",
    )


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_through_an_edge(path: Path, version: str) -> None:
    """Connecting and the first statement are one crossing, another one is one, a transaction of three
    statements is four: TLS and SCRAM end at the edge.
    """
    for parts, expected in ((["select 1"], 1), (["select 1", "select 2"], 2), (["select 1"] * 3, 4)):
        with path.seen() as turns, connected(path.port, version) as connection:
            connection.autocommit = len(parts) < 3
            for text in parts:
                connection.execute(text)
        crossings = [int(turn.rpartition(" ")[2]) for turn in turns]
        assert sum(crossings) == expected
        assert crossings.count(1) == expected


@pytest.fixture(scope="module")
def postgres_with_tls(servers: Callable[[Installation], LocalPostgres]) -> LocalPostgres:
    """The first PostgreSQL that speaks TLS."""
    found = next((one for one in available_installations() if one.has_tls), None)
    if found is None:
        pytest.skip("no PostgreSQL here was built with TLS")
    return servers(found)


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_directly(postgres_with_tls: LocalPostgres, version: str) -> None:
    """Connecting and the first statement are six to eight round trips, a transaction of three is five."""
    with (
        counting(postgres_with_tls.port, ROUND_TRIP) as (port, link),
        connected(port, version) as connection,
    ):
        connection.autocommit = True
        connection.execute("select 1")
        assert link.of_action + TCP in (6, 7, 8)
        for text in ("select 1", "select 2"):
            link.begin()
            connection.execute(text)
            assert link.of_action == 1
        connection.autocommit = False
        link.begin()
        for _ in range(3):
            connection.execute("select 1")
        connection.commit()
        assert link.of_action == 5
