"""Waiting longer and longer while the origin is down."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import attrs
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_pool.net.mailbox import Mailbox

FIRST_BACKOFF = 0.05
LONGEST_BACKOFF = 5.0
"""Seconds between attempts to connect while the origin is down; doubled each time, with jitter.

Short, because clients are waiting.
"""
LONGEST_WAITED_FOR = 1.0
"""The longest of them while a client waits: it must not sit out one that began when nobody did."""


@attrs.define(eq=False)
class Backoff:
    """The pauses between attempts of one kind."""

    _seconds: float = 0.0

    async def wait(self) -> None:
        """An attempt has failed."""
        await trio.sleep(self._next())

    async def wait_for(self, waited_for: Callable[[], bool], mailbox: Mailbox) -> None:
        """The same; but what is too long for those who wait ends as soon as somebody does.

        Whoever begins to wait wakes the mailbox.
        """
        seconds = self._next()
        soon = min(seconds, LONGEST_WAITED_FOR * random.uniform(0.5, 1.0))
        await trio.sleep(soon)
        with trio.move_on_after(seconds - soon):
            while not waited_for():
                await mailbox.wait()

    def _next(self) -> float:
        self._seconds = min(max(FIRST_BACKOFF, self._seconds * 2), LONGEST_BACKOFF)
        return self._seconds * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """An attempt has succeeded."""
        self._seconds = 0.0
