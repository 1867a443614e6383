"""The failed transaction without a server: what a client gets whose transaction was lost together with its server connection.

PostgreSQL's own behaviour in an aborted transaction block (`exec_simple_query`, `exec_parse_message` and their kin in postgres.c): every statement is refused
with 25P02 until one ends the transaction, which is answered with the command tag ROLLBACK. The first refusal says why the transaction is lost.
"""

from __future__ import annotations

import attrs

from trio_pool.errors import SqlState
from trio_pool.protocol.sql import Ending, ending
from trio_pool.wire import messages
from trio_pool.wire.tags import Frontend, Target

ABORTED = messages.error(
    SqlState.FAILED_TRANSACTION,
    "current transaction is aborted, commands ignored until end of transaction block",
)
_NO_PARAMETERS = messages.message(ord("t"), b"\0\0")


@attrs.define(eq=False)
class FailedTransaction:
    """Answers in place of a server until the client ends its transaction.

    `cause` is the ErrorResponse of the first refusal, empty once it was given. `over` tells that the transaction has ended.
    """

    cause: bytes = b""
    over: bool = False
    _statements: dict[bytes, bytes] = attrs.field(factory=dict)
    _portals: dict[bytes, bytes] = attrs.field(factory=dict)

    def query(self, text: bytes) -> bytes | None:
        """Everything before ReadyForQuery for a simple Query, or None when a server has to run it (`ROLLBACK; SELECT 1`)."""
        match ending(text):
            case Ending.ALONE:
                self.over = True
                return messages.command_complete("ROLLBACK")
            case Ending.FIRST:
                self.over = True
                return None
            case Ending.EMPTY:
                return messages.EMPTY_QUERY
            case Ending.NONE:
                return self.refuse()

    def request(self, tag: int, body: bytes, known: dict[bytes, bytes]) -> bytes | None:
        """The reply to an extended-protocol message, or None if it fails the group: then `refuse` is the ErrorResponse.

        `known` are texts of the client's statements that were prepared before the transaction failed, by name.
        """
        match tag:
            case Frontend.PARSE:
                name, _, rest = body.partition(b"\0")
                text = rest.partition(b"\0")[0]
                if ending(text) not in (Ending.ALONE, Ending.EMPTY):
                    return None
                self._statements[name] = text
                return messages.PARSE_COMPLETE
            case Frontend.BIND:
                portal, statement = body.split(b"\0", 2)[:2]
                bound = self._statements.get(statement, known.get(statement))
                if bound is None or ending(bound) not in (Ending.ALONE, Ending.EMPTY):
                    return None
                self._portals[portal] = bound
                return messages.BIND_COMPLETE
            case Frontend.DESCRIBE:
                name = body[1:].rstrip(b"\0")
                if body[0] == Target.PORTAL:
                    return messages.NO_DATA if name in self._portals else None
                return _NO_PARAMETERS + messages.NO_DATA if name in self._statements else None
            case Frontend.EXECUTE:
                executed = self._portals.get(body.partition(b"\0")[0])
                if executed is None:
                    return None
                if ending(executed) is Ending.EMPTY:
                    return messages.EMPTY_QUERY
                self.over = True
                return messages.command_complete("ROLLBACK")
            case _:
                return None

    def refuse(self) -> bytes:
        """The ErrorResponse for whatever does not end the transaction."""
        refusal, self.cause = self.cause or ABORTED, b""
        return refusal
