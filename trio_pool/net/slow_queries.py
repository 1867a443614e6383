"""The log of statements that take longer than `slow_query`.

Statements are logged without their constants and with PostgreSQL's fingerprint of them, by which they can be
counted. When everything is slow, the log must not make it slower: it gets the first of each second, and how
many there were beside.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import structlog

from trio_pool.protocol.sql import fingerprint, without_constants

if TYPE_CHECKING:
    from trio_pool.net.timed import Timed

log = structlog.get_logger()

AT_ONCE: Final = 10
"""Lines of one pool within one second."""
MOST_SHOWN: Final = 500
"""Characters of a statement."""


class SlowQueries:
    """Those of one pool."""

    def __init__(self, pool: str) -> None:
        self._pool = pool
        self._since = -math.inf
        self._lines = 0
        self._omitted = 0

    def note(self, client: Timed, answers: int, seconds: float, now: float) -> None:
        """A client has got so many answers after so long."""
        if now >= self._since + 1:
            self._since, self._lines = now, 0
        if self._lines >= AT_ONCE:
            self._omitted += 1
            return
        self._lines += 1
        omitted, self._omitted = self._omitted, 0
        text = client.session.doing()
        shown = without_constants(text)
        log.warning(
            "slow query",
            pool=self._pool,
            client=client.process_id,
            user=client.user,
            seconds=round(seconds, 3),
            answers=answers,
            fingerprint=fingerprint(text),
            statement=shown if len(shown) <= MOST_SHOWN else f"{shown[:MOST_SHOWN]}...",
            **({"omitted_before": omitted} if omitted else {}),
        )
