"""One client that moves much: a large result, or COPY in either direction, over and over: see `bench.loads`.

Bytes are counted as they are on the wire, the framing included, and read without being looked at. That a
result is over shows in ReadyForQuery at the end of what was received, which our own rows, digits and the
letter x, cannot imitate; that it is whole shows in the tag of CommandComplete before it.
"""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING, Any

from . import loads
from .problems import TargetError
from .session import READY_FOR_QUERY, Session, tls_context

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .login import Login

RECEIVE_BYTES = 1 << 18
# CommandComplete and ReadyForQuery fit into it.
TAIL_BYTES = 64
MEGABYTE = 1e6

# CopyData as libpq's users send it: a line each, or a buffer of 8 KB.
LINE = b"x" * 99 + b"\n"
MESSAGE = LINE * 80
CHUNK = (b"d" + struct.pack("!I", 4 + len(MESSAGE)) + MESSAGE) * 8
COPY_DONE = b"c\0\0\0\4"


def receive(session: Session, text: str, tag: str, buffer: bytearray) -> int:
    """Bytes of the answer; raises `TargetError` if it does not end with this tag."""
    session.query(text)
    total = 0
    view = memoryview(buffer)
    tail = b""
    while not tail.endswith(READY_FOR_QUERY):
        number = session.wire.recv_into(view)
        if not number:
            raise TargetError("it closed the connection")
        if not total and buffer[:1] == b"E":
            session.received += view[:number]
            session.message()
        total += number
        tail = (tail + view[max(0, number - TAIL_BYTES) : number])[-TAIL_BYTES:]
    if tag.encode() + b"\0" not in tail:
        raise TargetError(f"a result did not end with {tag}")
    return total


def copy_in(session: Session, text: str, megabytes: float) -> int:
    """Bytes sent in one COPY FROM STDIN, of which the server said that it has them."""
    session.query(text)
    session.until(b"G")
    chunks = max(1, round(megabytes * MEGABYTE / len(CHUNK)))
    for _ in range(chunks):
        session.wire.sendall(CHUNK)
    session.wire.sendall(COPY_DONE)
    session.until(b"Z")
    return chunks * len(CHUNK)


def stream(login: Login, seconds: float, options: Mapping[str, Any]) -> dict[str, Any]:
    """At least once, until the time is over; `before` is run between, and takes no time that counts."""
    session = Session.connect(login, tls_context(login))
    buffer = bytearray(RECEIVE_BYTES)
    moved, took, cpu, times = 0, 0.0, 0.0, 0
    try:
        while took < seconds:
            if options["before"]:
                session.query(options["before"])
                session.until(b"Z")
            begin, used = time.monotonic(), time.process_time()
            if options["megabytes"]:
                moved += copy_in(session, options["text"], options["megabytes"])
            else:
                moved += receive(session, options["text"], options["tag"], buffer)
            took += time.monotonic() - begin
            cpu += time.process_time() - used
            times += 1
    finally:
        session.close()
    return {"megabytes": moved / MEGABYTE, "seconds": took, "times": times, "load": cpu / took}


if __name__ == "__main__":
    loads.main(stream)
