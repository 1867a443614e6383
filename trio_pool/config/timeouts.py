"""The time limits. Each key says what happens when its time is over."""

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
