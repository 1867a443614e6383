"""Workers that are killed under load: only their own clients notice, and the pool keeps its size.

TRIO_POOL_WORKER_STORM says for how many seconds; from 30 on there are 64 clients, and a kill every 5 s.
"""

from __future__ import annotations

import itertools
import os
import signal
from typing import TYPE_CHECKING

import pytest
import trio

from tests.daemon.workers.load import Crowd, ended, is_alive, processes_below, until_gone
from tests.net.harness import watcher
from tests.support.pooler import Pooler
from tests.support.target import DATABASE, PASSWORD, USER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trio_pool.cli.postgres import LocalPostgres

pytestmark = pytest.mark.e2e

SECONDS = float(os.environ.get("TRIO_POOL_WORKER_STORM", "2"))
LONG = SECONDS >= 30
CLIENTS = 64 if LONG else 20
PAUSE = 0.0 if LONG else 0.05
"""Seconds between two statements: a machine without a free core takes long to start a process."""
BETWEEN = 5.0 if LONG else 0.5
WORKERS = 4 if LONG else 2
POOL_SIZE = 10
OTHER_PASSWORD = "another"


@pytest.fixture
def password_of_user(any_postgres: LocalPostgres) -> Iterator[None]:
    """It is afterwards what it was."""
    yield
    _set_password(any_postgres, PASSWORD)


def _set_password(pg: LocalPostgres, password: str) -> None:
    quoted = password.replace("'", "''")
    pg.run_sql(f"alter role {USER} password '{quoted}'")


@pytest.mark.trio
@pytest.mark.timeout(SECONDS + 100)
async def test_storm(any_postgres: LocalPostgres, tmp_path: Path, password_of_user: None) -> None:
    """Workers are killed one after the other, the origin's password is rotated, a newer process takes over:
    never more server connections than `pool_size`, no error for any client but those of killed workers,
    cancel requests find their client, nobody is refused, and no process is left behind.
    """
    secret = tmp_path / "password"
    secret.write_text(PASSWORD)
    extra = {
        "listen": {"workers": WORKERS},
        "timeouts": {"lease_wait": "30s"},
        "databases": {DATABASE: {"password_file": str(secret), "password_env": None}},
    }
    processes: list[int] = []
    pooler = Pooler(any_postgres, pool_size=POOL_SIZE, tls=False, auth="trust", extra=extra)
    with pooler, ended(processes):
        crowd = Crowd(pooler)
        processes += processes_below(pooler.pid)
        async with watcher(any_postgres) as watching, trio.open_nursery() as nursery:
            nursery.start_soon(crowd.count_servers, watching)
            for number in range(CLIENTS):
                nursery.start_soon(crowd.ask, f"client {number}", 50, PAUSE)
            nursery.start_soon(crowd.cancel)
            due = trio.current_time()
            until = due + SECONDS
            acts = [_rotate(pooler, secret), _take_over(crowd, processes)]
            for index in itertools.cycle(range(WORKERS)):
                due = max(due, trio.current_time() - BETWEEN) + BETWEEN
                await trio.sleep_until(due)
                if trio.current_time() >= until and not acts:
                    break
                await crowd.kill(index)
                if acts:
                    await acts.pop(0)
            processes += processes_below(processes[-1])
            nursery.cancel_scope.cancel()
        newer = int(pooler.log_events("handed over")[0]["process"])
        await until_gone(pooler.pid)
        os.kill(newer, signal.SIGTERM)
        assert await trio.to_thread.run_sync(pooler.wait_for_end) == 0
        await until_gone(newer)
        print(crowd)
        assert not any(map(is_alive, processes))
        assert crowd.errors == []
        assert crowd.most_servers <= POOL_SIZE
        assert crowd.cancelled > 0
        assert set(crowd.of_worker) == set(range(WORKERS))
        assert pooler.log_events("internal error") == []


async def _rotate(pooler: Pooler, secret: Path) -> None:
    await trio.to_thread.run_sync(_set_password, pooler.pg, OTHER_PASSWORD)
    await trio.Path(secret).write_text(OTHER_PASSWORD)
    pooler.signal(signal.SIGHUP)
    done = await trio.to_thread.run_sync(pooler.wait_for_event, "reloaded", 30.0)
    assert done["changes"] == [f"databases.{DATABASE}.password: changed"]


async def _take_over(crowd: Crowd, processes: list[int]) -> None:
    processes.append(await crowd.hand_over(crowd.pooler.pid))
