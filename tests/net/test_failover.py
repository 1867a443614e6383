"""Origins of several hosts: which will do, in which order they are tried, and what happens when one goes."""

from __future__ import annotations

import os
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.lowlevel

import trio_pool
from tests.net import origins
from tests.net.clusters import Cluster, cluster, follow, full_backlog
from tests.net.harness import pooler, watcher
from tests.net.origins import PARAMETERS, let_in, row, scripted
from tests.net.peer import Peer
from tests.support.target import DATABASE, USER
from trio_pool.config.origin import parse_origin
from trio_pool.daemon.check import Finding, check
from trio_pool.errors import ServerFault
from trio_pool.net.dial import Dialled, OriginAccess, dial
from trio_pool.wire import messages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_pool.cli.postgres import Installation, LocalPostgres

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
READY = messages.READY[ord("I")]
PORT = "select inet_server_port()"


async def hang(peer: Peer, _: int) -> None:
    """Accept and never answer."""
    while await peer.more():
        pass


@pytest.fixture(scope="module")
def pair(installation: Installation) -> Iterator[Cluster]:
    """A primary and a standby that stay what they are."""
    with cluster(installation) as one:
        yield one


def access_to(url: str) -> OriginAccess:
    """How to log in there without a password."""
    origin = parse_origin(url, Path())
    return OriginAccess(origin, {"user": USER, "database": DATABASE}, None, NO_TLS)


def port_of(dialled: Dialled) -> int:
    _, address = dialled.address
    assert isinstance(address, tuple)
    port: int = address[1]
    return port


async def port_reached(url: str, limit: float = 10.0) -> int:
    """The port of the host that a login ends at."""
    dialled = await dial(access_to(url), limit)
    dialled.hang_up()
    return port_of(dialled)


# -- which hosts will do -------------------------------------------------------------------------------------

FITTING = {
    "any": ("first", "first"),
    "read-write": ("primary", "primary"),
    "read-only": ("standby", "standby"),
    "primary": ("primary", "primary"),
    "standby": ("standby", "standby"),
    "prefer-standby": ("standby", "standby"),
}


@pytest.mark.parametrize("target", FITTING)
@pytest.mark.parametrize("reverse", [False, True], ids=["primary first", "standby first"])
async def test_the_first_host_that_will_do_is_used(pair: Cluster, target: str, reverse: bool) -> None:
    """Each value of `target_session_attrs` means what it means for libpq, however the hosts are ordered."""
    hosts = [pair.standby, pair.primary] if reverse else [pair.primary, pair.standby]
    wanted = FITTING[target][reverse]
    expected = hosts[0] if wanted == "first" else getattr(pair, wanted)
    url = pair.url(*hosts, query=f"&target_session_attrs={target}")
    async with pooler(url) as running, await running.log_in() as peer:
        assert await peer.rows(PORT) == [str(expected.port)]
    assert await port_reached(url) == expected.port


@pytest.mark.parametrize(
    ("target", "name", "found"),
    [
        ("read-write", "standby", "is read-only"),
        ("read-only", "primary", "is not read-only"),
        ("primary", "standby", "is a standby"),
        ("standby", "primary", "is not a standby"),
    ],
)
async def test_no_host_that_will_do(pair: Cluster, target: str, name: str, found: str) -> None:
    """The client gets 08001 and is told of every host why it will not do."""
    gone = origins.closed_port()
    there = getattr(pair, name).port
    url = pair.url(gone, there, query=f"&target_session_attrs={target}")
    async with (
        pooler(url, timeouts={"lease_wait": "300ms"}) as running,
        await Peer.connect(running.address) as peer,
    ):
        await peer.send(messages.startup({"user": USER, "database": DATABASE}))
        error = await peer.farewell()
        assert error.sqlstate == "08001"
        assert error.summary == (
            f"cannot connect to the origin: cannot connect to 127.0.0.1:{gone}: Connection refused; "
            f"127.0.0.1:{there} {found}, and target_session_attrs is {target}"
        )


async def test_a_preference_is_not_a_condition(pair: Cluster) -> None:
    """With `prefer-standby` a primary is used if no standby answers, also if one hangs."""
    query = "&target_session_attrs=prefer-standby"
    assert await port_reached(pair.url(pair.primary, origins.closed_port(), query=query)) == pair.primary.port
    async with scripted(hang) as hanging:
        url = pair.url(pair.primary, hanging.port, query=query)
        assert await port_reached(url, 0.3) == pair.primary.port
        with trio.fail_after(0.5):
            dialled = await dial(access_to(url))
            dialled.hang_up()
        assert port_of(dialled) == pair.primary.port


async def test_read_only_by_default(postgres: LocalPostgres, pair: Cluster) -> None:
    """A host that has become read-only without being a standby is left for another, by new servers."""
    hosts = pair.url(pair.primary, postgres.port, query="&target_session_attrs=read-write")
    async with (
        pooler(hosts, pool_size=1) as running,
        watcher(pair.primary) as superuser,
        await running.log_in() as peer,
    ):
        assert await peer.rows(PORT) == [str(pair.primary.port)]
        try:
            await superuser.rows("alter system set default_transaction_read_only = on")
            await superuser.rows("select pg_reload_conf()")
            (pid,) = await peer.rows("select pg_backend_pid()")
            await superuser.rows(f"select pg_terminate_backend({pid}, 5000)")
            await running.log.wait_for("server disconnected")
            assert await peer.rows(PORT) == [str(postgres.port)]
        finally:
            await superuser.rows("alter system reset default_transaction_read_only")
            await superuser.rows("select pg_reload_conf()")


@pytest.mark.parametrize(
    ("target", "question", "answer", "fits"),
    [
        ("read-write", "SHOW transaction_read_only", "off", True),
        ("read-write", "SHOW transaction_read_only", "on", False),
        ("read-only", "SHOW transaction_read_only", "on", True),
        ("primary", "SELECT pg_catalog.pg_is_in_recovery()", "f", True),
        ("standby", "SELECT pg_catalog.pg_is_in_recovery()", "t", True),
        ("standby", "SELECT pg_catalog.pg_is_in_recovery()", "f", False),
        ("primary", "SELECT pg_catalog.pg_is_in_recovery()", "", False),
    ],
)
async def test_a_server_that_does_not_report_what_it_is(
    target: str, question: str, answer: str, fits: bool
) -> None:
    """PostgreSQL before 14, or a pooler, is asked, as libpq asks it; one that refuses to answer will not
    do.
    """
    asked: list[bytes] = []

    async def tell(peer: Peer, _: int) -> None:
        await let_in(peer)
        message = await peer.receive()
        assert message is not None
        asked.append(message[1])
        news = messages.parameter_status("application_name", "x")
        await peer.send((row(answer) if answer else messages.error("42501", "no")) + READY + news)
        await peer.receive()

    assert "in_hot_standby" not in PARAMETERS
    async with scripted(tell) as origin:
        url = origins.url(origin.port) + f"&target_session_attrs={target}"
        if fits:
            dialled = await dial(access_to(url), 10.0)
            dialled.hang_up()
            assert dialled.unread in (b"", messages.parameter_status("application_name", "x"))
        else:
            with pytest.raises(ServerFault) as caught:
                await dial(access_to(url), 10.0)
            assert caught.value.reason.value == "server unsuitable"
        assert asked == [question.encode() + b"\0"]


# -- failover ------------------------------------------------------------------------------------------------


async def test_failover(installation: Installation) -> None:
    """The primary goes, the standby is promoted, the old primary comes back as a standby: clients outside a
    transaction go on, always on the primary, and the pool is not restarted.
    """
    with cluster(installation) as one:
        first, second = one.primary, one.standby
        url = one.url(first, second, query="&target_session_attrs=primary")
        async with (
            pooler(url, timeouts={"lease_wait": "60s"}, limit=100) as running,
            await running.log_in() as peer,
            await running.log_in() as opened,
        ):
            assert await peer.rows("create table t (x int)") == []
            assert await peer.rows(PORT) == [str(first.port)]
            assert await opened.rows("begin; select 1") == ["1"]
            async with watcher(first) as superuser:
                caught_up = "select count(*) from pg_stat_replication where replay_lsn = pg_current_wal_lsn()"
                while await superuser.rows(caught_up) != ["1"]:
                    await trio.lowlevel.checkpoint()

            await trio.to_thread.run_sync(first.stop)
            await running.until(lambda: not running.origin.pool.servers)
            await peer.send(messages.query(f"insert into t values (1); {PORT}"))
            refused = await running.log.wait_for("server connect failed")
            assert "Connection refused; " in refused["error"]
            assert refused["error"].endswith("is a standby, and target_session_attrs is primary")
            await trio.to_thread.run_sync(second.promote)
            assert await peer.read_rows() == [str(second.port)]
            assert [e.sqlstate for e in await opened.run("select 1")] == ["08006"]
            assert await opened.rows("rollback") == []

            follow(first, second)
            await trio.to_thread.run_sync(first.start)
            for server in list(running.origin.pool.idle):
                server.transport.shutdown()
            await running.until(lambda: not running.origin.pool.servers)
            assert await opened.rows(f"insert into t values (2); {PORT}") == [str(second.port)]
            await running.at_rest(clients=2)


# -- time ----------------------------------------------------------------------------------------------------


async def test_a_host_that_hangs_takes_its_share_once(postgres: LocalPostgres) -> None:
    """One that does not answer holds up the first server connection for a part of `server_connect`; it is
    tried last from then on, and not before the clients' wait is over.
    """
    async with scripted(hang) as hanging:
        with full_backlog() as deaf:
            hosts = f"127.0.0.1:{hanging.port},127.0.0.1:{deaf},127.0.0.1:{postgres.port}"
            url = f"postgresql://{USER}@{hosts}/{DATABASE}?sslmode=disable"
            began = trio.current_time()
            async with (
                pooler(url, pool_size=3, timeouts={"server_connect": "900ms"}) as running,
                await running.log_in() as a,
                await running.log_in() as b,
                await running.log_in() as c,
            ):
                for peer in (a, b, c):
                    assert await peer.rows("begin; select 1") == ["1"]
                assert len(running.origin.pool.leased) == 3
                assert len(hanging.connected) == 1
                assert running.log.find("server connect failed") == []
                assert trio.current_time() - began >= 0.6


async def test_nobody_answers() -> None:
    """Each host gets an equal share, and is named."""
    async with scripted(hang) as one, scripted(hang) as other:
        url = f"postgresql://{USER}@127.0.0.1:{one.port},127.0.0.1:{other.port}/{DATABASE}?sslmode=disable"
        began = trio.current_time()
        with pytest.raises(ServerFault) as caught:
            await dial(access_to(url), 0.2)
        assert trio.current_time() - began >= 0.2
        for host in (one, other):
            assert f"127.0.0.1:{host.port} did not answer within 0." in caught.value.message


async def test_the_next_address_of_a_name_is_tried() -> None:
    """Of a name with several addresses, one that refuses and one that hangs are passed over."""

    async def answer(peer: Peer, _: int) -> None:
        await let_in(peer)
        await peer.receive()

    async with scripted(hang) as hanging, scripted(answer) as good:
        ports = [origins.closed_port(), hanging.port, good.port]

        class Resolver(trio.abc.HostnameResolver):
            async def getaddrinfo(self, *_: object, **__: object) -> list[object]:  # type: ignore[override]
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]

            async def getnameinfo(self, *_: object) -> tuple[str, str]:
                raise NotImplementedError

        trio.socket.set_custom_hostname_resolver(Resolver())
        assert await port_reached(f"postgresql://{USER}@db/{DATABASE}?sslmode=disable", 0.4) == good.port


async def test_hosts_in_any_order() -> None:
    """With `load_balance_hosts=random` connections are spread over the hosts; without, the first has them
    all.
    """

    async def answer(peer: Peer, _: int) -> None:
        await let_in(peer)
        await peer.receive()

    async with scripted(answer) as one, scripted(answer) as other:
        url = f"postgresql://{USER}@127.0.0.1:{one.port},127.0.0.1:{other.port}/{DATABASE}?sslmode=disable"
        assert {await port_reached(url) for _ in range(5)} == {one.port}
        spread = {await port_reached(f"{url}&load_balance_hosts=random") for _ in range(60)}
        assert spread == {one.port, other.port}


# -- the options of TCP --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (
            "&keepalives_idle=7&keepalives_interval=3&keepalives_count=4&tcp_user_timeout=9000",
            {
                "SO_KEEPALIVE": 1,
                "TCP_KEEPIDLE": 7,
                "TCP_KEEPINTVL": 3,
                "TCP_KEEPCNT": 4,
                "TCP_USER_TIMEOUT": 9000,
            },
        ),
        ("&keepalives=0", {"SO_KEEPALIVE": 0, "TCP_USER_TIMEOUT": 0}),
        ("", {"SO_KEEPALIVE": 1, "TCP_USER_TIMEOUT": 0}),
    ],
)
async def test_keepalives(query: str, expected: dict[str, int]) -> None:
    """The socket has what the origin's URL says; what it does not say is the system's."""

    async def answer(peer: Peer, _: int) -> None:
        await let_in(peer)
        await peer.receive()

    async with scripted(answer) as origin:
        dialled = await dial(access_to(origins.url(origin.port) + query), 10.0)
        with socket.socket(fileno=os.dup(dialled.transport.fileno())) as sock:
            found = {
                name: sock.getsockopt(
                    socket.SOL_SOCKET if name.startswith("SO_") else socket.IPPROTO_TCP, getattr(socket, name)
                )
                for name in expected
            }
        dialled.hang_up()
    assert found == expected


# -- check ---------------------------------------------------------------------------------------------------


async def test_check_reports_each_host(pair: Cluster) -> None:
    """A host that answers is in order, whether it is the one that is wanted now or not."""
    url = pair.url(
        pair.primary, pair.standby, query="&target_session_attrs=primary&load_balance_hosts=random"
    )
    config = trio_pool.Config.from_dict({"databases": {DATABASE: {"origin": url}}})
    found: list[Finding] = []
    assert await check(config, found.append)
    assert [one.label for one in found] == [
        f"{DATABASE} at 127.0.0.1:{host.port}" for host in (pair.primary, pair.standby)
    ]
    assert all(one.text.startswith("ok, PostgreSQL ") for one in found)
