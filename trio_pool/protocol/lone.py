"""Requests that are one statement with a ReadyForQuery of its own, and nothing else.

It must never know the server: whether the statement is harmless is told elsewhere (`reading`, `catalog`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trio_pool.protocol.catalog_question import FIRST_USER_OID
from trio_pool.protocol.facts import NOTHING
from trio_pool.protocol.plain import plain
from trio_pool.protocol.statements import Statement
from trio_pool.wire import messages
from trio_pool.wire.frames import between, header
from trio_pool.wire.tags import Frontend, Target

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_pool.protocol.backend import Preparable

QUERY: Final = Frontend.QUERY
PARSE: Final = Frontend.PARSE
BIND: Final = Frontend.BIND
_DESCRIBE_STATEMENT: Final = messages.message(Frontend.DESCRIBE, b"%c\0" % Target.STATEMENT)
_ENDS: Final = frozenset(
    {
        messages.EXECUTE + messages.SYNC,
        messages.message(Frontend.DESCRIBE, b"%c\0" % Target.PORTAL) + messages.EXECUTE + messages.SYNC,
    }
)
"""What follows a Bind: all rows of the unnamed portal."""


def lone_statement(data: bytes, names: Mapping[bytes, Preparable] | None) -> bytes | None:
    """The text of the statement, if `data` is exactly that: a Query; or Bind, Execute without a limit and
    Sync, with a Parse of the unnamed statement and Describes at their places. None if it is anything else, or
    may do something to the session. Hot path.

    Parameters must be of types that PostgreSQL brings along: the input of others may run anything.
    """
    size = len(data)
    if size < 6:
        return None
    tag, length = header(data, 0)
    at = length + 1
    if tag == QUERY:
        text = between(data, 5, size - 1)
        return text if at == size and plain(text) else None
    if tag == PARSE:
        parsed = _parsed(data, at) if data[5] == 0 else None
        if parsed is None:
            return None
        if data.startswith(_DESCRIBE_STATEMENT, at):
            at += len(_DESCRIBE_STATEMENT)
        return parsed if data.startswith(b"B", at) and _bound(data, at) == b"" else None
    if tag != BIND:
        return None
    name = _bound(data, 0)
    statement = names.get(name) if name and names is not None else None
    if not isinstance(statement, Statement) or statement.facts is not NOTHING or statement.controls:
        return None
    return statement.text if _settled(statement.rest, len(statement.text)) else None


def with_name(name: bytes, rest: bytes) -> bytes:
    """A lone request of a prepared statement, of which `rest` is what follows the name in its Bind."""
    ending = max((end for end in _ENDS if rest.endswith(end)), key=len)  # no Bind ends like a Describe
    return messages.message(BIND, b"\0" + name + rest.removesuffix(ending)) + ending


def _parsed(data: bytes, end: int) -> bytes | None:
    """The text of a Parse of the unnamed statement that ends there."""
    text_end = data.find(b"\0", 6, end)
    text = between(data, 6, text_end)
    return text if text_end >= 0 and plain(text) and _settled(data[6:end], text_end - 6) else None


def _bound(data: bytes, at: int) -> bytes | None:
    """The name of the statement in a Bind, if the rest of `data` is the Bind of the unnamed portal and what
    runs it.
    """
    size = len(data)
    if at + 7 > size or data[at + 5] != 0:
        return None
    length = header(data, at)[1]
    end = at + 1 + length
    if length < 4 or end > size or data[end:] not in _ENDS:
        return None
    return between(data, at + 6, data.find(b"\0", at + 6, end))


def _settled(rest: bytes, end: int) -> bool:
    """Whether the types of parameters that follow the text are known and none is a user's."""
    types = rest[end + 3 :]
    for number in range(0, len(types) - 3, 4):
        if int.from_bytes(types[number : number + 4], "big") >= FIRST_USER_OID:
            return False
    return True
