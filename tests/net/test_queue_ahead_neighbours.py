"""What happens to a client must not happen to those whose reads stand in the same server's queue."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support import requests
from tests.support.ahead import BLOCKED, OPEN, Sharing, sharing
from tests.support.limited import slow_reader
from tests.support.requests import Reply
from tests.support.talk import (
    ask,
    done,
    executed,
    extended,
    nothing_comes,
    refused,
    replies,
    selected,
    told,
)
from tests.support.target import DATABASE
from trio_pool.errors import Reason
from trio_pool.net import queue_ahead, server_queue
from trio_pool.net.server_queue import ServerQueue
from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    from tests.net.peer import Peer
    from trio_pool.cli.postgres import LocalPostgres
    from trio_pool.net.client import Client

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

SYNC = requests.SYNC
FIRST = "select 'first'"
BIG_ROWS = 20_000
BIG = f"select repeat('x', 1000) from generate_series(1, {BIG_ROWS})"
"""More than all sockets on the way hold."""
SOON = "1ms"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those behind look for another server at once."""
    monkeypatch.setattr(queue_ahead, "PATIENCE", 0.0)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks for another server because of the time."""
    monkeypatch.setattr(queue_ahead, "PATIENCE", 1e9)


def reset(peer: Peer) -> None:
    """End the connection as the system of a killed program does that has left something unread."""
    assert isinstance(peer.stream, trio.SocketStream)
    sock = peer.stream.socket
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def leave(peer: Peer, way: str) -> None:
    if way == "reset":
        reset(peer)
    elif way == "half-close":
        assert isinstance(peer.stream, trio.SocketStream)
        peer.stream.socket.shutdown(socket.SHUT_WR)
    else:
        peer.close()


async def line_up(shared: Sharing, *peers: Peer) -> None:
    """They stand in a queue, in this order, each with a statement that tells its number."""
    for number, peer in enumerate(peers):
        await peer.send(requests.query(f"select {number}"))
        await shared.queued(peer)


async def answered(*peers: Peer | None) -> None:
    """Each gets its own answer, once."""
    for number, peer in enumerate(peers):
        if peer is not None:
            assert await told(peer) == selected(str(number))
    for peer in peers:
        if peer is not None:
            assert await ask(peer, "select 'next'") == selected("next")


# -- errors --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("protocol", ["simple", "extended", "bind"])
async def test_an_error_is_its_own(postgres: LocalPostgres, protocol: str) -> None:
    """Whoever fails gets the error, and those around it their answers."""
    async with sharing(postgres) as shared, await shared.running.log_in() as holder:
        peers = [await shared.running.log_in() for _ in range(3)]
        failing = {
            "simple": requests.query("select 1 / n from ahead_gate where 1 / (n - 7) > 0"),
            "extended": extended("select 1 / (n - 7) from ahead_gate") + SYNC,
            "bind": extended("select $1::int", "no number") + SYNC,
        }[protocol]
        await shared.know(holder, requests.query("select 0"))
        await shared.know(holder, failing)
        await shared.hold(holder)
        await line_up(shared, peers[0])
        await peers[1].send(failing)
        await shared.queued(peers[1])
        await peers[2].send(requests.query("select 0"))
        await shared.queued(peers[2])
        await shared.gate.open()
        assert await told(holder) == selected(OPEN)
        await answered(peers[0])
        error = "22P02" if protocol == "bind" else "22012"
        assert (await told(peers[1]))[-2:] == refused(error)
        await answered(peers[2])
        for peer in peers:
            await peer.stream.aclose()


# -- cancel requests and time limits -------------------------------------------------------------------------


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("who", ["ahead", "behind"])
async def test_a_cancel_request_is_for_one(postgres: LocalPostgres, who: str) -> None:
    """57014 is for the client that has asked for it, at once if its turn has not come."""
    async with (
        sharing(postgres) as shared,
        await shared.running.log_in() as holder,
        await shared.running.log_in() as one,
        await shared.running.log_in() as two,
    ):
        await shared.know(one, requests.query("select 0"))
        await shared.hold(holder)
        await line_up(shared, one, two)
        if who == "ahead":
            await holder.request_cancel()
            assert (await told(holder))[-2:] == refused("57014")
            await answered(one, two)
            await shared.gate.open()
        else:
            await one.request_cancel()
            assert await told(one) == refused("57014")
            await nothing_comes(two, 0.02)
            await shared.gate.open()
            assert await told(holder) == selected(OPEN)
            await answered(None, two)
            assert await ask(one, FIRST) == selected("first")


@pytest.mark.usefixtures("patient")
async def test_many_cancel_requests_among_neighbours(postgres: LocalPostgres) -> None:
    """However cancel requests of some fall between the turns, nobody else sees 57014."""
    async with sharing(postgres, pool_size=2, limit=60) as shared, await shared.running.log_in() as teacher:
        await shared.know(teacher, requests.query("select 0"))
        slow = "select count(*) from generate_series(1, 20000)"
        await shared.know(teacher, requests.query(slow))
        cancelled = 0

        async def read(number: int) -> None:
            async with await shared.running.log_in() as peer:
                for turn in range(80):
                    found = 1000 * number + turn
                    assert await ask(peer, f"select {found}") == selected(str(found))

        async def cancel(number: int) -> None:
            nonlocal cancelled
            async with await shared.running.log_in() as peer:
                for turn in range(25):
                    await peer.send(requests.query(slow))
                    await trio.sleep((turn * number % 7) * 0.001)
                    await peer.request_cancel()
                    answer = await told(peer)
                    assert answer == selected("20000") or answer[-2:] == refused("57014")
                    cancelled += answer != selected("20000")

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(read, number)
            for number in range(1, 4):
                nursery.start_soon(cancel, number)
        print(f"{cancelled} cancelled, {shared.ahead.statistics}")


@pytest.mark.usefixtures("patient")
async def test_its_own_cancel_request_behind_a_neighbours(postgres: LocalPostgres) -> None:
    """Who has waited behind a cancelled statement can still cancel its own."""
    async with (
        sharing(postgres) as shared,
        await shared.running.log_in() as holder,
        await shared.running.log_in() as one,
    ):
        await shared.hold(holder)
        await one.send(requests.query(BLOCKED))
        await shared.queued(one)
        await holder.request_cancel()
        assert (await told(holder))[-2:] == refused("57014")
        await shared.running.until(lambda: shared.client(one).server is not None)
        await shared.gate.waits()
        await one.request_cancel()
        with trio.fail_after(5):
            assert (await told(one))[-2:] == refused("57014")
        await shared.gate.open()


@pytest.mark.usefixtures("patient")
async def test_a_time_limit_is_for_one(postgres: LocalPostgres) -> None:
    """`query` ends what takes too long, and each has its time from its own turn on."""
    async with (
        sharing(postgres, timeouts={"query": "300ms"}) as shared,
        await shared.running.log_in() as holder,
        await shared.running.log_in() as one,
        await shared.running.log_in() as two,
    ):
        await shared.know(one, requests.query("select 0"))
        await shared.hold(holder)
        await line_up(shared, one, two)
        answer = await told(holder)
        assert answer[-2:] == refused("57014")
        await answered(one, two)
        await shared.gate.open()
        assert await ask(holder, FIRST) == selected("first")


@pytest.mark.usefixtures("patient")
async def test_two_time_limits_one_behind_the_other(postgres: LocalPostgres) -> None:
    """Each of three that take too long gets 57014, once, within its own time."""
    async with sharing(postgres, timeouts={"query": "200ms"}) as shared:
        peers = [await shared.running.log_in() for _ in range(3)]
        await shared.hold(peers[0])
        for peer in peers[1:]:
            await peer.send(requests.query(BLOCKED))
            await shared.queued(peer)
        for peer in peers:
            with trio.fail_after(8):
                assert (await told(peer))[-2:] == refused("57014")
        await shared.gate.open()
        for peer in peers:
            assert await ask(peer, FIRST) == selected("first")
            await peer.stream.aclose()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("idle", [False, True], ids=["at once", "after a while"])
async def test_lease_wait_behind_a_slow_one(postgres: LocalPostgres, idle: bool) -> None:
    """Who waits for its turn longer than `lease_wait` gets 53300 then, however long it was idle before."""
    async with (
        sharing(postgres, timeouts={"lease_wait": "300ms", "idle_in_transaction": "0"}) as shared,
        await shared.running.log_in() as holder,
        await shared.running.log_in() as one,
    ):
        await shared.know(one, requests.query("select 0"))
        await shared.hold(holder)
        if idle:
            await trio.sleep(0.5)  # longer than `lease_wait`
        await line_up(shared, one)
        with trio.fail_after(5):
            assert await told(one) == refused("53300")
        assert shared.client(one).queued is None
        await shared.gate.open()
        assert await told(holder) == selected(OPEN)
        assert await ask(one, FIRST) == selected("first")


# -- slow neighbours -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("patient")
async def test_those_behind_a_slow_one_are_asked_elsewhere(
    postgres: LocalPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the first free server, in order, and each has one answer."""
    async with (
        sharing(postgres, pool_size=2) as shared,
        await shared.running.log_in() as holder,
        await shared.running.log_in() as other,
        await shared.running.log_in() as one,
        await shared.running.log_in() as two,
    ):
        await shared.know(one, requests.query("select 0"))
        assert await ask(other, "begin") == done("BEGIN", "T")
        assert await ask(other, FIRST) == selected("first", status="T")
        await shared.hold(holder)
        await line_up(shared, one, two)
        monkeypatch.setattr(queue_ahead, "PATIENCE", 0.0)
        await shared.running.until(lambda: shared.ahead.statistics.hedged == 2)
        assert shared.client(one).waits
        assert await ask(other, "commit") == done("COMMIT")
        await answered(one, two)
        assert shared.ahead.statistics.hedged == 2
        await nothing_comes(holder, 0.02)
        await shared.gate.open()
        assert await told(holder) == selected(OPEN)
        await nothing_comes(one, 0.05)
        await nothing_comes(two, 0.01)


@pytest.mark.usefixtures("patient")
async def test_all_have_left_a_slow_one(postgres: LocalPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody waits for any more is cancelled, and the server is as good as before."""
    async with (
        sharing(postgres, pool_size=2) as shared,
        await shared.running.log_in() as other,
        await shared.running.log_in() as one,
        await shared.running.log_in() as two,
    ):
        holder = await shared.running.log_in()
        await shared.know(one, requests.query("select 0"))
        assert await ask(other, "begin") == done("BEGIN", "T")
        assert await ask(other, FIRST) == selected("first", status="T")
        await shared.hold(holder)
        await line_up(shared, one, two)
        monkeypatch.setattr(queue_ahead, "PATIENCE", 0.0)
        reset(holder)
        await shared.running.until(lambda: shared.ahead.statistics.hedged == 2)
        assert await ask(other, "commit") == done("COMMIT")
        await answered(one, two)
        await shared.gate.waits(0)
        await shared.running.until(lambda: len(shared.running.origin.pool.idle) == 2)
        await shared.gate.open()


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("size", ["in full", "the rest by and by"])
@pytest.mark.parametrize("count", [1, 2])
async def test_a_neighbour_that_reads_slowly(postgres: LocalPostgres, size: str, count: int) -> None:
    """What it does not read is bounded; those behind it are answered when it has read, or elsewhere."""
    async with (
        sharing(postgres, pool_size=count) as shared,
        await shared.running.log_in() as other,
        await shared.running.log_in() as one,
        await shared.running.log_in() as two,
        await slow_reader(shared.running) as slow,
    ):
        await shared.know(one, requests.query("select 0"))
        await shared.know(slow, requests.query(BIG))
        if count == 2:
            assert await ask(other, "begin") == done("BEGIN", "T")
            assert await ask(other, FIRST) == selected("first", status="T")
        # One in front of it, so that those behind are there before the answer is.
        holder = await shared.running.log_in()
        await shared.hold(holder)
        await slow.send(requests.query(BIG))
        await shared.queued(slow)
        await line_up(shared, one, two)
        await shared.gate.open()
        assert await told(holder) == selected(OPEN)
        await holder.stream.aclose()
        await shared.running.until(lambda: shared.client(one).waits)
        if count == 2:
            assert await ask(other, "commit") == done("COMMIT")
            await answered(one, two)
        rows = 0
        while (message := await slow.receive()) is not None and message[0] != Backend.READY_FOR_QUERY:
            rows += message[0] == Backend.DATA_ROW
            if size == "the rest by and by" and rows % 2000 == 0:
                await trio.sleep(0.01)
        assert rows == BIG_ROWS
        if count == 1:
            with trio.fail_after(10):
                await answered(one, two)
        assert await ask(slow, FIRST) == selected("first")


@pytest.mark.usefixtures("patient")
async def test_the_end_of_a_slow_readers_answer(
    postgres: LocalPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has not read what it got last, and its turn is over: the server is read for the next."""
    monkeypatch.setattr(server_queue, "MOST_BUFFERED", 0)
    notes = ServerQueue._reads_slowly

    def only_at_the_end(queue: ServerQueue, client: Client, size: int) -> None:
        """As if everything before had just been within the bound."""
        if queue.server.session.answered != queue.number:
            notes(queue, client, size)

    monkeypatch.setattr(ServerQueue, "_reads_slowly", only_at_the_end)
    text = "select repeat('x', 6000000)"
    async with (
        sharing(postgres) as shared,
        await shared.running.log_in() as holder,
        await shared.running.log_in() as one,
        await slow_reader(shared.running) as slow,
    ):
        later = requests.query("select count(*) from generate_series(1, 1000000)")  # not in the same segment
        await shared.know(one, later)
        await shared.know(slow, requests.query(text))
        await shared.hold(holder)
        await slow.send(requests.query(text))
        await shared.queued(slow)
        await one.send(later)
        await shared.queued(one)
        await shared.gate.open()
        assert await told(holder) == selected(OPEN)
        with trio.fail_after(5):
            assert await told(one) == selected("1000000")
        assert await told(slow) == selected("x" * 6000000)


@pytest.mark.usefixtures("patient")
async def test_a_slow_reader_that_never_reads(postgres: LocalPostgres) -> None:
    """It is closed in the middle of its answer: those behind it get theirs."""
    async with (
        sharing(postgres) as shared,
        await shared.running.log_in() as holder,
        await shared.running.log_in() as one,
        await shared.running.log_in() as two,
    ):
        slow = await slow_reader(shared.running)
        await shared.know(one, requests.query("select 0"))
        await shared.know(slow, requests.query(BIG))
        await shared.hold(holder)
        await slow.send(requests.query(BIG))
        await shared.queued(slow)
        await line_up(shared, one, two)
        await shared.gate.open()
        assert await told(holder) == selected(OPEN)
        await shared.running.until(lambda: shared.client(one).waits)
        reset(slow)
        with trio.fail_after(10):
            await answered(one, two)


# -- neighbours that go -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("way", ["close", "reset", "half-close"])
@pytest.mark.parametrize("place", [0, 1, 2, 3])
async def test_a_neighbour_that_vanishes(postgres: LocalPostgres, place: int, way: str) -> None:
    """In front of others, among them, behind them: they get their answers, it gets none."""
    async with sharing(postgres) as shared:
        peers = [await shared.running.log_in() for _ in range(4)]
        await shared.know(peers[0], requests.query("select 0"))
        await shared.hold(peers[0])
        await line_up(shared, *peers[1:])
        leave(peers[place], way)
        await shared.running.until(lambda: len(shared.running.service.clients) == 3)
        await shared.gate.open()
        if place:
            assert await told(peers[0]) == selected(OPEN)
        await answered(*(peer if peer is not peers[place] else None for peer in peers[1:]))
        for peer in peers:
            await trio.aclose_forcefully(peer.stream)


@pytest.mark.usefixtures("patient")
async def test_all_vanish(postgres: LocalPostgres) -> None:
    """What they left running is cancelled."""
    async with sharing(postgres) as shared:
        peers = [await shared.running.log_in() for _ in range(4)]
        await shared.know(peers[0], requests.query("select 0"))
        await shared.hold(peers[0])
        await line_up(shared, *peers[1:])
        for peer in peers:
            reset(peer)
        await shared.gate.waits(0)
        await shared.running.at_rest()
        await shared.gate.open()


# -- servers that go -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("protocol", ["simple", "extended"])
async def test_a_server_that_is_killed(postgres: LocalPostgres, protocol: str) -> None:
    """Who was running gets the error; those behind are asked again on another server, and know nothing."""
    async with (
        sharing(postgres, keeps=False) as shared,
        await shared.running.log_in() as holder,
        await shared.running.log_in() as one,
        await shared.running.log_in() as two,
        await shared.running.log_in() as three,
    ):
        await shared.know(one, requests.query("select 0"))
        sent = extended("select $1::text", "three") + SYNC
        if protocol == "extended":
            await replies(three, requests.parse("s", "select $1::text") + SYNC)
            sent = requests.bind("s", "three") + requests.execute() + SYNC
        await shared.know(three, sent)
        await shared.hold(holder)
        await line_up(shared, one, two)
        await three.send(sent)
        await shared.queued(three)
        blocked = "select pid from pg_locks where not granted and relation = 'ahead_gate'::regclass"
        await shared.gate.superuser.rows(f"select pg_terminate_backend(pid) from ({blocked}) as b")
        assert await told(holder) == refused("08006")
        await answered(one, two)
        expected = [*executed("three"), Reply("Z", "I")]
        assert await told(three) == (expected if protocol == "simple" else expected[1:])
        assert shared.ahead.statistics.repeated == 3
        await shared.gate.open()
        assert await ask(holder, FIRST) == selected("first")


@pytest.mark.usefixtures("patient")
async def test_servers_that_are_gone_are_forgotten(postgres: LocalPostgres) -> None:
    """Nothing of a server is kept when it has ended."""
    async with sharing(postgres, keeps=False) as shared, await shared.running.log_in() as peer:
        for _ in range(5):
            (pid,) = await peer.rows("select pg_backend_pid()")
            await shared.gate.superuser.rows(f"select pg_terminate_backend({pid})")
            pool = shared.running.origin.pool
            await another_server(shared, int(pid))
        assert set(shared.ahead._fresh) <= {*pool.idle, *pool.leased}


async def another_server(shared: Sharing, pid: int) -> None:
    """Return when there is one, and it is not this one."""
    await shared.running.until(lambda: pool_pids(shared) not in (set(), {pid}))


def pool_pids(shared: Sharing) -> set[int]:
    return {server.dialled.login.process_id for server in shared.running.origin.pool.idle}


@pytest.mark.usefixtures("patient")
async def test_a_busy_queue_does_not_outlive_its_server(postgres: LocalPostgres) -> None:
    """`server_lifetime` holds though there is always a next one."""
    async with (
        sharing(postgres, keeps=False, timeouts={"server_lifetime": "500ms"}) as shared,
        await shared.running.log_in() as teacher,
    ):
        await shared.know(teacher, requests.query("select 0"))
        enough = trio.Event()

        async def read(number: int) -> None:
            async with await shared.running.log_in() as peer:
                while not enough.is_set():
                    assert await peer.rows(f"select {number}") == [str(number)]

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(read, number)
            await shared.running.until(lambda: shared.ahead.statistics.queued > 0)
            since = shared.running.log.mark()
            with trio.fail_after(10):
                await shared.running.log.wait_for(
                    "server disconnected", since=since, reason=Reason.SERVER_LIFETIME.value
                )
            enough.set()


# -- what servers say by themselves --------------------------------------------------------------------------


@pytest.mark.usefixtures("patient")
async def test_settings_that_the_server_changes_by_itself(postgres: LocalPostgres) -> None:
    """A reload of the configuration between turns: every client learns the new value, once."""
    async with (
        sharing(postgres) as shared,
        await shared.running.log_in() as holder,
        await shared.running.log_in() as one,
        await shared.running.log_in() as two,
    ):
        await shared.know(one, requests.query("select 0"))
        await shared.hold(holder)
        await line_up(shared, one, two)
        try:
            postgres.run_sql("alter system set timezone = 'Asia/Tokyo'")
            postgres.run_sql("select pg_reload_conf()")
            await trio.sleep(0.2)  # the signal has to get to the backend
            await shared.gate.open()
            seen = {}
            for name, peer in (("holder", holder), ("one", one), ("two", two)):
                exchanged = await peer.exchange()
                exchanged += await _query(peer, "show timezone")
                seen[name] = [b for t, b in exchanged if t == ord("S") and b.startswith(b"TimeZone")]
                assert any(t == Backend.DATA_ROW and b.endswith(b"Asia/Tokyo") for t, b in exchanged)
            assert seen == {name: [b"TimeZone\0Asia/Tokyo\0"] for name in seen}
        finally:
            postgres.run_sql("alter system reset timezone")
            postgres.run_sql("select pg_reload_conf()")


async def _query(peer: Peer, sql: str) -> list[tuple[int, bytes]]:
    await peer.send(requests.query(sql))
    return await peer.exchange()


@pytest.mark.usefixtures("patient")
async def test_a_listening_client(postgres: LocalPostgres) -> None:
    """It gets its answers and its notifications, and no one else's."""
    async with (
        sharing(postgres) as shared,
        await shared.running.log_in() as holder,
        await shared.running.log_in() as listener,
        await shared.running.log_in() as one,
    ):
        await shared.know(one, requests.query("select 0"))
        assert await ask(listener, "listen ahead") == done("LISTEN")
        await shared.hold(holder)
        await line_up(shared, one)
        await listener.send(requests.query(FIRST))
        await shared.running.until(lambda: shared.client(listener).waits)
        postgres.run_sql("notify ahead, 'hello'", DATABASE)
        message = await listener.receive()
        assert message is not None
        assert message[0] == Backend.NOTIFICATION_RESPONSE
        await shared.gate.open()
        assert await told(holder) == selected(OPEN)
        await answered(one)
        assert await told(listener) == selected("first")


# -- the daemon stops ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("patient")
async def test_who_is_queued_is_answered_before_the_daemon_stops(postgres: LocalPostgres) -> None:
    """A drain waits for those in the queue; then they are told."""
    async with sharing(postgres, keeps=False) as shared:
        peers = [await shared.running.log_in() for _ in range(3)]
        await shared.know(peers[0], requests.query("select 0"))
        await shared.hold(peers[0])
        await line_up(shared, *peers[1:])
        for peer in peers:
            shared.client(peer).stop()
        await nothing_comes(peers[1], 0.05)
        await shared.gate.open()
        assert await told(peers[0]) == selected(OPEN)
        for number, peer in enumerate(peers[1:]):
            assert await told(peer) == selected(str(number))
        for peer in peers:
            shared.client(peer).stop()
            assert (await peer.farewell()).sqlstate == "57P01"
            await peer.stream.aclose()
