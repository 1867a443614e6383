"""Unix sockets between processes of ours, over which file descriptors travel (SCM_RIGHTS, `unix(7)`).

A message's descriptors go with its first byte, and the system does not merge what follows into a read that
has descriptors: so they are there before the message is complete.
"""

from __future__ import annotations

import array
import os
import socket
from contextlib import suppress
from typing import Final

from trio_pool.net.inherited import adopt as adopt

MOST: Final = 64
"""Descriptors that one message may have; the system's own limit is 253."""
CHUNK: Final = 1 << 18
"""Bytes that are sent or received at once."""

Socket = socket.socket


def pair() -> tuple[Socket, Socket]:
    """Two connected sockets, neither of which blocks."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


def copy_of(descriptor: int) -> int:
    """Another descriptor for the same socket."""
    return os.dup(descriptor)


def send(sock: Socket, data: memoryview | bytes, descriptors: tuple[int, ...] = ()) -> int:
    """Bytes that were sent, 0 if there is no room now. Raises OSError when the other end is gone."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    try:
        return sock.sendmsg([data[:CHUNK]], rights)
    except (BlockingIOError, InterruptedError):
        return 0


def receive(sock: Socket) -> tuple[bytes, list[int]] | None:
    """What has come, b"" at the end, None if nothing has. Raises OSError."""
    try:
        data, ancillary, _, _ = sock.recvmsg(CHUNK, socket.CMSG_SPACE(MOST * array.array("i").itemsize))
    except (BlockingIOError, InterruptedError):
        return None
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return data, descriptors.tolist()


def end_writing(sock: Socket) -> None:
    """Say that nothing more comes; the other copies of this socket cannot send any more either."""
    with suppress(OSError):  # it has ended already
        sock.shutdown(socket.SHUT_WR)
