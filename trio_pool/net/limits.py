"""The time limits of one client in a transaction, and which of them is over first.

Pure: it is given timestamps, and tells what follows from them. The data plane only stores timestamps; the
client's task looks at them when the earliest limit that could be over by then is.
"""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING

import attrs

from trio_pool.config.durations import format_duration
from trio_pool.errors import SqlState
from trio_pool.protocol import lacking
from trio_pool.wire import messages

if TYPE_CHECKING:
    from trio_pool.config.timeouts import Timeouts
    from trio_pool.protocol.settings import Settings

MARGIN = 0.1
LONGEST_MARGIN = 0.1
"""By how much a limit that the client has set itself goes off sooner here than in PostgreSQL, where it would
end the server connection: a tenth, and 0.1 s at most.
"""


class Limit(enum.Enum):
    """What a client may not take longer for."""

    QUERY = "query"
    TRANSACTION = "transaction"
    IDLE_IN_TRANSACTION = "idle_in_transaction"


_ERRORS = {
    Limit.QUERY: (SqlState.QUERY_CANCELED, "canceling statement due to query timeout"),
    Limit.TRANSACTION: (
        SqlState.TRANSACTION_TIMEOUT,
        "rolling back transaction due to transaction timeout",
    ),
    Limit.IDLE_IN_TRANSACTION: (
        SqlState.IDLE_IN_TRANSACTION_TIMEOUT,
        "rolling back transaction due to idle-in-transaction timeout",
    ),
}
_STALLED = "canceling statement due to idle-in-transaction timeout"
_OWN = {
    Limit.TRANSACTION: lacking.NAME,
    Limit.IDLE_IN_TRANSACTION: "idle_in_transaction_session_timeout",
}


@attrs.frozen
class Situation:
    """Since when what is going on: a statement, a transaction, the client's turn in it (seconds on the
    caller's clock); infinity for what is not.
    """

    statement: float = math.inf
    transaction: float = math.inf
    turn: float = math.inf


CALM = Situation()


@attrs.frozen
class Limits:
    """Seconds; infinity is off. `own` are those that the client has set itself."""

    query: float
    transaction: float
    idle_in_transaction: float
    own: frozenset[Limit] = frozenset()
    soonest: float = attrs.field(init=False)
    """No limit that begins now is over earlier."""

    @soonest.default
    def _soonest(self) -> float:
        return min(self.query, self.transaction, self.idle_in_transaction)

    @classmethod
    def of(cls, timeouts: Timeouts, settings: Settings) -> Limits:
        """Those of the configuration, or what the client's settings say if that is less.

        `statement_timeout` is not among them: PostgreSQL enforces it without harm to the connection.
        """
        configured = cls(timeouts.query, timeouts.transaction, timeouts.idle_in_transaction)
        own = {limit.value: _seconds(settings.get(name)) for limit, name in _OWN.items()}
        own[Limit.TRANSACTION.value] = min(
            own[Limit.TRANSACTION.value], _seconds(settings.get(lacking.STAND_IN))
        )
        lower = {name: value for name, value in own.items() if value < getattr(configured, name)}
        return attrs.evolve(configured, own=frozenset(map(Limit, lower)), **lower) if lower else configured

    def earliest(self, situation: Situation) -> tuple[float, Limit | None]:
        """Which limit is over first, and when."""
        when, limit = math.inf, None
        for since, span, which in (
            (situation.statement, self.query, Limit.QUERY),
            (situation.transaction, self.transaction, Limit.TRANSACTION),
            (situation.turn, self.idle_in_transaction, Limit.IDLE_IN_TRANSACTION),
        ):
            if since + span < when:
                when, limit = since + span, which
        return when, limit

    def error(self, limit: Limit, *, running: bool) -> bytes:
        """The ErrorResponse for a limit that is over, while a statement runs or not."""
        sqlstate, message = _ERRORS[limit]
        if limit is Limit.IDLE_IN_TRANSACTION and running:
            sqlstate, message = SqlState.QUERY_CANCELED, _STALLED
        span = format_duration(round(getattr(self, limit.value), 3))
        name = _OWN[limit] if limit in self.own else f"timeouts.{limit.value}"
        return messages.error(sqlstate, message, detail=f"The limit is {span} ({name}).")


def _seconds(value: str | None) -> float:
    """What a session has such a parameter set to, less the margin; infinity for 0 and for what is no time."""
    milliseconds = None if value is None else lacking.milliseconds(value)
    if not milliseconds:
        return math.inf
    seconds = milliseconds / 1000
    return seconds - min(seconds * MARGIN, LONGEST_MARGIN)
