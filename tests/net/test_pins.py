"""What pinned clients and carried settings cost and show, seen from inside the pooler."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.net.harness import pooler

if TYPE_CHECKING:
    from tests.net.peer import Peer
    from trio_pool.cli.postgres import LocalPostgres
    from trio_pool.net.connection import Connection

pytestmark = [pytest.mark.e2e, pytest.mark.trio]


async def test_a_pin_tells_who_why_and_since_when(postgres: LocalPostgres) -> None:
    """The pool knows the client, each reason and its time, and counts; all of it is gone with the pin."""
    async with pooler(postgres, pool_size=2) as running, await running.log_in() as peer:
        pool = running.origin.pool
        before = trio.current_time()
        await peer.run("create temporary table t (i int)")
        await running.until(lambda: pool.statistics().pinned == 1)
        await peer.run("select pg_advisory_lock(1)")
        await running.until(lambda: any(len(pins) == 2 for pins in pool.pinned.values()))
        ((server, pins),) = pool.pinned.items()
        client = pool.leased[server]
        assert list(pins) == ["temporary object", "session advisory lock"]
        assert before <= pins["temporary object"] <= pins["session advisory lock"] <= trio.current_time()
        assert pool.statistics().pinned == 1
        assert pool.statistics().pins == {"temporary object": 1, "session advisory lock": 1}
        logged = running.log.find("client pinned", client=client.process_id, pool="app/app")
        assert [entry["reason"] for entry in logged] == list(pins)
        await peer.run("drop table t; select pg_advisory_unlock(1)")
        await running.at_rest(clients=1)
        assert pool.statistics().pinned == 0
        assert len(running.log.find("client unpinned", client=client.process_id)) == 2


async def test_the_pin_of_a_client_that_goes_is_gone(postgres: LocalPostgres) -> None:
    """Its server is cleaned and serves the next client, who finds nothing."""
    async with pooler(postgres, pool_size=1) as running:
        async with await running.log_in() as peer:
            await peer.run("create temporary table t (i int); select pg_advisory_lock(1)")
            await running.until(lambda: running.origin.pool.statistics().pinned == 1)
        async with await running.log_in() as other:
            assert await other.rows("select to_regclass('t') is null") == ["t"]
            assert await other.rows("select count(*) from pg_locks where locktype = 'advisory'") == ["0"]
            assert running.origin.pool.statistics().pinned == 0
        assert len(running.log.find("server connected")) == 1


async def test_carried_settings_cost_no_round_trip(
    postgres: LocalPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client with three settings of its own makes the server's one write longer, and a client without any
    pays nothing but for taking them back.
    """
    async with (
        pooler(postgres, pool_size=1) as running,
        await running.log_in() as plain,
        await running.log_in() as other,
    ):
        for sql in ("set work_mem = '5MB'", "set search_path = pg_catalog", "set app.tenant = '7'"):
            await other.run(sql)
        await plain.rows("select 1")
        await running.at_rest(clients=2)
        (server,) = running.origin.pool.idle
        sent: list[bytes] = []
        write = type(server).write

        def counted(self: Connection, data: bytes, source: Connection | None = None) -> None:
            if self is server:
                sent.append(data)
            write(self, data, source)

        monkeypatch.setattr(type(server), "write", counted)

        async def asks(peer: Peer) -> list[bytes]:
            sent.clear()
            assert await peer.rows("select 1") == ["1"]
            await running.at_rest(clients=2)
            return list(sent)

        query = b"Q\0\0\0\rselect 1\0"
        assert await asks(plain) == [query]
        for peer in (other, plain, other):
            (written,) = await asks(peer)
            assert written.endswith(query)
            assert written.count(b"set_config") == 3
        assert await asks(other) == [query]
