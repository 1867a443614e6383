"""The shared listening connection against real PostgreSQLs, and against origins that misbehave."""

from __future__ import annotations

import itertools
import random
import secrets
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.testing

from tests.net import origins
from tests.net.harness import LIMIT, LOOK_AGAIN, Log, logged, watcher
from tests.net.origins import closed_port, let_in, scripted
from tests.net.peer import Peer
from tests.support.target import DATABASE, USER
from trio_pool.config.origin import Origin, SslMode
from trio_pool.errors import ServerFault
from trio_pool.net import listening as module
from trio_pool.net.dial import OriginAccess
from trio_pool.net.listening import Listening
from trio_pool.net.listening_connection import ListeningConnection
from trio_pool.net.poller import Poller
from trio_pool.wire import messages
from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from trio_pool.cli.postgres import LocalPostgres

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

CHANNELS = (b"plain", b'Upper "quoted"', b"do.t;--", "f\u00fcnf".encode(), b"x" * 63)
READY = messages.READY[ord("I")]
LISTENED = messages.command_complete("LISTEN") + READY

Notification = tuple[bytes, bytes]
"""Channel and payload."""


@attrs.define(eq=False)
class Client:
    """Keeps what it gets, and tells who waits for more."""

    got: list[Notification] = attrs.field(factory=list)
    held: list[Notification] | None = None
    _more: trio.Event = attrs.field(factory=trio.Event)

    def notify(self, message: bytes) -> None:
        assert message[0] == Backend.NOTIFICATION_RESPONSE
        assert int.from_bytes(message[1:5], "big") == len(message) - 1
        self.keep(messages.read_notification(message[5:]))

    def keep(self, notification: Notification) -> None:
        if self.held is not None:
            self.held.append(notification)
            return
        self.got.append(notification)
        more, self._more = self._more, trio.Event()
        more.set()

    def hold(self) -> None:
        """Keep back what comes until `release`."""
        self.held = []

    def release(self) -> None:
        held, self.held = self.held, None
        assert held is not None
        for notification in held:
            self.keep(notification)

    async def wait_for(self, notification: Notification) -> None:
        """Return when it has got it."""
        looked_at = 0
        while notification not in itertools.islice(self.got, looked_at, None):
            looked_at = len(self.got)
            await self._more.wait()


@attrs.define(eq=False)
class Running:
    """A listening connection with its task, whatever its origin is."""

    listening: Listening
    log: Log
    task: trio.CancelScope

    async def subscribe(self, client: Client, channels: Iterable[bytes]) -> None:
        """Without a hand-over."""
        wanted = frozenset(channels)
        await self.listening.cover(client, wanted)
        self.listening.settle(client, wanted)


async def poll(poller: Poller, scope: trio.CancelScope) -> None:
    with scope:
        await poller.run()


@asynccontextmanager
async def running(
    where: LocalPostgres | int, *, database: str = DATABASE, idle: float = 60.0, connect_timeout: float = 10.0
) -> AsyncIterator[Running]:
    """Listen at a PostgreSQL, or at whatever has this port."""
    host = ("127.0.0.1", where) if isinstance(where, int) else (str(where.socket_dir), where.port)
    origin = Origin(hosts=(host,), user=USER, dbname=database, sslmode=SslMode.DISABLE)
    access = OriginAccess(origin, {"user": USER, "database": database}, None, ssl.create_default_context())
    poller = Poller()
    listening = Listening(access, poller, label="app", connect_timeout=connect_timeout, idle=idle)
    with logged() as log, trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            # Shielded: when all of this is cancelled at once, the connection still leaves an open poller.
            polling = trio.CancelScope(shield=True)
            nursery.start_soon(poll, poller, polling)
            try:
                async with trio.open_nursery() as inner:
                    inner.start_soon(listening.run)
                    yield Running(listening, log, inner.cancel_scope)
                    inner.cancel_scope.cancel()
            finally:
                polling.cancel()
    assert [entry for entry in log.entries if entry["level"] == "error"] == []


@asynccontextmanager
async def session(pg: LocalPostgres, database: str = DATABASE, encoding: str = "UTF8") -> AsyncIterator[Peer]:
    """A connection of its own to PostgreSQL."""
    peer = await Peer.connect(f"{pg.socket_dir}/.s.PGSQL.{pg.port}")
    async with peer:
        await peer.start({"user": USER, "database": database, "client_encoding": encoding})
        yield peer


def quoted(name: bytes) -> bytes:
    return b'"' + name.replace(b'"', b'""') + b'"'


async def run(peer: Peer, *statements: bytes) -> list[Notification]:
    """Run statements in one transaction; the notifications that came with them."""
    await peer.send(messages.message(ord("Q"), b";".join(statements) + b"\0"))
    exchanged = await peer.exchange()
    assert exchanged[-1][0] == Backend.READY_FOR_QUERY
    errors = [messages.read_error(body) for tag, body in exchanged if tag == Backend.ERROR_RESPONSE]
    assert errors == []
    return [
        messages.read_notification(body) for tag, body in exchanged if tag == Backend.NOTIFICATION_RESPONSE
    ]


async def publish(peer: Peer, channel: bytes, payload: bytes) -> None:
    await run(peer, b"notify %b, '%b'" % (quoted(channel), payload))


async def sessions(peer: Peer, name: str = module.APPLICATION_NAME) -> list[int]:
    """Process ids of the sessions with this application_name."""
    return [
        int(pid)
        for pid in await peer.rows(f"select pid from pg_stat_activity where application_name = '{name}'")
    ]


async def none_left(peer: Peer) -> None:
    """Return when the listening connection has ended at the origin."""
    while await sessions(peer):  # noqa: ASYNC110
        await trio.sleep(LOOK_AGAIN)


async def until(happened: Callable[[], bool]) -> None:
    """Return when it has. For what tells nobody."""
    while not happened():  # noqa: ASYNC110
        await trio.sleep(LOOK_AGAIN)


# -- the hand-over -------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class Publisher:
    """Numbered notifications as fast as PostgreSQL takes them, on all channels in turn, in transactions of
    different sizes.
    """

    name: str
    number: int = 0
    stopped: bool = False

    def channel(self, number: int) -> bytes:
        return CHANNELS[number % len(CHANNELS)]

    def last(self, channel: bytes) -> bytes:
        """The last payload of a channel."""
        last = next(n for n in range(self.number - 1, -1, -1) if self.channel(n) == channel)
        return f"{self.name} {last}".encode()

    async def run(self, pg: LocalPostgres, done: trio.Event) -> None:
        chance = random.Random(self.name)
        names = b", ".join(b"'%b'" % name for name in CHANNELS)
        sql = (
            b"select pg_notify((array[%b])[1 + n %% %d], '%b ' || n) from generate_series(%d, %d) as n"
            b" order by n"
        )
        async with session(pg) as peer:
            size = 1
            while size != len(CHANNELS):
                # The end: every channel once more, for who waits to have got everything.
                size = len(CHANNELS) if self.stopped else chance.choice((1, 1, 2, 7, 40))
                await run(
                    peer,
                    sql % (names, len(CHANNELS), self.name.encode(), self.number, self.number + size - 1),
                )
                self.number += size
        done.set()


async def hand_over(
    listening: Listening, client: Client, server: Peer, before: frozenset[bytes], new: frozenset[bytes]
) -> None:
    """A client that gets `before` from the shared connection LISTENs to `new` on a server, which is taken
    from it.
    """
    chance = random.Random()
    marker = quoted(listening.marker)

    def take(notifications: list[Notification]) -> bool:
        """The server's notifications up to the marker; whether it has come."""
        for channel, payload in notifications:
            if channel == listening.marker and payload == token:
                return True
            if channel in new:
                client.got.append((channel, payload))
        return False

    token = secrets.token_hex(16).encode()
    assert not take(await run(server, *(b"LISTEN " + quoted(name) for name in sorted(new))))
    for _ in range(chance.randrange(4)):
        assert not take(await run(server, b"select 1"))
    # As late as it can be, so that the marker waits for it and not for luck.
    await listening.cover(client, before | new)
    assert not take(await run(server, b"select 1"))
    client.hold()
    listening.admit(client, before | new, token)
    reached = take(await run(server, b"LISTEN " + marker, b"NOTIFY %b, '%b'" % (marker, token)))
    while not reached:
        reached = take(await run(server, b"select 1"))
    client.release()
    await run(server, b"UNLISTEN *")
    await run(server, b"select 1")


def check(got: list[Notification]) -> int:
    """Per publisher and channel: no gap, no duplicate, in order. How many there were."""
    numbers: dict[tuple[bytes, bytes], list[int]] = {}
    for channel, payload in got:
        name, number = payload.split()
        numbers.setdefault((name, channel), []).append(int(number))
    for one in numbers.values():
        assert one == list(range(one[0], one[-1] + 1, len(CHANNELS)))
    return len(got)


async def test_a_hand_over_is_exact(postgres: LocalPostgres) -> None:
    """Clients that are handed over again and again, while others notify as fast as they can, miss nothing,
    get nothing twice, and everything in order.
    """
    clients, rounds = 4, 60
    publishers = [Publisher("first"), Publisher("second")]
    stopped = trio.Event()
    seen = handed_over = 0

    async def come_and_go(one: Running, number: int) -> None:
        nonlocal seen, handed_over
        chance = random.Random(number)
        async with session(postgres) as server:
            for round_number in range(rounds):
                client = Client()
                before: frozenset[bytes] = frozenset()
                order = chance.sample(CHANNELS, len(CHANNELS))
                for _ in range(chance.randrange(1, 4)):
                    some = frozenset(order[: chance.randrange(1, 4)])
                    await hand_over(one.listening, client, server, before, some - before)
                    before |= some
                    chance.shuffle(order)
                if round_number == rounds - 1:
                    handed_over += 1
                    for publisher in publishers:
                        publisher.stopped = handed_over == clients
                    await stopped.wait()
                    for publisher, channel in itertools.product(publishers, before):
                        await client.wait_for((channel, publisher.last(channel)))
                seen += check(client.got)
                one.listening.forget(client)

    async with running(postgres) as one, trio.open_nursery() as nursery:

        async def publish_all() -> None:
            ends = [trio.Event() for _ in publishers]
            async with trio.open_nursery() as publishing:
                for publisher, end in zip(publishers, ends, strict=True):
                    publishing.start_soon(publisher.run, postgres, end)
            stopped.set()

        nursery.start_soon(publish_all)
        for number in range(clients):
            nursery.start_soon(come_and_go, one, number)
    assert seen > 1000
    assert one.listening.statistics().subscribers == 0


async def test_the_marker_divides(postgres: LocalPostgres) -> None:
    """Until the marker a client gets what it had before, from the marker on exactly the new channels; other
    tokens change nothing.
    """
    old, both, new = b"old", b"both", b"new"
    client, other = Client(), Client()
    async with running(postgres) as one, session(postgres) as peer:
        await one.subscribe(client, (old, both))
        await one.subscribe(other, (old,))
        await one.listening.cover(client, (both, new))
        one.listening.admit(client, frozenset((both, new)), b"token")
        for payload in (b"nonsense", b"token", b"token"):
            for channel in (old, both, new):
                await publish(peer, channel, b"before " + payload)
            await publish(peer, one.listening.marker, payload)
        await publish(peer, both, b"end")
        await publish(peer, old, b"end")
        await client.wait_for((both, b"end"))
        await other.wait_for((old, b"end"))
    assert client.got == [
        (old, b"before nonsense"),
        (both, b"before nonsense"),
        (old, b"before token"),
        (both, b"before token"),
        (both, b"before token"),
        (new, b"before token"),
        (both, b"end"),
    ]
    assert [payload for _, payload in other.got] == [
        b"before nonsense",
        b"before token",
        b"before token",
        b"end",
    ]


# -- channels ------------------------------------------------------------------------------------------------


async def test_any_name_of_a_channel(postgres: LocalPostgres) -> None:
    """Names with quotes, dots, upper case, other characters, and of the greatest length are names."""
    client = Client()
    async with running(postgres) as one, session(postgres) as peer:
        await one.subscribe(client, CHANNELS)
        for channel in CHANNELS:
            await publish(peer, channel, b"hello")
        await client.wait_for((CHANNELS[-1], b"hello"))
        assert client.got == [(channel, b"hello") for channel in CHANNELS]
        assert one.listening.statistics().channels == len(CHANNELS)
        assert one.listening.encoding == "UTF8"


async def test_a_database_without_encoding(postgres: LocalPostgres) -> None:
    """In SQL_ASCII any bytes are a name and a payload."""
    client, name = Client(), b"\xe9\xff"
    database = "no_encoding"
    postgres.run_sql(
        f"create database {database} owner {USER} template template0 encoding 'SQL_ASCII' locale 'C'"
    )
    try:
        async with (
            running(postgres, database=database) as one,
            session(postgres, database, "SQL_ASCII") as peer,
        ):
            await one.subscribe(client, (name,))
            await publish(peer, name, b"\xff")
            await client.wait_for((name, b"\xff"))
            assert one.listening.encoding == "SQL_ASCII"
    finally:
        postgres.run_sql(f"drop database {database} with (force)")


async def test_a_latin_client(postgres: LocalPostgres) -> None:
    """What a client of another encoding notifies comes in UTF-8."""
    client, name = Client(), "caf\u00e9"
    async with running(postgres) as one, session(postgres, encoding="LATIN1") as peer:
        await one.subscribe(client, (name.encode(),))
        await publish(peer, name.encode("latin-1"), "\u00fc".encode("latin-1"))
        await client.wait_for((name.encode(), "\u00fc".encode()))


@pytest.mark.parametrize(
    ("name", "sqlstate"),
    [(b"x" * 64, "42622"), (b"", "42602"), (b"a\0b", "42602"), (b"\xff", "22021")],
    ids=["too long", "empty", "null byte", "not UTF-8"],
)
async def test_a_bad_name_harms_nobody_else(postgres: LocalPostgres, name: bytes, sqlstate: str) -> None:
    """Who asks for a channel that cannot be is told, and nothing of it is kept; who asks at the same time for
    another gets it.
    """
    client, others = Client(), [Client() for _ in range(5)]
    async with running(postgres) as one, session(postgres) as peer:
        faults = []

        async def ask() -> None:
            with pytest.raises(ServerFault) as caught:
                await one.listening.cover(client, (b"good", name))
            faults.append(caught.value.sqlstate)

        for _ in range(2):  # while connecting, and when connected
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                for number, other in enumerate(others):
                    nursery.start_soon(one.subscribe, other, (b"good", b"good %d" % number))
        await publish(peer, b"good", b"hello")
        for other in others:
            await other.wait_for((b"good", b"hello"))
        assert faults == [sqlstate, sqlstate]
        assert one.listening.statistics().subscribers == len(others)
        one.listening.settle(client, (b"good",))
        assert one.listening.statistics().subscribers == len(others) + 1


async def test_many_at_once_share_round_trips(
    postgres: LocalPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand clients that LISTEN at once cost a few statements."""
    asked: list[bytes] = []
    ask = ListeningConnection.ask

    def count(line: ListeningConnection, sql: bytes, *arguments: tuple[bytes, ...]) -> None:
        asked.append(sql)
        ask(line, sql, *arguments)

    monkeypatch.setattr(ListeningConnection, "ask", count)
    async with running(postgres) as one, session(postgres) as peer:
        await one.subscribe(Client(), (b"first",))
        asked.clear()
        clients = [Client() for _ in range(1000)]
        async with trio.open_nursery() as nursery:
            for number, client in enumerate(clients):
                nursery.start_soon(one.subscribe, client, (b"all", b"own %d" % number))
        assert len(asked) <= 4
        assert one.listening.statistics().channels == 1002
        await publish(peer, b"all", b"hello")
        for client in clients:
            await client.wait_for((b"all", b"hello"))
        assert one.listening.statistics().delivered == 1000
        assert one.listening.statistics().received == 1


async def test_a_burst(postgres: LocalPostgres) -> None:
    """Everything of a large transaction reaches everybody, in order, without a turn of Trio's scheduler for
    each.
    """
    size = 20_000
    clients = [Client(), Client()]
    steps = 0

    class Counter(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            nonlocal steps
            steps += 1

    async with running(postgres) as one, session(postgres) as peer:
        for client in clients:
            await one.subscribe(client, (b"burst",))
        counter = Counter()
        trio.lowlevel.add_instrument(counter)
        await run(peer, b"select pg_notify('burst', n::text) from generate_series(1, %d) as n" % size)
        expected = [(b"burst", b"%d" % n) for n in range(1, size + 1)]
        for client in clients:
            while len(client.got) < size:
                await client._more.wait()
            assert client.got == expected
        trio.lowlevel.remove_instrument(counter)
    assert one.listening.statistics().received == size
    assert steps < size / 2  # the tests' own steps are among them


async def test_channels_are_left_lazily(postgres: LocalPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel that nobody wants is UNLISTENed after a while; one that somebody wants, or wants again
    meanwhile, is not.
    """
    monkeypatch.setattr(module, "LINGER", 0.05)
    client, other = Client(), Client()
    async with running(postgres) as one, session(postgres) as peer:
        await one.subscribe(client, (b"a", b"b", b"c", b"d"))
        await one.subscribe(other, (b"b",))
        one.listening.withdraw(client, (b"c",))
        one.listening.forget(client)
        await one.subscribe(client, (b"d",))
        assert one.listening.statistics().channels == 4
        await until(lambda: one.listening.statistics().channels == 2)
        await one.subscribe(client, (b"c", b"d"))  # behind the UNLISTENs
        for channel in (b"a", b"b", b"c", b"d"):
            await publish(peer, channel, b"hello")
        await client.wait_for((b"d", b"hello"))
        assert client.got == [(b"c", b"hello"), (b"d", b"hello")]
        assert other.got == [(b"b", b"hello")]
        assert one.listening.statistics().received == 3


async def test_a_reservation_holds(postgres: LocalPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was covered stays covered until the subscriber says for what, even if others leave."""
    monkeypatch.setattr(module, "LINGER", 0.0)
    client, other = Client(), Client()
    async with running(postgres) as one, session(postgres) as peer:
        await one.subscribe(other, (b"a", b"b"))
        await one.listening.cover(client, (b"a",))
        one.listening.forget(other)
        await until(lambda: one.listening.statistics().channels == 1)
        one.listening.settle(client, (b"a",))
        await publish(peer, b"a", b"hello")
        await client.wait_for((b"a", b"hello"))


async def test_a_cancelled_cover_leaves_nothing(postgres: LocalPostgres) -> None:
    """Cancelled before it waits, while it does, or although there is nothing to wait for."""
    client = Client()
    async with running(postgres) as one:
        for delay in (0.0, 0.0001, 0.001, 0.002):
            with trio.move_on_after(delay) as scope:
                await one.listening.cover(client, (b"a", b"b %f" % delay))
            assert scope.cancelled_caught or delay > 0
            one.listening.settle(client, ())
            assert one.listening.statistics().subscribers == 0
        await one.listening.cover(client, (b"a",))
        one.listening.settle(client, ())
        with trio.move_on_after(0) as scope:
            await one.listening.cover(client, (b"a",))
        assert scope.cancelled_caught
        assert one.listening.statistics().subscribers == 0


# -- the connection ------------------------------------------------------------------------------------------


async def test_the_connection_lives_as_long_as_it_is_wanted(postgres: LocalPostgres) -> None:
    """It opens with the first channel, says what it is, closes when nobody has wanted anything for `idle`
    seconds, and opens again.
    """
    client = Client()
    async with running(postgres, idle=0.02) as one, watcher(postgres) as look:
        assert await sessions(look) == []
        for number in (1, 2):
            mark = one.log.mark()
            await one.subscribe(client, (b"a",))
            assert len(await sessions(look)) == 1
            one.listening.forget(client)
            await one.log.wait_for("listener disconnected", since=mark, reason="server idle timeout")
            assert not one.listening.statistics().connected
            await none_left(look)
            assert len(one.log.find("listener connected", pool="app")) == number
        assert one.listening.statistics().reconnects == 0


async def test_it_says_good_bye(postgres: LocalPostgres) -> None:
    """When it is cancelled the connection ends at the origin."""
    async with running(postgres) as one, watcher(postgres) as look:
        await one.subscribe(Client(), (b"a",))
        assert len(await sessions(look)) == 1
        one.task.cancel()
        await one.log.wait_for("listener disconnected", reason="stopping")
        await none_left(look)


async def test_no_idle_timeout_of_the_role_ends_it(postgres: LocalPostgres) -> None:
    """`idle_session_timeout` is for clients."""
    if int(postgres.run_sql("show server_version_num").split()[-1]) < 140000:
        pytest.skip("unknown before PostgreSQL 14, which every other test shows to be harmless")
    postgres.run_sql(f"alter role {USER} set idle_session_timeout = '50ms'")
    try:
        client = Client()
        async with running(postgres) as one, watcher(postgres) as look:
            await one.subscribe(client, (b"a",))
            await trio.sleep(0.2)
            await run(look, b"select 1")
            assert one.log.find("listener lost") == []
    finally:
        postgres.run_sql(f"alter role {USER} reset idle_session_timeout")


async def test_subscriptions_survive_the_connection(postgres: LocalPostgres) -> None:
    """An administrator ends it, again and again: it comes back, listens to everything, and is counted."""
    client = Client()
    async with running(postgres) as one, watcher(postgres) as look, session(postgres) as peer:
        await one.subscribe(client, CHANNELS)
        for number in (1, 2, 3):
            mark = one.log.mark()
            for pid in await sessions(look):
                await look.rows(f"select pg_terminate_backend({pid})")
            lost = await one.log.wait_for("listener lost", since=mark)
            assert lost["sqlstate"] == "57P01"
            await one.log.wait_for("listener connected", since=mark)
            await one.listening.cover(client, CHANNELS)
            for channel in CHANNELS:
                await publish(peer, channel, b"%d" % number)
            await client.wait_for((CHANNELS[-1], b"%d" % number))
            assert one.listening.statistics().reconnects == number
        assert client.got == [(channel, b"%d" % n) for n in (1, 2, 3) for channel in CHANNELS]


async def test_what_waits_for_a_marker_holds_after_a_loss(postgres: LocalPostgres) -> None:
    """The marker may have been lost with the connection, so nobody waits for it any longer."""
    client = Client()
    async with running(postgres) as one, watcher(postgres) as look, session(postgres) as peer:
        await one.subscribe(client, (b"old",))
        await one.listening.cover(client, (b"new",))
        one.listening.admit(client, frozenset((b"new",)), b"token")
        mark = one.log.mark()
        (pid,) = await sessions(look)
        await look.rows(f"select pg_terminate_backend({pid})")
        await one.log.wait_for("listener connected", since=mark)
        await one.listening.cover(client, (b"new", b"old"))
        await publish(peer, b"old", b"hello")
        await publish(peer, b"new", b"hello")
        await client.wait_for((b"new", b"hello"))
        await publish(peer, one.listening.marker, b"token")
        await publish(peer, b"new", b"again")
        await client.wait_for((b"new", b"again"))
        assert client.got == [(b"new", b"hello"), (b"new", b"again")]


async def test_an_origin_that_is_down(postgres: LocalPostgres) -> None:
    """`cover` waits until it is there; meanwhile the reason can be asked for."""
    port = closed_port()
    async with running(port) as one:
        proxy = origins.Proxy(postgres, port=port)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.listening.cover, Client(), (b"a",))
            failed = await one.log.wait_for("listener connect failed")
            assert failed["reason"] == "server connect failed"
            assert one.listening.failure is not None
            async with origins.listening(proxy):
                await one.log.wait_for("listener connected")
                await until(lambda: one.listening.statistics().channels == 1)
                assert one.listening.failure is None
                one.task.cancel()


@pytest.mark.parametrize("moment", ["login", "set-up"])
async def test_a_lasting_refusal_is_told_at_once(moment: str) -> None:
    """Who waits is told when the origin refuses us for good, or has no LISTEN."""

    async def refuse(peer: Peer, _: int) -> None:
        if moment == "login":
            await origins.read_startup(peer)
            await peer.send(messages.error("28P01", "no", severity="FATAL"))
        else:
            await let_in(peer)
            await peer.receive()
            await peer.send(messages.error("25006", "no") + READY)

    async with scripted(refuse) as origin, running(origin.port) as one:
        for _ in range(2):
            with pytest.raises(ServerFault) as caught:
                await one.listening.cover(Client(), (b"a",))
            assert caught.value.sqlstate == {"login": "28P01", "set-up": "25006"}[moment]
        assert one.listening.statistics().subscribers == 0


async def test_backoff() -> None:
    """Attempts become rarer, whether the login fails or the connection does not last."""

    async def hang_up(peer: Peer, number: int) -> None:
        if number % 2:
            await let_in(peer)
            await peer.receive()

    async with scripted(hang_up) as origin, running(origin.port) as one:
        one.listening.settle(Client(), (b"a",))
        await trio.sleep(1.0)
        assert 3 <= len(origin.connected) <= 7


@pytest.mark.parametrize("silent_from", [0, 1, 2])
async def test_a_silent_origin_is_left(monkeypatch: pytest.MonkeyPatch, silent_from: int) -> None:
    """A server that does not answer any more, from which statement on ever, is given up, and the channels are
    listened to on another connection.
    """
    monkeypatch.setattr(module, "SILENCE", 0.05)
    kept_alive = trio.Event()

    async def answer(peer: Peer, number: int) -> None:
        await let_in(peer)
        for count in itertools.count():
            message = await peer.receive()
            if message is None:
                return
            if message[1] == b"\0" and number:
                kept_alive.set()
            if number or count < silent_from:
                await peer.send(LISTENED)

    async with scripted(answer) as origin, running(origin.port, connect_timeout=0.1) as one:
        one.listening.settle(Client(), (b"a",))
        await kept_alive.wait()
        assert len(origin.connected) == 2
        assert one.listening.statistics().channels == 1
        one.task.cancel()
        assert one.log.find("listener lost" if silent_from else "listener connect failed")


async def test_what_was_refused_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel that is wanted and was refused is listened to as soon as the origin takes it."""
    monkeypatch.setattr(module, "SILENCE", 0.02)

    async def answer(peer: Peer, _: int) -> None:
        await let_in(peer)
        refusals = 3
        while (message := await peer.receive()) is not None:
            if message[1] == b'LISTEN "a"\0' and refusals:
                refusals -= 1
                await peer.send(messages.error("XX000", "not yet") + READY)
            else:
                await peer.send(LISTENED)

    async with scripted(answer) as origin, running(origin.port) as one:
        one.listening.settle(Client(), (b"a",))
        await until(lambda: one.listening.statistics().channels == 1)
        assert len(origin.connected) == 1
        assert len(one.log.find("listener cannot listen", channel="a", sqlstate="XX000")) == 3


@pytest.mark.parametrize(
    "nonsense",
    [b"A\0\0\0\x09abcdx", b"A\0\0\0\0", b"A\xff\0\0\0", READY],
    ids=["no strings", "too short", "too long", "not asked for"],
)
async def test_nonsense(nonsense: bytes) -> None:
    """A server that breaks the protocol is left for a new connection."""

    async def speak(peer: Peer, number: int) -> None:
        await let_in(peer)
        for _ in range(2):
            await peer.receive()
            await peer.send(LISTENED)
        if not number:
            await peer.send(nonsense)
        await peer.receive()

    async with scripted(speak) as origin, running(origin.port) as one:
        one.listening.settle(Client(), (b"a",))
        lost = await one.log.wait_for("listener lost")
        assert lost["reason"] == "server protocol violation"
        mark = one.log.entries.index(lost)
        await one.log.wait_for("listener connected", since=mark)


async def test_messages_in_pieces() -> None:
    """Notifications, and what a server may say between them, however they are cut."""
    client = Client()
    said = (
        messages.notification(7, b"a", b"1")
        + messages.parameter_status("TimeZone", "UTC")
        + messages.notice("00000", "by the way")
        + messages.notification(7, b"b", b"")
        + messages.notification(7, b"a", b"2" * 7999)
    )

    async def speak(peer: Peer, _: int) -> None:
        await let_in(peer)
        for _ in range(2):
            await peer.receive()
            await peer.send(LISTENED)
        for byte in said[:120]:
            await peer.send(bytes((byte,)))
            await trio.lowlevel.checkpoint()
        await peer.send(said[120:])
        await peer.receive()

    async with scripted(speak) as origin, running(origin.port) as one:
        one.listening.settle(client, (b"a",))
        await client.wait_for((b"a", b"2" * 7999))
        assert client.got == [(b"a", b"1"), (b"a", b"2" * 7999)]
        assert one.listening.statistics().received == 3
