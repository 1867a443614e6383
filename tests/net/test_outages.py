"""The database goes away and comes back, is full, or hangs: who is told, when, and how it is asked again."""

from __future__ import annotations

import contextlib
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.lowlevel

from tests.net import origins
from tests.net.clusters import full_backlog
from tests.net.harness import Running, pooler, watcher
from tests.net.origins import greeting, let_in, read_startup, row, scripted
from tests.net.peer import Message, Peer
from tests.support import requests
from tests.support.target import DATABASE, USER
from trio_pool.cli.postgres import LocalPostgres
from trio_pool.config.origin import TcpOptions
from trio_pool.net import sockets
from trio_pool.net.backoff import LONGEST_BACKOFF, LONGEST_WAITED_FOR, Backoff
from trio_pool.net.mailbox import Mailbox
from trio_pool.wire import messages
from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from trio.testing import MockClock

    from trio_pool.cli.postgres import Installation, StopMode

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

CONNECTIONS = 7
"""What PostgreSQL has for others than superusers."""
RESERVED = 3
SLEEP = "select pg_sleep(600)"
READY = messages.READY[ord("I")]


@pytest.fixture(scope="module")
def own_postgres(installation: Installation) -> Iterator[LocalPostgres]:
    """A PostgreSQL that may be restarted, with few connections."""
    settings: dict[str, str | int | bool] = {
        "max_connections": CONNECTIONS + RESERVED,
        "superuser_reserved_connections": RESERVED,
    }
    with LocalPostgres(bin_dir=installation.bin_dir, settings=settings) as pg:
        pg.run_sql(f"create role {USER} login; create database {DATABASE} owner {USER}")
        yield pg


async def stop(pg: LocalPostgres, mode: StopMode) -> None:
    await trio.to_thread.run_sync(pg.stop, mode)


async def start(pg: LocalPostgres) -> None:
    await trio.to_thread.run_sync(pg.start)


async def in_queue(running: Running, clients: int = 1) -> None:
    """Return when so many clients wait for a server."""
    await running.until(lambda: len(running.origin.pool.waiting) >= clients)


def check_one_error(exchange: list[Message], status: bytes) -> str:
    """The SQLSTATE of the only error in the answer to a request, which ends in this status."""
    errors = [messages.read_error(body) for tag, body in exchange if tag == Backend.ERROR_RESPONSE]
    assert [error.severity for error in errors] == ["ERROR"]
    assert exchange[-1] == (Backend.READY_FOR_QUERY, status)
    return errors[0].sqlstate


# -- a restart -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_restart(own_postgres: LocalPostgres, mode: StopMode) -> None:
    """Outside a transaction a restart is not noticed, before, during or after it; who runs a statement or has
    a transaction open gets one error, and stays; the transaction has to be ended.
    """
    extended = requests.parse("", SLEEP) + requests.bind("") + requests.execute() + requests.SYNC
    async with (
        pooler(own_postgres, pool_size=CONNECTIONS, timeouts={"lease_wait": "60s"}, limit=90) as running,
        await running.log_in() as resting,
        await running.log_in() as asleep,
        await running.log_in() as prepared,
        await running.log_in() as opened,
        await running.log_in() as busy,
    ):
        assert await resting.rows("set work_mem = '7MB'") == []
        await asleep.send(messages.query(SLEEP))
        await prepared.send(extended)
        for peer in (opened, busy):
            assert await peer.rows("begin") == []
            assert await peer.rows("select 1") == ["1"]
        await busy.send(messages.query(SLEEP))
        async with watcher(own_postgres) as superuser:
            running_ = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"
            while await superuser.rows(running_) != ["3"]:
                await trio.lowlevel.checkpoint()

        await stop(own_postgres, mode)
        assert check_one_error(await asleep.exchange(), b"I") == "08006"
        assert check_one_error(await prepared.exchange(), b"I") == "08006"
        assert check_one_error(await busy.exchange(), b"E") == "08006"
        await running.until(lambda: not running.origin.pool.leased)
        assert [e.sqlstate for e in await opened.run("select 2")] == ["08006"]
        assert [e.sqlstate for e in await opened.run("select 3")] == ["25P02"]
        assert [e.sqlstate for e in await busy.run("select 3")] == ["25P02"]
        assert await opened.rows("rollback") == []
        await resting.send(messages.query("show work_mem"))
        await asleep.send(messages.query("select 4"))
        await in_queue(running, 2)
        async with await running.log_in() as newcomer:  # greeted although nothing is there
            await newcomer.send(messages.query("select 5"))
            await in_queue(running, 3)

            await start(own_postgres)
            assert await resting.read_rows() == ["7MB"]
            assert await asleep.read_rows() == ["4"]
            assert await newcomer.read_rows() == ["5"]
        assert await busy.rows("rollback") == []
        for peer in (prepared, opened, busy):
            assert await peer.rows("select 6") == ["6"]
        await running.at_rest(clients=5)


@attrs.define(eq=False)
class Regular:
    """A client that goes on through everything, and notes what it was told."""

    running: Running
    name: str
    answered: int = 0
    told: list[str] = attrs.field(factory=list)
    """The SQLSTATEs of its errors."""

    async def work(self) -> None:
        async with await self.running.log_in() as peer:
            while True:
                word = f"{self.name} {self.answered}"
                if self.answered % 2:
                    await self._ask(peer, messages.query(f"select '{word}'"), word)
                    await self._ask(
                        peer,
                        requests.parse("", "select $1::text")
                        + requests.bind("", word)
                        + requests.execute()
                        + requests.SYNC,
                        word,
                    )
                else:
                    await self._ask(peer, messages.query("begin"), None)
                    await self._ask(peer, messages.query(f"select '{word}'"), word)
                    await self._ask(peer, messages.query("rollback"), None)
                self.answered += 1

    async def _ask(self, peer: Peer, request: bytes, expected: str | None) -> None:
        await peer.send(request)
        exchange = await peer.exchange()
        assert exchange[-1][0] == Backend.READY_FOR_QUERY
        errors = [messages.read_error(body) for tag, body in exchange if tag == Backend.ERROR_RESPONSE]
        assert len(errors) <= 1
        if errors:
            self.told.append(errors[0].sqlstate)
        elif expected is not None:
            (row_,) = [body for tag, body in exchange if tag == Backend.DATA_ROW]
            assert row_[6:].decode() == expected


async def test_restarts_under_load(own_postgres: LocalPostgres) -> None:
    """Every request gets its own answer or one error: 08006, or 25P02 where it has lost its transaction."""
    async with pooler(own_postgres, pool_size=4, timeouts={"lease_wait": "60s"}, limit=100) as running:
        regulars = [Regular(running, f"regular {number}") for number in range(8)]

        async def served() -> None:
            before = [one.answered for one in regulars]
            await running.until(
                lambda: all(one.answered > then + 2 for one, then in zip(regulars, before, strict=True))
            )

        async with trio.open_nursery() as nursery:
            for one in regulars:
                nursery.start_soon(one.work)
            await served()
            for mode in ("fast", "immediate"):
                await stop(own_postgres, mode)
                await start(own_postgres)
                await served()
            nursery.cancel_scope.cancel()
        told = {sqlstate for one in regulars for sqlstate in one.told}
        assert told <= {"08006", "25P02"}
        await running.at_rest()


# -- full, starting, stopping --------------------------------------------------------------------------------

BUSY = {
    "full": ("53300", "sorry, too many clients already"),
    "reserved": (
        "53300",
        "remaining connection slots are reserved for roles with the SUPERUSER attribute",
    ),
    "starting": ("57P03", "the database system is starting up"),
    "stopping": ("57P03", "the database system is shutting down"),
    "recovering": ("57P03", "the database system is not accepting connections"),
}


@pytest.mark.parametrize(("sqlstate", "words"), BUSY.values(), ids=BUSY.keys())
async def test_a_passing_refusal_is_waited_out(sqlstate: str, words: str) -> None:
    """A client is not told that the origin is full or starts; if that lasts for `lease_wait` it gets 08001
    with the origin's words.
    """
    refusals = 3

    async def refuse(peer: Peer, number: int) -> None:
        await read_startup(peer)
        if number < refusals:
            await peer.send(messages.error(sqlstate, words, severity="FATAL"))
            return
        await peer.send(greeting())
        await peer.receive()
        await peer.send(row("1") + READY)

    async with (
        scripted(refuse) as origin,
        pooler(origins.url(origin.port), timeouts={"lease_wait": "1s"}) as running,
        await running.log_in() as peer,
    ):
        assert await peer.rows("select 1") == ["1"]
        assert len(running.log.find("server connect failed", sqlstate=sqlstate)) == 3
        await running.until(lambda: not running.origin.pool.servers)
        refusals = 1000
        (error,) = await peer.run("select 2")
        assert (error.severity, error.sqlstate) == ("ERROR", "08001")
        assert error.summary == f"cannot connect to the origin: {words}"


async def test_a_full_origin_serves_with_what_there_is(own_postgres: LocalPostgres) -> None:
    """A pool that cannot have all its servers works with those it has: nobody is told why there are no more,
    but whose `lease_wait` ends.
    """
    async with (
        pooler(own_postgres, pool_size=CONNECTIONS + 5, timeouts={"lease_wait": "20s"}) as running,
        crowd(running, CONNECTIONS) as holders,
        crowd(running, 10) as others,
    ):
        for holder in holders:
            assert await holder.rows("begin; select 1") == ["1"]
        for number, other in enumerate(others):
            await other.send(messages.query(f"select {number}"))
        await in_queue(running, len(others))
        logged = await running.log.wait_for("server connect failed")
        assert logged["sqlstate"] == "53300"
        assert len(running.origin.pool.leased) == CONNECTIONS
        for holder in holders:
            assert await holder.rows("commit") == []
        for number, other in enumerate(others):
            assert await other.read_rows() == [str(number)]
        await running.at_rest(clients=len(holders) + len(others))


async def test_a_full_origin_that_has_room_again(own_postgres: LocalPostgres) -> None:
    """Clients of a pool without a server wait until the others leave; after `lease_wait` they are told."""
    path = f"{own_postgres.socket_dir}/.s.PGSQL.{own_postgres.port}"
    async with (
        pooler(own_postgres, pool_size=2, timeouts={"lease_wait": "1s"}) as running,
        await running.log_in() as peer,
    ):
        assert await peer.rows("select 1") == ["1"]
        async with watcher(own_postgres) as superuser, contextlib.AsyncExitStack() as slots:
            pid = next(iter(running.origin.pool.idle)).dialled.login.process_id
            await superuser.rows(f"select pg_terminate_backend({pid}, 5000)")
            await running.until(lambda: not running.origin.pool.servers)
            for _ in range(CONNECTIONS - 1):  # the superuser has one, too
                slot = await slots.enter_async_context(await Peer.connect(path))
                await slot.start({"user": USER, "database": DATABASE})
            (error,) = await peer.run("select 2")
            assert error.sqlstate == "08001"
            assert error.summary.startswith("cannot connect to the origin: ")
            assert running.log.find("server connect failed", sqlstate="53300") != []
            await peer.send(messages.query("select 3"))
            await in_queue(running)
            await slots.aclose()
            assert await peer.read_rows() == ["3"]


async def test_a_password_that_was_changed_leaves_working_servers_alone() -> None:
    """Not even a lasting refusal of one more server is told while others can serve."""
    answering = trio.Event()

    async def script(peer: Peer, number: int) -> None:
        if number:
            await read_startup(peer)
            await peer.send(messages.error("28P01", "no", severity="FATAL"))
            return
        await let_in(peer)
        while await peer.receive() is not None:
            await answering.wait()
            await peer.send(row("1") + READY)

    async with (
        scripted(script) as origin,
        pooler(origins.url(origin.port), pool_size=2) as running,
        await running.log_in() as first,
        await running.log_in() as second,
    ):
        await first.send(messages.query("select 1"))
        await running.until(lambda: bool(running.origin.pool.leased))
        await second.send(messages.query("select 1"))
        await running.log.wait_for("server connect failed")
        assert len(running.origin.pool.waiting) == 1
        answering.set()
        assert await first.read_rows() == ["1"]
        assert await second.read_rows() == ["1"]


# -- silence -------------------------------------------------------------------------------------------------


async def test_an_origin_that_answers_no_syn() -> None:
    """The attempt ends after `server_connect`, and names the host."""
    timeouts = {"server_connect": "150ms", "lease_wait": "400ms"}
    with full_backlog() as port:
        async with pooler(origins.url(port), timeouts=timeouts) as running:
            async with await Peer.connect(running.address) as peer:
                await peer.send(messages.startup({"user": USER, "database": DATABASE}))
                error = await peer.farewell()
                assert error.sqlstate == "08001"
                expected = f"cannot connect to the origin: 127.0.0.1:{port} did not answer within 0.1"
                assert error.summary.startswith(expected)
            assert running.log.find("server connect failed", reason="server connect timeout") != []


async def test_an_origin_that_is_silent_for_longer_than_clients_wait() -> None:
    """The cause is told although the attempt has not failed yet."""

    async def say_nothing(peer: Peer, _: int) -> None:
        await peer.more()
        await peer.more()

    timeouts = {"server_connect": "10s", "lease_wait": "200ms"}
    async with (
        scripted(say_nothing) as origin,
        pooler(origins.url(origin.port), timeouts=timeouts) as running,
        await Peer.connect(running.address) as peer,
    ):
        await peer.send(messages.startup({"user": USER, "database": DATABASE}))
        error = await peer.farewell()
        assert error.sqlstate == "08001"
        assert f"no answer from postgresql://{USER}@127.0.0.1:{origin.port}/{DATABASE}" in error.summary


async def test_a_full_unix_socket_refuses() -> None:
    """A Unix socket whose queue is full is an error at once, not a connection that breaks later."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind("")  # an abstract name, chosen by Linux
        listener.listen(0)
        where = listener.getsockname()
        code = 0
        while not code:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.setblocking(False)
            code = sock.connect_ex(where)
        with pytest.raises(BlockingIOError):
            await sockets.connect((socket.AF_UNIX, where), TcpOptions())


# -- asking again --------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class Counting:
    """An origin that takes its time to log somebody in, and counts who does at the same time.

    It answers nobody before `wanted` have logged in.
    """

    wanted: int = 1
    most: int = 0
    logins: int = 0
    _all_there: trio.Event = attrs.field(factory=trio.Event)
    _now: int = 0

    async def __call__(self, peer: Peer, _: int) -> None:
        self._now += 1
        self.logins += 1
        self.most = max(self.most, self._now)
        await read_startup(peer)
        await trio.sleep(0.02)  # as long as a login takes across a network
        self._now -= 1
        await peer.send(greeting())
        if self.logins == self.wanted:
            self._all_there.set()
        while await peer.receive() is not None:
            await self._all_there.wait()
            await peer.send(row("1") + READY)

    def begin_again(self, wanted: int) -> None:
        self.logins, self.wanted, self._all_there = 0, wanted, trio.Event()


async def test_the_origin_is_not_stormed_when_it_returns() -> None:
    """200 clients that have waited for it cause as many logins as the pool has servers, one at a time."""
    counting = Counting()
    async with (
        scripted(counting) as origin,
        pooler(origins.url(origin.port), pool_size=5, timeouts={"lease_wait": "20s"}) as running,
        crowd(running, 200) as peers,
        trio.open_nursery() as nursery,
    ):
        assert await peers[0].rows("select") == ["1"]
        origin.listening.cancel()
        for server in list(running.origin.pool.idle):
            server.transport.shutdown()
        await running.until(lambda: not running.origin.pool.servers)
        counting.begin_again(wanted=5)
        for peer in peers:
            await peer.send(messages.query("select"))
        await in_queue(running, len(peers))
        await running.log.wait_for("server connect failed")
        async with origins.listening(origin):
            for peer in peers:
                nursery.start_soon(expect_one, peer)
            await running.until(lambda: not running.origin.pool.waiting)
            assert counting.logins == 5
            assert counting.most == 1
            await running.at_rest(clients=200)


@asynccontextmanager
async def crowd(running: Running, size: int) -> AsyncIterator[list[Peer]]:
    """So many clients."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(await running.log_in()) for _ in range(size)]


async def expect_one(peer: Peer) -> None:
    assert await peer.read_rows() == ["1"]


async def test_pauses_are_short_while_somebody_waits(autojump_clock: MockClock) -> None:
    """None is longer than a second, however long the origin has been down."""
    backoff = Backoff()
    pauses = [await _pause(backoff, waited_for=True) for _ in range(20)]
    assert pauses[0] <= 0.05
    assert max(pauses) <= LONGEST_WAITED_FOR
    assert len(set(pauses[-10:])) == 10, "jittered"


async def test_a_long_pause_ends_when_somebody_comes(autojump_clock: MockClock) -> None:
    """While nobody waits the pauses grow longer; who comes in the middle of one does not sit it out."""
    backoff = Backoff()
    pauses = [await _pause(backoff, waited_for=False) for _ in range(20)]
    assert LONGEST_BACKOFF / 2 <= pauses[-1] <= LONGEST_BACKOFF
    mailbox = Mailbox()
    waiting: list[str] = []
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(backoff.wait_for, lambda: bool(waiting), mailbox)
        await trio.sleep(1.5)
        mailbox.wake()
        await trio.sleep(0.5)
        waiting.append("a client")
        mailbox.wake()
    assert trio.current_time() - began == pytest.approx(2.0)


async def _pause(backoff: Backoff, *, waited_for: bool) -> float:
    began = trio.current_time()
    await backoff.wait_for(lambda: waited_for, Mailbox())
    return trio.current_time() - began
