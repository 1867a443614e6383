"""Listening sockets, and an accept loop that survives what kills the usual ones.

`accept` can fail because the process or the system has no descriptor left. The connection then stays in the
backlog and the listener readable, so a plain loop would spin or die. A spare descriptor is kept for that
moment: it is closed, the connection accepted, told why (53300) and closed, and the spare reopened.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeAlias

import structlog
import trio

from trio_pool.config.address import Address, TcpAddress, UnixAddress
from trio_pool.errors import SqlState
from trio_pool.net import inherited
from trio_pool.net.inherited import Bound
from trio_pool.wire import messages

if TYPE_CHECKING:
    from trio_pool.net.liveness import Keepalive

log = structlog.get_logger()

BACKLOG = 4096  # the kernel cuts it to net.core.somaxconn
BURST = 64
"""Connections accepted before other tasks get their turn."""
COMPLAIN_EVERY = 1.0
"""Seconds between log lines about clients that cannot be accepted."""
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

Socket: TypeAlias = socket.socket
"""For rooms that pass sockets on: only `net` imports `socket`."""

Handler = Callable[[Socket, str | None, str], Awaitable[None]]
"""Takes an accepted, non-blocking socket, the client's numeric address (None on a Unix socket) and its
spelling for logs; owns the socket.
"""


@contextmanager
def listening(address: Address) -> Iterator[socket.socket]:
    """A listening, non-blocking socket.

    A Unix socket left by a dead process is replaced, a live one is not; ours is removed at the end. Raises
    OSError.
    """
    with listening_all(address) as sockets:
        yield sockets[0]


@contextmanager
def listening_all(address: Address) -> Iterator[list[socket.socket]]:
    """The same where there may be several that share the address, because we were given them."""
    bound = inherited.take(address) or Bound(address, [_listen(address)])
    inherited.bound.append(bound)
    try:
        yield bound.sockets
    finally:
        bound.close()


def _listen(address: Address, option: int | None = None) -> socket.socket:
    sock = _listen_unix(address.path) if isinstance(address, UnixAddress) else _listen_tcp(address, option)
    try:
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _listen_tcp(address: TcpAddress, option: int | None = None) -> socket.socket:
    """`option` is one more that is set, so that several sockets can share the address."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if option is not None:
            sock.setsockopt(socket.SOL_SOCKET, option, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address.host, address.port))
    except BaseException:
        sock.close()
        raise
    return sock


def _listen_unix(path: str) -> socket.socket:
    if os.path.exists(path) and stat.S_ISSOCK(os.stat(path).st_mode):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(path)
        os.chmod(
            path, 0o777
        )  # as PostgreSQL's unix_socket_permissions: who may connect is decided by authentication
    except BaseException:
        sock.close()
        raise
    return sock


def listen(address: Address, option: int | None = None) -> socket.socket:
    """The socket alone, which the caller closes; a Unix socket's file stays then. Raises OSError, which names
    the address, as the system's does not.
    """
    try:
        return _listen(address, option)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(address)) from error


def spell(sock: socket.socket) -> str:
    """Where a listening socket can be reached."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{name}"
    host, port = name[:2]
    return f"[{host}]:{port}" if sock.family == socket.AF_INET6 else f"{host}:{port}"


async def accept_for_ever(
    listener: socket.socket,
    handler: Handler,
    nursery: trio.Nursery,
    keepalive: Callable[[], Keepalive],
    burst: int = BURST,
) -> None:
    """Accept clients until cancelled; each is handled by a task in `nursery`. `keepalive` is what holds for
    the next one. So many are accepted before others have their turn, which may be other processes.
    """
    spare: int | None = _spare()
    complained = -math.inf
    try:
        while True:
            await trio.lowlevel.wait_readable(listener)
            for _ in range(burst):
                try:
                    sock, name = listener.accept()
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno not in _EXHAUSTED:
                        continue  # the connection was gone before we came to it
                    if trio.current_time() >= complained + COMPLAIN_EVERY:
                        complained = trio.current_time()
                        log.error("cannot accept a client", error=error.strerror)
                    spare = _refuse(listener, spare)
                    await trio.sleep(0.01)  # descriptors come back when connections end: let them
                    break
                sock.setblocking(False)
                nursery.start_soon(handler, sock, *_tune(sock, name, keepalive()))
    finally:
        if spare is not None:
            os.close(spare)


def _tune(sock: socket.socket, name: tuple[str, int], keepalive: Keepalive) -> tuple[str | None, str]:
    """Set the options of a client's socket; its address, and the address as logs have it."""
    if sock.family == socket.AF_UNIX:
        return None, "unix"
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keepalive.apply(sock)
    except OSError:
        pass  # reset already; the first read says so
    return name[0], f"{name[0]}:{name[1]}"


def _refuse(listener: socket.socket, spare: int | None) -> int | None:
    """Out of descriptors: give up the spare one to tell the next client so."""
    if spare is not None:
        os.close(spare)
        try:
            sock, _ = listener.accept()
        except OSError:
            pass
        else:
            with sock:
                sock.setblocking(False)
                with suppress(OSError):
                    sock.send(
                        messages.error(
                            SqlState.TOO_MANY_CONNECTIONS,
                            "trio-pool has no file descriptor left",
                            severity="FATAL",
                        )
                    )
    return _spare()


def _spare() -> int | None:
    try:
        return os.open(os.devnull, os.O_RDONLY)
    except OSError:
        return None
