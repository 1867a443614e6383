"""A newer process takes over from an older one."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio

from tests.daemon.workers.load import Crowd, ended, until_gone
from tests.net.harness import watcher
from tests.net.peer import Peer
from tests.support.pooler import Pooler, to_toml
from tests.support.raw import RawClient

if TYPE_CHECKING:
    from pathlib import Path

    from trio_pool.cli.postgres import LocalPostgres

pytestmark = pytest.mark.e2e


@pytest.mark.trio
async def test_hand_overs_under_load(any_postgres: LocalPostgres, tmp_path: Path) -> None:
    """Of a single process to another, to one with workers, and back: nobody is refused, nobody gets an error,
    two together have no more servers than one may have, and cancel requests find clients of the older one.
    The supervisor is told whom to watch.
    """
    extra = {"timeouts": {"lease_wait": "30s"}}
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    pooler = Pooler(any_postgres, pool_size=4, tls=False, auth="trust", extra=extra, environment=environment)
    processes: list[int] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(environment["NOTIFY_SOCKET"])
        supervisor.setblocking(False)
        with pooler, ended(processes):
            crowd = Crowd(pooler)
            processes.append(pooler.pid)
            async with watcher(any_postgres) as watching, trio.open_nursery() as nursery:
                nursery.start_soon(crowd.count_servers, watching)
                for number in range(8):
                    nursery.start_soon(crowd.ask, f"client {number}", 50, 0.02)
                nursery.start_soon(crowd.cancel)
                for workers in (1, 2, 1):
                    table = pooler.configuration()
                    table["listen"]["workers"] = workers
                    await trio.Path(pooler.config_path).write_text(to_toml(table))
                    await _hand_over(crowd, processes)
                nursery.cancel_scope.cancel()
            with RawClient.log_in(crowd.address) as client:
                assert client.value("select 1") == "1"
            os.kill(processes[-1], signal.SIGTERM)
            assert await trio.to_thread.run_sync(pooler.wait_for_end) == 0
            await until_gone(processes[-1])
        heard = _heard(supervisor)
    print(crowd)
    assert crowd.errors == []
    assert crowd.most_servers <= 4
    assert crowd.cancelled > 3
    assert [said for said in heard if said != "READY=1"] == [
        *(f"MAINPID={process}" for process in processes[1:]),
        "STOPPING=1",
    ]
    assert heard.count("READY=1") == 4


async def _hand_over(crowd: Crowd, processes: list[int]) -> None:
    """Clients of the older process stay for a while."""
    async with await Peer.log_in(crowd.address) as stayer:
        processes.append(await crowd.hand_over(processes[-1]))
        answered, cancelled = crowd.answered, crowd.cancelled
        while crowd.answered < answered + 50 or crowd.cancelled == cancelled:  # noqa: ASYNC110
            await trio.sleep(0.05)
        assert await stayer.rows("select 1") == ["1"]
    await until_gone(processes[-2])


def _heard(supervisor: socket.socket) -> list[str]:
    """What has been said, without what is for people."""
    heard = []
    with suppress(BlockingIOError):
        while True:
            heard.append(supervisor.recv(4096).decode().partition("\n")[0])
    return heard


def test_a_newer_one_that_cannot_serve_changes_nothing(any_postgres: LocalPostgres) -> None:
    """The log says so, and the older one serves on: with as many servers as ever, and reloads."""
    with Pooler(any_postgres, pool_size=2, tls=False, auth="trust", extra={"http": None}) as pooler:
        table = pooler.configuration()
        with RawClient.log_in((pooler.host, pooler.port)) as client, socket.create_server(("", 0)) as taken:
            assert client.value("select 1") == "1"
            table["listen"]["addresses"].append(f"127.0.0.1:{taken.getsockname()[1]}")
            for text in (
                "nonsense = 1",
                to_toml(table),
            ):  # known at once, and when it has taken over all else
                before = pooler.mark()
                pooler.config_path.write_text(text)
                pooler.signal(signal.SIGUSR2)
                failed = pooler.wait_for_event("hand-over failed, nothing has changed", 30.0, before)
                assert failed["status"] == 1
            others = [RawClient.log_in((pooler.host, pooler.port)) for _ in range(4)]
            for one in (client, *others):
                assert one.value("select 1") == "1"
                one.sock.close()
