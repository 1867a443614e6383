"""Clients that are gone without a word: what they ran is cancelled, and their server connection lives on.

How long it takes is printed and only bounded generously. TRIO_POOL_KILLS says how many die at random.
"""

from __future__ import annotations

import math
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import attrs
import pytest
import trio

import trio_pool
from tests.net import namespaces
from tests.net.harness import ROOT, Running, canary, pooler, program_of_victims, watcher
from tests.support.killable import MARKER, RESTLESS, TABLE, mark_of
from tests.support.pooler import Pooler
from tests.support.raw import RawClient
from tests.support.target import DATABASE, PASSWORD, USER
from trio_pool.config import Listen
from trio_pool.config.problems import ConfigurationError
from trio_pool.net import liveness
from trio_pool.net.client import Client
from trio_pool.net.poller import READABLE
from trio_pool.wire import messages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.net.peer import Peer
    from tests.support.certificates import Certificates
    from trio_pool.cli.postgres import LocalPostgres

pytestmark = pytest.mark.e2e

ROUNDS = 4
"""Of each state and each way to end."""
KILLS = int(os.environ.get("TRIO_POOL_KILLS", "60"))
WITHIN = 5.0
"""Seconds after which it is too long whatever the machine does."""
WAYS = {"killed": signal.SIGKILL, "closed": signal.SIGUSR1, "reset": signal.SIGUSR2}
STATES = [
    "idle",
    "in_copy_in",
    "in_copy_out",
    "in_extended_copy_in",
    "in_failed_transaction",
    "in_group",
    "in_half_bind_behind_query",
    "in_half_copy_data",
    "in_half_megabyte",
    "in_half_query",
    "in_half_query_of_transaction",
    "in_pipeline",
    "in_procedure",
    "in_query",
    "in_query_of_transaction",
    "in_query_with_flood",
    "in_query_with_more",
    "in_suspended_portal",
    "in_transaction",
    "in_unread_rows",
    "with_session_state",
]
"""Of tests/support/killable.py: those in which a server is leased, or was."""


@pytest.fixture(scope="module", autouse=True)
def _table(postgres: LocalPostgres) -> Iterator[None]:
    postgres.run_sql(f"create table {TABLE} (what text); grant all on {TABLE} to {USER}", DATABASE)
    yield
    postgres.run_sql(f"drop table {TABLE}", DATABASE)


@attrs.define(eq=False)
class Victims:
    """Their program, and how long it took until nothing of theirs ran (seconds)."""

    program: trio.Process
    superuser: Peer
    took: list[float] = attrs.field(factory=list)
    _unread: bytes = b""

    async def bring(self, state: str) -> int:
        """The process id of a new victim, once it is in its state."""
        assert self.program.stdin is not None
        assert self.program.stdout is not None
        await self.program.stdin.send_all(f"{state}\n".encode())
        while b"\n" not in self._unread:
            self._unread += await self.program.stdout.receive_some()
        line, _, self._unread = self._unread.partition(b"\n")
        pid, _, outcome = line.decode().partition(" ")
        assert outcome == state
        return int(pid)

    async def end(self, pid: int, way: int, left: str) -> None:
        """End it, and measure how long the query `left` finds something."""
        os.kill(pid, way)
        began = trio.current_time()
        while (rows := await self.superuser.rows(left)) != ["0"]:
            assert trio.current_time() < began + WITHIN, rows
            await trio.sleep(0.001)
        self.took.append(trio.current_time() - began)

    def report(self, what: str) -> None:
        """Print the distribution."""
        took = sorted(self.took)
        cuts = statistics.quantiles(took, n=20)
        print(
            f"{what}: {len(took)} ended; nothing left after {cuts[9] * 1e3:.0f} ms (median), "
            f"{cuts[18] * 1e3:.0f} ms (95th percentile), {took[-1] * 1e3:.0f} ms (longest)"
        )


@asynccontextmanager
async def victims(pg: LocalPostgres, running: Running) -> AsyncIterator[Victims]:
    """The program of the victims, for as long as the block lasts."""
    async with watcher(pg) as superuser, trio.open_nursery() as nursery:
        program = await program_of_victims(nursery, running.address)
        assert program.stdin is not None
        try:
            yield Victims(program, superuser)
        finally:
            await program.stdin.aclose()  # then it kills those that are left


async def open_all(running: Running, pool_size: int) -> set[int]:
    """Open every server that the pool may have; their process ids."""
    async with AsyncExitStack() as stack:
        for _ in range(pool_size):
            peer = await stack.enter_async_context(await running.log_in())
            await peer.rows("begin; select 1")
    await running.at_rest()
    return server_pids(running)


def server_pids(running: Running) -> set[int]:
    """PostgreSQL's process ids of all idle servers."""
    return {server.dialled.login.process_id for server in running.origin.pool.idle}


def not_idle(servers: set[int]) -> str:
    """SQL that counts those servers that run something or have a transaction open."""
    listed = ",".join(map(str, servers))
    return f"select count(*) from pg_stat_activity where pid = any('{{{listed}}}') and state <> 'idle'"


@pytest.mark.trio
@pytest.mark.parametrize("state", STATES)
async def test_what_it_left_is_cancelled_and_the_server_kept(
    postgres: LocalPostgres, certificates: Certificates, state: str
) -> None:
    """However a client ends (SIGKILL, close, reset) and in whatever state: nothing of its runs on, what it
    began is undone, and the server connections are the same as before.
    """
    async with (
        pooler(postgres, pool_size=2, certificates=certificates, limit=100) as running,
        victims(postgres, running) as group,
    ):
        servers = await open_all(running, 2)
        for way in list(WAYS.values()) * ROUNDS:
            pid = await group.bring(state)
            await group.end(pid, way, not_idle(servers))
            await running.at_rest()
        group.report(state)
        assert server_pids(running) == servers
        assert running.log.find("server disconnected") == []
        assert await group.superuser.rows("select 1") == ["1"]
    assert postgres.run_sql(f"select count(*) from {TABLE}", DATABASE) == "0\n"


def clients_waiting(running: Running) -> list[Client]:
    """Without the pooler's own question to the catalog, which waits like everybody else."""
    return [waiter for waiter in running.origin.pool.waiting if isinstance(waiter, Client)]


@pytest.mark.trio
@pytest.mark.parametrize("state", ["waiting", "waiting_with_more"])
async def test_who_waits_for_a_server_leaves_the_queue(
    postgres: LocalPostgres, certificates: Certificates, state: str
) -> None:
    """A client that ends while it waits gets no server, even if the pooler reads it no more."""
    async with (
        pooler(postgres, pool_size=1, certificates=certificates, limit=100) as running,
        victims(postgres, running) as group,
        await running.log_in() as holder,
    ):
        await holder.rows("begin; select 1")
        leases = running.origin.pool.leases
        for way in WAYS.values():
            pid = await group.bring(state)
            await running.until(lambda: len(clients_waiting(running)) == 1)
            if state == "waiting_with_more":
                await running.until(lambda: not clients_waiting(running)[0].mask & READABLE)
            os.kill(pid, way)
            with trio.fail_after(WITHIN):
                await running.until(lambda: clients_waiting(running) == [])
        assert await holder.rows("commit") == []
        await running.at_rest(clients=1)
        assert running.origin.pool.leases == leases


@pytest.mark.trio
@pytest.mark.parametrize("driver", ["psql", "psycopg"])
async def test_real_drivers_that_are_killed(postgres: LocalPostgres, driver: str) -> None:
    """SIGKILL of psql and of a program with psycopg, in the middle of a query."""
    sql = f"select pg_sleep(300) /* {MARKER} */"
    async with pooler(postgres, pool_size=2) as running, watcher(postgres) as superuser:
        host, port = running.address
        libpq = f"host={host} port={port} user={USER} dbname={DATABASE} sslmode=disable"
        commands = {
            "psql": [str(postgres.bin("psql")), "-X", libpq, "-c", sql],
            "psycopg": [
                sys.executable,
                "-c",
                f"import psycopg; psycopg.connect({libpq!r}).execute({sql!r})",
            ],
        }
        servers = await open_all(running, 2)
        active = f"{not_idle(servers)} and state = 'active' and position($${MARKER}$$ in query) > 0"
        took = []
        for _ in range(ROUNDS):
            process = await trio.lowlevel.open_process(
                commands[driver], env={**os.environ, "PGPASSWORD": PASSWORD}
            )
            while await superuser.rows(active) != ["1"]:  # noqa: ASYNC110
                await trio.sleep(0.005)
            process.kill()
            began = trio.current_time()
            while await superuser.rows(not_idle(servers)) != ["0"]:
                assert trio.current_time() < began + WITHIN
                await trio.sleep(0.001)
            took.append(trio.current_time() - began)
            await process.wait()
            await running.at_rest()
        print(f"{driver}: nothing left after {', '.join(f'{seconds * 1e3:.0f} ms' for seconds in took)}")
        assert server_pids(running) == servers


@pytest.mark.trio
@pytest.mark.timeout(900)
async def test_killed_at_random(postgres: LocalPostgres, certificates: Certificates) -> None:
    """Clients are killed at random moments of whatever they do, beside honest ones, which meet no error and
    no reply of anybody else's; nothing of the dead runs on, and no server connection is lost.
    """
    pool_size = 4
    at_once = 6
    chance = random.Random()
    async with (
        pooler(postgres, pool_size=pool_size, certificates=certificates, limit=60 + KILLS * 0.8) as running,
        victims(postgres, running) as group,
    ):
        servers = await open_all(running, pool_size)
        alive: list[int] = []
        async with canary(running, "ann"), canary(running, "ben"):
            for _ in range(KILLS):
                while len(alive) < at_once:
                    alive.append(await group.bring(RESTLESS))
                await trio.sleep(chance.random() * 0.05)
                pid = alive.pop(chance.randrange(len(alive)))
                left = (
                    f"select count(*) from pg_stat_activity where position($${mark_of(pid)}$$ in query) > 0"
                )
                await group.end(
                    pid, signal.SIGKILL, f"{left} and state <> 'idle' and pid <> pg_backend_pid()"
                )
                running.check()
            for pid in alive:
                os.kill(pid, signal.SIGKILL)
        await running.at_rest()
        group.report("restless")
        assert server_pids(running) == servers
        assert running.log.find("server disconnected") == []
    assert postgres.run_sql(f"select count(*) from {TABLE}", DATABASE) == "0\n"


# -- socket options ------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_keep_alive_is_as_configured(postgres: LocalPostgres) -> None:
    """Every client's socket has the options of `listen`, in whole seconds, rounded up; `0` asks nothing."""

    async def options(**listen: object) -> list[int]:
        async with pooler(postgres, listen=listen) as running, await running.log_in():
            (client,) = running.service.clients.by_id.values()
            sock = socket.socket(fileno=os.dup(client.fd))
            with sock:
                return [
                    sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                    *(
                        sock.getsockopt(socket.IPPROTO_TCP, option)
                        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
                    ),
                ]

    assert await options() == [1, 60, 10, 6]
    given = {"tcp_keepalive_idle": "1500ms", "tcp_keepalive_interval": "3s", "tcp_keepalive_count": 4}
    assert await options(**given) == [1, 2, 3, 4]
    assert (await options(tcp_keepalive_idle=0))[0] == 0


@pytest.mark.trio
async def test_what_the_system_does_not_take_is_an_error_at_the_start() -> None:
    """A value of the user's own that the system refuses is named with its key (Linux: at most 32767 s)."""
    config = trio_pool.Config.from_dict(
        {
            "listen": {"addresses": ["127.0.0.1:0"], "tcp_keepalive_idle": "10h"},
            "databases": {DATABASE: {"origin": f"postgresql://{USER}@127.0.0.1/{DATABASE}"}},
        }
    )
    with pytest.raises(ConfigurationError) as raised:
        await trio_pool.serve(config)
    assert [problem.key for problem in raised.value.problems] == ["listen.tcp_keepalive_idle"]
    assert raised.value.problems[0].what == "this system does not take 36000"


def test_a_system_without_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Defaults that it lacks are left out; what was asked for is an error."""
    monkeypatch.delattr(socket, "TCP_KEEPIDLE")
    monkeypatch.delattr(socket, "TCP_KEEPALIVE", raising=False)
    monkeypatch.setattr(liveness, "_CAN_WATCH", False)
    assert (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1) in liveness.Keepalive.of(Listen()).options
    with pytest.raises(ConfigurationError) as raised:
        liveness.Keepalive.of(Listen(tcp_keepalive_idle=7.0, tcp_user_timeout=7.0))
    assert [problem.key for problem in raised.value.problems] == [
        "listen.tcp_keepalive_idle",
        "listen.tcp_user_timeout",
    ]
    assert liveness.Keepalive.of(Listen(tcp_keepalive_idle=math.inf, tcp_user_timeout=math.inf)).options == ()


# -- half-open connections -----------------------------------------------------------------------------------


@pytest.mark.trio
async def test_a_client_that_does_not_read_is_not_taken_for_gone(
    postgres: LocalPostgres, certificates: Certificates
) -> None:
    """`tcp_user_timeout` is about a system that does not answer. One that is there and has no room, since its
    program does not read, answers; it stays for as long as it likes.
    """
    async with (
        pooler(
            postgres,
            pool_size=1,
            certificates=certificates,
            listen={"tcp_user_timeout": "3s"},
        ) as running,
        victims(postgres, running) as group,
    ):
        await group.bring("in_copy_out")
        await trio.sleep(8)  # the time in which nothing may happen
        assert running.log.find("client disconnected") == []
        (client,) = running.service.clients.by_id.values()
        assert client.transport.pending
        assert client.server is not None


HALF_OPEN = [
    ("in_query", "nothing is under way"),
    ("in_transaction", "nothing is under way"),
    ("in_copy_out", "the client does not read"),
    ("ahead_of_rows", "what is sent is not acknowledged"),
]


@pytest.mark.parametrize(("state", "_why"), HALF_OPEN, ids=[state for state, _ in HALF_OPEN])
def test_a_cut_cable_is_noticed(
    postgres: LocalPostgres, certificates: Certificates, tmp_path: Path, state: str, _why: str
) -> None:
    """A client whose cable is cut in mid-query is noticed within the configured time: its query is cancelled,
    and the server connection is the next client's.
    """
    reason = namespaces.why_not()
    if reason is not None:
        pytest.skip(reason)
    keepalive = {"tcp_keepalive_idle": "1s", "tcp_keepalive_interval": "1s", "tcp_keepalive_count": 2}
    configured = 1 + 2 * 1
    path = tmp_path / ".s.PGSQL.6432"
    with namespaces.namespaces() as both:
        origin = f"postgresql://{USER}@/{DATABASE}?host={postgres.socket_dir}&port={postgres.port}"
        extra = {
            "listen": {
                "addresses": [f"{namespaces.NEAR}:0", f"unix:{path}"],
                **keepalive,
                "tcp_user_timeout": f"{configured}s",
            },
            "databases": {DATABASE: {"origin": origin}},
        }
        with Pooler(
            postgres,
            pool_size=1,
            certificates=certificates,
            auth="trust",
            extra=extra,
            executable=both.python_near(tmp_path),
        ) as running:
            with RawClient.log_in(str(path)) as honest:
                server = honest.value("select pg_backend_pid()")
                far = both.enter(
                    both.far, sys.executable, "-m", "tests.support.killable", running.host, str(running.port)
                )
                with subprocess.Popen(
                    far, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
                ) as program:
                    assert program.stdin is not None
                    assert program.stdout is not None
                    program.stdin.write(f"{state}\n")
                    program.stdin.flush()
                    pid, _, outcome = program.stdout.readline().partition(" ")
                    assert outcome == f"{state}\n"
                    both.cut()
                    began = time.monotonic()
                    honest.send(messages.query("select pg_backend_pid()"))  # waits for the only server
                    assert honest.value("select pg_backend_pid()") == server
                    took = time.monotonic() - began
                    os.kill(int(pid), signal.SIGKILL)
                print(f"{state}: noticed after {took:.1f} s, configured {configured} s")
                assert took < configured + WITHIN
            (gone,) = [
                event["reason"]
                for event in running.log_events("client disconnected")
                if event["client"].startswith(namespaces.FAR)
            ]
            assert gone == "client vanished"
            assert running.log_events("server disconnected") == []
