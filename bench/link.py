"""A network of our own: python -m bench.link HOST PORT MILLISECONDS [handshake] [BYTES_PER_SECOND]

A TCP proxy in front of HOST:PORT. It prints the port it listens on. Every chunk is handed on so many
milliseconds after it was read, in each direction, so a round trip takes twice that; bandwidth is limited only
if a number says so, for each connection and direction by itself. Opening a connection is not delayed, unless
`handshake` is said: then what a client sends first waits for one round trip more, as it would for TCP's.
Closing one is delayed. It ends with its standard input, and says then how many crossings there were
(`link_crossings`).

One queue is enough: the delay is the same for all, so chunks are due in the order in which they were read.
What waits in it is neither joined nor split, unless a receiver is slow. As network cards do, it looks at its
sockets at most once in `TICK_SECONDS` while something is under way, and then at all of them: waking up for
each chunk would cost the machine, which it shares with what is measured, more than the chunks. `sleep` waits
in microseconds, less what the kernel adds to save wake-ups, which is turned off.

It is a process of its own, so that it takes nothing away from the pooler but its part of the machine. Whether
it was the limit shows in its processor time: every measurement through a link prints, as `link`, the share of
one core that this process used. Near 1 the link was measured, not the pooler.
"""

from __future__ import annotations

import contextlib
import select
import selectors
import socket
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, cast

import attrs

from .companion import running
from .link_crossings import Crossings, Line, Mark
from .login import HOST
from .poolers import Link
from .processes import raise_file_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHUNK_BYTES = 65536
# What may be under way to one receiver before its sender has to wait; a window of TCP may be as large.
WINDOW_BYTES = 1 << 20
READY_SECONDS = 10.0
# A chunk is seen half of it too late and handed on half of it too late, so it is due so much sooner.
TICK_SECONDS = 0.0001


@contextlib.contextmanager
def link(port: int, milliseconds: float, host: str = HOST, *, handshake: bool = False) -> Iterator[Link]:
    """Such a process, in front of the port; raises `CompanionError`."""
    more = ["handshake"] if handshake else []
    with running(__name__, host, str(port), str(milliseconds), *more, ready_seconds=READY_SECONDS) as process:
        yield Link(int(process.ready), process.pid)


@attrs.define(eq=False)
class End:
    """One of the two sockets of a connection. `under_way` counts bytes that were read for it but not sent.

    `overdue` holds those that are due but that the kernel did not take. `finished`: nothing more is read from
    it. `closing`: nothing more comes for it. `near` tells that it is the side that connected, `since` when
    its stream is free for the next chunk.
    """

    socket: socket.socket
    line: Line
    near: bool
    since: float = 0.0
    peer: End | None = None
    under_way: int = 0
    overdue: bytearray = attrs.field(factory=bytearray)
    finished: bool = False
    closing: bool = False
    events: int = 0


Due = tuple[float, End, bytes, Mark]
NOTHING = Mark(0, 0, 0)


@attrs.define(eq=False)
class Delay:
    """The proxy. `due` holds, for each chunk, when and to whom; an empty one is the end of the stream.

    `bandwidth` is in bytes per second; 0 is any. With one, and behind a `handshake`, chunks of different
    connections are due in another order than they were read, so `due` is kept in order of time.
    `reverse`: the side that was connected to asks, as at a tunnel.
    """

    listener: socket.socket
    origin: tuple[str, int]
    seconds: float
    handshake: bool = False
    bandwidth: float = 0.0
    reverse: bool = attrs.field(default=False, kw_only=True)
    tally: Crossings = attrs.field(factory=Crossings)
    selector: selectors.BaseSelector = attrs.field(factory=selectors.DefaultSelector)
    due: deque[Due] = attrs.field(factory=deque)
    ends: set[End] = attrs.field(factory=set)
    """All that are open."""

    def run(self, until: int) -> None:
        """Work until the file `until` can be read; then nothing is passed on any more."""
        try:
            self._pass_on(until)
        finally:
            for end in self.ends:
                end.socket.close()
            self.selector.close()

    def _pass_on(self, until: int) -> None:
        ended = False

        def end() -> None:
            nonlocal ended
            ended = True

        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ, self.accept)
        self.selector.register(until, selectors.EVENT_READ, end)
        while not ended:
            self.wait()
            for key, events in self.selector.select(0):
                if isinstance(key.data, End):
                    self.handle(key.data, events)
                else:
                    cast("Callable[[], None]", key.data)()
            self.deliver()

    def wait(self) -> None:
        """Until a socket is ready, or a tick long if something is under way."""
        if self.due:
            time.sleep(TICK_SECONDS)
        else:
            select.select([self.selector.fileno()], [], [])  # type: ignore[attr-defined]

    def accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            accepted, _ = self.listener.accept()
            try:
                dialled = socket.create_connection(self.origin)
            except OSError:
                accepted.close()
                return
            line = self.tally.opened()
            near, far = End(accepted, line, not self.reverse), End(dialled, line, self.reverse)
            near.peer, far.peer = far, near
            if self.handshake:
                near.since = time.monotonic() + 2 * self.seconds
            for one in (near, far):
                one.socket.setblocking(False)
                one.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.ends.add(one)
                self.watch(one)

    def handle(self, end: End, events: int) -> None:
        if events & selectors.EVENT_WRITE and end.overdue:
            self.send(end, end.overdue)
            self.close_if_done(end)
        if events & selectors.EVENT_READ and end.events & selectors.EVENT_READ:
            self.read(end)

    def read(self, end: End) -> None:
        receiver = end.peer
        assert receiver is not None
        try:
            chunk = end.socket.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        self.put((self.leaves(end, len(chunk)) + self.seconds, receiver, chunk, self.mark(end, chunk)))
        receiver.under_way += len(chunk)
        if not chunk:
            end.finished = True
        if not chunk or receiver.under_way >= WINDOW_BYTES:
            self.watch(end)

    def mark(self, end: End, chunk: bytes) -> Mark:
        """A chunk, or the end of a stream, has been read from an end."""
        if not chunk:
            return NOTHING
        return end.line.leaves_near() if end.near else end.line.leaves_far()

    def leaves(self, end: End, size: int) -> float:
        """When the last byte of a chunk has left."""
        now = max(time.monotonic(), end.since)
        if self.bandwidth:
            now += size / self.bandwidth
            end.since = now
        return now

    def put(self, due: Due) -> None:
        """Nearly always it belongs at the end."""
        later = []
        while self.due and self.due[-1][0] > due[0]:
            later.append(self.due.pop())
        self.due.append(due)
        self.due.extend(reversed(later))

    def deliver(self) -> None:
        """Everything that is due."""
        soon = time.monotonic() + TICK_SECONDS
        while self.due and self.due[0][0] <= soon:
            _, end, chunk, mark = self.due.popleft()
            if chunk:
                (end.line.reaches_near if end.near else end.line.reaches_far)(mark)
            if not chunk:
                end.closing = True
                self.close_if_done(end)
            elif end.overdue:
                end.overdue += chunk
            else:
                self.send(end, chunk)

    def send(self, end: End, chunk: bytes | bytearray) -> None:
        """What the kernel does not take becomes all that is overdue."""
        try:
            sent = end.socket.send(chunk)
        except BlockingIOError:
            sent = 0
        except OSError:
            sent = len(chunk)  # nobody is there to get it; its own end of stream follows
        held_back = end.under_way >= WINDOW_BYTES
        end.under_way -= sent
        if end.overdue or sent < len(chunk):
            end.overdue = bytearray(memoryview(chunk)[sent:])
            self.watch(end)
        if held_back and end.under_way < WINDOW_BYTES and end.peer is not None:
            self.watch(end.peer)

    def close_if_done(self, end: End) -> None:
        """Hand on the end of a stream; when that happened in both directions, close both sockets."""
        if not end.closing or end.overdue:
            return
        with contextlib.suppress(OSError):
            end.socket.shutdown(socket.SHUT_WR)
        peer = end.peer
        if peer is not None and peer.closing and not peer.overdue:
            for one in (end, peer):
                self.watch(one)
                one.socket.close()
                self.ends.discard(one)

    def watch(self, end: End) -> None:
        """Have the selector look for what the end waits for now."""
        wanted = selectors.EVENT_WRITE if end.overdue else 0
        if not end.finished and end.peer is not None and end.peer.under_way < WINDOW_BYTES:
            wanted |= selectors.EVENT_READ
        if wanted == end.events or end.socket.fileno() < 0:
            return
        if not end.events:
            self.selector.register(end.socket, wanted, end)
        elif not wanted:
            self.selector.unregister(end.socket)
        else:
            self.selector.modify(end.socket, wanted, end)
        end.events = wanted


def wake_up_in_time() -> None:
    """Linux lets timers be 50 microseconds late by default."""
    with contextlib.suppress(OSError):
        Path("/proc/self/timerslack_ns").write_text("1")


def main() -> None:
    host, port, milliseconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    handshake = "handshake" in sys.argv[4:]
    bandwidth = next((float(word) for word in sys.argv[4:] if word != "handshake"), 0.0)
    raise_file_limit()
    wake_up_in_time()
    with socket.create_server((HOST, 0), backlog=4096) as listener:
        print(listener.getsockname()[1], flush=True)
        delay = Delay(listener, (host, port), milliseconds / 1e3, handshake, bandwidth)
        delay.run(until=sys.stdin.fileno())
    print(delay.tally.total, flush=True)


if __name__ == "__main__":
    main()
