"""Addresses that several processes accept at: which sockets there are for each.

Where the system spreads connections over sockets that share an address (SO_REUSEPORT of Linux,
SO_REUSEPORT_LB of FreeBSD), every worker has one of its own. The parent keeps all of them open: connections
to a worker that has died wait for the next one instead of being refused. Sockets of other kinds, and those
that came from outside, are shared: whoever is first accepts.
"""

from __future__ import annotations

import socket
import sys
from typing import Final

from trio_pool.config.address import Address, TcpAddress, UnixAddress
from trio_pool.net import inherited
from trio_pool.net.inherited import Bound
from trio_pool.net.listeners import listen

_SPREADING: Final[int | None] = getattr(
    socket, "SO_REUSEPORT_LB", getattr(socket, "SO_REUSEPORT", None) if sys.platform == "linux" else None
)


def bind(address: Address, count: int) -> Bound:
    """Listen, for so many workers, unless somebody has done that for us.

    Raises OSError with the address in it.
    """
    found = inherited.take(address) or _bind(address, count)
    inherited.bound.append(found)
    return found


def _bind(address: Address, count: int) -> Bound:
    if count == 1 or _SPREADING is None or isinstance(address, UnixAddress):
        return Bound(address, [listen(address)])
    # First alone, because sockets that share an address would share it with those of any other process of
    # this user.
    first = listen(address)
    place = TcpAddress(address.host, first.getsockname()[1])
    first.close()
    sockets: list[socket.socket] = []
    try:
        for _ in range(count):
            sockets.append(listen(place, _SPREADING))  # noqa: PERF401 - those that there are have to be closed
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return Bound(address, sockets)
