"""What a real PostgreSQL replies to bytes, without any driver in between."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from tests.support.requests import Reply, read_replies
from trio_pool.wire import messages
from trio_pool.wire.frames import Assembler
from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    from trio_pool.cli.postgres import LocalPostgres


def direct_bytes(origin: LocalPostgres, data: bytes, **startup: str) -> bytes:
    """Everything up to the end of the reply whose row ends in "the end", or to the end of the connection."""
    parameters = {"user": origin.superuser, "database": "postgres", "application_name": ""} | startup
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(f"{origin.socket_dir}/.s.PGSQL.{origin.port}")
        connection.sendall(messages.startup(parameters))
        _read_until_ready(connection, b"")
        connection.sendall(data)
        return _read_until_ready(connection, b"the end")


def direct(origin: LocalPostgres, data: bytes, **startup: str) -> list[Reply]:
    """The same as something that can be compared."""
    return read_replies(direct_bytes(origin, data, **startup))


def _read_until_ready(connection: socket.socket, marker: bytes) -> bytes:
    """Everything up to the first ReadyForQuery behind a message that ends in `marker`."""
    received, assembler, marked = bytearray(), Assembler(1 << 30), False
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(1 << 16):
            received += data
            assembler.feed(data)
            while (message := assembler.message()) is not None:
                marked = marked or message[1].endswith(marker)
                if marked and message[0] == Backend.READY_FOR_QUERY:
                    return bytes(received)
    return bytes(received)
