"""What takes longer than `slow_query` is in the log, without anybody's data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.net.harness import pooler
from tests.support import requests
from trio_pool.net.slow_queries import AT_ONCE

if TYPE_CHECKING:
    from trio_pool.cli.postgres import LocalPostgres

SLOW = "select pg_sleep(0.05), 'secret'"


@pytest.mark.trio
async def test_slow_statements_are_logged_without_constants(postgres: LocalPostgres) -> None:
    """In every way in which a statement can end: alone, in a transaction, prepared; quick ones are not."""
    async with (
        pooler(postgres, pool_size=1, timeouts={"slow_query": "20ms"}) as running,
        await running.log_in() as peer,
    ):
        await peer.rows("select 1")
        await peer.rows(SLOW)
        await peer.rows("begin; select 1")
        await peer.rows(SLOW)
        await peer.rows("commit")
        await peer.send(requests.parse("", SLOW) + requests.bind("") + requests.execute() + requests.SYNC)
        await peer.exchange()
        await running.at_rest(clients=1)
        entries = running.log.find("slow query")
        assert [(entry["statement"], entry["answers"]) for entry in entries] == [
            ("select pg_sleep($1), $2", 1)
        ] * 3
        assert len({entry["fingerprint"] for entry in entries}) == 1
        assert all(0.05 <= entry["seconds"] < 5 for entry in entries)
        assert "secret" not in str(entries)


@pytest.mark.trio
async def test_the_log_is_not_flooded(postgres: LocalPostgres) -> None:
    """Of many slow statements in the same second the log has the first, and how many it has not."""
    many = AT_ONCE + 15
    async with (
        pooler(postgres, pool_size=1, timeouts={"slow_query": "1ms"}) as running,
        await running.log_in() as peer,
    ):
        for _ in range(many):
            await peer.rows("select pg_sleep(0.002)")
        assert AT_ONCE <= len(running.log.find("slow query")) < many
        await peer.rows("select pg_sleep(1)")
        omitted = [
            entry["omitted_before"] for entry in running.log.find("slow query") if "omitted_before" in entry
        ]
        assert sum(omitted) + len(running.log.find("slow query")) == many + 1
