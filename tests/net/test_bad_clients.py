"""Clients that break the protocol, or off: what they are told, what is logged, and that nobody else cares."""

from __future__ import annotations

import ssl
import struct
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from tests.net.harness import Running, canary, pooler
from tests.net.peer import Peer
from tests.support import requests
from tests.support.pooler import Pooler
from tests.support.target import DATABASE, PASSWORD, USER
from trio_pool.net import tls
from trio_pool.protocol.login import Login
from trio_pool.wire import messages
from trio_pool.wire.tags import AuthenticationCode, Backend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.certificates import Certificates
    from trio_pool.cli.postgres import LocalPostgres

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

VIOLATION = "client protocol violation"
STARTUP = messages.startup({"user": USER, "database": DATABASE})
MEGABYTE = 1 << 20


@asynccontextmanager
async def watched(
    postgres: LocalPostgres,
    *,
    method: str = "trust",
    certificates: Certificates | None = None,
    timeouts: dict[str, str] | None = None,
) -> AsyncIterator[Running]:
    """A pooler with a canary; at the end everybody is gone and nothing is lost."""
    async with pooler(postgres, method=method, certificates=certificates, timeouts=timeouts) as running:
        if method == "trust":
            async with canary(running):
                yield running
        else:
            yield running
        await running.at_rest()
        assert len(running.service.poller) == sum(o.pool.servers for o in running.service.pools.values())


# -- before the login ----------------------------------------------------------------------------------------


def startup(version: int, **parameters: str) -> bytes:
    return messages.startup({"user": USER, "database": DATABASE, **parameters}, version)


UNACCEPTABLE = {
    "GET / HTTP": b"GET / HTTP/1.1\r\nHost: db\r\n\r\n",
    "nulls": bytes(64),
    "two gigabytes": struct.pack("!II", 0x7FFFFFFF, 3 << 16),
    "negative": struct.pack("!iI", -1, 3 << 16),
    "too short": struct.pack("!II", 7, 3 << 16),
    "just too long": struct.pack("!II", 10_005, 3 << 16),
    "protocol 2.0": startup(2 << 16),
    "protocol 4.0": startup(4 << 16),
    "no terminator": messages.untagged(struct.pack("!I", 3 << 16) + b"user\0app\0"),
    "text behind the terminator": messages.untagged(struct.pack("!I", 3 << 16) + b"user\0app\0\0x\0"),
    "a name without a value": messages.untagged(struct.pack("!I", 3 << 16) + b"user\0"),
    "a cancel request without a secret": messages.cancel_request(1, b""),
    "a cancel request with too long a secret": messages.cancel_request(1, bytes(257)),
}


@pytest.mark.parametrize("packet", UNACCEPTABLE.values(), ids=UNACCEPTABLE.keys())
async def test_what_is_no_startup_packet_is_refused(postgres: LocalPostgres, packet: bytes) -> None:
    """It is refused at its header, with 08P01; the log says why; no server was ever asked for."""
    async with watched(postgres) as running:
        leases = running.log.mark()
        async with await Peer.connect(running.address) as peer:
            await peer.send(packet)
            assert (await peer.farewell()).sqlstate == "08P01"
        logged = await running.log.wait_for("client disconnected", since=leases, reason=VIOLATION)
        assert logged["sqlstate"] == "08P01"
        assert logged["error"]


async def test_protocol_2_is_refused_clearly(postgres: LocalPostgres) -> None:
    """The error says which protocol was asked for and which are spoken."""
    async with watched(postgres) as running, await Peer.connect(running.address) as peer:
        await peer.send(startup(2 << 16))
        error = await peer.farewell()
        assert error.summary == "unsupported frontend protocol 2.0: server supports 3.0 to 3.2"


@pytest.mark.parametrize("size", [0, 3, 20])
async def test_silence_before_the_login_ends_after_client_login(postgres: LocalPostgres, size: int) -> None:
    """A client that stops anywhere before it has logged in is told so after `client_login`."""
    async with watched(postgres, timeouts={"client_login": "200ms"}) as running:
        async with await Peer.connect(running.address) as peer:
            await peer.send(STARTUP[:size])
            assert (await peer.farewell()).sqlstate == "28000"
        await running.log.wait_for("client disconnected", reason="client login timeout")


@pytest.mark.parametrize("answered", [0, 1])
async def test_silence_in_the_authentication_ends_after_client_login(
    postgres: LocalPostgres, answered: int
) -> None:
    """So does one that has been asked for a password, however far the exchange has come."""
    async with watched(postgres, method="scram-sha-256", timeouts={"client_login": "200ms"}) as running:
        async with await Peer.connect(running.address) as peer:
            await exchange_scram(peer, steps=answered)
            assert (await peer.farewell()).sqlstate == "28000"
        await running.log.wait_for("client disconnected", reason="client login timeout")


async def test_gssenc_is_declined_and_ssl_then_accepted(
    postgres: LocalPostgres, certificates: Certificates
) -> None:
    """GSSENCRequest is answered with N; SSLRequest may follow on the same connection, and works."""
    async with (
        watched(postgres, certificates=certificates) as running,
        await Peer.connect(running.address) as peer,
    ):
        await peer.send(messages.GSSENC_REQUEST)
        assert await peer.byte() == b"N"
        await peer.encrypt(certificates.client_context())
        await peer.start({"user": USER, "database": DATABASE})
        assert await peer.rows("select 1") == ["1"]


async def test_a_second_ssl_request_is_declined(postgres: LocalPostgres, certificates: Certificates) -> None:
    """Inside TLS another SSLRequest is answered with N, and the login goes on."""
    async with (
        watched(postgres, certificates=certificates) as running,
        await Peer.connect(running.address) as peer,
    ):
        await peer.encrypt(certificates.client_context())
        await peer.send(messages.SSL_REQUEST)
        assert await peer.byte() == b"N"
        await peer.start({"user": USER, "database": DATABASE})
        assert await peer.rows("select 1") == ["1"]


async def test_bytes_in_the_clear_before_the_handshake_are_refused(
    postgres: LocalPostgres, certificates: Certificates
) -> None:
    """What somebody in the middle puts behind SSLRequest is never taken for something said under TLS
    (CVE-2021-23214).
    """
    async with watched(postgres, certificates=certificates) as running:
        async with await Peer.connect(running.address) as peer:
            await peer.send(messages.SSL_REQUEST + STARTUP)
            error = await peer.farewell()
            assert (error.sqlstate, error.summary) == ("08P01", "received unencrypted data after SSL request")
        await running.log.wait_for("client disconnected", reason=VIOLATION)


async def test_a_failed_handshake_is_logged(postgres: LocalPostgres, certificates: Certificates) -> None:
    """Nonsense in place of a handshake, and a client that does not trust the certificate, cost nobody but
    themselves.
    """
    async with watched(postgres, certificates=certificates) as running:
        async with await Peer.connect(running.address) as peer:
            await peer.send(messages.SSL_REQUEST)
            assert await peer.byte() == b"S"
            await peer.send(b"\x16\x03\x01\x00\x05hello" + bytes(100))
            await running.log.wait_for("client disconnected", reason="client tls failed")
        since = running.log.mark()
        async with await Peer.connect(running.address) as peer:
            with pytest.raises(trio.BrokenResourceError):
                await peer.encrypt(ssl.create_default_context(cafile=certificates.stranger_ca))
        await running.log.wait_for("client disconnected", since=since)


async def test_direct_tls_needs_alpn(postgres: LocalPostgres, certificates: Certificates) -> None:
    """Without SSLRequest the handshake must name the protocol; then it works, else it is refused."""
    context = certificates.client_context()
    async with watched(postgres, certificates=certificates) as running:
        async with await Peer.connect(running.address) as peer:
            await peer.encrypt(context, direct=True)
            assert (await peer.farewell()).sqlstate == "08P01"
        await running.log.wait_for("client disconnected", reason="client tls failed")
        context.set_alpn_protocols([tls.ALPN])
        async with await Peer.connect(running.address) as peer:
            await peer.encrypt(context, direct=True)
            await peer.start({"user": USER, "database": DATABASE})
            assert await peer.rows("select 1") == ["1"]


# -- protocol versions ---------------------------------------------------------------------------------------


async def negotiated(peer: Peer, version: int, **options: str) -> tuple[tuple[int, list[str]] | None, int]:
    """What NegotiateProtocolVersion says, if it comes, and the size of the cancel key's secret."""
    await peer.send(startup(version, **options))
    answer = None
    size = 0
    for tag, body in await peer.exchange():
        assert tag != Backend.ERROR_RESPONSE, messages.read_error(body)
        if tag == Backend.NEGOTIATE_PROTOCOL_VERSION:
            answer = messages.read_negotiate_protocol_version(body)
        if tag == Backend.BACKEND_KEY_DATA:
            peer.process_id, peer.secret = messages.read_backend_key_data(body)
            size = len(peer.secret)
    return answer, size


@pytest.mark.parametrize(
    ("version", "options", "answer", "secret"),
    [
        (0x30000, {}, None, 4),
        (0x30002, {}, None, 32),
        (0x30009, {}, (0x30002, []), 32),
        (0x30000, {"_pq_.shoe_size": "43"}, (0x30000, ["_pq_.shoe_size"]), 4),
        (0x3270F, {"_pq_.a": "1", "_pq_.b": "2"}, (0x30002, ["_pq_.a", "_pq_.b"]), 32),
    ],
    ids=["3.0", "3.2", "3.9", "option", "grease"],
)
async def test_protocol_versions(
    postgres: LocalPostgres,
    version: int,
    options: dict[str, str],
    answer: tuple[int, list[str]] | None,
    secret: int,
) -> None:
    """Newer minor versions and unknown options are negotiated down; the cancel key has the version's size,
    and cancels.
    """
    async with watched(postgres) as running, await Peer.connect(running.address) as peer:
        assert await negotiated(peer, version, **options) == (answer, secret)
        await peer.send(messages.query("select pg_sleep(60)"))
        await running.until(lambda: len(running.origin.pool.leased) > 0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_until_done, peer)
            assert [error.sqlstate for error in await peer.errors()] == ["57014"]
            nursery.cancel_scope.cancel()


async def cancel_until_done(peer: Peer) -> None:
    """A request that comes before the query has no effect, so send more."""
    while True:
        await peer.request_cancel()


# -- the login -----------------------------------------------------------------------------------------------


async def exchange_scram(
    peer: Peer, *, steps: int, user: str = USER, password: str = PASSWORD, database: str = DATABASE
) -> list[bytes]:
    """Go so many steps into SCRAM and return all that was received."""
    login = Login(
        {"user": user, "database": database},
        password,
        tls=False,
        channel_binding=None,
        allow_cleartext=False,
        client_nonce="rOprNGfwEbeRWgbNEkqO",
    )
    await peer.send(login.begin())
    received = []
    for _ in range(steps + 1):
        message = await peer.receive()
        assert message is not None
        received.append(messages.message(*message))
        if message[0] == Backend.ERROR_RESPONSE:
            break
        reply = login.receive(*message)
        if len(received) <= steps and reply:
            await peer.send(reply)
    return received


async def refusal(running: Running, user: str, password: str, database: str = DATABASE) -> tuple[bytes, ...]:
    """Everything that a client who is refused is sent, but what is random by nature: nonce, salt."""
    async with await Peer.connect(running.address) as peer:
        received = await exchange_scram(peer, steps=5, user=user, password=password, database=database)
        assert await peer.at_end()
    return tuple(
        message[:9] + bytes([len(message)])
        if message[5:9] == struct.pack("!I", AuthenticationCode.SASL_CONTINUE)
        else message
        for message in received
    )


async def test_nothing_tells_an_unknown_user_from_a_wrong_password(postgres: LocalPostgres) -> None:
    """Both get the same messages of the same sizes and the same error, whose text names only what the client
    said.
    """
    async with watched(postgres, method="scram-sha-256") as running:
        wrong = await refusal(running, USER, "guess")
        missing = await refusal(running, "ppa", "guess")
        assert [m.replace(b"ppa", b"app") for m in missing] == list(wrong)
        assert messages.read_error(wrong[-1][5:]).sqlstate == "28P01"
        logged = running.log.find("client disconnected", reason="client authentication failed")
        assert [entry["detail"] for entry in logged] == [
            'password does not match for user "app"',
            'user "ppa" does not exist',
        ]


async def test_an_unknown_database_is_named_behind_the_login_only(postgres: LocalPostgres) -> None:
    """3D000 for those who know a password, 28P01 as ever for those who do not."""
    async with watched(postgres, method="scram-sha-256") as running:
        known = await refusal(running, USER, PASSWORD, database="nowhere")
        assert messages.read_error(known[-1][5:]).sqlstate == "3D000"
        stranger = await refusal(running, USER, "guess", database="nowhere")
        assert messages.read_error(stranger[-1][5:]).sqlstate == "28P01"
        assert running.service.pools == {}


@pytest.mark.parametrize("password", [b"app\0s secret", b"", b"no end"], ids=["null", "empty", "no end"])
async def test_malformed_passwords(postgres: LocalPostgres, password: bytes) -> None:
    """A password with a null byte, without one at its end, or without anything is refused, not cut."""
    async with pooler(
        postgres, method="password", database={}, listen={}, auth={"allow_cleartext_without_tls": True}
    ) as running:
        async with await Peer.connect(running.address) as peer:
            await peer.send(STARTUP)
            assert await peer.receive() == (Backend.AUTHENTICATION, struct.pack("!I", 3))
            await peer.send(messages.message(ord("p"), password + (b"" if password == b"no end" else b"\0")))
            assert (await peer.farewell()).sqlstate in ("08P01", "28P01")
        await running.at_rest()


# -- after the login -----------------------------------------------------------------------------------------

FATAL_AFTER_LOGIN = {
    "length 0": b"Q\0\0\0\0",
    "length 3": b"Q\0\0\0\3",
    "negative": b"Q\xff\xff\xff\xff",
    "two gigabytes": b"Q\x7f\xff\xff\xff",
    "a long Sync": b"S" + struct.pack("!I", 10_001),
    "password message": messages.password(b"again"),
    "unknown type": messages.message(ord("z"), b"zzz"),
    "a server's message": messages.READY[ord("I")],
    "null": b"\0\0\0\0\4",
    "startup packet": STARTUP,
}


@pytest.mark.parametrize("prefix", [b"", messages.query("begin; select 0")], ids=["idle", "leasing"])
@pytest.mark.parametrize("message", FATAL_AFTER_LOGIN.values(), ids=FATAL_AFTER_LOGIN.keys())
async def test_what_is_no_message_ends_the_client(
    postgres: LocalPostgres, prefix: bytes, message: bytes
) -> None:
    """FATAL 08P01 at the header, whether it holds a server or not; the server is clean for the next one."""
    async with watched(postgres) as running:
        async with await running.log_in() as peer:
            if prefix:
                await peer.send(prefix)
                await peer.exchange()
            await peer.send(message)
            assert (await peer.farewell()).sqlstate == "08P01"
        logged = await running.log.wait_for("client disconnected", reason=VIOLATION)
        assert logged["client"]
        assert running.log.find("server disconnected") == []


async def test_a_violation_in_the_middle_of_a_row_corrupts_nothing(postgres: LocalPostgres) -> None:
    """Who breaks the protocol while a row arrives is closed without a word: it would end up in it."""
    async with watched(postgres) as running:
        async with await running.log_in() as peer:
            await peer.send(messages.query("select repeat('x', 50000000)"))
            while peer.unread.count(b"x") < 1000:
                await peer.more()
            await peer.send(FATAL_AFTER_LOGIN["unknown type"])
            while await peer.more():
                pass
            assert peer.unread.endswith(b"xxx")
        await running.log.wait_for("client disconnected", reason=VIOLATION)


OUT_OF_ORDER = {
    "Execute before Bind": (requests.execute() + requests.SYNC, ["34000"]),
    "Bind before Parse": (requests.bind("nothing") + requests.SYNC, ["26000"]),
    "Describe of nothing": (requests.describe("nothing") + requests.SYNC, ["26000"]),
    "an empty Describe": (messages.message(ord("D")) + requests.SYNC, ["08P01"]),
    "an empty Bind": (messages.message(ord("B")) + requests.SYNC, ["08P01"]),
    "an empty Parse": (messages.message(ord("P")) + requests.SYNC, ["08P01"]),
    "an empty Execute": (messages.message(ord("E")) + requests.SYNC, ["08P01"]),
    "a Query without an end": (messages.message(ord("Q"), b"select 1"), ["08P01"]),
    "a Query with two ends": (messages.message(ord("Q"), b"select 1\0select 2\0"), ["08P01"]),
    "CopyData out of COPY": (requests.copy_data(b"x") * 3 + requests.query("select 1"), []),
    "CopyDone out of COPY": (requests.COPY_DONE + requests.SYNC, []),
    "CopyFail out of COPY": (requests.copy_fail("why") + requests.SYNC, []),
}


@pytest.mark.parametrize(("request_", "sqlstates"), OUT_OF_ORDER.values(), ids=OUT_OF_ORDER.keys())
async def test_messages_out_of_order(postgres: LocalPostgres, request_: bytes, sqlstates: list[str]) -> None:
    """The client gets PostgreSQL's own answer, which is an ERROR or nothing, and goes on."""
    async with watched(postgres) as running, await running.log_in() as peer:
        for _ in range(2):
            await peer.send(request_)
            assert [error.sqlstate for error in await peer.errors()] == sqlstates
            assert await peer.rows("select 1") == ["1"]


@pytest.mark.parametrize("size", [1, 5, 12])
async def test_half_a_message_holds_no_server(postgres: LocalPostgres, size: int) -> None:
    """A client that stops in the middle of a message keeps nobody waiting, and may end it much later."""
    async with watched(postgres) as running, await running.log_in() as peer:
        request = messages.query("select 'late'")
        await peer.send(request[:size])
        async with canary(running, "other") as other:
            await other.heard(5)
            (waiting,) = [
                c for c in running.service.clients.by_id.values() if c.process_id == peer.process_id
            ]
            assert waiting.server is None
        await peer.send(request[size:])
        assert await peer.read_rows() == ["late"]


# -- leaving anywhere ----------------------------------------------------------------------------------------


def conversation() -> bytes:
    """Requests of every kind, behind the login."""
    return (
        requests.query("select 1")
        + requests.parse("s", "select $1::text")
        + requests.bind("s", "x")
        + requests.describe_portal()
        + requests.execute()
        + requests.SYNC
        + requests.query("begin")
        + requests.query("copy pg_temp.t from stdin")
        + requests.copy_data(b"1\n")
        + requests.COPY_DONE
        + requests.query("copy (select generate_series(1, 3)) to stdout")
        + requests.parse("", "select 1")
        + requests.bind("")
        + requests.execute()
        + requests.FLUSH
        + requests.SYNC
        + requests.query("commit")
        + requests.TERMINATE
    )


async def in_parallel(numbers: range, act: object, at_once: int = 8) -> None:
    """`act` for each number, so many at a time."""
    assert callable(act)
    todo = iter(numbers)

    async def work() -> None:
        for number in todo:
            await act(number)

    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(work)


@pytest.mark.parametrize("polite", [True, False], ids=["in pieces", "at once"])
async def test_leaving_at_any_byte_of_a_conversation(postgres: LocalPostgres, polite: bool) -> None:
    """Wherever a client goes away, with and without having read the replies, its server is clean for the next
    one.
    """
    requested = conversation()

    async def leave_after(size: int) -> None:
        peer = await running.log_in()
        if polite:
            await peer.rows("create temporary table t (a int)")
        await peer.send(requested[:size])
        if polite and size > 40:
            await peer.receive()
        peer.close()
        running.check()

    async with watched(postgres) as running:
        await in_parallel(range(0, len(requested) + 1, 1 if not polite else 3), leave_after)


async def test_leaving_at_any_byte_of_the_login(postgres: LocalPostgres) -> None:
    """So in StartupMessage and SCRAM, where no server is asked for yet."""
    login = Login(
        {"user": USER, "database": DATABASE},
        PASSWORD,
        tls=False,
        channel_binding=None,
        allow_cleartext=False,
        client_nonce="rOprNGfwEbeRWgbNEkqO",
    )
    startup_size = len(login.begin())
    first_size, last_size = 9 + len("SCRAM-SHA-256") + 1 + len("n,,n=*,r=") + 20, 110
    sizes = (startup_size, first_size, last_size)

    async def leave_after(place: int) -> None:
        step = 0
        while place > sizes[step]:
            place -= sizes[step]
            step += 1
        peer = await Peer.connect(running.address)
        machine = Login(
            {"user": USER, "database": DATABASE},
            PASSWORD,
            tls=False,
            channel_binding=None,
            allow_cleartext=False,
            client_nonce="rOprNGfwEbeRWgbNEkqO",
        )
        reply = machine.begin()
        for _ in range(step):
            await peer.send(reply)
            message = await peer.receive()
            assert message is not None
            reply = machine.receive(*message)
        await peer.send(reply[:place])
        peer.close()

    async with watched(postgres, method="scram-sha-256") as running:
        await in_parallel(range(sum(sizes)), leave_after)
        await running.at_rest()
        gone = running.log.find("client disconnected")
        assert {entry["reason"] for entry in gone} == {"client vanished"}
        assert len(gone) == sum(sizes)


# -- slow readers --------------------------------------------------------------------------------------------


def resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no VmRSS of {pid}")


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
async def test_a_client_that_does_not_read_costs_no_memory(
    postgres: LocalPostgres, certificates: Certificates, encrypted: bool
) -> None:
    """A result of 200 MB that nobody reads stays where it is; others are served; then its server is free."""
    with Pooler(postgres, pool_size=2, auth="trust", certificates=certificates) as process:
        address = process.host, process.port
        with trio.fail_after(30):
            async with await Peer.log_in(address) as other, await Peer.connect(address) as glutton:
                if encrypted:
                    await glutton.encrypt(certificates.client_context())
                await glutton.start({"user": USER, "database": DATABASE})
                assert await other.rows("select 1") == ["1"]
                before = resident(process.pid)
                await glutton.send(messages.query("select repeat('x', 1000000), generate_series(1, 200)"))
                await glutton.more()
                for number in range(100):
                    assert await other.rows(f"select {number}") == [str(number)]
                    await trio.sleep(0.005)
                assert resident(process.pid) - before < 10 * MEGABYTE
                await other.rows("begin; select 0")
                async with await Peer.log_in(address) as third:
                    await third.send(messages.query("select 'free'"))
                    glutton.close()
                    assert await third.read_rows() == ["free"]
                await other.rows("commit")
                assert resident(process.pid) - before < 10 * MEGABYTE


async def test_a_client_that_reads_slowly_gets_everything(postgres: LocalPostgres) -> None:
    """Back-pressure loses nothing: a big result read in small bites is complete."""
    async with watched(postgres) as running, await running.log_in() as peer:
        await peer.send(messages.query("select repeat('x', 1000), generate_series(1, 20000)"))
        rows = 0
        while (message := await peer.receive()) is not None and message[0] != Backend.READY_FOR_QUERY:
            rows += message[0] == Backend.DATA_ROW
            if rows % 2000 == 0:
                await trio.sleep(0.01)
        assert rows == 20000
