"""What has gone through a pool since it was made: how much, and how long it took.

Counted by those to whom it happens, each with one call. The data plane looks at the clock once per wake-up,
so what begins and ends within one has taken no time.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

SHORTEST: Final = 0.0005
LONGER: Final = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]
BOUNDS: Final = (SHORTEST, *LONGER)
"""Seconds up to which a histogram counts apart; one more counter is for what took longer."""


class Histogram:
    """How often something took how long."""

    __slots__ = ("_longer", "_shortest", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self._shortest = 0
        self._longer: list[int] = [0] * (len(LONGER) + 1)

    def observe(self, seconds: float) -> None:
        """Hot path: most takes as good as no time."""
        self.seconds += seconds
        if seconds <= SHORTEST:
            self._shortest += 1
            return
        at = 0
        while at < len(LONGER) and seconds > LONGER[at]:
            at += 1
        self._longer[at] += 1

    @property
    def counts(self) -> list[int]:
        """Of the spans between the `BOUNDS`, not cumulated."""
        return [self._shortest, *self._longer]

    @property
    def count(self) -> int:
        return sum(self.counts)


class Traffic:
    """Of one pool. Bytes are those of connections that have ended; the others know their own."""

    __slots__ = (
        "cancels",
        "client_received",
        "client_sent",
        "connects",
        "disconnects",
        "logins",
        "losses",
        "queries",
        "query_time",
        "server_received",
        "server_sent",
        "timeouts",
        "transaction_time",
        "waits",
    )

    def __init__(self) -> None:
        self.queries = 0
        """ReadyForQuery answers of servers to clients; what is answered without a server is not among
        them.
        """
        self.query_time = Histogram()
        """From what a client asked to the last answer, without the wait for a server. Statements that came
        at once are one.
        """
        self.transaction_time = Histogram()
        """As the limit `transaction` counts."""
        self.waits = Histogram()
        """From the wish for a server to the lease, which may be at once."""
        self.connects = Histogram()
        """Of servers: dialling and login."""
        self.logins = Histogram()
        """Of clients: from the accepted socket to ReadyForQuery."""
        self.client_received = 0
        self.client_sent = 0
        self.server_received = 0
        self.server_sent = 0
        self.cancels = 0
        """Cancel requests of clients."""
        self.timeouts: Counter[str] = Counter()
        """Time limits that were over, by their key in the configuration."""
        self.losses: Counter[str] = Counter()
        """Servers that ended, by reason."""
        self.disconnects: Counter[str] = Counter()
        """Clients that ended, by reason."""

    def answered(self, queries: int, seconds: float) -> None:
        """Hot path."""
        self.queries += queries
        self.query_time.observe(seconds)
