"""Whether a client's system is still there when nothing comes from it: power gone, cable cut, a router that
has forgotten the connection. The system never says so by itself.

Two questions, because TCP has two states. A connection on which nothing is under way is asked by keep-alive,
which the system does. One on which something we sent is not acknowledged is not asked; the system sends it
again, for a quarter of an hour on Linux. Its socket option for that, TCP_USER_TIMEOUT, also ends a client
that is well and only does not read (its window stays closed, and acknowledgements of probes do not count;
measured, Linux 6.18), and besides overrules the number of keep-alive probes. So `watch` looks by itself at
the few clients of which it matters: those with a server connection, or with replies that wait to be read.
"""

from __future__ import annotations

import math
import socket
import struct
import sys
from typing import TYPE_CHECKING, Self, TypeVar

import attrs
import structlog
import trio

from trio_pool.config.access import Listen
from trio_pool.config.address import TcpAddress
from trio_pool.config.origin import LINK_TCP
from trio_pool.config.problems import ConfigurationError, Problem
from trio_pool.errors import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trio_pool.net.client import Client
    from trio_pool.net.connection import Connection
    from trio_pool.net.server import Server

    D = TypeVar("D", bound=Connection)

log = structlog.get_logger()

_OPTIONS = {
    "tcp_keepalive_idle": ("TCP_KEEPIDLE", "TCP_KEEPALIVE"),  # the second is macOS's
    "tcp_keepalive_interval": ("TCP_KEEPINTVL",),
    "tcp_keepalive_count": ("TCP_KEEPCNT",),
}
_CAN_WATCH = sys.platform == "linux" and hasattr(socket, "TCP_INFO")
_INFO = struct.Struct("=3xB20xI16xI8xI")
"""Of Linux's `struct tcp_info`: probes, unacked, last_data_sent, last_ack_recv (milliseconds)."""
SHORTEST = 3.0
"""Seconds: less would take the living for dead, since Linux does not answer every question without delay
(`net.ipv4.tcp_invalid_ratelimit`).
"""
REVIEW = 600.0
"""Seconds after which the patience with links is asked for again, since it can be reconfigured."""
LOOKS = 6
"""How often `watch` looks within its patience; more often is a more exact end for more work."""


@attrs.frozen
class Keepalive:
    """Socket options for accepted TCP connections: level, option, value."""

    options: tuple[tuple[int, int, int], ...] = ()

    @classmethod
    def of(cls, listen: Listen) -> Self:
        """What the configuration asks for.

        A system that lacks an option is no problem as long as nobody has asked for it; else raises
        `ConfigurationError`.
        """
        if not any(isinstance(address, TcpAddress) for address in listen.addresses):
            return cls()
        problems = []
        options = []
        if listen.tcp_keepalive_idle != math.inf:
            options.append((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1))
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                for name, spellings in _OPTIONS.items():
                    value = getattr(listen, name)
                    if value == math.inf:
                        continue
                    option = _supported(spellings)
                    problem = _problem(probe, option, math.ceil(value))
                    if problem is None:
                        assert option is not None
                        options.append((socket.IPPROTO_TCP, option, math.ceil(value)))
                    elif value != getattr(Listen(), name):
                        problems.append(_in_listen(name, problem))
        if listen.tcp_user_timeout not in (math.inf, Listen().tcp_user_timeout) and not _CAN_WATCH:
            problems.append(_in_listen("tcp_user_timeout", _LACKING))
        if problems:
            raise ConfigurationError(problems)
        return cls(tuple(options))

    def apply(self, sock: socket.socket) -> None:
        """Raises OSError if the connection is gone already."""
        for level, option, value in self.options:
            sock.setsockopt(level, option, value)


_LACKING = "this system has no such option"


def _supported(spellings: Iterable[str]) -> int | None:
    return next((getattr(socket, name) for name in spellings if hasattr(socket, name)), None)


def _problem(probe: socket.socket, option: int | None, value: int) -> str | None:
    """Why the option cannot have this value, None if it can."""
    if option is None:
        return _LACKING
    try:
        probe.setsockopt(socket.IPPROTO_TCP, option, value)
    except (OSError, OverflowError):
        return f"this system does not take {value}"
    return None


def _in_listen(name: str, what: str) -> Problem:
    return Problem("configuration", None, ("listen", name), what, "leave the key out, or change its value")


async def watch(clients: Callable[[], Iterable[Client]], patience: float) -> None:
    """End clients that have left something unacknowledged for so long (seconds); links have the patience of
    links. Runs until cancelled.
    """
    if not _CAN_WATCH:
        return
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch_clients, clients, patience, False)
        nursery.start_soon(_watch_clients, clients, LINK_TCP.tcp_user_timeout / 1000, True)


async def _watch_clients(clients: Callable[[], Iterable[Client]], patience: float, links: bool) -> None:
    def owing() -> Iterable[Client]:
        return (
            client
            for client in clients()
            if client.link is links
            and client.fd >= 0
            and (client.server is not None or client.transport.pending)
        )

    def lost(client: Client, seconds: float) -> None:
        log.info("client does not answer", client=client.peer, seconds=round(seconds, 3))
        client.finish(Reason.CLIENT_VANISHED)

    await watch_all(owing, lost, patience)


async def watch_links(servers: Callable[[], Iterable[Server]], patience: Callable[[], float]) -> None:
    """Give up links that swallow what is sent to them. Not by TCP_USER_TIMEOUT, for the same reason: an
    origin that does not read because its database does not is well. Runs until cancelled.
    """

    def attached() -> Iterable[Server]:
        return (server for server in servers() if server.fd >= 0)

    while _CAN_WATCH:
        now_patient = patience()
        if now_patient:
            with trio.move_on_after(REVIEW):
                await watch_all(attached, lambda server, seconds: server.stalled(seconds), now_patient)
        else:
            await trio.sleep(REVIEW)


async def watch_all(
    debtors: Callable[[], Iterable[D]], lost: Callable[[D, float], None], patience: float
) -> None:
    """Call `lost`, with the seconds since it was heard of, for each connection that owes an acknowledgement
    for so long.
    """
    if patience == math.inf:
        return
    patience = max(patience, SHORTEST)
    owing: dict[D, float] = {}  # since when at least
    while True:
        await trio.sleep(patience / LOOKS)
        now = trio.current_time()
        before, owing = owing, {}
        for debtor in list(debtors()):
            heard = _owes(debtor.fd)
            if heard is None:
                continue
            since = before.get(debtor, now)
            if now - heard > since:
                since = now  # something was acknowledged meanwhile
            if now - since < patience:
                owing[debtor] = since
            else:
                lost(debtor, heard)


def _owes(fd: int) -> float | None:
    """Seconds since the peer's system was last heard of, if it has not answered what was sent to it since:
    data, or the question whether it has room again.

    A system without room may answer and yet not acknowledge, and is then asked at growing intervals. So what
    counts is the last time that something was sent, not how long something is unacknowledged.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, fileno=fd)
    try:
        probes, unacknowledged, sent, heard = _INFO.unpack(
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
        )
    except (OSError, struct.error):  # a Unix socket, or reset
        return None
    finally:
        sock.detach()
    return heard / 1000 if probes or (unacknowledged and heard > sent) else None
