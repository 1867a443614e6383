"""Listening sockets that a process is given."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from trio_pool.config.address import TcpAddress, UnixAddress
from trio_pool.net import inherited
from trio_pool.net.bound import bind
from trio_pool.net.listeners import listening

PROGRAM = """
import os, sys
from trio_pool.config.address import parse_address
from trio_pool.net import inherited
from trio_pool.net.listeners import listening
inherited.take_from_systemd()
assert "LISTEN_FDS" not in os.environ
for text in sys.argv[1:]:
    with listening(parse_address(text)) as sock:
        print(sock.fileno(), sock.getblocking(), os.get_inheritable(sock.fileno()))
print(len(inherited.refuse_the_rest()))
"""


def test_systemd_opens_sockets(tmp_path: Path) -> None:
    """They are known by their addresses, TCP and Unix; the file of a Unix socket stays when the process ends.
    What is in no configuration is closed.
    """
    path = str(tmp_path / "socket")
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix, socket.socket() as other:
        tcp.bind(("127.0.0.1", 0))
        unix.bind(path)
        other.bind(("127.0.0.1", 0))
        given = (tcp, unix, other)
        for sock in given:
            sock.listen()
        # As systemd does it: from 3 on, in a process whose id is in the environment.
        shell = " ".join(f"{3 + n}<&{sock.fileno()}" for n, sock in enumerate(given))
        arguments = [f"127.0.0.1:{tcp.getsockname()[1]}", f"unix:{path}"]
        started = f'LISTEN_PID=$$ LISTEN_FDS=3 exec "$@" {shell}'
        done = subprocess.run(
            ["/bin/bash", "-c", started, "-", sys.executable, "-c", PROGRAM, *arguments],
            pass_fds=[sock.fileno() for sock in given],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent.parent.parent,
        )
        assert done.stdout.splitlines() == ["3 False False", "4 False False", "1"]
        assert os.path.exists(path)


def test_somebody_elses_sockets_are_not_taken() -> None:
    """A child of the process that systemd has started has the environment, but not the sockets."""
    os.environ |= {"LISTEN_PID": "1", "LISTEN_FDS": "1"}
    inherited.take_from_systemd()
    assert inherited.given == []
    assert "LISTEN_FDS" not in os.environ


def test_several_sockets_share_an_address() -> None:
    """One for each worker, all at the port that was chosen; and not with somebody who is there already."""
    bound = bind(TcpAddress("127.0.0.1", 0), 3)
    ports = {sock.getsockname()[1] for sock in bound.sockets}
    assert len(ports) == 1
    if len(bound.sockets) > 1:  # elsewhere than on Linux and FreeBSD one is shared
        assert [bound.of_worker(index, 3) for index in range(3)] == [[sock] for sock in bound.sockets]
        assert bound.of_worker(0, 2) == [bound.sockets[0], bound.sockets[2]]
    with pytest.raises(OSError, match=r"127\.0\.0\.1"):
        bind(TcpAddress("127.0.0.1", ports.pop()), 3)
    bound.close()


def test_what_was_handed_on_stays(tmp_path: Path) -> None:
    """The file of a Unix socket is removed by who listens last."""
    path = str(tmp_path / "socket")
    with listening(UnixAddress(path)) as sock:
        (bound,) = inherited.bound
        assert bound.sockets == [sock]
        bound.foreign = True
    assert inherited.bound == []
    assert os.path.exists(path)
