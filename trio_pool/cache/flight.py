"""One request that is under way, whose answer may be kept; and whoever waits for the same.

The answer is looked at as it passes: it is kept only if it is a result from beginning to end, and nothing
else: no error, no notice, no message that came by chance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from trio_pool.wire.frames import header
from trio_pool.wire.tags import Backend, Status

if TYPE_CHECKING:
    from trio_pool.cache.plan import Plan
    from trio_pool.cache.shelf import Shelf
    from trio_pool.protocol.statements import Statement

DATA_ROW: Final = Backend.DATA_ROW
READY_FOR_QUERY: Final = Backend.READY_FOR_QUERY
COMMAND_COMPLETE: Final = Backend.COMMAND_COMPLETE
IDLE: Final = Status.IDLE
_ALLOWED: Final = frozenset(
    {
        DATA_ROW,
        COMMAND_COMPLETE,
        Backend.ROW_DESCRIPTION,
        Backend.PARSE_COMPLETE,
        Backend.BIND_COMPLETE,
        Backend.PARAMETER_DESCRIPTION,
        Backend.NO_DATA,
    }
)


class Joiner(Protocol):
    """Who waits for somebody else's answer."""

    def landed(self, reply: bytes) -> None:
        """Here it is."""

    def forsaken(self) -> None:
        """There will be none to share."""


class Flight:
    """A request between its beginning and its answer. Compiled."""

    __slots__ = (
        "_at",
        "_chunks",
        "_held",
        "began_at",
        "joiners",
        "key",
        "limit",
        "plan",
        "shelf",
        "size",
        "spoiled",
        "stamp",
        "statement",
        "whole",
    )

    def __init__(
        self,
        shelf: Shelf,
        key: bytes,
        plan: Plan,
        stamp: int,
        now: float,
        *,
        limit: int,
        statement: Statement | None,
    ) -> None:
        self.shelf = shelf
        self.key = key
        self.plan = plan
        self.stamp = stamp
        """`Freshness.stamp` before it was sent."""
        self.began_at = now
        self.statement = statement
        """The prepared statement by whose name of ours the key goes, if one."""
        self.limit = limit
        """Bytes of the longest answer that is kept."""
        self.joiners: dict[Joiner, None] = {}
        self.size = 0
        self.spoiled = ""
        """Why its answer is not kept; empty if it may be."""
        self.whole = False
        """Whether ReadyForQuery has come."""
        self._chunks: list[bytes] = []
        self._held = b""
        self._at = 0
        """How much of a message's body is still to come."""

    def took(self, data: bytes) -> None:
        """The next part of the answer."""
        if self.spoiled:
            return
        self.size += len(data)
        if self.size > self.limit:
            self._spoil("result too large")
            return
        self._chunks.append(data)
        if self._held:
            data = self._held + data
            self._held = b""
        at = self._at
        size = len(data)
        while at + 5 <= size:
            tag, length = header(data, at)
            if self.whole:
                self._spoil("more than one answer")
                return
            if tag == READY_FOR_QUERY:
                if at + 6 > size:
                    break
                if data[at + 5] != IDLE:
                    self._spoil("it left a transaction open")
                    return
                self.whole = True
            elif tag not in _ALLOWED:
                self._spoil("an error or a message beside the result")
                return
            at += 1 + length
        if at < size:
            self._held = data[at:]
            self._at = 0
        else:
            self._at = at - size

    def _spoil(self, why: str) -> None:
        self.spoiled = why
        self._chunks.clear()
        self._held = b""

    @property
    def reply(self) -> bytes:
        """The whole answer; empty if it is none that others may have."""
        if self.spoiled or not self.whole or self._held or self._at:
            return b""
        return b"".join(self._chunks)
