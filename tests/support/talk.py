"""Short ways to say something and to compare what comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from tests.support import requests
from tests.support.requests import Reply, read_replies
from trio_pool.wire import messages
from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    from tests.net.peer import Peer


async def told(peer: Peer, groups: int = 1) -> list[Reply]:
    """What comes up to so many ReadyForQuery, without what comes by itself; the connection must not end."""
    received = b""
    for _ in range(groups):
        exchanged = await peer.exchange()
        assert exchanged, "the connection has ended"
        assert exchanged[-1][0] == Backend.READY_FOR_QUERY, f"the connection has ended behind {exchanged}"
        received += b"".join(messages.message(*message) for message in exchanged)
    return read_replies(received)


async def replies(peer: Peer, data: bytes, groups: int = 1) -> list[Reply]:
    """What a write is answered with."""
    await peer.send(data)
    return await told(peer, groups)


async def ask(peer: Peer, sql: str) -> list[Reply]:
    """What a Query is answered with."""
    return await replies(peer, requests.query(sql))


def extended(sql: str, *parameters: str) -> bytes:
    """One statement without its Sync."""
    return requests.parse("", sql) + requests.bind("", *parameters) + requests.execute()


def selected(*rows: str, status: str = "I") -> list[Reply]:
    """The answer to a Query for such rows."""
    return [
        Reply("T", "1"),
        *(Reply("D", row) for row in rows),
        Reply("C", f"SELECT {len(rows)}"),
        Reply("Z", status),
    ]


def executed(*rows: str) -> list[Reply]:
    """The answer to an `extended` statement for such rows."""
    found = [Reply("D", row) for row in rows]
    return [Reply("1"), Reply("2"), *found, Reply("C", f"SELECT {len(rows)}")]


def done(tag: str, status: str = "I") -> list[Reply]:
    """The answer to a Query without rows."""
    return [Reply("C", tag), Reply("Z", status)]


def refused(sqlstate: str, status: str = "I") -> list[Reply]:
    """The end of the answer to what fails."""
    return [Reply("E", sqlstate), Reply("Z", status)]


async def next_message(peer: Peer) -> Reply:
    """One message, whatever it is."""
    message = await peer.receive()
    assert message is not None, "the connection has ended"
    (reply,) = read_replies(messages.message(*message))
    return reply


async def expect(peer: Peer, *expected: Reply) -> None:
    """Exactly these messages come next, and no ReadyForQuery is waited for."""
    assert [await next_message(peer) for _ in expected] == list(expected)


async def nothing_comes(peer: Peer, seconds: float) -> None:
    """The other side is silent for so long."""
    with trio.move_on_after(seconds):
        raise AssertionError(f"unsolicited: {await peer.receive()}")
