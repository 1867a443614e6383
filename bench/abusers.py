"""Clients that behave badly: python -m bench.abusers hold|vanish PORT ...

`hold`: each does BEGIN and SELECT 1 and sleeps, far longer than any pooler should let it keep a server. Then
it goes on with its transaction, gets what it gets, does ROLLBACK and starts again at once; when it is
disconnected it connects and starts again. A client that is `--awake` reads while it sleeps, as those on an
event loop do, and so finds out at once; the others find out when they go on. It makes a difference to how
much abuse a pooler gets that answers it by disconnecting, so both are measured, and `began` counts the
transactions that were left open.

`vanish`: so many clients a second log in, send SELECT pg_sleep(5) and a moment later close their socket
without a word, every other one with a reset.

Starts are spread evenly over time. It prints a line when all have begun, another with what they met at the
end, and ends with its standard input, or after `--seconds` in any case. It knows just enough of the protocol.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import statistics
import struct
import sys
from collections import Counter
from typing import TYPE_CHECKING, NoReturn

import attrs
import trio

from .login import HOST
from .poolers import STARTUP
from .processes import raise_file_limit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

RECEIVE_BYTES = 65536
# Where a login fails there is nothing to wait for, and a loop without a pause would be another kind of abuse.
RETRY_SECONDS = 0.01
LOGIN_SECONDS = 10.0
# Before it vanishes a client lets the pooler and PostgreSQL get to work.
VANISH_AFTER_SECONDS = 0.1
VANISH_RAMP_SECONDS = 1.0
RESET = struct.pack("ii", 1, 0)


class Disconnected(Exception):
    """The other side ended the connection."""


@attrs.define(eq=False)
class Met:
    """What the clients did and met. `errors` by SQLSTATE; `held` are seconds until they were disconnected."""

    began: int = 0
    vanished: int = 0
    refused: int = 0
    disconnected: int = 0
    errors: Counter[str] = attrs.field(factory=Counter)
    held: list[float] = attrs.field(factory=list)

    def as_json(self, seconds: float) -> str:
        """The counts, what they are per second, and the median of `held`."""
        held = statistics.median(self.held) if self.held else None
        per_second = (self.began + self.vanished) / seconds
        return json.dumps(attrs.asdict(self) | {"held": held, "seconds": seconds, "per_second": per_second})


@attrs.define(eq=False)
class Session:
    """A connection and what of its answers was not looked at yet."""

    stream: trio.SocketStream
    met: Met
    received: bytearray = attrs.field(factory=bytearray)

    async def ask(self, text: str) -> list[str]:
        """Run a simple Query; the SQLSTATEs of its errors. Raises `Disconnected`."""
        body = text.encode() + b"\0"
        await self.send(b"Q" + struct.pack("!I", 4 + len(body)) + body)
        return await self.receive()

    async def send(self, message: bytes) -> None:
        try:
            await self.stream.send_all(message)
        except trio.BrokenResourceError:
            raise Disconnected from None

    async def receive(self) -> list[str]:
        """Up to ReadyForQuery; the SQLSTATEs of errors on the way. Raises `Disconnected`.

        Nothing is lost if it is cancelled.
        """
        errors: list[str] = []
        while True:
            while (message := self._next()) is not None:
                if message[:1] == b"Z":
                    return errors
                if message[:1] == b"E":
                    errors.append(sqlstate(message))
                    self.met.errors[errors[-1]] += 1
            try:
                chunk = await self.stream.receive_some(RECEIVE_BYTES)
            except trio.BrokenResourceError:
                chunk = b""
            if not chunk:
                raise Disconnected
            self.received += chunk

    def _next(self) -> bytes | None:
        """The next message, if it is here as a whole."""
        if len(self.received) < 5:
            return None
        end = 1 + int.from_bytes(self.received[1:5])
        if len(self.received) < end:
            return None
        message = bytes(self.received[:end])
        del self.received[:end]
        return message


def sqlstate(error: bytes) -> str:
    """Field C of an ErrorResponse."""
    fields = error[5:].split(b"\0")
    return next((field[1:].decode() for field in fields if field[:1] == b"C"), "?")


@contextlib.asynccontextmanager
async def logged_in(port: int, met: Met) -> AsyncIterator[Session]:
    """A new connection; raises `Disconnected` if it is not let in within 10 seconds."""
    with trio.socket.socket() as plain:
        session = await _log_in(plain, port, met)
        if session is None:
            met.refused += 1
            await trio.sleep(RETRY_SECONDS)
            raise Disconnected
        yield session


async def _log_in(plain: trio.socket.SocketType, port: int, met: Met) -> Session | None:
    with trio.move_on_after(LOGIN_SECONDS), contextlib.suppress(OSError, Disconnected):
        await plain.connect((HOST, port))
        session = Session(trio.SocketStream(plain), met)
        await session.send(STARTUP)
        await session.receive()
        return session
    return None


async def hold(chosen: argparse.Namespace, met: Met, delay: float) -> NoReturn:
    """One client that leaves its transactions open."""
    await trio.sleep(delay)
    while True:
        with contextlib.suppress(Disconnected):
            async with logged_in(chosen.port, met) as session:
                while True:
                    await leave_open(session, chosen.hold, chosen.awake)


async def leave_open(session: Session, seconds: float, awake: bool) -> None:
    """One transaction of it; raises `Disconnected`."""
    if not await session.ask("BEGIN") and not await session.ask("SELECT 1"):
        session.met.began += 1
        since = trio.current_time()
        try:
            if awake:
                with trio.move_on_after(seconds):
                    await session.receive()
            else:
                await trio.sleep(seconds)
            await session.ask("SELECT 1")
        except Disconnected:
            session.met.disconnected += 1
            session.met.held.append(trio.current_time() - since)
            raise
    await session.ask("ROLLBACK")


async def vanish(chosen: argparse.Namespace, met: Met, with_reset: bool) -> None:
    """One client that goes away in the middle of its query, or while it waits for a server."""
    with contextlib.suppress(Disconnected):
        async with logged_in(chosen.port, met) as session:
            with trio.move_on_after(VANISH_AFTER_SECONDS):
                await session.ask(f"SELECT pg_sleep({chosen.query_seconds:g})")
            if with_reset:
                session.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            met.vanished += 1


async def vanish_steadily(chosen: argparse.Namespace, met: Met, nursery: trio.Nursery) -> NoReturn:
    """At the rate that was asked for, however long each of them takes to get in."""
    begin = trio.current_time()
    number = 0
    while True:
        await trio.sleep_until(begin + number / chosen.rate)
        nursery.start_soon(vanish, chosen, met, bool(number % 2))
        number += 1


async def end_with_stdin(scope: trio.CancelScope) -> None:
    await trio.lowlevel.wait_readable(sys.stdin)
    scope.cancel()


async def abuse(chosen: argparse.Namespace) -> None:
    """Until standard input ends."""
    met = Met()
    begin = trio.current_time()
    with trio.move_on_after(chosen.seconds):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end_with_stdin, nursery.cancel_scope)
            if chosen.how == "hold":
                for number in range(chosen.clients):
                    nursery.start_soon(hold, chosen, met, number * chosen.hold / chosen.clients)
                await trio.sleep(chosen.hold)
            else:
                nursery.start_soon(vanish_steadily, chosen, met, nursery)
                await trio.sleep(VANISH_RAMP_SECONDS)
            print("ready", flush=True)
    print(met.as_json(trio.current_time() - begin), flush=True)


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Clients that behave badly")
    parser.add_argument("how", choices=("hold", "vanish"))
    parser.add_argument("port", type=int)
    parser.add_argument("--seconds", type=float, default=120, help="to last at most (default %(default)s)")
    parser.add_argument("--clients", type=int, default=50, help="that hold (default %(default)s)")
    parser.add_argument("--hold", type=float, default=2, help="seconds of sleep (default %(default)s)")
    parser.add_argument("--awake", action="store_true", help="they see at once that they are disconnected")
    parser.add_argument("--rate", type=float, default=20, help="that vanish per second (default %(default)s)")
    parser.add_argument("--query-seconds", type=float, default=5, help="their query's (default %(default)s)")
    return parser


def main() -> None:
    chosen = options().parse_args()
    raise_file_limit()
    trio.run(abuse, chosen)


if __name__ == "__main__":
    main()
