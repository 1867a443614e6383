"""The time limits. Each key says what happens when its time is over.

The general ones are complete. A database's come before them, and a user's before those, as settings of ALTER
ROLE come before those of ALTER DATABASE.
"""

from __future__ import annotations

import math

import attrs

from trio_pool.config import kinds
from trio_pool.config.kinds import about


@attrs.frozen
class Timeouts:
    """Seconds; ``math.inf`` is off."""

    client_login: float = attrs.field(
        default=15.0,
        metadata=about(
            kinds.DURATION, "From a client's connecting to the end of its login. Then it is closed."
        ),
    )
    client_idle: float = attrs.field(
        default=math.inf,
        metadata=about(
            kinds.DURATION, "Without a statement, outside a transaction. Then the client is closed (57P05)."
        ),
    )
    lease_wait: float = attrs.field(
        default=15.0,
        metadata=about(
            kinds.DURATION,
            "A client's wait for a server connection. Then its statement fails (53300); the client stays.",
        ),
    )
    wait_notice: float = attrs.field(
        default=math.inf,
        metadata=about(
            kinds.DURATION,
            "A client's wait for a server connection. Then it is told by a NOTICE that it waits, and goes on "
            "waiting.",
        ),
    )
    slow_query: float = attrs.field(
        default=math.inf,
        metadata=about(
            kinds.DURATION,
            "One statement, or several that were sent at once. Not a limit: what has taken longer is logged, "
            "without its constants. Less than `1ms` counts as `1ms`.",
        ),
    )
    query: float = attrs.field(
        default=math.inf,
        metadata=about(
            kinds.DURATION, "One statement. Then it is cancelled (57014); client and server connection stay."
        ),
    )
    transaction: float = attrs.field(
        default=math.inf,
        metadata=about(
            kinds.DURATION,
            "One transaction. Then it is rolled back, and the running or the next statement fails (25P04).",
        ),
    )
    idle_in_transaction: float = attrs.field(
        default=60.0,
        metadata=about(
            kinds.DURATION,
            "Between two statements of a transaction. Then it is rolled back, and the next statement fails "
            "(25P03).",
        ),
    )
    server_connect: float = attrs.field(
        default=15.0,
        metadata=about(kinds.DURATION, "Connecting and logging in to the origin."),
    )
    server_idle: float = attrs.field(
        default=600.0,
        metadata=about(
            kinds.DURATION,
            "A server connection without a lease. Then it is closed, unless `min_pool_size` keeps it.",
        ),
    )
    server_lifetime: float = attrs.field(
        default=3600.0,
        metadata=about(
            kinds.DURATION, "Age of a server connection. Past it, it is replaced when it is free."
        ),
    )
    cancel: float = attrs.field(
        default=5.0,
        metadata=about(
            kinds.DURATION,
            "Cancelling a statement, reading what still comes and rolling back. Then the server connection "
            "is closed.",
        ),
    )
    drain: float = attrs.field(
        default=30.0,
        metadata=about(
            kinds.DURATION, "A graceful stop: open transactions may end by then. `0` waits for all of them."
        ),
    )
    hand_over: float = attrs.field(
        default=300.0,
        metadata=about(
            kinds.DURATION,
            "After a hand-over to a newer process, its predecessor keeps the clients that it has. Then they "
            "are sent away between their transactions, as at a stop. `0` waits until they leave by "
            "themselves.",
        ),
    )


def _limit(name: str) -> float | None:
    """A field that is the key of this name, or None where nothing is given."""
    limit: float | None = attrs.field(default=None, metadata=attrs.fields_dict(Timeouts)[name].metadata)
    return limit


@attrs.frozen
class ClientTimeouts:
    """Those of the time limits that can be a user's own; None where it has none."""

    client_idle: float | None = _limit("client_idle")
    lease_wait: float | None = _limit("lease_wait")
    wait_notice: float | None = _limit("wait_notice")
    slow_query: float | None = _limit("slow_query")
    query: float | None = _limit("query")
    transaction: float | None = _limit("transaction")
    idle_in_transaction: float | None = _limit("idle_in_transaction")

    def over(self, timeouts: Timeouts) -> Timeouts:
        """All time limits, where these come first; `timeouts` itself if none of these is given."""
        given = attrs.asdict(self, filter=lambda _, limit: limit is not None)
        return attrs.evolve(timeouts, **given) if given else timeouts
