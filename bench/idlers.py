"""Many clients that log in and then do nothing: python -m bench.idlers PORT CLIENTS

They are a process of their own, for whose files there is a limit too. When all are logged in it prints, as
JSON, the seconds that took and the processor time it used for it, or on standard error why they were not;
it keeps them until its standard input ends.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time

from .login import HOST
from .poolers import READY_FOR_QUERY, STARTUP
from .processes import raise_file_limit

# Logins that are under way at a time: enough to keep the pooler busy, few enough for any listen backlog.
WINDOW = 64
# Each source address has one range of ephemeral ports, 28,232 of them on Linux.
CLIENTS_PER_ADDRESS = 20_000
LONGEST_WAIT_SECONDS = 30.0


class LoginError(Exception):
    """A client was not let in; the message holds what it got."""


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
    started, used = time.monotonic(), time.process_time()
    try:
        sockets = log_in(port, clients)
    except (LoginError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    seconds = time.monotonic() - started
    print(json.dumps({"seconds": seconds, "cpu": time.process_time() - used}), flush=True)
    sys.stdin.read()
    for client in sockets:
        client.close()


if __name__ == "__main__":
    main()
