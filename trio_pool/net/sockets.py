"""Sockets to an origin: its addresses, connecting, the options of TCP."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import TYPE_CHECKING, Any, Final

import trio

from trio_pool.errors import Reason, ServerFault

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_pool.config.origin import TcpOptions

Address = tuple[int, object]
"""Address family and what `connect` takes."""

# What is missing on a system is left out, as in libpq. macOS has another name for the first.
_OPTIONS: Final = {
    "keepalives_idle": getattr(socket, "TCP_KEEPIDLE", None) or getattr(socket, "TCP_KEEPALIVE", None),
    "keepalives_interval": getattr(socket, "TCP_KEEPINTVL", None),
    "keepalives_count": getattr(socket, "TCP_KEEPCNT", None),
}
_USER_TIMEOUT: Final = getattr(socket, "TCP_USER_TIMEOUT", None)


def spell(host: str, port: int) -> str:
    """A host of an origin as messages name it."""
    return f"{host}/.s.PGSQL.{port}" if host.startswith("/") else f"{host}:{port}"


async def resolve(host: str, port: int) -> list[Address]:
    """The addresses of a host, at least one. Raises `ServerFault`."""
    if host.startswith("/"):
        return [(socket.AF_UNIX, f"{host}/.s.PGSQL.{port}")]
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: a label longer than a name can have
        raise ServerFault(
            f"cannot resolve the host name {host!r}: {getattr(error, 'strerror', None) or error}",
            reason=Reason.SERVER_NOT_RESOLVED,
        ) from error
    return [(family, address) for family, _, _, _, address in found]


async def connect(address: Address, tcp: TcpOptions) -> socket.socket:
    """A connected, non-blocking socket. Raises OSError; the caller bounds the time."""
    family, where = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if family != socket.AF_UNIX:
            _set_options(sock, tcp)
        code = sock.connect_ex(where)  # type: ignore[arg-type]
        if code == errno.EINPROGRESS:  # not EAGAIN: with it a full Unix socket refuses
            await trio.lowlevel.wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        return sock
    except BaseException:
        sock.close()
        raise


def _set_options(sock: socket.socket, tcp: TcpOptions) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _keep_alive(sock, tcp)
    if tcp.tcp_user_timeout and _USER_TIMEOUT is not None:
        sock.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, tcp.tcp_user_timeout)


def _keep_alive(sock: socket.socket, tcp: TcpOptions) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, tcp.keepalives)
    for name, option in _OPTIONS.items():
        value = getattr(tcp, name)
        if value and option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def keep_alive(fd: int, tcp: TcpOptions) -> None:
    """Have the system ask a silent peer, in these intervals, whether it is still there. A Unix socket, or one
    that has ended, is left alone.
    """
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as sock:
        if sock.family != socket.AF_UNIX:
            _keep_alive(sock, tcp)


def local_end(fd: int) -> tuple[str, int]:
    """Our address and port of a socket; "unix" and 0 of a Unix socket, "" and 0 of one that has ended."""
    return _end(fd, socket.socket.getsockname)


def remote_end(fd: int) -> tuple[str, int]:
    """The same of the other side."""
    return _end(fd, socket.socket.getpeername)


def _end(fd: int, which: Callable[[socket.socket], Any]) -> tuple[str, int]:
    try:
        with socket.socket(fileno=os.dup(fd)) as sock:
            if sock.family == socket.AF_UNIX:
                return "unix", 0
            host, port = which(sock)[:2]
            return host, port
    except OSError:
        return "", 0
