"""A statement with as many parameters as a Bind message can hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import requests
from tests.support.actions import difference
from tests.support.pooler import Pooler
from tests.support.raw import RawClient
from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    from trio_pool.cli.postgres import LocalPostgres

pytestmark = pytest.mark.e2e

MOST = 65535
SQL = f"select 1 where 1 in ({', '.join(f'${number}' for number in range(1, MOST + 1))})"
PREPARE = requests.parse("s", SQL) + requests.describe("s") + requests.SYNC
EXECUTE = requests.bind("s", *["1"] * MOST) + requests.describe_portal() + requests.execute() + requests.SYNC


def answers(address: tuple[str, int] | str) -> list[tuple[int, bytes]]:
    """Every message that a client gets: for the statement, and twice for an execution."""
    received = []
    with RawClient.log_in(address) as client:
        for request in (PREPARE, EXECUTE, EXECUTE):
            client.send(request)
            received += client.exchange()
    return received


def test_as_many_parameters_as_there_can_be(postgres: LocalPostgres) -> None:
    """They are parsed, described and bound through the pool as on PostgreSQL, byte by byte."""
    expected = answers(f"{postgres.socket_dir}/.s.PGSQL.{postgres.port}")
    assert [len(body) for tag, body in expected if tag == Backend.PARAMETER_DESCRIPTION] == [2 + 4 * MOST]
    assert len([tag for tag, _ in expected if tag == Backend.DATA_ROW]) == 2
    with Pooler(postgres, pool_size=1, tls=False, auth="trust") as pooler:
        got = answers((pooler.host, pooler.port))
    assert difference(got, expected) is None
