"""Many clients that log in and then do nothing: python -m bench.idle PORT CLIENTS

The clients are a process of their own, for whose files there is a limit too. It prints the seconds it took
until all were logged in, or on standard error why not, and keeps them until its standard input ends.
"""

from __future__ import annotations

import selectors
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import attrs

from .figures import per_client
from .poolers import HOST, READY_FOR_QUERY, STARTUP
from .processes import raise_file_limit, resident_bytes

if TYPE_CHECKING:
    from .poolers import Target

# Logins that are under way at a time: enough to keep the pooler busy, few enough for any listen backlog.
WINDOW = 64
# Each source address has one range of ephemeral ports, 28,232 of them on Linux.
CLIENTS_PER_ADDRESS = 20_000
LONGEST_WAIT_SECONDS = 30.0
ALL_SECONDS = 180.0


class LoginError(Exception):
    """A client was not let in; the message holds what it got."""


@attrs.frozen
class Idle:
    """`client_bytes`: growth of the pooler's resident memory per client; None where it cannot be known.

    `per_second`: logins, 64 under way at a time, by a client in Python that may be the slower side.
    """

    clients: int
    client_bytes: float | None
    resident_before: int | None
    resident_after: int | None
    per_second: float


def measure(target: Target, clients: int) -> Idle:
    """Log so many clients in and look at the pooler, which should have served nobody before.

    Raises `LoginError`. Takes 3 minutes at most.
    """
    before = resident_bytes(target.pid)
    command = [sys.executable, "-m", __name__, str(target.port), str(clients)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as load:
        assert load.stdout is not None
        watchdog = threading.Timer(ALL_SECONDS, load.kill)
        watchdog.start()
        try:
            line = load.stdout.readline()
            after = resident_bytes(target.pid)
            _, complaint = load.communicate()
        finally:
            watchdog.cancel()
            load.kill()
    if not line:
        raise LoginError(complaint or f"not all clients were logged in after {ALL_SECONDS:.0f} s")
    grown = per_client(before, after, clients) if before is not None and after is not None else None
    return Idle(clients, grown, before, after, clients / float(line))


def log_in(port: int, clients: int) -> list[socket.socket]:
    """So many logged-in connections; raises `LoginError` or `OSError`."""
    sockets: list[socket.socket] = []
    greetings: dict[socket.socket, bytes] = {}
    with selectors.DefaultSelector() as selector:
        while len(sockets) < clients or greetings:
            while len(sockets) < clients and len(greetings) < WINDOW:
                client = _connect(port, len(sockets))
                sockets.append(client)
                greetings[client] = b""
                selector.register(client, selectors.EVENT_READ)
            ready = selector.select(LONGEST_WAIT_SECONDS)
            if not ready:
                raise LoginError(f"{len(greetings)} clients got no answer for {LONGEST_WAIT_SECONDS} s")
            for key, _ in ready:
                greeted = key.fileobj
                assert isinstance(greeted, socket.socket)
                received = greeted.recv(4096)
                greetings[greeted] += received
                if greetings[greeted].endswith(READY_FOR_QUERY):
                    selector.unregister(greeted)
                    del greetings[greeted]
                elif not received:
                    raise LoginError(f"one of {len(sockets)} clients got {greetings[greeted]!r}")
    return sockets


def _connect(port: int, index: int) -> socket.socket:
    address = index // CLIENTS_PER_ADDRESS
    source = (f"127.0.0.{1 + address}", 0) if address else None  # only Linux has more than 127.0.0.1
    client = socket.create_connection((HOST, port), LONGEST_WAIT_SECONDS, source)
    client.sendall(STARTUP)
    return client


def main() -> None:
    port, clients = map(int, sys.argv[1:])
    raise_file_limit()
    started = time.monotonic()
    try:
        sockets = log_in(port, clients)
    except (LoginError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(time.monotonic() - started, flush=True)
    sys.stdin.read()
    for client in sockets:
        client.close()


if __name__ == "__main__":
    main()
