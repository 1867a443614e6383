"""An origin behind a firewall: two networks of their own, in one of which nothing listens. The test itself,
its edges and what stands between them are in the other one.

Nothing of it needs to know: for as long as the block lasts the calling thread is in the edges' network, with
all threads and processes that it starts. PostgreSQL is reached by its Unix socket, which is in no network.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from tests.net import namespaces
from tests.support.target import DATABASE, PASSWORD, USER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_pool.cli.postgres import LocalPostgres

NEAR = namespaces.NEAR
"""What an origin can connect to: the edges' network."""
CLONE_NEWNET = 0x40000000
LISTENING = "0A"
"""State of a socket in `/proc/net/tcp`."""

why_not = namespaces.why_not


@attrs.frozen
class Firewalled:
    """The origins' network, and where their Python is."""

    both: namespaces.Namespaces
    python: str
    """A program that is Python in the origins' network."""

    def listening(self) -> list[str]:
        """The TCP sockets on which something listens there."""
        lines = [
            line
            for name in ("tcp", "tcp6")
            for line in Path(f"/proc/{self.both.far}/net/{name}").read_text().splitlines()[1:]
        ]
        return [line for line in lines if line.split()[3] == LISTENING]

    def cut(self) -> None:
        """The cable between them: whatever is sent is lost, and nobody is told."""
        self.both.cut()

    def mend(self) -> None:
        self.both.run(self.both.far, "ip", "link", "set", "far", "up")


@contextlib.contextmanager
def firewalled(directory: Path) -> Iterator[Firewalled]:
    """Both networks. Nothing may listen in the origins' when the block ends."""
    with namespaces.namespaces() as both, _entered(both.near):
        program = directory / f"python-{both.far}"
        program.write_text(f'#!/bin/sh\nexec {" ".join(both.enter(both.far, sys.executable))} "$@"\n')
        program.chmod(0o755)
        one = Firewalled(both, str(program))
        yield one
        assert one.listening() == []


@contextlib.contextmanager
def _entered(pid: int) -> Iterator[None]:
    """The calling thread in the network of a process. (`os.setns` is Python 3.12's.)"""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        _set_network(there)
        try:
            yield
        finally:
            _set_network(home)
    finally:
        os.close(there)
        os.close(home)


def _set_network(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "setns")


def origin_database(pg: LocalPostgres, **keys: Any) -> dict[str, Any]:
    """The table of an origin's database that is reached by its Unix socket."""
    url = f"postgresql://{USER}@/{DATABASE}?host={pg.socket_dir}&port={pg.port}"
    return {"origin": url, "password": PASSWORD, "password_env": None, **keys}
