"""The failed transaction without a server: what a client gets whose transaction was lost together with its
server connection.

PostgreSQL's own behaviour in an aborted transaction block (`exec_simple_query`, `exec_parse_message` and
their kin in postgres.c): every statement is refused with 25P02 until one ends the transaction, which is
answered with the command tag ROLLBACK. The first refusal says why the transaction is lost. COMMIT is refused
as well, and ends it, if it is the first thing that the client says: few look at the tag, and nobody else
tells them that nothing was committed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from trio_pool.errors import SqlState
from trio_pool.protocol.sql import Ending, commits, ending
from trio_pool.wire import messages
from trio_pool.wire.tags import Frontend, Target

if TYPE_CHECKING:
    from collections.abc import Callable

ABORTED = messages.error(
    SqlState.FAILED_TRANSACTION,
    "current transaction is aborted, commands ignored until end of transaction block",
)


@attrs.define(eq=False)
class FailedTransaction:
    """Answers in place of a server until the client ends its transaction.

    `cause` is the ErrorResponse of the first refusal, empty once it was given. An `implicit` transaction is
    that of a group of extended-protocol requests, which ends with their Sync. `over` tells that the
    transaction has ended.
    """

    cause: bytes = b""
    implicit: bool = False
    over: bool = False
    _portals: dict[bytes, bytes] = attrs.field(factory=dict)

    def query(self, text: bytes) -> bytes | None:
        """Everything before ReadyForQuery for a simple Query, or None when a server has to run it (`ROLLBACK;
        SELECT 1`).
        """
        match ending(text):
            case Ending.ALONE | Ending.FIRST if self.cause and commits(text):
                self.over = True
                return self.refuse()
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

    def request(self, tag: int, body: bytes, text_of: Callable[[bytes], bytes | None]) -> bytes | None:
        """The reply to an extended-protocol message, or None if it fails the group: then `refuse` is the
        ErrorResponse.

        `text_of` gives the text of the client's statement of a name, if there is one. A Parse that is
        accepted makes another.
        """
        match tag:
            case Frontend.PARSE:
                name, _, rest = body.partition(b"\0")
                if (name and text_of(name) is not None) or not _is_exit(rest.partition(b"\0")[0]):
                    return None
                return messages.PARSE_COMPLETE
            case Frontend.BIND:
                portal, _, rest = body.partition(b"\0")
                bound = text_of(rest.partition(b"\0")[0])
                if bound is None or ending(bound) is not Ending.ALONE:
                    return None
                self._portals[portal] = bound
                return messages.BIND_COMPLETE
            case Frontend.DESCRIBE:
                name = body[1:].rstrip(b"\0")
                if body[:1] == b"%c" % Target.PORTAL:
                    return messages.NO_DATA if name in self._portals else None
                described = text_of(name)
                if described is None or not _is_exit(described):
                    return None
                return messages.NO_PARAMETERS + messages.NO_DATA
            case Frontend.EXECUTE:
                executed = self._portals.get(body.partition(b"\0")[0])
                if executed is None:
                    return None
                if ending(executed) is Ending.EMPTY:
                    return messages.EMPTY_QUERY
                self.over = True
                if self.cause and commits(executed):
                    return None
                return messages.command_complete("ROLLBACK")
            case _:
                return None

    def refuse(self) -> bytes:
        """The ErrorResponse for whatever does not end the transaction."""
        refusal, self.cause = self.cause or ABORTED, b""
        return refusal


def _is_exit(text: bytes) -> bool:
    """Whether PostgreSQL prepares and executes a text in an aborted transaction: one statement that ends it,
    or none.
    """
    return ending(text) in (Ending.ALONE, Ending.EMPTY)
