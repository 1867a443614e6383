"""What a client has set, when the server connection is lost before that could be read from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import requests
from tests.support.serving import serving, superuser
from tests.support.talk import ask, refused, selected, told

if TYPE_CHECKING:
    from trio_pool.cli.postgres import LocalPostgres

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

FIRST = ("SET TimeZone = 'UTC'", "BEGIN", "SELECT pg_backend_pid()")


async def test_settings_in_a_write_of_their_own_stay(any_postgres: LocalPostgres) -> None:
    """They were read at once, so the client goes on with them when its transaction is lost."""
    async with (
        serving(any_postgres) as running,
        superuser(any_postgres) as killer,
        await running.log_in() as client,
    ):
        await ask(client, "SET TimeZone = 'Asia/Tokyo'")
        for statement in FIRST:
            answer = await ask(client, statement)
        await ask(killer, f"SELECT pg_terminate_backend({answer[1].content})")
        await running.until(lambda: not running.origin.pool.leased)
        assert refused("08006") == await ask(client, "COMMIT")
        assert selected("UTC") == await ask(client, "SELECT current_setting('TimeZone')")


async def test_nobody_goes_on_with_settings_that_are_not_known(any_postgres: LocalPostgres) -> None:
    """In one write with the transaction that is lost: the client would have those that it had before."""
    async with (
        serving(any_postgres) as running,
        superuser(any_postgres) as killer,
        await running.log_in() as client,
    ):
        await ask(client, "SET TimeZone = 'Asia/Tokyo'")
        await client.send(b"".join(map(requests.query, FIRST)))
        for _ in FIRST:
            answer = await told(client)
        await ask(killer, f"SELECT pg_terminate_backend({answer[1].content})")
        assert (await client.farewell()).sqlstate == "08006"
