"""Who a client is at an edge, and what it has set, when the origin loses its connection to PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.net.peer import Peer
from tests.support import requests
from tests.support.linked import EDGE, collecting, edge_table, origin_table, serving, url
from tests.support.serving import superuser
from tests.support.talk import ask, selected
from tests.support.target import DATABASE, USER

if TYPE_CHECKING:
    from trio_pool.cli.postgres import LocalPostgres

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

ROLE = "link_other"
SHOW = "SELECT concat_ws(' ', current_user, current_setting('TimeZone'), current_setting('search_path'))"


@pytest.mark.parametrize("pipelined", [False, True])
async def test_nobody_gets_what_another_had_set_after_a_server_is_lost(
    any_postgres: LocalPostgres, pipelined: bool
) -> None:
    """The server goes in a transaction of a client that has set nothing, on a link that was another's before:
    not even what was sent together with that transaction runs with the other's role and settings.
    """
    pg = any_postgres
    if not pg.run_sql(f"SELECT 1 FROM pg_roles WHERE rolname = '{ROLE}'").strip():
        pg.run_sql(f"CREATE ROLE {ROLE}; GRANT {ROLE} TO {USER}")
    own = edge_table("", pool_size=1)
    async with collecting() as log, serving(origin_table(pg, pool_size=1), log) as origin:
        own["databases"][DATABASE]["origin"] = url(origin.address[1])
        async with (
            serving(own, log, EDGE) as edge,
            superuser(pg) as killer,
            await Peer.log_in(edge.address, {"search_path": "one", "TimeZone": "UTC"}) as plain,
            await Peer.log_in(edge.address, {"search_path": "two", "TimeZone": "Asia/Tokyo"}) as other,
        ):
            await ask(other, f"SET ROLE {ROLE}")
            assert await ask(other, SHOW) == selected(f"{ROLE} Asia/Tokyo two")
            await ask(plain, "BEGIN")
            answer = await ask(plain, "SELECT pg_backend_pid()")
            pid = next(reply.content for reply in answer if reply.tag == "D")
            kill = requests.query(f"SELECT pg_terminate_backend({pid})")
            if pipelined:
                sleep, commit = requests.query("SELECT pg_sleep(60)"), requests.query("COMMIT")
                await plain.send(sleep + commit + requests.query(SHOW))
                await killer.send(kill)
                await killer.exchange()
                for _ in range(2):
                    await plain.exchange()
                seen = await plain.exchange()
                assert ROLE.encode() not in b"".join(body for _, body in seen)
            else:
                await killer.send(kill)
                await killer.exchange()
                await ask(plain, "SELECT 1")
            await ask(plain, "ROLLBACK")
            for _ in range(2):
                assert await ask(plain, SHOW) == selected(f"{USER} UTC one")
                assert await ask(other, SHOW) == selected(f"{ROLE} Asia/Tokyo two")
