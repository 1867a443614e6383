"""Listeners under what kills the usual accept loop: no descriptor left, and everybody at once."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import struct
import time
from typing import TYPE_CHECKING

import pytest
import trio

from tests.net.harness import canary, pooler
from tests.net.peer import Peer
from tests.support.pooler import Pooler
from tests.support.raw import RawClient

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trio_pool.cli.postgres import LocalPostgres

pytestmark = pytest.mark.e2e

DESCRIPTORS = 48
BURST = 500


def open_descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def wait_for_descriptors(pid: int, enough: Callable[[int], bool]) -> None:
    """Return when a process has so many. Neither accept nor close tells anybody else."""
    until = time.monotonic() + 20
    while not enough(open_descriptors(pid)):
        assert time.monotonic() < until
        time.sleep(0.002)


def test_the_accept_loop_survives_without_descriptors(postgres: LocalPostgres) -> None:
    """Out of descriptors, who comes is told 53300, who is there is served, and who comes later gets in."""
    with Pooler(postgres, pool_size=2, tls=False, auth="trust") as pooler:
        address = pooler.host, pooler.port
        with RawClient.log_in(address) as early:
            assert early.value("select 1") == "1"
            limits = resource.prlimit(pooler.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pooler.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, limits[1]))
            before = open_descriptors(pooler.pid)
            with contextlib.ExitStack() as stack:
                for accepted in range(before + 1, DESCRIPTORS + 1):
                    stack.enter_context(RawClient.connect(address))
                    wait_for_descriptors(pooler.pid, lambda count, least=accepted: count >= least)  # type: ignore[misc]
                with RawClient.connect(address) as refused:
                    assert refused.farewell() == ("FATAL", "53300")
                for _ in range(5):
                    with RawClient.connect(address) as another:
                        assert another.farewell() == ("FATAL", "53300")
                    assert early.value("select 'still here'") == "still here"
                pooler.wait_for_event("cannot accept a client")
            wait_for_descriptors(pooler.pid, lambda count: count <= before)
            for _ in range(10):
                with RawClient.log_in(address) as later:
                    assert later.value("select 'later'") == "later"
            assert early.value("select 1") == "1"
        assert "Traceback" not in pooler.log_text()


@pytest.mark.trio
async def test_five_hundred_at_once(postgres: LocalPostgres) -> None:
    """A burst of connections is accepted, logged in and served, while others are."""
    before = len(os.listdir("/proc/self/fd"))
    answers: list[str] = []

    async def come() -> None:
        async with await running.log_in() as peer:
            answers.extend(await peer.rows("select 'here'"))

    async with pooler(postgres, pool_size=4, timeouts={"lease_wait": "25s"}) as running:
        async with canary(running), trio.open_nursery() as nursery:
            for _ in range(BURST):
                nursery.start_soon(come)
        assert answers == ["here"] * BURST
        await running.at_rest()
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # Trio's own thread cache may keep one


@pytest.mark.trio
async def test_connections_that_are_gone_before_they_are_accepted(postgres: LocalPostgres) -> None:
    """Connections reset while they are in the backlog cost nobody anything."""
    async with pooler(postgres) as running, canary(running) as singer:
        for _ in range(200):
            sock = socket.create_connection(running.address)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        await singer.heard(3)
        async with await Peer.log_in(running.address) as peer:
            assert await peer.rows("select 1") == ["1"]
        await running.until(lambda: running.service.clients.connections == 1)


@pytest.mark.trio
async def test_a_unix_socket_is_left_to_whoever_listens_on_it(
    postgres: LocalPostgres, tmp_path: Path
) -> None:
    """Clients of a Unix socket are served like others, and its file is gone at the end."""
    path = tmp_path / ".s.PGSQL.6432"
    async with pooler(postgres, listen={"addresses": ["127.0.0.1:0", f"unix:{path}"]}):
        async with await Peer.log_in(str(path)) as peer:
            assert await peer.rows("select 1") == ["1"]
        assert path.exists()
    assert not path.exists()
