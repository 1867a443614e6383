"""The extended protocol of the console: prepared statements and portals, of which there is nothing to plan.

What is prepared is a command that exists; it is done when its portal is executed. Nothing takes parameters.
Source: PostgreSQL 18, chapter "Frontend/Backend Protocol", sections "Extended Query" and "Message Formats".
PgBouncer's console has only the simple protocol.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import TYPE_CHECKING, Final

import attrs

from trio_pool.daemon.console.answer import understand, written
from trio_pool.daemon.console.failure import ConsoleError
from trio_pool.daemon.console.table import formats_of, row_description
from trio_pool.wire import messages
from trio_pool.wire.tags import Backend, Target

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from trio_pool.daemon.console.answer import Answer, Request
    from trio_pool.daemon.console.table import Column, Row

UNKNOWN_STATEMENT: Final = "26000"
UNKNOWN_PORTAL: Final = "34000"
_SUSPENDED: Final = messages.message(Backend.PORTAL_SUSPENDED)


@attrs.define(eq=False)
class Portal:
    """A command that is bound; `rest` are rows that have not been fetched, None before it is executed."""

    request: Request | None
    formats: tuple[int, ...]
    rest: deque[Row] | None = None
    tag: str = ""


@attrs.define(eq=False)
class Extended:
    """The statements and portals of one connection. Each method returns what is to be sent.

    Raises `ConsoleError`; the caller then skips to Sync. `IndexError`, `ValueError` and `struct.error` mean a
    malformed message.
    """

    answer: Callable[[Request], Awaitable[Answer]]
    _statements: dict[bytes, Request | None] = attrs.field(factory=dict)
    _portals: dict[bytes, Portal] = attrs.field(factory=dict)

    def parse(self, body: bytes) -> bytes:
        name, text, _types = body.split(b"\0", 2)
        if name and name in self._statements:
            raise ConsoleError(
                f'prepared statement "{name.decode(errors="replace")}" already exists', sqlstate="42P05"
            )
        self._statements[name] = understand(text.decode(errors="replace"))
        return messages.PARSE_COMPLETE

    def bind(self, body: bytes) -> bytes:
        portal, name, rest = body.split(b"\0", 2)
        request = self._statement(name)
        formats, at = _int16s(rest, 0)
        (count,) = struct.unpack_from("!H", rest, at)
        if count:
            raise ConsoleError("commands of the console take no parameters")
        formats, at = _int16s(rest, at + 2)
        described = () if request is None else request.columns or ()
        self._portals[portal] = Portal(request, formats_of(formats, described))
        return messages.BIND_COMPLETE

    def describe(self, body: bytes) -> bytes:
        name = body[1:-1]
        if body[0] == Target.STATEMENT:
            request = self._statement(name)
            return messages.NO_PARAMETERS + _described(request, formats_of((), _columns(request)))
        portal = self._portal(name)
        return _described(portal.request, portal.formats)

    async def execute(self, body: bytes) -> bytes:
        name, limit = body.split(b"\0", 1)
        (most,) = struct.unpack("!I", limit)
        portal = self._portal(name)
        if portal.request is None:
            return messages.EMPTY_QUERY
        sent = b""
        if portal.rest is None:
            done = await self.answer(portal.request)
            portal.rest, portal.tag, sent = deque(done.rows or ()), done.tag, done.notices
        count = len(portal.rest) if not most else min(most, len(portal.rest))
        described = _columns(portal.request)
        sent += await written((portal.rest.popleft() for _ in range(count)), described, portal.formats)
        return sent + (_SUSPENDED if portal.rest else messages.command_complete(portal.tag))

    def close(self, body: bytes) -> bytes:
        kept: dict[bytes, Request | None] | dict[bytes, Portal]
        kept = self._statements if body[0] == Target.STATEMENT else self._portals
        kept.pop(body[1:-1], None)
        return messages.CLOSE_COMPLETE

    def sync(self) -> None:
        """Portals end with their implicit transaction."""
        self._portals.clear()

    def query(self) -> None:
        """The simple protocol ends what has no name."""
        self._statements.pop(b"", None)
        self._portals.clear()

    def _statement(self, name: bytes) -> Request | None:
        if name not in self._statements:
            spelled = name.decode(errors="replace")
            raise ConsoleError(f'prepared statement "{spelled}" does not exist', sqlstate=UNKNOWN_STATEMENT)
        return self._statements[name]

    def _portal(self, name: bytes) -> Portal:
        if name not in self._portals:
            spelled = name.decode(errors="replace")
            raise ConsoleError(f'portal "{spelled}" does not exist', sqlstate=UNKNOWN_PORTAL)
        return self._portals[name]


def _columns(request: Request | None) -> Sequence[Column]:
    return () if request is None else request.columns or ()


def _described(request: Request | None, formats: Sequence[int]) -> bytes:
    if request is None or request.columns is None:
        return messages.NO_DATA
    return row_description(request.columns, formats)


def _int16s(data: bytes, at: int) -> tuple[tuple[int, ...], int]:
    """A count and so many integers of 16 bits, and where they end."""
    (count,) = struct.unpack_from("!H", data, at)
    return struct.unpack_from(f"!{count}H", data, at + 2), at + 2 + 2 * count
