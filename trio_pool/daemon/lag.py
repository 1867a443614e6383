"""How late the event loop is: what a timer measures that has nothing to do but to come in time."""

from __future__ import annotations

from collections import deque

import attrs
import trio

from trio_pool.pooling.traffic import Histogram

EVERY = 0.5
"""Seconds between two looks."""
RECENT = 60.0
"""Seconds for which the longest delay is remembered."""


@attrs.define(eq=False)
class Lag:
    """Delays since the start, in seconds, and those of the last `RECENT` seconds."""

    delays: Histogram = attrs.field(factory=Histogram)
    _recent: deque[float] = attrs.field(factory=lambda: deque(maxlen=round(RECENT / EVERY)))

    @property
    def longest(self) -> float:
        """Of the last `RECENT` seconds."""
        return max(self._recent, default=0.0)

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            due = trio.current_time() + EVERY
            await trio.sleep_until(due)
            delay = max(0.0, trio.current_time() - due)
            self.delays.observe(delay)
            self._recent.append(delay)
