"""Origins that break the protocol, or off: what clients are told, what is logged, how the pool recovers."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
import trio
import trio.lowlevel

from tests.net import origins
from tests.net.harness import Running, pooler, watcher
from tests.net.origins import Proxy, answer_queries, greeting, let_in, read_startup, row, scripted
from tests.net.peer import Message, Peer
from tests.support import requests
from tests.support.target import PASSWORD, USER
from trio_pool.net import backoff as backoff_module
from trio_pool.wire import messages
from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    from trio_pool.cli.postgres import LocalPostgres

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

READY = messages.READY[ord("I")]
NONSENSE = {
    "closes": (b"", False),
    "nonsense": (b"\xff" * 40, False),
    "nonsense with it": (b"\xff" * 40, True),
    "a short message": (b"T\0\0\0\0", True),
    "ready too often": (READY + READY, True),
}
FATAL = messages.error("57P01", "terminating connection due to administrator command", severity="FATAL")


@pytest.fixture
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again almost at once: for tests that let many attempts fail."""
    monkeypatch.setattr(backoff_module, "FIRST_BACKOFF", 0.001)
    monkeypatch.setattr(backoff_module, "LONGEST_BACKOFF", 0.002)


async def without_server(running: Running, proxy: Proxy) -> None:
    """Return when the pool has no server any more."""
    proxy.close_all()
    await running.until(lambda: not running.origin.pool.servers)


# -- login ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_backoff")
@pytest.mark.parametrize(("instead", "together"), NONSENSE.values(), ids=NONSENSE.keys())
async def test_a_login_broken_off_at_any_byte(
    postgres: LocalPostgres, instead: bytes, together: bool
) -> None:
    """The attempt is logged with its reason and repeated; the client that waits for it notices nothing.

    Six bytes of nonsense can be just what was missing; then there is a server, which is lost as soon as it is
    used.
    """
    recorded = await origins.record_greeting(postgres)
    place: int | None = None

    async def script(peer: Peer, _: int) -> None:
        nonlocal place
        await read_startup(peer)
        if place is None:
            await peer.send(recorded)
            await answer_queries(peer, once=True)
            return
        size, place = place, None
        if together:
            await peer.send(recorded[:size] + instead)
        else:
            await peer.send(recorded[:size])
            await trio.lowlevel.checkpoint()
            await peer.send(instead)

    async with (
        scripted(script) as origin,
        pooler(origins.url(origin.port), pool_size=1) as running,
        await running.log_in() as peer,
    ):
        assert await peer.rows("select 1") == ["1"]
        for size in range(len(recorded)):
            await running.until(lambda: not running.origin.pool.servers)
            place = size
            since = running.log.mark()
            if await peer.run("select 1"):
                assert instead == READY + READY
                lost = await running.log.wait_for("server disconnected", since=since)
                assert lost["reason"] == "server closed the connection"
                assert await peer.rows("select 1") == ["1"]
            else:
                (failed,) = running.log.find("server connect failed", since=since)
                assert failed["reason"] in ("server login failed", "server protocol violation")
            running.check()


@pytest.mark.usefixtures("no_backoff")
@pytest.mark.parametrize("instead", [b"", b"\xff" * 40], ids=["closes", "nonsense"])
async def test_scram_broken_off_anywhere(postgres: LocalPostgres, instead: bytes) -> None:
    """The same while PostgreSQL proves that it knows the password. Every few bytes: these logins cost much.

    A wrong proof is told at once: whoever answers there is not whom we know.
    """
    async with (
        origins.proxy(postgres, scram=True) as proxy,
        pooler(origins.url(proxy.port), pool_size=1) as running,
        await running.log_in() as peer,
    ):
        for place in range(0, 180, 9):
            await without_server(running, proxy)
            proxy.break_off(place, instead, together=True)
            since = running.log.mark()
            if await peer.run("select 1"):
                (failed,) = running.log.find("server connect failed", since=since)
                assert "has not proven that it knows the password" in failed["error"]
                assert await peer.rows("select 1") == ["1"]
            (failed,) = running.log.find("server connect failed", since=since)
            assert failed["reason"] in ("server login failed", "server protocol violation")
            running.check()


@pytest.mark.parametrize(
    ("answer", "sqlstate", "text"),
    [
        (messages.authentication(2), "28000", "Kerberos V5 authentication, which is not supported"),
        (messages.authentication(7), "28000", "GSSAPI authentication, which is not supported"),
        (messages.authentication(9), "28000", "SSPI authentication, which is not supported"),
        (messages.authentication(3), "28000", "in clear text over a connection without TLS"),
        (messages.sasl_mechanisms(["SCRAM-SHA-1"]), "28000", "none of the server's SASL mechanisms"),
        (messages.error("28P01", "no", severity="FATAL"), "28P01", "no"),
        (messages.error("3D000", "nowhere", severity="FATAL"), "3D000", "nowhere"),
    ],
    ids=["kerberos", "gssapi", "sspi", "clear text", "sasl", "password", "database"],
)
async def test_a_lasting_refusal_is_told_at_once(answer: bytes, sqlstate: str, text: str) -> None:
    """What will not mend itself is not waited for: the client gets the cause, and whoever comes later may
    succeed.
    """

    async def refuse(peer: Peer, number: int) -> None:
        await read_startup(peer)
        if number == 0:
            await peer.send(answer)
            await peer.more()
        else:
            await peer.send(greeting())
            await answer_queries(peer)

    async with scripted(refuse) as origin, pooler(origins.url(origin.port)) as running:
        async with await Peer.connect(running.address) as peer:
            await peer.send(messages.startup({"user": USER, "database": "app"}))
            error = await peer.farewell()
            assert error.sqlstate == sqlstate
            assert text in error.summary
        logged = await running.log.wait_for("server connect failed")
        assert logged["sqlstate"] == sqlstate
        async with await running.log_in() as peer:
            assert await peer.rows("select") == ["1"]


UNREACHABLE = {
    "silent": (b"", "server connect timeout", "disable"),
    "hangs up": (None, "server login failed", "disable"),
    "speaks http": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "server protocol violation", "disable"),
    "unknown authentication": (messages.authentication(99), "server protocol violation", "disable"),
    "no TLS": (b"N", "server tls failed", "require"),
    "no TLS but nonsense": (b"X", "server protocol violation", "require"),
    "TLS and then something": (b"S" + bytes(20), "server protocol violation", "require"),
    "bad handshake": (b"S", "server tls failed", "require"),
}


@pytest.mark.parametrize(("answer", "reason", "sslmode"), UNREACHABLE.values(), ids=UNREACHABLE.keys())
async def test_an_origin_that_cannot_be_used(answer: bytes | None, reason: str, sslmode: str) -> None:
    """After `lease_wait` the client gets 08001 with the cause; the reason is logged; a good origin is found
    again.
    """
    good = False

    async def misbehave(peer: Peer, _: int) -> None:
        if good:
            if sslmode == "require":
                return
            await let_in(peer)
            await answer_queries(peer)
        elif answer is not None:
            await read_startup(peer)
            await peer.send(answer)
            if reason == "server tls failed" and answer == b"S":
                await peer.more()
                await peer.send(b"\x16\x03\x01\x00\x05hello")
            await peer.more()

    # Only whoever says nothing is to be given up for being slow.
    timeouts = {"server_connect": "150ms" if answer == b"" else "10s", "lease_wait": "1s"}
    async with (
        scripted(misbehave) as origin,
        pooler(origins.url(origin.port, sslmode), timeouts=timeouts) as running,
    ):
        async with await Peer.connect(running.address) as peer:
            await peer.send(messages.startup({"user": USER, "database": "app"}))
            error = await peer.farewell()
            assert error.sqlstate == "08001"
            assert error.summary.startswith("cannot connect to the origin: ")
        logged = running.log.find("server connect failed")
        assert {entry["reason"] for entry in logged} == {reason}
        running.check()
        good = True
        if sslmode == "disable":
            async with await running.log_in() as peer:
                assert await peer.rows("select 1") == ["1"]


@pytest.mark.usefixtures("no_backoff")
async def test_an_origin_that_refuses_and_comes_back(postgres: LocalPostgres) -> None:
    """ECONNREFUSED: 08001 with the cause for the statement, the client stays, and is served once the origin
    is there.
    """
    async with origins.proxy(postgres) as proxy:
        port = proxy.port
        running_ = pooler(origins.url(port), timeouts={"lease_wait": "300ms"}, pool_size=1)
        async with running_ as running, await running.log_in() as peer:
            assert await peer.rows("select 1") == ["1"]
            proxy.listening.cancel()
            await without_server(running, proxy)
            (error,) = await peer.run("select 2")
            assert (error.severity, error.sqlstate) == ("ERROR", "08001")
            assert error.summary.endswith(f"cannot connect to 127.0.0.1:{port}: Connection refused")
            async with origins.listening(proxy):
                assert await peer.rows("select 3") == ["3"]
                await running.at_rest(clients=1)


async def test_backoff() -> None:
    """While the origin is down it is asked less and less often, however many clients ask for it."""

    async def hang_up(peer: Peer, _: int) -> None:
        await read_startup(peer)

    timeouts = {"lease_wait": "1s"}
    async with scripted(hang_up) as origin, pooler(origins.url(origin.port), timeouts=timeouts) as running:

        async def knock() -> None:
            async with await Peer.connect(running.address) as peer:
                await peer.send(messages.startup({"user": USER, "database": "app"}))
                assert (await peer.farewell()).sqlstate == "08001"

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(knock)
        begun = origin.connected[0]
        first_second = [when for when in origin.connected if when < begun + 1.0]
        assert 3 <= len(first_second) <= 7  # 50 ms doubled each time, and half of it by chance


async def test_a_closed_port() -> None:
    """Nobody listens: refused, with the address."""
    port = origins.closed_port()
    async with pooler(origins.url(port), timeouts={"lease_wait": "2s"}) as running:
        async with await Peer.connect(running.address) as peer:
            await peer.send(messages.startup({"user": USER, "database": "app"}))
            error = await peer.farewell()
            assert error.summary == (
                f"cannot connect to the origin: cannot connect to 127.0.0.1:{port}: Connection refused"
            )
        assert running.log.find("server connect failed", reason="server connect failed") != []


async def test_a_name_that_cannot_be_resolved() -> None:
    """A host name that is not even one is an error of the origin, not of the daemon."""
    name = "a" * 70 + ".example"
    url = f"postgresql://{USER}@{name}/app"
    async with pooler(url, timeouts={"lease_wait": "200ms"}) as running:
        async with await Peer.connect(running.address) as peer:
            await peer.send(messages.startup({"user": USER, "database": "app"}))
            assert (await peer.farewell()).sqlstate == "08001"
        assert running.log.find("server connect failed", reason="server not resolved") != []


# -- answers -------------------------------------------------------------------------------------------------

SIMPLE = messages.query("select 'one' union all select 'two'")
EXTENDED = (
    requests.parse("s", "select $1::text")
    + requests.bind("s", "three")
    + requests.describe_portal()
    + requests.execute()
    + requests.SYNC
)
PIPELINE = SIMPLE + EXTENDED + SIMPLE
ASKED = ["simple", "extended", "pipeline"]


async def replies(peer: Peer, ready: int) -> tuple[list[Message], bool]:
    """Messages up to so many ReadyForQuery, or the end; and whether it was the end."""
    received: list[Message] = []
    while ready:
        message = await peer.receive()
        if message is None:
            return received, True
        received.append(message)
        ready -= message[0] == Backend.READY_FOR_QUERY
    return received, False


@pytest.mark.usefixtures("no_backoff")
@pytest.mark.parametrize(("instead", "together"), NONSENSE.values(), ids=NONSENSE.keys())
@pytest.mark.parametrize("in_transaction", [False, True], ids=["alone", "in transaction"])
@pytest.mark.parametrize(("asked", "ready"), [(SIMPLE, 1), (EXTENDED, 1), (PIPELINE, 3)], ids=ASKED)
async def test_an_answer_broken_off_at_any_byte(
    postgres: LocalPostgres, asked: bytes, ready: int, in_transaction: bool, instead: bytes, together: bool
) -> None:
    """Every message that the client gets is one that PostgreSQL sent, or the error; it is in step, or
    disconnected.

    It is disconnected only if it had got a part of a message, or behind nonsense. In a transaction it has to
    end that before it goes on. Nonsense is put between messages only: within one, nobody can tell it from the
    rest of the message.
    """
    if ready == 3 and instead == READY + READY:
        return  # it is taken for the answers to the rest of the pipeline, and nobody can tell
    step = 1 if ready == 1 else 7
    async with origins.proxy(postgres) as proxy, pooler(origins.url(proxy.port), pool_size=1) as running:
        peer = await running.log_in()
        await peer.rows("select 0")
        begun = "begin; select 0" if in_transaction else "select 0"
        await peer.rows(begun)
        before = proxy.passed
        await peer.send(asked)
        expected, ended = await replies(peer, ready)
        assert not ended
        await peer.send(messages.query("rollback") + requests.close("s") + requests.SYNC)
        await replies(peer, 2)
        size = sum(5 + len(body) for _, body in expected)
        assert proxy.passed - before >= size
        for place in range(0, size, step) if not instead else boundaries(expected):
            await peer.rows(begun)
            proxy.break_off(place, instead, together=together)
            await peer.send(asked)
            received, ended = await replies(peer, ready)
            proxy.mend()
            if ended:
                check_prefix(received, expected)
                peer.close()
                peer = await running.log_in()
            else:
                check_in_step(received, expected, in_transaction=in_transaction)
                failed = received[-1][1] == b"E"
                errors = await peer.run("select 1")
                assert [e.sqlstate for e in errors] == (["25P02"] if failed else [])
            await peer.send(messages.query("rollback") + requests.close("s") + requests.SYNC)
            assert (await replies(peer, 2))[1] is False
            running.check()
        peer.close()
        await running.at_rest()


def boundaries(expected: list[Message]) -> list[int]:
    """Where each of these messages begins."""
    sizes = [5 + len(body) for _, body in expected]
    return [sum(sizes[:place]) for place in range(len(sizes))]


def check_prefix(received: list[Message], expected: list[Message]) -> None:
    assert received == expected[: len(received)]


def check_in_step(received: list[Message], expected: list[Message], *, in_transaction: bool) -> None:
    """What PostgreSQL sent up to some place; from there on every request is answered by 08006 and its
    ReadyForQuery.
    """
    same = 0
    while same < len(received) and same < len(expected) and received[same] == expected[same]:
        same += 1
    rest = received[same:]
    status = b"E" if in_transaction else b"I"
    for place, (tag, body) in enumerate(rest):
        if tag == Backend.ERROR_RESPONSE:
            assert messages.read_error(body).sqlstate == "08006"
        else:
            assert (tag, body) == (Backend.READY_FOR_QUERY, status)
            assert rest[place - 1][0] == Backend.ERROR_RESPONSE


@pytest.mark.parametrize(
    "said",
    [READY, b"z\0\0\0\4", b"D\0\0\0\6\0\0", b"\0" * 20, FATAL, b"", messages.error("XX000", "what now")],
    ids=["ready", "unknown", "row", "nulls", "fatal", "close", "error"],
)
async def test_an_idle_server_that_speaks(said: bytes) -> None:
    """It is closed and replaced, with the reason in the log; no client is told anything."""
    speak = trio.Event()

    async def script(peer: Peer, number: int) -> None:
        await let_in(peer)
        message = await peer.receive()
        assert message is not None
        await peer.send(row("1") + READY)
        if number == 0:
            await speak.wait()
            if said:
                await peer.send(said)
                await peer.more()
            return
        await answer_queries(peer)

    async with (
        scripted(script) as origin,
        pooler(origins.url(origin.port)) as running,
        await running.log_in() as peer,
    ):
        assert await peer.rows("select 1") == ["1"]
        speak.set()
        logged = await running.log.wait_for("server disconnected")
        assert logged["reason"] in ("server protocol violation", "server closed the connection")
        assert not running.origin.pool.servers
        assert await peer.rows("select 1") == ["1"]
        await running.at_rest(clients=1)


@pytest.mark.parametrize("phase", ["idle", "in transaction", "in query", "mid-result"])
async def test_an_administrator_ends_a_server(postgres: LocalPostgres, phase: str) -> None:
    """57P01 never reaches a client: idle it is not told at all; else 08006, in the server's words."""
    async with (
        pooler(postgres, pool_size=1) as running,
        watcher(postgres) as superuser,
        await running.log_in() as peer,
    ):
        (pid,) = await peer.rows("select pg_backend_pid()")
        if phase == "in transaction":
            await peer.rows("begin; select 0")
        elif phase == "in query":
            await peer.send(messages.query("select pg_sleep(60)"))
        elif phase == "mid-result":
            await peer.send(messages.query("select repeat('x', 100), generate_series(1, 100000000)"))
            await peer.receive()
        await superuser.rows(f"select pg_terminate_backend({pid})")
        if phase in ("in query", "mid-result"):
            received, ended = await replies(peer, 1)
            errors = [messages.read_error(body) for tag, body in received if tag == Backend.ERROR_RESPONSE]
            if ended:
                assert phase == "mid-result"
                return
            assert [(e.severity, e.sqlstate) for e in errors] == [("ERROR", "08006")]
            if phase == "in query":  # who waits for its client to read says nothing more
                assert "administrator command" in errors[0].summary
        await running.log.wait_for("server disconnected")
        if phase == "in transaction":
            assert [e.sqlstate for e in await peer.run("select 1")] == ["08006"]
            assert [e.sqlstate for e in await peer.run("select 1")] == ["25P02"]
            await peer.rows("rollback")
        assert await peer.rows("select 1") == ["1"]
        await running.at_rest(clients=1)


async def test_a_lost_server_corrupts_no_row() -> None:
    """A server that is lost in the middle of a row leaves the client with a closed connection, not with a row
    that ends in our words.
    """

    async def break_off(peer: Peer, number: int) -> None:
        await let_in(peer)
        await peer.receive()
        data = messages.message(ord("D"), b"\0\1" + struct.pack("!I", 50) + b"x" * 50)
        await peer.send(row("1").removesuffix(messages.command_complete("SELECT 1")) + data[:30])

    async with scripted(break_off) as origin, pooler(origins.url(origin.port)) as running:
        async with await running.log_in() as peer:
            await peer.send(messages.query("select"))
            received, ended = await replies(peer, 1)
            assert ended
            assert PASSWORD not in repr(received)
            assert b"lost" not in b"".join(body for _, body in received)
            assert b"lost" not in peer.unread
        await running.log.wait_for("client disconnected", reason="server lost in the middle of a message")
