"""The data plane's heart: one selector per process, every ready socket handled by one plain call.

Trio's price per wake-up of a task is what a pooler cannot pay per message (measured: docs/architecture.md),
so the sockets of logged-in clients and servers are not waited for by their tasks. They are registered once in
a selector of ours, whose own descriptor is the one thing that a Trio task waits for. When it wakes it takes
all ready sockets in batches and calls each one's handler, which never waits; after `BURST` batches it goes
back through Trio, so that timers and tasks get their turn however busy the sockets are.

Going back through Trio costs more than handling a message, so while Trio has nothing to do, the poller
*lingers*: it waits for the selector itself, for `LINGER` at a time and `LONGEST_BURST` in all. Trio is asked
once per burst; a task that a handler wakes (`Woken`) ends it. That holds up nobody but a client that is
connecting at this moment, and only by so much.

Handlers of the same batch may close each other's connections: a descriptor is unregistered at once but closed
only by its task, which cannot run before the burst is over, so a number in the batch never means another
socket than the one that was ready.
"""

from __future__ import annotations

import math
import select
import selectors
from collections.abc import Callable
from typing import Final, Protocol

import trio

READABLE: Final = 1
WRITABLE: Final = 4
GONE: Final = 8 | 16 | 8192
"""EPOLLERR, EPOLLHUP, EPOLLRDHUP: reported whether asked for or not (the last one when asked for)."""
HANGUP: Final = 8192
BURST: Final = 32
BATCH: Final = 256
LINGER: Final = 0.001
"""Seconds. epoll knows nothing shorter."""
LONGEST_BURST: Final = 0.002
"""Seconds after which a burst does not linger any more."""

Handler = Callable[[int], None]


class Readiness(Protocol):
    """What the poller needs of an operating system's selector; `select.epoll` has it as it is."""

    def fileno(self) -> int: ...
    def register(self, fd: int, eventmask: int) -> None: ...
    def modify(self, fd: int, eventmask: int) -> None: ...
    def unregister(self, fd: int) -> None: ...
    def poll(self, timeout: float, maxevents: int) -> list[tuple[int, int]]: ...
    def close(self) -> None: ...


class PortableReadiness:
    """The same face over `selectors` (kqueue on macOS and BSD).

    A descriptor that waits for nothing is left out.
    """

    def __init__(self, selector: selectors.BaseSelector | None = None) -> None:
        self._selector = selector or selectors.DefaultSelector()

    def fileno(self) -> int:
        return self._selector.fileno()  # type: ignore[attr-defined, no-any-return]

    def register(self, fd: int, eventmask: int) -> None:
        events = self._events(eventmask)
        if events:
            self._selector.register(fd, events)

    def modify(self, fd: int, eventmask: int) -> None:
        self.unregister(fd)
        self.register(fd, eventmask)

    def unregister(self, fd: int) -> None:
        if fd in self._selector.get_map():
            self._selector.unregister(fd)

    def poll(self, timeout: float, maxevents: int) -> list[tuple[int, int]]:
        ready = self._selector.select(timeout)  # all: the first `maxevents` could be the same ones every time
        return [
            (
                key.fd,
                READABLE * bool(events & selectors.EVENT_READ)
                | WRITABLE * bool(events & selectors.EVENT_WRITE),
            )
            for key, events in ready
        ]

    def close(self) -> None:
        self._selector.close()

    @staticmethod
    def _events(mask: int) -> int:
        return selectors.EVENT_READ * bool(mask & READABLE) | selectors.EVENT_WRITE * bool(mask & WRITABLE)


def default_readiness() -> Readiness:
    """epoll where there is one."""
    return select.epoll() if hasattr(select, "epoll") else PortableReadiness()


class Woken(trio.abc.Instrument):
    """Notices that a task has something to do."""

    def __init__(self) -> None:
        self.tasks = False

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        """Trio's hook."""
        self.tasks = True


class Poller:
    """Sockets and their handlers.

    `now` is the time of the current batch (Trio's clock, seconds), for timestamps that cost nothing.
    """

    def __init__(self, readiness: Readiness | None = None) -> None:
        self._readiness = readiness or default_readiness()
        self._handlers: dict[int, Handler] = {}
        self._deliveries: list[Callable[[], None]] = []
        self._handling = False
        """Whether the sockets of a batch are being handled."""
        self.now = 0.0
        self.suspended: trio.Event | None = None
        """While it is there, no socket is looked at until it is set."""
        self.resting = 0
        """How many of Trio's tasks wait for something to read while nobody connects or is connected to: more
        are a reason not to linger. 0: never linger.
        """

    def register(self, fd: int, handler: Handler, mask: int = READABLE) -> None:
        """Call `handler(events)` whenever the descriptor is ready for what `mask` says."""
        self._handlers[fd] = handler
        self._readiness.register(fd, mask)

    def modify(self, fd: int, mask: int) -> None:
        self._readiness.modify(fd, mask)

    def unregister(self, fd: int) -> None:
        """No handler is called for this descriptor from now on. To be called before it is closed."""
        if self._handlers.pop(fd, None) is not None:
            self._readiness.unregister(fd)

    def deliver_later(self, deliver: Callable[[], None]) -> None:
        """Call it at the end of the batch; at once if there is none."""
        if self._handling:
            self._deliveries.append(deliver)
        else:
            deliver()

    def _deliver(self) -> None:
        deliveries, self._deliveries = self._deliveries, []
        for deliver in deliveries:
            deliver()

    def tick(self) -> float:
        """The time, for a task that is about to call what reads `now`."""
        self.now = trio.current_time()
        return self.now

    def __len__(self) -> int:
        return len(self._handlers)

    def _quiet_until(self) -> float:
        """Until when nothing of Trio's is at hand, unless a handler wakes a task; -inf if something is."""
        if not self.resting:
            return -math.inf
        trios = trio.lowlevel.current_statistics()
        quiet = (
            not trios.tasks_runnable
            and not trios.run_sync_soon_queue_size
            and getattr(trios.io_statistics, "tasks_waiting_read", math.inf) <= self.resting
        )
        return self.now + trios.seconds_to_next_deadline - 2 * LINGER if quiet else -math.inf

    async def run(self) -> None:
        """Handle sockets for ever.

        Handlers do not raise; one that does is a bug that ends the program's nursery.
        """
        poll = self._readiness.poll
        handlers = self._handlers
        fd = self._readiness.fileno()
        woken = Woken()
        trio.lowlevel.add_instrument(woken)
        try:
            while True:
                await trio.lowlevel.wait_readable(fd)
                if self.suspended is not None:
                    await self.suspended.wait()
                burst_until = self.tick() + LONGEST_BURST
                quiet_until = min(burst_until, self._quiet_until())
                woken.tasks = False
                for _ in range(BURST):
                    ready = poll(LINGER if self.now < quiet_until and not woken.tasks else 0, BATCH)
                    if not ready:
                        break
                    self.tick()
                    self._handling = True
                    for ready_fd, events in ready:
                        handler = handlers.get(ready_fd)
                        if handler is not None:
                            handler(events)
                    self._handling = False
                    if self._deliveries:
                        self._deliver()
        finally:
            trio.lowlevel.remove_instrument(woken)
            trio.lowlevel.notify_closing(fd)
            self._readiness.close()
