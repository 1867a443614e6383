"""Listening sockets that a process was given when it began, and those that it has.

They come from systemd (socket activation, `sd_listen_fds(3)`), which keeps them open while the process is
restarted, or from an older process of ours, which ends when this one serves. Who opens an address asks here
first. All of this is the process', like its environment.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

import attrs

from trio_pool.config.address import UnixAddress

if TYPE_CHECKING:
    from trio_pool.config.address import Address

FIRST = 3
"""The descriptor with which those of systemd begin."""


@attrs.define(eq=False)
class Bound:
    """An address, spelled as the configuration does, and the sockets that listen there.

    `foreign`: somebody else keeps it open, and a Unix socket's file is not ours to remove.
    """

    address: Address
    sockets: list[socket.socket]
    foreign: bool = False

    def of_worker(self, index: int, count: int) -> list[socket.socket]:
        """Those that one of so many workers accepts from."""
        if len(self.sockets) < count:
            return [self.sockets[index % len(self.sockets)]]
        return self.sockets[index::count]

    def close(self) -> None:
        """Listen no more."""
        if self in bound:
            bound.remove(self)
        for sock in self.sockets:
            sock.close()
        if not self.foreign and isinstance(self.address, UnixAddress):
            with suppress(FileNotFoundError):
                os.unlink(self.address.path)


@attrs.define(eq=False)
class Given:
    """A socket that came from outside. `spelled` is the address of an older configuration, if one of ours has
    opened it; `foreign` as above.
    """

    sock: socket.socket
    spelled: str | None
    foreign: bool


given: list[Given] = []
"""Those that nobody has asked for yet."""
bound: list[Bound] = []
"""What is open: what can be handed on."""


def take(address: Address) -> Bound | None:
    """What was given for an address, if anything was."""
    found = [one for one in given if _is_for(one, address)]
    if not found:
        return None
    for one in found:
        given.remove(one)
    return Bound(address, [one.sock for one in found], foreign=found[0].foreign)


def refuse_the_rest() -> list[str]:
    """Close what nobody has asked for. Returns where that was."""
    names = []
    while given:
        sock = given.pop().sock
        names.append(str(sock.getsockname()))
        sock.close()
    return names


def take_from_systemd() -> None:
    """Note the sockets that systemd has opened, if it has."""
    for_whom, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if for_whom != str(os.getpid()) or not count.isdecimal():
        return
    given.extend(
        Given(adopt(descriptor), None, foreign=True)
        for descriptor in range(FIRST, FIRST + int(count))
        if stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    )


def adopt(descriptor: int) -> socket.socket:
    """The socket that a descriptor is; it does not block, and no child gets it unasked."""
    os.set_inheritable(descriptor, False)
    sock = socket.socket(fileno=descriptor)
    sock.setblocking(False)
    return sock


def _is_for(one: Given, address: Address) -> bool:
    """Whether it is what would have been opened for an address."""
    if one.spelled is not None:
        return one.spelled == str(address)
    sock, name = one.sock, one.sock.getsockname()
    if isinstance(address, UnixAddress):
        return sock.family == socket.AF_UNIX and name == address.path
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or address.port != name[1]:
        return False
    try:
        return ipaddress.ip_address(address.host) == ipaddress.ip_address(name[0])
    except ValueError:  # a name
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        return any(each[4][0] == name[0] for each in found)
