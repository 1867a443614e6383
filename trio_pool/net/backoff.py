"""Waiting longer and longer while the origin is down."""

from __future__ import annotations

import random

import attrs
import trio

FIRST_BACKOFF = 0.05
LONGEST_BACKOFF = 5.0
"""Seconds between attempts to connect while the origin is down; doubled each time, with jitter.

Short, because clients are waiting.
"""


@attrs.define(eq=False)
class Backoff:
    """The pauses between attempts of one kind."""

    _seconds: float = 0.0

    async def wait(self) -> None:
        """An attempt has failed."""
        self._seconds = min(max(FIRST_BACKOFF, self._seconds * 2), LONGEST_BACKOFF)
        await trio.sleep(self._seconds * random.uniform(0.5, 1.0))

    def reset(self) -> None:
        """An attempt has succeeded."""
        self._seconds = 0.0
