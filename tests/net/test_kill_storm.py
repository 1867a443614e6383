"""Clients that are killed in every state, beside honest ones: what the pooler must be like during and after
it.

It runs inside the test, so that its books can be read. `--storm-seconds` or TRIO_POOL_STORM_SECONDS says how
long.
"""

from __future__ import annotations

import os
import random
import signal
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.lowlevel

from tests.net.harness import Running, pooler, program_of_victims, watcher
from tests.net.peer import Peer
from tests.support.killable import MARKER, STATES, TABLE
from tests.support.target import DATABASE, PASSWORD, USER
from trio_pool.net.absent import Absent
from trio_pool.net.errand import OwnLease
from trio_pool.net.listening import APPLICATION_NAME
from trio_pool.pooling.pool import ServerState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.certificates import Certificates
    from trio_pool.cli.postgres import LocalPostgres

pytestmark = pytest.mark.e2e

POOL_SIZE = 4
ASSASSINS = 5
"""More than there are servers, so that some victims die waiting."""
CANCEL = 3.0
"""The timeout within which a server is cleaned, seconds."""
SLACK = 1.0
"""Seconds that a busy machine may add."""
PGBENCH = "begin;\nselect :client_id;\nend;\nselect 1;\n"


@attrs.define(eq=False)
class Storm:
    """Victims of one program (tests/support/killable.py), and who kills them."""

    running: Running
    chance: random.Random
    program: trio.Process
    killed: dict[str, int] = attrs.field(factory=lambda: dict.fromkeys(STATES, 0))
    _there: dict[str, list[int]] = attrs.field(factory=dict)
    _changed: trio.Event = attrs.field(factory=trio.Event)
    _asking: trio.Lock = attrs.field(factory=trio.Lock)

    async def listen(self) -> None:
        """Read who is where."""
        assert self.program.stdout is not None
        unread = b""
        async for chunk in self.program.stdout:
            *lines, unread = (unread + chunk).split(b"\n")
            for line in lines:
                pid, _, state = line.decode().partition(" ")
                self._there.setdefault(state, []).append(int(pid))
            changed, self._changed = self._changed, trio.Event()
            changed.set()

    async def victim(self, state: str) -> int:
        """The process id of a new victim, once it is in its state."""
        assert self.program.stdin is not None
        async with self._asking:
            await self.program.stdin.send_all(f"{state}\n".encode())
        while not self._there.get(state):
            failed = [name for name in self._there if name.startswith(f"{state}: ")]
            assert failed == []
            await self._changed.wait()
        return self._there[state].pop()

    async def kill(self, states: Iterator[str]) -> None:
        """Victims of one assassin, one after the other."""
        for state in states:
            pid = await self.victim(state)
            if self.chance.random() < 0.3:
                await trio.sleep(self.chance.random() * 0.05)  # it may be queued, or forwarded meanwhile
            os.kill(pid, signal.SIGKILL)
            self.killed[state] += 1
            self.running.check()


def states(chance: random.Random, seconds: float) -> Iterator[str]:
    """Every state in turn, in random order, for so long; at least once."""
    until = trio.current_time() + seconds
    while True:
        yield from chance.sample(STATES, len(STATES))
        if trio.current_time() >= until:
            return


async def watch_states(running: Running, pool_size: int) -> None:
    """No server stays longer than it may in a state in which it serves nobody; they are never too many."""
    since: dict[object, tuple[object, float]] = {}
    while True:
        now = trio.current_time()
        running.check()
        pool = running.origin.pool
        assert pool.servers <= pool_size
        others = pool.others
        for state in (ServerState.CLEANING, ServerState.CANCELLING):
            for server in others[state]:
                first = since.get(server, (None, 0.0))
                if first[0] is not state:
                    since[server] = state, now
                else:
                    assert now - first[1] < CANCEL + SLACK, f"{server!r} for {now - first[1]:.1f} s"
        for server, holder in pool.leased.items():
            since.pop(server, None)
            ours = isinstance(holder, OwnLease | Absent)
            assert ours or holder.process_id in running.service.clients.by_id, f"{server!r} leased by nobody"
        for server in pool.idle:
            since.pop(server, None)
        await trio.sleep(0.02)


def count_backends_but(strangers: list[str]) -> str:
    """SQL that counts the backends of the tests' user which were not there before, but for the one that
    listens for all clients.
    """
    return (
        f"select count(*) from pg_stat_activity where usename = '{USER}' and "
        f"application_name <> '{APPLICATION_NAME}' and "
        f"pid <> all('{{{','.join(strangers)}}}')"
    )


async def watch_backends(superuser: Peer, sql: str, pool_size: int) -> None:
    """PostgreSQL never has more connections than the pool may open; one that was closed may take a moment to
    go.
    """
    too_many_since = None
    while True:
        (count,) = await superuser.rows(sql)
        now = trio.current_time()
        if int(count) <= pool_size:
            too_many_since = None
        else:
            too_many_since = too_many_since or now
            assert now - too_many_since < SLACK, f"{count} connections to PostgreSQL"
        await trio.sleep(0.05)


async def ask(running: Running, name: str) -> None:
    """An honest client, which stays for many statements and checks every answer."""
    async with await Peer.log_in_by_password(running.address) as peer:
        number = 0
        while True:
            number += 1
            word = f"{name}-{number}"
            assert await peer.rows("begin") == []
            assert await peer.rows(f"select '{word}'") == [word]
            assert await peer.rows("commit") == []
            assert await peer.rows(f"select '{word}' || current_setting('work_mem')") == [f"{word}4MB"]
            await trio.sleep(0.005)


async def pgbench(postgres: LocalPostgres, running: Running, script: Path, seconds: float) -> None:
    """Honest load by somebody else's program; raises if one of its clients meets an error."""
    host, port = running.address
    options = ["-n", "-c", "3", "-M", "prepared", "-R", "150", "-T", str(max(1, round(seconds)))]
    where = ["-h", host, "-p", str(port), "-U", USER, "-f", str(script)]
    done = await trio.run_process(
        [str(postgres.bin("pgbench")), *options, *where, DATABASE],
        env={**os.environ, "PGPASSWORD": PASSWORD, "PGSSLMODE": "disable"},
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    printed = done.stdout.decode() + done.stderr.decode()
    assert done.returncode == 0, printed
    assert "number of failed transactions: 0" in printed, printed
    assert "aborted" not in printed, printed


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def storm(
    postgres: LocalPostgres, certificates: Certificates, script: Path, seconds: float, seed: int
) -> dict[str, int]:
    """The storm, and what must hold during and after it."""
    timeouts = {"cancel": f"{CANCEL:.0f}s", "lease_wait": "30s"}
    async with watcher(postgres) as superuser:
        already = f"select pid from pg_stat_activity where usename = '{USER}'"
        count_ours = count_backends_but(await superuser.rows(already))
    async with pooler(
        postgres,
        method="scram-sha-256",
        pool_size=POOL_SIZE,
        timeouts=timeouts,
        certificates=certificates,
        limit=seconds * 2 + 60,
    ) as running:
        async with watcher(postgres) as superuser, trio.open_nursery() as nursery:
            async with await Peer.log_in_by_password(running.address) as first:
                assert await first.rows("select 1") == ["1"]
            program = await program_of_victims(nursery, running.address)
            chance = random.Random(seed)
            raging = Storm(running, chance, program)
            nursery.start_soon(raging.listen)
            nursery.start_soon(watch_states, running, POOL_SIZE)
            nursery.start_soon(watch_backends, superuser, count_ours, POOL_SIZE)
            for name in ("honest", "decent"):
                nursery.start_soon(ask, running, name)
            async with trio.open_nursery() as assassins:
                assassins.start_soon(pgbench, postgres, running, script, seconds)
                for _ in range(ASSASSINS):
                    assassins.start_soon(raging.kill, states(chance, seconds))
            nursery.cancel_scope.cancel()
        await running.at_rest()
        listener = running.origin.listening.statistics().connected
        assert len(running.service.poller) == running.origin.pool.servers + listener
        async with watcher(postgres) as superuser:
            sql = f"select query from pg_stat_activity where position($$ {MARKER} $$ in query) > 0"
            assert await superuser.rows(f"{sql} and state = 'active' and pid <> pg_backend_pid()") == []
            assert int(*await superuser.rows(count_ours)) <= POOL_SIZE
    return raging.killed


@pytest.fixture
def table(postgres: LocalPostgres) -> Iterator[None]:
    postgres.run_sql(f"create table {TABLE} (what text); grant all on {TABLE} to {USER}", DATABASE)
    yield
    postgres.run_sql(f"drop table {TABLE}", DATABASE)


@pytest.mark.usefixtures("table")
@pytest.mark.timeout(600)
def test_clients_are_killed_in_every_state(
    postgres: LocalPostgres, certificates: Certificates, tmp_path: Path, storm_seconds: float
) -> None:
    """SIGKILL in any state leaks nothing and disturbs nobody: every server is clean and idle again, what the
    victims ran is cancelled, what they began is undone, honest clients never meet an error, and no descriptor
    is left.
    """
    script = tmp_path / "honest.sql"
    script.write_text(PGBENCH)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    trio.run(trio.lowlevel.checkpoint)  # whatever Trio keeps for ever is there from now on
    before = descriptors()
    killed = trio.run(storm, postgres, certificates, script, storm_seconds, seed)
    print(f"killed {sum(killed.values())}: {killed}")
    assert min(killed.values()) >= 1
    assert descriptors() == before
    assert postgres.run_sql(f"select count(*) from {TABLE}", DATABASE) == "0\n"
