"""What two processes say to each other."""

from __future__ import annotations

import os
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from trio_pool.daemon.workers.channel import Channel, WorkerError, WorkerGone
from trio_pool.net import descriptors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.trio


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Channel, Channel]]:
    """Both ends of a channel that runs."""
    one, other = (Channel(sock) for sock in descriptors.pair())
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.run)
            nursery.start_soon(other.run)
            yield one, other
            nursery.cancel_scope.cancel()


async def test_a_call_returns_what_the_handler_does() -> None:
    """Large results too, and several at once: one that waits holds up no other."""
    async with pair() as (one, other):
        let_go = trio.Event()

        async def wait() -> str:
            await let_go.wait()
            return "waited"

        async def repeat(text: bytes, times: int) -> bytes:
            return text * times

        other.handlers |= {"wait": wait, "repeat": repeat}
        answers = []

        async def ask() -> None:
            answers.append(await one.call("wait"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            assert await one.call("repeat", b"x", 5_000_000) == b"x" * 5_000_000
            let_go.set()
        assert answers == ["waited"]


async def test_an_error_comes_back() -> None:
    """With its kind and its text."""
    async with pair() as (one, other):

        async def fail() -> None:
            raise ValueError("no such thing")

        other.handlers["fail"] = fail
        with pytest.raises(WorkerError, match="no such thing") as caught:
            await one.call("fail")
        assert caught.value.kind == "ValueError"


async def test_a_cancelled_call_is_cancelled_there() -> None:
    """The handler does not go on."""
    async with pair() as (one, other):
        began, ended = trio.Event(), trio.Event()

        async def wait() -> None:
            began.set()
            try:
                await trio.sleep_forever()
            finally:
                ended.set()

        other.handlers["wait"] = wait
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.call, "wait")
            await began.wait()
            nursery.cancel_scope.cancel()
        await ended.wait()


async def test_who_is_gone_answers_nothing() -> None:
    """A call under way and the next ones fail; what is told is lost."""
    async with pair() as (one, other):
        began = trio.Event()

        async def wait() -> None:
            began.set()
            await trio.sleep_forever()

        other.handlers["wait"] = wait
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(WorkerGone):
                    await one.call("wait")

            nursery.start_soon(ask)
            await began.wait()
            other.close()
        one.tell("anything")
        with pytest.raises(WorkerGone):
            await one.call("wait")
        await one.gone.wait()


async def test_notes_keep_their_order() -> None:
    """However many, and whatever calls are between them; one that fails is none of the others' business."""
    async with pair() as (one, other):
        heard: list[int] = []

        def note(number: int) -> None:
            if number == 3:
                raise ValueError
            heard.append(number)

        async def done() -> None:
            pass

        other.notes["note"] = note
        other.handlers["done"] = done
        for number in range(1000):
            one.tell("note", number)
        await one.call("done")
        assert heard == [number for number in range(1000) if number != 3]


async def test_descriptors_go_along() -> None:
    """They are copies, of which nobody else's child gets one."""
    async with pair() as (one, other):
        came: list[int] = []
        arrived = trio.Event()

        def take(passed: list[int], name: str) -> None:
            assert name == "both"
            came.extend(passed)
            arrived.set()

        other.notes["take"] = take
        other.takes_descriptors.add("take")
        near, far = socket.socketpair()
        with near, far:
            one.tell("take", "both", descriptors=(near.fileno(), far.fileno()))
            await arrived.wait()
            assert [os.get_inheritable(number) for number in came] == [False, False]
            with descriptors.adopt(came[0]) as first, descriptors.adopt(came[1]) as second:
                first.send(b"through")
                await trio.lowlevel.wait_readable(second)
                assert second.recv(100) == b"through"
