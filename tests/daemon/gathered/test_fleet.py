"""The same with processes: a pooler with two workers, one of which is killed."""

from __future__ import annotations

import json
import os
import signal
import sys
from functools import partial
from subprocess import PIPE
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio

from tests.daemon.web.asking import HTTP, Scrape, get
from tests.daemon.workers.load import worker_of
from tests.net.harness import origin_url
from tests.net.peer import Peer
from tests.support.pooler import ADMIN, Pooler
from tests.support.target import DATABASE, PASSWORD, USER

if TYPE_CHECKING:
    from trio_pool.cli.postgres import LocalPostgres

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

APP = {"database": DATABASE, "user": USER}


@attrs.define(eq=False)
class Running:
    """A pooler that is served by several processes."""

    pooler: Pooler

    @property
    def http_address(self) -> str:
        return str(self.pooler.ready["http"])

    async def log_in(self, worker: int, **parameters: str) -> Peer:
        """A client that this worker has let in."""
        while True:
            peer = await Peer.log_in((self.pooler.host, self.pooler.port), parameters)
            if worker_of(peer) == worker:
                return peer
            peer.close()

    async def ask(self, worker: int) -> None:
        """Something, as one of its clients."""
        async with await self.log_in(worker) as peer:
            assert await peer.rows("select 1") == ["1"]

    async def console(self, worker: int) -> Peer:
        return await self.log_in(worker, user=ADMIN, database="pgbouncer")

    async def kill(self, worker: int) -> None:
        """Returns when another process has its place."""
        before = self.pooler.mark()
        accepted = [entry for entry in self.pooler.log_events("worker accepts") if entry["worker"] == worker]
        os.kill(accepted[-1]["process"], signal.SIGKILL)
        await trio.to_thread.run_sync(self.pooler.wait_for_event, "worker accepts", 30.0, before)


async def workers_in_top(running: Running) -> list[Any]:
    """As `trio-pool top` writes them into a pipe, of the second look: the first may be of a second ago, when
    another worker was there.
    """
    command = [sys.executable, "-m", "trio_pool", "top", "--url", running.http_address, "--interval", "0.1"]
    async with trio.open_nursery() as nursery:
        process = await nursery.start(partial(trio.run_process, command, stdout=PIPE, check=False))
        assert process.stdout is not None
        written = b""
        looks: list[dict[str, Any]] = []
        while not looks or looks[-1]["at"] == looks[0]["at"]:
            more = await process.stdout.receive_some()
            assert more
            *lines, written = (written + more).split(b"\n")
            looks += map(json.loads, lines)
        process.kill()
    workers: list[Any] = looks[-1]["workers"]
    return workers


async def test_a_worker_in_anothers_place(any_postgres: LocalPostgres) -> None:
    """It knows what is paused, disabled and set; counters go on from what they were; whoever is asked answers
    for both, also when it is the new one.
    """
    extra = {
        "listen": {"workers": 2},
        "http": HTTP,
        "databases": {"spare": {"origin": origin_url(any_postgres), "password": PASSWORD, "pool_size": 1}},
    }
    pooler = Pooler(any_postgres, tls=False, auth="trust", extra=extra)
    with trio.fail_after(60), pooler:
        running = Running(pooler)
        async with await running.console(0) as console, await running.log_in(1) as victim:
            for worker in (0, 1):
                await running.ask(worker)
            assert await console.run("DISABLE spare") == []
            assert await console.run("SET max_client_conn = 77") == []
            assert await console.run(f"PAUSE {DATABASE}") == []
            before = await Scrape.of(running)
            before.check()
            assert before.value("trio_pool_queries_total", **APP) == 2
            assert before.value("trio_pool_workers") == 2
            await running.kill(1)
            assert await victim.at_end()
            async with await running.console(1) as another:
                for asked in (console, another):
                    rows = {row["name"]: row for row in await asked.table("SHOW DATABASES")}
                    assert (rows[DATABASE]["paused"], rows["spare"]["disabled"]) == ("1", "1")
                    settings = {row["key"]: row["value"] for row in await asked.table("SHOW CONFIG")}
                    assert settings["max_client_conn"] == "77"
                    assert [row["restarts"] for row in await asked.table("SHOW WORKERS")] == ["0", "1"]
                with trio.move_on_after(0.2) as paused:
                    await running.ask(1)
                assert paused.cancelled_caught
                assert await another.run(f"RESUME {DATABASE}") == []
                await running.ask(1)
                after = await Scrape.of(running)
                after.check()
                assert after.fallen_since(before) == []
                assert after.value("trio_pool_queries_total", **APP) == 3
                assert after.value("trio_pool_worker_restarts_total") == 1
                assert (await get(running, "/readyz")).status == 200
                assert [worker["restarts"] for worker in await workers_in_top(running)] == [0, 1]
                async with await running.log_in(0):
                    assert await another.run("SHUTDOWN WAIT_FOR_CLIENTS") == []
                    assert len(await console.table("SHOW WORKERS")) >= 1
                    assert (await get(running, "/readyz")).status == 503
        assert await trio.to_thread.run_sync(pooler.wait_for_end) == 0
