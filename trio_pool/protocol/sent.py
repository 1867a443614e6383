"""What a client is doing, read from the bytes that it sent last.

Never on the hot path: for errors, logs and the decision whether a COMMIT is running.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_pool.wire.frames import header
from trio_pool.wire.tags import Frontend

if TYPE_CHECKING:
    from collections.abc import Callable

_ENDS = frozenset({Frontend.QUERY, Frontend.SYNC, Frontend.FUNCTION_CALL})


def running(sent: bytes, outstanding: int, text_of: Callable[[bytes], bytes | None]) -> bytes:
    """The text of the statement that PostgreSQL is at, if it owes the ends of so many groups; b"" if that is
    not to be seen. Of the statements in one group it is the last.

    `text_of` gives the text of a prepared statement of the client's.
    """
    groups: list[bytes] = []
    text = b""
    at = 0
    while at + 5 <= len(sent):
        tag, length = header(sent, at)
        if length < 4:
            break
        body = sent[at + 5 : at + 1 + length]
        if tag == Frontend.QUERY:
            text = body.partition(b"\0")[0]
        elif tag == Frontend.PARSE:
            text = body.partition(b"\0")[2].partition(b"\0")[0]
        elif tag == Frontend.BIND:
            name = body.partition(b"\0")[2].partition(b"\0")[0]
            text = text_of(name) or text
        if tag in _ENDS:
            groups.append(text)
            text = b""
        at += 1 + length
    if text:
        groups.append(text)
        outstanding += 1  # the group that is being sent
    if not groups or outstanding > len(groups):
        return b""
    return groups[-outstanding] if outstanding else groups[-1]
