"""The poller: every promise with the system's own readiness and with the portable one."""

from __future__ import annotations

import selectors
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.lowlevel
import trio.testing

from trio_pool.net.poller import (
    BATCH,
    BURST,
    READABLE,
    WRITABLE,
    Poller,
    PortableReadiness,
    Readiness,
    default_readiness,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    Pairs = Callable[[], tuple[socket.socket, socket.socket]]

pytestmark = pytest.mark.trio


@pytest.fixture(params=["system", "portable"])
def poller(request: pytest.FixtureRequest) -> Poller:
    readiness: Readiness = default_readiness() if request.param == "system" else PortableReadiness()
    return Poller(readiness)


@pytest.fixture
def pairs() -> Iterator[Pairs]:
    """Makes connected, non-blocking sockets, and closes them."""
    made: list[socket.socket] = []

    def pair() -> tuple[socket.socket, socket.socket]:
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        made.extend((near, far))
        return near, far

    yield pair
    for sock in made:
        sock.close()


@asynccontextmanager
async def running(poller: Poller) -> AsyncIterator[None]:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poller.run)
            yield
            nursery.cancel_scope.cancel()


async def test_calls_the_handler_of_what_is_readable(poller: Poller, pairs: Pairs) -> None:
    """Once for what came once, with READABLE, at the time that `now` says; and at the end of the stream."""
    near, far = pairs()
    seen: list[tuple[int, bytes]] = []
    woken = trio.Event()

    def handle(events: int) -> None:
        nonlocal woken
        seen.append((events & (READABLE | WRITABLE), near.recv(100)))
        assert abs(poller.now - trio.current_time()) < 1.0
        woken.set()

    async with running(poller):
        poller.register(near.fileno(), handle)
        far.send(b"one")
        await woken.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert seen == [(READABLE, b"one")]
        woken = trio.Event()
        far.shutdown(socket.SHUT_WR)
        await woken.wait()
        assert seen[-1] == (READABLE, b"")
        poller.unregister(near.fileno())


async def test_asks_for_what_the_mask_says(poller: Poller, pairs: Pairs) -> None:
    """Writability only while it is asked for, and nothing at all with an empty mask, until that changes."""
    near, far = pairs()
    seen: list[int] = []
    woken = trio.Event()

    def handle(events: int) -> None:
        seen.append(events & (READABLE | WRITABLE))
        poller.modify(near.fileno(), 0)
        woken.set()

    async with running(poller):
        far.send(b"unread")
        poller.register(near.fileno(), handle, 0)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert seen == []
        for mask in (WRITABLE, READABLE, READABLE | WRITABLE):
            woken = trio.Event()
            poller.modify(near.fileno(), mask)
            await woken.wait()
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert seen.pop() == mask
            assert seen == []
        poller.unregister(near.fileno())


async def test_one_handler_may_end_another_of_its_batch(poller: Poller, pairs: Pairs) -> None:
    """Who is unregistered while its event is already in the batch is not called any more."""
    connected = [pairs() for _ in range(10)]
    called: list[int] = []
    over = trio.Event()

    def end_all_others(number: int) -> None:
        called.append(number)
        for near, _ in connected:
            poller.unregister(near.fileno())
        over.set()

    for number, (near, far) in enumerate(connected):
        far.send(b"x")
        poller.register(near.fileno(), lambda _, number=number: end_all_others(number))  # type: ignore[misc]
    async with running(poller):
        await over.wait()
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert len(called) == 1
    assert len(poller) == 0


async def test_unregistering_twice_is_harmless(poller: Poller, pairs: Pairs) -> None:
    """So is unregistering what never was, or what waited for nothing; the descriptor can come back."""
    near, far = pairs()
    poller.unregister(near.fileno())
    poller.register(near.fileno(), lambda _: None, 0)
    poller.unregister(near.fileno())
    poller.unregister(near.fileno())
    assert len(poller) == 0
    woken = trio.Event()
    poller.register(near.fileno(), lambda _: (near.recv(1), woken.set())[1])
    async with running(poller):
        far.send(b"x")
        await woken.wait()
        poller.unregister(near.fileno())


async def test_registers_from_within_a_handler(poller: Poller, pairs: Pairs) -> None:
    """A new socket is served in the same burst as the one whose handler brought it."""
    first, far = pairs()
    second, other = pairs()
    woken = trio.Event()
    other.send(b"x")
    far.send(b"x")

    def second_ready(_: int) -> None:
        second.recv(1)
        woken.set()

    def first_ready(_: int) -> None:
        first.recv(1)
        poller.register(second.fileno(), second_ready)

    poller.register(first.fileno(), first_ready)
    async with running(poller):
        await woken.wait()
        for sock in (first, second):
            poller.unregister(sock.fileno())


async def test_timers_run_however_busy_the_sockets_are(poller: Poller, pairs: Pairs) -> None:
    """Sockets that are always ready do not keep Trio's other tasks waiting for more than a burst."""
    calls = 0
    for _ in range(8):
        near, far = pairs()
        far.send(b"never read")

        def busy(_: int) -> None:
            nonlocal calls
            calls += 1

        poller.register(near.fileno(), busy)
    async with running(poller):
        await trio.sleep(0.005)
        for _ in range(3):
            before = calls
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            assert calls - before <= 3 * BURST * 8
        assert calls > 0


async def test_many_sockets_are_all_served(poller: Poller, pairs: Pairs) -> None:
    """More ready sockets than a batch holds: each is called, none is starved by those that stay ready."""
    served: set[int] = set()
    all_served = trio.Event()
    count = BATCH + 40

    def handle(number: int) -> None:
        served.add(number)
        if len(served) == count:
            all_served.set()

    for number in range(count):
        near, far = pairs()
        far.send(b"never read")
        poller.register(near.fileno(), lambda _, number=number: handle(number))  # type: ignore[misc]
    async with running(poller):
        await all_served.wait()


async def test_ends_when_cancelled(poller: Poller) -> None:
    """Cancelling it closes its own descriptor, and only that."""
    async with running(poller):
        await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize("kind", ["SelectSelector", "PollSelector"])
async def test_portable_readiness_over_any_selector(pairs: Pairs, kind: str) -> None:
    """It asks nothing more of a selector than what `selectors` promises."""
    readiness = PortableReadiness(getattr(selectors, kind)())
    near, far = pairs()
    readiness.register(near.fileno(), READABLE)
    assert readiness.poll(0, 10) == []
    far.send(b"x")
    assert readiness.poll(0, 10) == [(near.fileno(), READABLE)]
    readiness.modify(near.fileno(), READABLE | WRITABLE)
    assert readiness.poll(0, 10) == [(near.fileno(), READABLE | WRITABLE)]
    readiness.modify(near.fileno(), 0)
    assert readiness.poll(0, 10) == []
    readiness.unregister(near.fileno())
    readiness.close()
